//! `rune@process-poll`: output and state of a process.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use serde::Deserialize;
use serde_json::Value;
use tokio::time::timeout;

use super::{parse, processes};
use crate::processes::Processes;
use crate::{BuiltinTool, ToolContext, ToolError, text};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Input {
    process_id: String,
    #[serde(default)]
    offset: u64,
    #[serde(default)]
    wait_ms: u64,
    #[serde(default = "default_bytes")]
    max_bytes: usize,
}

fn default_bytes() -> usize {
    16 * 1024
}

/// Answers what a process has written behind an offset, and waits for it where that is asked for.
pub(crate) struct ProcessPoll(pub(crate) Arc<Processes>);

#[async_trait]
impl BuiltinTool for ProcessPoll {
    fn name(&self) -> &'static str {
        "process-poll"
    }

    async fn call(&self, context: &ToolContext, input: Value) -> Result<Value, ToolError> {
        let input: Input = parse(input)?;
        let Some(process) = processes::find(&self.0, context, &input.process_id).await? else {
            return Ok(processes::lost(&input.process_id));
        };
        let wait = Duration::from_millis(input.wait_ms).min(context.timeout);
        tokio::select! {
            () = context.cancel.cancelled() => return Err(ToolError::cancelled()),
            // Nothing new is an answer.
            _ = timeout(wait, process.news(input.offset)) => {}
        }
        // Before the output, so that all of it is there where it has ended.
        let mut answer = processes::state(&process);
        let limit = context.shown_limit.min(context.answer_budget()) / 2;
        let part = process.output(input.offset, input.max_bytes.min(limit));
        let output = String::from_utf8_lossy(&part.bytes);
        let shown = text::prefix(&output, context.answer_budget());
        answer["output"] = shown.into();
        answer["offset"] = part.offset.into();
        answer["next_offset"] = part.next.into();
        answer["total"] = part.total.into();
        Ok(answer)
    }
}
