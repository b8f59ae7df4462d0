//! Tools that a model is not shown before it has searched for them, and the search.

use std::cmp::Reverse;

use rune_store_runtime::search_words;

/// What a word counts where it is found.
const IN_NAME: u64 = 4;
const IN_DESCRIPTION: u64 = 2;
const IN_PARAMETERS: u64 = 1;
/// What the exact name counts: more than all words together.
const EXACT: u64 = 1 << 32;
/// Shortest word of a tool that one of the query may go on from: `issues` finds `issue`, `at` does not find `a`.
const MIN_STEM: usize = 4;
/// Shortest word of the query that is found within one of a tool: `is` does not find `issue`.
const MIN_PART: usize = 3;

/// A tool that a model is told of once it has searched for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeferredTool {
    /// The name that the model calls it by.
    pub name: String,
    /// When and how to use it.
    pub description: String,
    /// The names and descriptions of its parameters, one after the other.
    pub parameters: String,
}

/// The words of a tool.
struct Words {
    name: Vec<String>,
    description: Vec<String>,
    parameters: Vec<String>,
}

impl Words {
    fn of(tool: &DeferredTool) -> Self {
        Self {
            name: search_words(&tool.name).collect(),
            description: search_words(&tool.description).collect(),
            parameters: search_words(&tool.parameters).collect(),
        }
    }

    /// What a word of the query counts here: as much as in the best place where it is.
    fn weight(&self, word: &str) -> u64 {
        let is_in = |words: &[String]| words.iter().any(|known| fits(known, word));
        if is_in(&self.name) {
            IN_NAME
        } else if is_in(&self.description) {
            IN_DESCRIPTION
        } else if is_in(&self.parameters) {
            IN_PARAMETERS
        } else {
            0
        }
    }
}

/// Whether a word of a tool is what a word of the query asks for.
fn fits(known: &str, word: &str) -> bool {
    known == word
        || (word.len() >= MIN_PART && known.contains(word))
        || (known.len() >= MIN_STEM && word.starts_with(known))
}

/// The tools that a query is about, best first. A word that few tools have says more than one that many have.
pub(crate) fn search<'a>(tools: &'a [DeferredTool], query: &str) -> Vec<&'a DeferredTool> {
    let mut words: Vec<String> = search_words(query).collect();
    words.sort();
    words.dedup();
    let described: Vec<Words> = tools.iter().map(Words::of).collect();
    let mut scores = vec![0_u64; tools.len()];
    for word in &words {
        let weights: Vec<u64> = described.iter().map(|tool| tool.weight(word)).collect();
        let having = weights.iter().filter(|weight| **weight > 0).count();
        if having == 0 {
            continue;
        }
        let rarity = u64::from((tools.len() / having + 1).ilog2());
        for (score, weight) in scores.iter_mut().zip(weights) {
            *score += weight * rarity;
        }
    }
    let exact = query.trim();
    for (score, tool) in scores.iter_mut().zip(tools) {
        if tool.name == exact || toolset_form(&tool.name) == exact {
            *score += EXACT;
        }
    }
    let mut found: Vec<(u64, &DeferredTool)> = scores.into_iter().zip(tools).collect();
    found.retain(|(score, _)| *score > 0);
    found.sort_by_key(|(score, tool)| (Reverse(*score), tool.name.len(), tool.name.as_str()));
    found.into_iter().map(|(_, tool)| tool).collect()
}

/// The name as a Runefile has it: `rune@NAME`, `SERVER/TOOL`.
fn toolset_form(name: &str) -> String {
    match name.split_once("__") {
        Some(("rune", name)) => format!("rune@{name}"),
        Some((server, tool)) => format!("{server}/{tool}"),
        None => name.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tools() -> Vec<DeferredTool> {
        let tool = |name: &str, description: &str, parameters: &str| DeferredTool {
            name: name.to_owned(),
            description: description.to_owned(),
            parameters: parameters.to_owned(),
        };
        vec![
            tool(
                "github__create_issue",
                "Open an issue of a repository.",
                "title body",
            ),
            tool(
                "github__create_issue_comment",
                "Comment on an issue.",
                "issue body",
            ),
            tool(
                "github__list_repositories",
                "The repositories of an owner.",
                "owner",
            ),
            tool(
                "weather",
                "The weather at a place.",
                "latitude longitude: degrees",
            ),
            tool(
                "rune__web-fetch",
                "Fetch a page of the web.",
                "url: the address",
            ),
        ]
    }

    fn names(query: &str) -> Vec<String> {
        let tools = tools();
        let found = search(&tools, query).into_iter();
        found.map(|tool| tool.name.clone()).collect()
    }

    #[test]
    fn finds_by_name_description_and_parameters() {
        assert_eq!(names("create issues")[0], "github__create_issue");
        assert_eq!(names("comment")[0], "github__create_issue_comment");
        assert_eq!(names("LATITUDE"), ["weather"]);
        assert_eq!(names("what is the weather in Rome")[0], "weather");
    }

    #[test]
    fn the_exact_name_comes_first_in_every_form() {
        let comment = "github__create_issue_comment";
        assert_eq!(names(comment)[0], comment);
        assert_eq!(names("github/create_issue_comment")[0], comment);
        assert_eq!(names("rune@web-fetch")[0], "rune__web-fetch");
    }

    #[test]
    fn what_no_tool_has_finds_nothing() {
        for query in ["zebra", "!?", ""] {
            assert!(names(query).is_empty(), "{query}");
        }
    }
}
