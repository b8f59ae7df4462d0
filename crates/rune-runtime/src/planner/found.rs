//! The tools that a request has found: what it is shown of tools besides those of every prompt.
//!
//! Everything rests on the journal: the calls that the model made, and what `rune@tool-search` answered. They stand behind the
//! tools of every prompt in the order in which they were found, so that a prompt begins as the one before it. A later request
//! of the session begins with those that the conversation it is shown has found.

use rune_spec::TOOL_SEARCH;
use rune_store_runtime::{Block, Message, PromptParts};
use serde_json::Value;

use super::Planner;
use crate::agent::{MAX_PROMPT_TOOLS, found_in, visible};
use crate::history::History;
use crate::model::ToolDefinition;
use crate::tokens;

/// Names that a model may call tools by, each once, in the order in which they came up. There may be no such tool.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct Found(Vec<String>);

impl Found {
    /// A tool was called, shown or not.
    pub(super) fn called(&mut self, name: &str) {
        if !self.0.iter().any(|known| known == name) {
            self.0.push(name.to_owned());
        }
    }

    /// A tool has answered.
    pub(super) fn answered(&mut self, tool: &str, output: &Value) {
        if tool == visible(TOOL_SEARCH) {
            for name in found_in(output) {
                self.called(name);
            }
        }
    }

    /// What earlier messages of the conversation say.
    fn told(&mut self, message: &Message) {
        for block in &message.blocks {
            match block {
                Block::ToolCall { name, .. } => self.called(name),
                Block::ToolResult {
                    name,
                    content,
                    is_error: false,
                    ..
                } if *name == visible(TOOL_SEARCH) => {
                    if let Ok(output) = serde_json::from_str(content) {
                        self.answered(name, &output);
                    }
                }
                _ => {}
            }
        }
    }
}

impl Planner {
    /// The tools that stand behind those of every prompt. Where a prompt would have too many, the newest are shown.
    fn found(&self, earlier: &History) -> Vec<&ToolDefinition> {
        if !self.agent.defers() {
            return Vec::new();
        }
        let mut found = Found::default();
        for message in earlier.messages() {
            found.told(message);
        }
        for name in &self.state.found.0 {
            found.called(name);
        }
        let names = found.0.iter();
        let mut tools: Vec<_> = names.filter_map(|name| self.agent.deferred(name)).collect();
        let room = MAX_PROMPT_TOOLS.saturating_sub(self.agent.definitions().len());
        let too_many = tools.len().saturating_sub(room);
        tools.drain(..too_many);
        tools
    }

    /// The tools of the next prompt.
    pub(super) fn tools(&self, earlier: &History) -> Vec<ToolDefinition> {
        let shown = self.agent.definitions().iter();
        shown.chain(self.found(earlier)).cloned().collect()
    }

    /// What the next prompt begins with.
    pub(super) fn fixed_prompt(&self, earlier: &History) -> PromptParts {
        let fixed = self.agent.fixed_prompt();
        let found = self.found(earlier);
        PromptParts {
            tools: fixed.tools + found.into_iter().map(tokens::of_tool).sum::<u64>(),
            ..fixed
        }
    }
}
