//! The tools that a model is shown in every prompt, and those that it has to search for.
//!
//! Where an agent has more tools than `tool_search` of its Runefile lets into every prompt, the first of the toolset that fit
//! are shown, and those that are pinned; the others are found with `rune@tool-search`. Which ones that are rests on the
//! Runefile and the tools alone, so the beginning of every prompt is the same.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::sync::Arc;

use rune_spec::{AgentPackage, OUTPUT_READ, TOOL_SEARCH, ToolRef};
use rune_tools::DeferredTool;
use serde::Serialize;
use serde_json::Value;

use super::{Agent, Tool, ToolRunner};
use crate::model::ToolDefinition;
use crate::tokens;

/// Most tools of a prompt, found ones included: some providers take no more.
pub(crate) const MAX_PROMPT_TOOLS: usize = 128;

/// What a model is shown of an agent's tools.
#[derive(Clone)]
pub(super) struct Offer {
    /// What every prompt holds, sorted by name.
    pub(super) shown: Vec<ToolDefinition>,
    /// What has to be searched for, by model-visible name.
    pub(super) deferred: BTreeMap<String, ToolDefinition>,
    /// The same, as the search sees it.
    pub(super) searched: Arc<[DeferredTool]>,
}

impl Offer {
    /// What is shown of these tools. `searcher` is shown where something is not.
    pub(super) fn new(
        package: &AgentPackage,
        tools: &BTreeMap<String, Arc<Tool>>,
        searcher: &Tool,
    ) -> Self {
        let all: BTreeMap<String, ToolDefinition> = tools
            .iter()
            .map(|(name, tool)| (name.clone(), definition(name, tool)))
            .collect();
        let settings = &package.runefile.tool_search;
        let most = usize::try_from(settings.max_tools).unwrap_or(usize::MAX);
        let total: u64 = all.values().map(tokens::of_tool).sum();
        let everything = |all: BTreeMap<String, ToolDefinition>| Self {
            shown: all.into_values().collect(),
            deferred: BTreeMap::new(),
            searched: Arc::default(),
        };
        let fits = all.len() <= most && total <= settings.max_tokens;
        // A component chooses itself what it shows its models.
        if fits || !settings.enabled || package.runefile.entrypoint.is_some() {
            return everything(all);
        }
        let search = visible(TOOL_SEARCH);
        let reader = visible(OUTPUT_READ);
        let is_pinned = |name: &str| {
            let tool = tools.get(name);
            name == search || name == reader || tool.is_some_and(|tool| settings.pins(&tool.name))
        };
        let mut shown: BTreeSet<&str> = all
            .keys()
            .map(String::as_str)
            .filter(|name| is_pinned(name))
            .collect();
        // The search is one of them, whether or not the toolset names it.
        let mut count = shown.len() + usize::from(!all.contains_key(&search));
        let mut used = shown
            .iter()
            .filter_map(|name| all.get(*name))
            .map(tokens::of_tool)
            .sum::<u64>()
            + tokens::of_tool(&definition(&search, searcher));
        for name in in_order(package, tools) {
            let Some(tool) = all.get(name) else { continue };
            let with = used + tokens::of_tool(tool);
            if count < most && with <= settings.max_tokens && shown.insert(name) {
                count += 1;
                used = with;
            }
        }
        let shown: BTreeSet<String> = shown.into_iter().map(str::to_owned).collect();
        let (mut shown, deferred): (BTreeMap<_, _>, BTreeMap<_, _>) =
            all.into_iter().partition(|(name, _)| shown.contains(name));
        if deferred.is_empty() {
            return everything(shown);
        }
        let mut told = definition(&search, tools.get(&search).map_or(searcher, AsRef::as_ref));
        told.description = format!("{} {}", told.description, summary(&deferred, tools));
        shown.insert(search, told);
        Self {
            shown: shown.into_values().collect(),
            searched: deferred.values().map(searchable).collect(),
            deferred,
        }
    }
}

/// The names of tools in the order of the toolset, those of a server by name.
fn in_order<'a>(
    package: &AgentPackage,
    tools: &'a BTreeMap<String, Arc<Tool>>,
) -> impl Iterator<Item = &'a str> {
    let mut named: BTreeMap<String, usize> = BTreeMap::new();
    let mut servers: BTreeMap<&str, usize> = BTreeMap::new();
    for (place, entry) in package.runefile.toolset.iter().enumerate() {
        match (entry, entry.visible_name()) {
            (ToolRef::McpAll(server), _) => {
                servers.insert(server, place);
            }
            (_, Some(name)) => {
                named.insert(name, place);
            }
            (_, None) => {}
        }
    }
    let place = |name: &str, tool: &Tool| {
        let place = named.get(name).or_else(|| servers.get(source(tool).1));
        place.copied().unwrap_or(usize::MAX)
    };
    let mut names: Vec<(usize, &str)> = tools
        .iter()
        .map(|(name, tool)| (place(name, tool), name.as_str()))
        .collect();
    names.sort_unstable();
    names.into_iter().map(|(_, name)| name)
}

/// What a model is told of a tool.
pub(super) fn definition(name: &str, tool: &Tool) -> ToolDefinition {
    ToolDefinition {
        name: name.to_owned(),
        description: tool.descriptor.description.clone(),
        input_schema: tool.descriptor.input_schema.clone(),
    }
}

/// The name that a model calls a built-in tool by.
pub(crate) fn visible(builtin: &str) -> String {
    let reference = ToolRef::Builtin(builtin.to_owned());
    reference.visible_name().unwrap_or_default()
}

/// Where a tool comes from: the kind, and the server where it is one of an MCP server.
fn source(tool: &Tool) -> (&'static str, &str) {
    match &tool.runner {
        ToolRunner::Mcp(remote) => ("mcp", remote.server.config().name.as_str()),
        ToolRunner::Builtin(_) => ("builtin", ""),
        ToolRunner::Agent(_) if tool.name.starts_with("rune@") => ("builtin", ""),
        ToolRunner::Agent(_) => ("agent", ""),
        ToolRunner::Process(_) => ("process", ""),
        ToolRunner::Wasm(_) => ("wasm", ""),
        ToolRunner::Container(_) => ("container", ""),
    }
}

/// One sentence that says what is not shown.
fn summary(
    deferred: &BTreeMap<String, ToolDefinition>,
    tools: &BTreeMap<String, Arc<Tool>>,
) -> String {
    let mut counts: BTreeMap<(&str, &str), usize> = BTreeMap::new();
    for tool in deferred.keys().filter_map(|name| tools.get(name)) {
        let (kind, server) = source(tool);
        let kind = if matches!(kind, "mcp" | "builtin") {
            kind
        } else {
            "own"
        };
        *counts.entry((kind, server)).or_default() += 1;
    }
    let count = deferred.len();
    let mut text = match count {
        1 => "1 tool is not shown:".to_owned(),
        count => format!("{count} tools are not shown:"),
    };
    for (index, ((kind, server), count)) in counts.into_iter().enumerate() {
        let comma = if index == 0 { "" } else { "," };
        let of = match kind {
            "mcp" => format!("of `{server}`"),
            "builtin" => "built in".to_owned(),
            _ => "of this agent alone".to_owned(),
        };
        // Writing to a string cannot fail.
        let _ = write!(text, "{comma} {count} {of}");
    }
    text.push('.');
    text
}

fn searchable(tool: &ToolDefinition) -> DeferredTool {
    let mut parameters = String::new();
    let properties = tool.input_schema["properties"].as_object();
    for (name, schema) in properties.into_iter().flatten() {
        let described = schema["description"].as_str().unwrap_or_default();
        let _ = writeln!(parameters, "{name}: {described}");
    }
    DeferredTool {
        name: tool.name.clone(),
        description: tool.description.clone(),
        parameters,
    }
}

/// The names of the tools that a search has found.
pub(crate) fn found_in(output: &Value) -> impl Iterator<Item = &str> {
    let tools = output["tools"].as_array();
    let tools = tools.into_iter().flatten();
    tools.filter_map(|tool| tool["name"].as_str())
}

/// What a tool takes of every prompt.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ToolCost {
    /// The name in the package, such as `rune@file-read`.
    pub name: String,
    /// What a model is told of it.
    pub description: String,
    /// `builtin`, `process`, `wasm`, `container`, `agent`, or `mcp:SERVER`.
    pub source: String,
    /// Tokens of its description and schema, estimated.
    pub tokens: u64,
    /// Whether every prompt has it; else it has to be searched for.
    pub loaded: bool,
}

impl Agent {
    /// The definition of a tool that the model has to search for.
    pub(crate) fn deferred(&self, visible_name: &str) -> Option<&ToolDefinition> {
        self.offer.deferred.get(visible_name)
    }

    /// Whether the model has to search for some of its tools.
    #[must_use]
    pub fn defers(&self) -> bool {
        !self.offer.deferred.is_empty()
    }

    /// What the search sees of the tools that the model has to search for.
    pub(crate) fn searched(&self) -> &Arc<[DeferredTool]> {
        &self.offer.searched
    }

    /// What the model can be told of all of its tools.
    pub(crate) fn all_definitions(&self) -> impl Iterator<Item = &ToolDefinition> {
        self.offer.shown.iter().chain(self.offer.deferred.values())
    }

    /// What each of its tools takes of a prompt, in the order of the toolset.
    #[must_use]
    pub fn tool_costs(&self) -> Vec<ToolCost> {
        let told: BTreeMap<&str, &ToolDefinition> = self
            .all_definitions()
            .map(|definition| (definition.name.as_str(), definition))
            .collect();
        // Where the toolset does not name the search it stands behind all others.
        let search = visible(TOOL_SEARCH);
        let extra = (!self.tools.contains_key(&search)).then_some(search.as_str());
        let names = in_order(&self.package, &self.tools).chain(extra);
        let costs = names.filter_map(|name| {
            let (tool, definition) = (self.tool(name)?, told.get(name)?);
            let source = match source(tool) {
                ("mcp", server) => format!("mcp:{server}"),
                (kind, _) => kind.to_owned(),
            };
            Some(ToolCost {
                name: tool.name.clone(),
                description: tool.descriptor.description.clone(),
                source,
                tokens: tokens::of_tool(definition),
                loaded: !self.offer.deferred.contains_key(name),
            })
        });
        costs.collect()
    }
}
