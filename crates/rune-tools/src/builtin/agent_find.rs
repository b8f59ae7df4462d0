//! `rune@agent-find`: agents that can be called, by words.

use std::cmp::Reverse;

use async_trait::async_trait;
use rune_store_runtime::search_words;
use serde::Deserialize;
use serde_json::{Value, json};

use super::answer::fitting;
use super::{agents, parse};
use crate::{BuiltinTool, KnownAgent, ToolContext, ToolError};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Input {
    query: String,
    #[serde(default = "default_limit")]
    limit: usize,
}

fn default_limit() -> usize {
    5
}

/// Finds agents, those first that more of the words speak of.
pub(crate) struct AgentFind;

#[async_trait]
impl BuiltinTool for AgentFind {
    fn name(&self) -> &'static str {
        "agent-find"
    }

    async fn call(&self, context: &ToolContext, input: Value) -> Result<Value, ToolError> {
        let input: Input = parse(input)?;
        let words: Vec<String> = search_words(&input.query).collect();
        let mut found: Vec<(usize, KnownAgent)> = Vec::new();
        for agent in context.engine()?.agents().await? {
            let score = score(&agent, &words);
            if score > 0 {
                found.push((score, agent));
            }
        }
        found.sort_by_key(|(score, _)| Reverse(*score));
        let rows: Vec<KnownAgent> = found.into_iter().map(|(_, agent)| agent).collect();
        let shown = &rows[..rows.len().min(input.limit)];
        let (shown, _) = fitting(shown, context.answer_budget(), agents::show);
        Ok(json!({ "truncated": shown.len() < rows.len(), "agents": shown }))
    }
}

/// A word in the name says more than one in the description, and that more than one in a tool.
fn score(agent: &KnownAgent, words: &[String]) -> usize {
    let address = agent.address.to_lowercase();
    let description = agent.description.to_lowercase();
    let skills: Vec<String> = agent
        .skills
        .iter()
        .map(|(name, description)| format!("{name} {description}").to_lowercase())
        .collect();
    let has = |word: &String| {
        4 * usize::from(address.contains(word))
            + 2 * usize::from(description.contains(word))
            + usize::from(skills.iter().any(|skill| skill.contains(word)))
    };
    words.iter().map(has).sum()
}
