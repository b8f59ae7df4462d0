//! A tool that is a module.

use std::sync::Arc;
use std::time::Duration;

use rune_tools::{ToolContext, ToolError, ToolErrorKind};
use serde_json::Value;
use tokio::time::sleep;

use crate::call::Call;
use crate::cpu_time::within;
use crate::grants::Grants;
use crate::guest::Ends;
use crate::loaded::{Linked, Loaded};
use crate::runtime::Host;

/// A tool that is a module: compiled, linked, with what it is granted.
pub struct WasmTool {
    pub(crate) name: String,
    pub(crate) host: Arc<Host>,
    pub(crate) linked: Linked,
    pub(crate) grants: Arc<Grants>,
    pub(crate) memory: u64,
    pub(crate) fuel: Option<u64>,
    /// CPU time that a call may take.
    pub(crate) cpu: Option<Duration>,
    /// Keeps the module for others that use it.
    pub(crate) _loaded: Arc<Loaded>,
}

impl WasmTool {
    /// Runs the tool: a guest of its own, which is gone when this returns or its future is dropped.
    ///
    /// # Errors
    /// [`ToolErrorKind::Failed`] where the guest traps, ends with an exit code or answers something else than one JSON
    /// value; `Timeout`, `Cancelled`, `OutputTooLarge` and `LimitExceeded` where it had to be stopped.
    pub async fn run(&self, context: &ToolContext, input: &Value) -> Result<Value, ToolError> {
        let ends = Ends::new(context.output_limit);
        let call = Call {
            tool: self,
            context,
            ends: &ends,
        };
        let ended = tokio::select! {
            biased;
            () = context.cancel.cancelled() => Err(ToolError::new(
                ToolErrorKind::Cancelled,
                "the request was cancelled; the tool was stopped",
            )),
            () = sleep(context.timeout) => Err(ToolError::new(
                ToolErrorKind::Timeout,
                format!(
                    "the tool did not end within {} ms and was stopped{}",
                    context.timeout.as_millis(),
                    call.said(),
                ),
            )),
            ended = within(self.cpu, call.run(input)) => {
                ended.unwrap_or_else(|| Err(call.too_much_cpu()))
            }
        };
        let refused = ends.refusals.all();
        match ended {
            Ok(answer) => {
                for reason in refused {
                    let reason = context.secrets.redact(reason);
                    tracing::info!(tool = self.name, reason, "a connection was refused");
                }
                Ok(answer)
            }
            Err(error) => Err(explained(error, &refused)),
        }
    }
}

/// The error with the refusals that may be its cause.
fn explained(mut error: ToolError, refused: &[String]) -> ToolError {
    if refused.is_empty() {
        return error;
    }
    error.message = format!("{}; refused to it: {}", error.message, refused.join("; "));
    if error.kind == ToolErrorKind::Failed {
        error.kind = ToolErrorKind::Denied;
    }
    error
}
