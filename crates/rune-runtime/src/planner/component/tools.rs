//! A component lists tools and calls them.

use rune_spec::ToolRef;
use rune_store_runtime::limits::MAX_ENTRY_BYTES;
use rune_store_runtime::{
    Block, ComponentTurn, EntryBody, ErrorCode, Failure, ListedTool, ToolOutcome,
};
use rune_wasm::{ToolCall, ToolDefinition, ToolResult};
use serde_json::Value;

use super::script::{Did, same_calls};
use super::{Run, check_size};
use crate::journal::unstorable;
use crate::planner::{Ended, Planner, limit};

/// Calls that a component makes at the same time at the most.
const MAX_CALLS_AT_ONCE: usize = 64;
/// Longest name of a tool that providers take.
const MAX_NAME: usize = 64;

impl Planner {
    /// The tools. Those of MCP servers may be others at the next look, so that the first one is kept and holds.
    pub(super) async fn list_tools(&mut self, run: &mut Run) -> Result<Vec<ToolDefinition>, Ended> {
        if !self.agent.has_mcp_servers() {
            return Ok(told(&self.known_tools()));
        }
        if let Some(listed) = &run.listed {
            return Ok(told(listed));
        }
        let tools = self.known_tools();
        let does = Did::Listed(tools.clone());
        let known = run
            .script
            .next(&does, |did| matches!(did, Did::Listed(_)))?;
        let tools = if let Some(Did::Listed(known)) = known {
            known
        } else {
            if let Some(problem) = unstorable(&tools) {
                let message = format!(
                    "the list of the agent's tools {problem}; its `toolset` has to take fewer of its MCP servers"
                );
                return Err(Failure::new(ErrorCode::TooLarge, message).into());
            }
            self.note(EntryBody::ToolsListed {
                tools: tools.clone(),
            });
            tools
        };
        Ok(told(run.listed.insert(tools)))
    }

    fn known_tools(&self) -> Vec<ListedTool> {
        let tools = self.agent.definitions().iter().map(|tool| ListedTool {
            name: tool.name.clone(),
            description: tool.description.clone(),
            input_schema: tool.input_schema.clone(),
        });
        tools.collect()
    }

    /// Has tools called, as the planner has those that a model calls. What no tool can be called is told to the
    /// component and no part of the conversation: providers would refuse that from then on.
    pub(super) async fn call_tools(
        &mut self,
        run: &mut Run,
        calls: Vec<ToolCall>,
    ) -> Result<Vec<ToolResult>, Ended> {
        if calls.len() > MAX_CALLS_AT_ONCE {
            let message = format!(
                "the component makes {} calls at once; {MAX_CALLS_AT_ONCE} are possible",
                calls.len()
            );
            return Err(limit(message).into());
        }
        let bytes = calls
            .iter()
            .map(|call| call.id.len() + call.name.len() + call.input.len());
        check_size("calls of tools", bytes.sum(), MAX_ENTRY_BYTES)?;
        let (made, refused): (Vec<&ToolCall>, Vec<&ToolCall>) =
            calls.iter().partition(|call| is_name(&visible(&call.name)));
        let mut ended = Vec::new();
        if !made.is_empty() {
            ended = self.call_known(run, &made).await?;
        }
        if refused.is_empty() {
            return Ok(ended);
        }
        let mut ended = ended.into_iter();
        let results = calls.iter().map(|call| {
            if is_name(&visible(&call.name)) {
                ended.next()
            } else {
                Some(misnamed(call))
            }
        });
        results.collect::<Option<_>>().ok_or_else(no_result)
    }

    async fn call_known(
        &mut self,
        run: &mut Run,
        calls: &[&ToolCall],
    ) -> Result<Vec<ToolResult>, Ended> {
        let turn = run.script.next_turn();
        let id = |at: usize| format!("c{turn}-{}", at + 1);
        let blocks = calls.iter().enumerate().map(|(at, call)| Block::ToolCall {
            id: id(at),
            name: visible(&call.name),
            // What is no JSON is refused with the other faults of an input.
            input: serde_json::from_str(&call.input)
                .unwrap_or_else(|_| Value::String(call.input.clone())),
            native: None,
        });
        let does = ComponentTurn {
            turn,
            blocks: blocks.collect(),
        };
        if let Some(problem) = unstorable(&does) {
            let message = format!("what the component calls at once {problem}");
            return Err(Failure::new(ErrorCode::TooLarge, message).into());
        }
        let is_same = |did: &Did| match did {
            Did::Turn(known) => same_calls(&known.blocks, &does.blocks),
            _ => false,
        };
        let known = run.script.next(&Did::Turn(does.clone()), is_same)?;
        if known.is_none() {
            let body = EntryBody::ComponentTurn(does);
            self.state.apply(&body);
            let mut entries = vec![body];
            self.plan_calls(&mut entries).await?;
            self.journal.commit(entries).await?;
            self.tell_deadlines();
            self.end_calls().await?;
        }
        let results = calls.iter().enumerate().map(|(at, call)| {
            let outcome = self.state.component.outcome(&id(at));
            outcome.map(|outcome| result(&call.id, outcome))
        });
        results.collect::<Option<_>>().ok_or_else(no_result)
    }
}

fn no_result() -> Ended {
    Failure::new(ErrorCode::Internal, "a call of the component has no result").into()
}

/// The result of a call whose name no tool can have.
fn misnamed(call: &ToolCall) -> ToolResult {
    let head: String = call.name.chars().take(MAX_NAME).collect();
    ToolResult {
        call_id: call.id.clone(),
        content: format!(
            "error: there is no tool `{head}`: names are made of letters, digits, `_` and `-`, {MAX_NAME} at the most"
        ),
        is_error: true,
        output: None,
    }
}

/// Whether providers take this for the name of a tool.
pub(super) fn is_name(name: &str) -> bool {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    !name.is_empty() && name.len() <= MAX_NAME && name.chars().all(is_plain)
}

/// Tools as a component is told of them.
fn told(tools: &[ListedTool]) -> Vec<ToolDefinition> {
    let tools = tools.iter().map(|tool| ToolDefinition {
        name: tool.name.clone(),
        description: tool.description.clone(),
        input_schema: tool.input_schema.to_string(),
    });
    tools.collect()
}

/// How a call ended, as a component is told.
fn result(call_id: &str, outcome: &ToolOutcome) -> ToolResult {
    let output = outcome
        .output
        .as_ref()
        .filter(|_| outcome.failure.is_none());
    ToolResult {
        call_id: call_id.to_owned(),
        content: outcome.content.clone(),
        is_error: outcome.failure.is_some(),
        output: output.map(ToString::to_string),
    }
}

/// The name by which the model calls the tool that a component names.
pub(super) fn visible(name: &str) -> String {
    let reference = name.parse::<ToolRef>().ok();
    let visible = reference.and_then(|reference| reference.visible_name());
    visible.unwrap_or_else(|| name.to_owned())
}
