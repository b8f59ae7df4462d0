//! `rune@process-list`: the processes of the conversation.

use std::sync::Arc;

use async_trait::async_trait;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{parse, processes};
use crate::processes::Processes;
use crate::{BuiltinTool, ToolContext, ToolError, text};

/// Bytes of a command that are shown.
const COMMAND_BYTES: usize = 200;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Input {
    #[serde(default)]
    state: Wanted,
}

#[derive(Default, PartialEq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Wanted {
    #[default]
    All,
    Running,
}

/// Lists what process-start has started since the daemon runs.
pub(crate) struct ProcessList(pub(crate) Arc<Processes>);

#[async_trait]
impl BuiltinTool for ProcessList {
    fn name(&self) -> &'static str {
        "process-list"
    }

    async fn call(&self, context: &ToolContext, input: Value) -> Result<Value, ToolError> {
        let input: Input = parse(input)?;
        let mut rows = self.0.list(context);
        if input.state == Wanted::Running {
            rows.retain(|process| process.end().is_none());
        }
        let shown = rows.iter().map(|process| {
            let mut row = processes::state(process);
            row["command"] = text::prefix(&process.command, COMMAND_BYTES).into();
            row["started_at"] = process.started_at.to_string().into();
            row["output_bytes"] = process.output(u64::MAX, 0).total.into();
            row
        });
        Ok(json!({ "processes": shown.collect::<Vec<_>>() }))
    }
}
