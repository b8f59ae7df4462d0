//! `rune@process-kill`: ends a process.

use std::sync::Arc;

use async_trait::async_trait;
use serde::Deserialize;
use serde_json::Value;

use super::{parse, processes};
use crate::processes::Processes;
use crate::{BuiltinTool, ToolContext, ToolError};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Input {
    process_id: String,
}

/// Ends a process with everything it started, politely first; one that has ended stays as it is.
pub(crate) struct ProcessKill(pub(crate) Arc<Processes>);

#[async_trait]
impl BuiltinTool for ProcessKill {
    fn name(&self) -> &'static str {
        "process-kill"
    }

    async fn call(&self, context: &ToolContext, input: Value) -> Result<Value, ToolError> {
        let Input { process_id } = parse(input)?;
        match processes::find(&self.0, context, &process_id).await? {
            Some(process) => {
                process.kill().await;
                Ok(processes::state(&process))
            }
            None => Ok(processes::lost(&process_id)),
        }
    }
}
