//! Where a conversation stands.

use rune_spec::ScriptToolResult;
use rune_store_runtime::{Block, Message, Role};
use serde_json::{Value, json};

/// The turn that the model is asked for.
#[derive(Debug)]
pub(super) struct Turn<'a> {
    /// What the user said last.
    pub(super) input: String,
    /// How many images came with it.
    pub(super) images: usize,
    /// Model turns since then, this one included.
    pub(super) step: u32,
    /// What the calls of the turn before answered.
    pub(super) results: Vec<ToolAnswer<'a>>,
}

/// What a tool answered.
#[derive(Debug)]
pub(super) struct ToolAnswer<'a> {
    name: &'a str,
    content: &'a str,
    is_error: bool,
    /// As a script sees it.
    output: Value,
}

impl<'a> Turn<'a> {
    pub(super) fn of(messages: &'a [Message]) -> Self {
        let user = messages
            .iter()
            .rposition(|message| message.role == Role::User);
        let since = user.map_or(messages, |at| &messages[at..]);
        let turns = since
            .iter()
            .filter(|message| message.role == Role::Assistant);
        let last = since.last().filter(|message| message.role == Role::Tool);
        let results = last.into_iter().flat_map(|message| &message.blocks);
        let said = user.map_or(&[][..], |at| &messages[at].blocks);
        let image = |block: &&Block| matches!(block, Block::Image { .. });
        Self {
            images: said.iter().filter(image).count(),
            input: user.map(|at| messages[at].text()).unwrap_or_default(),
            step: u32::try_from(turns.count())
                .unwrap_or(u32::MAX)
                .saturating_add(1),
            results: results.filter_map(ToolAnswer::of).collect(),
        }
    }

    pub(super) fn script_results(&self) -> Vec<ScriptToolResult<'_>> {
        let results = self.results.iter().map(|result| ScriptToolResult {
            name: result.name,
            output: &result.output,
        });
        results.collect()
    }

    /// One line for every answer.
    pub(super) fn report(&self) -> String {
        let lines: Vec<_> = self
            .results
            .iter()
            .map(|result| {
                let verb = if result.is_error {
                    "failed"
                } else {
                    "answered"
                };
                format!("{} {verb}: {}", result.name, result.content)
            })
            .collect();
        lines.join("\n")
    }
}

impl<'a> ToolAnswer<'a> {
    fn of(block: &'a Block) -> Option<Self> {
        let Block::ToolResult {
            name,
            content,
            is_error,
            ..
        } = block
        else {
            return None;
        };
        let output = if *is_error {
            json!({ "error": content })
        } else {
            serde_json::from_str(content).unwrap_or_else(|_| content.as_str().into())
        };
        Some(Self {
            name,
            content,
            is_error: *is_error,
            output,
        })
    }
}
