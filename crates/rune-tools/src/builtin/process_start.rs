//! `rune@process-start`: starts a command that goes on by itself.

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use rune_store_runtime::CachePut;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{parse, processes, shell_exec};
use crate::identity::repeatable_id;
use crate::processes::Processes;
use crate::{BuiltinTool, ToolContext, ToolError, blocking};

/// How long it is known that there was a process.
const REMEMBERED: Duration = Duration::from_secs(7 * 24 * 60 * 60);

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Input {
    command: String,
    #[serde(default = "shell_exec::here")]
    cwd: String,
}

/// Runs `sh -c` in the workspace and does not wait for it.
pub(crate) struct ProcessStart(pub(crate) Arc<Processes>);

#[async_trait]
impl BuiltinTool for ProcessStart {
    fn name(&self) -> &'static str {
        "process-start"
    }

    fn held(&self) -> usize {
        self.0.running()
    }

    async fn call(&self, context: &ToolContext, input: Value) -> Result<Value, ToolError> {
        let input: Input = parse(input)?;
        if input.command.contains('\0') {
            return Err(ToolError::invalid("the command contains a NUL byte"));
        }
        let workspace = context.workspace.clone();
        let cwd = blocking(move || shell_exec::directory(&workspace, &input.cwd)).await?;
        let mut id = "prc_".to_owned();
        for byte in repeatable_id(&context.idempotency_key, "process") {
            // Writing to a string cannot fail.
            let _ = write!(id, "{byte:02x}");
        }
        // Started by an earlier run of this call.
        if let Some(process) = self.0.find(context, &id) {
            return Ok(processes::state(&process));
        }
        // A later daemon knows that it ended with this one.
        let remember = CachePut {
            key: processes::known(context, &id),
            value: json!(input.command),
            expires_at: context.store.now().plus(REMEMBERED),
        };
        context.store.write(remember).await?;
        let process = self.0.start(context, id, input.command, cwd).await?;
        Ok(processes::state(&process))
    }
}
