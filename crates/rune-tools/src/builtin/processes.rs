//! What the tools about processes share.

use std::sync::Arc;

use serde_json::{Value, json};

use crate::processes::{Process, Processes};
use crate::{ToolContext, ToolError};

/// Under which key it is kept that there was a process.
pub(super) fn known(context: &ToolContext, id: &str) -> String {
    format!("process:{}:{id}", context.session_id)
}

/// A process of the conversation; nothing where it ended with an earlier daemon.
pub(super) async fn find(
    processes: &Processes,
    context: &ToolContext,
    id: &str,
) -> Result<Option<Arc<Process>>, ToolError> {
    if let Some(process) = processes.find(context, id) {
        return Ok(Some(process));
    }
    let (store, key) = (&context.store, known(context, id));
    match store.cached(&key, store.now()).await? {
        Some(_) => Ok(None),
        None => Err(ToolError::not_found(format!(
            "this conversation has no process `{id}`"
        ))),
    }
}

/// How a process stands.
pub(super) fn state(process: &Process) -> Value {
    match process.end() {
        None => json!({ "process_id": process.id, "state": "running" }),
        Some(end) => json!({
            "process_id": process.id,
            "state": "ended",
            "exit_code": end.exit_code,
            "reason": end.reason,
        }),
    }
}

/// How a process stands that an earlier daemon has started.
pub(super) fn lost(id: &str) -> Value {
    json!({
        "process_id": id,
        "state": "ended",
        "exit_code": null,
        "reason": "it ended with the daemon, and its output with it",
    })
}
