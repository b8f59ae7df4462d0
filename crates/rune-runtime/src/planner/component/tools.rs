//! A component lists tools and calls them.

use rune_spec::ToolRef;
use rune_store_runtime::limits::MAX_ENTRY_BYTES;
use rune_store_runtime::{Block, ComponentTurn, EntryBody, ErrorCode, Failure, ToolOutcome};
use rune_wasm::{ToolCall, ToolDefinition, ToolResult};
use serde_json::{Value, json};

use super::script::{Did, same_calls};
use super::{Run, TOOLS_LISTED, check_size};
use crate::planner::{Ended, Planner, limit};

/// Calls that a component makes at the same time at the most.
const MAX_CALLS_AT_ONCE: usize = 64;

impl Planner {
    /// The tools. Those of MCP servers may be others when the component is run again, so that they are kept.
    pub(super) async fn list_tools(&mut self, run: &mut Run) -> Result<Vec<ToolDefinition>, Ended> {
        let tools = self.agent.definitions().iter().map(|tool| ToolDefinition {
            name: tool.name.clone(),
            description: tool.description.clone(),
            input_schema: tool.input_schema.to_string(),
        });
        let tools: Vec<ToolDefinition> = tools.collect();
        if !self.agent.has_mcp_servers() {
            return Ok(tools);
        }
        let text = json!(tools).to_string();
        let does = Did::Listed(text.clone());
        let known = run
            .script
            .next(&does, |did| matches!(did, Did::Listed(_)))?;
        if let Some(Did::Listed(known)) = known {
            let tools = serde_json::from_str::<Vec<Value>>(&known).unwrap_or_default();
            return Ok(tools.iter().map(definition).collect());
        }
        self.note(EntryBody::Notice {
            code: TOOLS_LISTED.to_owned(),
            message: text,
        });
        Ok(tools)
    }

    /// Has tools called, as the planner has those that a model calls.
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
        if calls.is_empty() {
            return Ok(Vec::new());
        }
        let bytes = calls.iter().map(|call| call.name.len() + call.input.len());
        check_size("calls of tools", bytes.sum(), MAX_ENTRY_BYTES)?;
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
        let results: Option<Vec<ToolResult>> = results.collect();
        let missing = || Failure::new(ErrorCode::Internal, "a call of the component has no result");
        results.ok_or_else(|| missing().into())
    }
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

fn definition(tool: &Value) -> ToolDefinition {
    let text = |name: &str| tool[name].as_str().unwrap_or_default().to_owned();
    ToolDefinition {
        name: text("name"),
        description: text("description"),
        input_schema: text("input_schema"),
    }
}

/// The name by which the model calls the tool that a component names.
pub(super) fn visible(name: &str) -> String {
    let reference = name.parse::<ToolRef>().ok();
    let visible = reference.and_then(|reference| reference.visible_name());
    visible.unwrap_or_else(|| name.to_owned())
}
