//! `rune@task-complete`: ends a task that the conversation holds.

use async_trait::async_trait;
use rune_store_runtime::{CompleteTask, TaskId, TaskState};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{holder, parse};
use crate::{BuiltinTool, ToolContext, ToolError};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Input {
    task_id: TaskId,
    #[serde(default)]
    status: Outcome,
    #[serde(default)]
    result: Value,
}

#[derive(Clone, Copy, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Outcome {
    #[default]
    Done,
    Failed,
    Released,
}

/// Ends a task or gives it back; only who holds it can.
pub(crate) struct TaskComplete;

#[async_trait]
impl BuiltinTool for TaskComplete {
    fn name(&self) -> &'static str {
        "task-complete"
    }

    async fn call(&self, context: &ToolContext, input: Value) -> Result<Value, ToolError> {
        let input: Input = parse(input)?;
        let state = match input.status {
            Outcome::Done => TaskState::Done,
            Outcome::Failed => TaskState::Failed,
            Outcome::Released => TaskState::Open,
        };
        let complete = CompleteTask {
            task_id: input.task_id,
            namespace: context.scope.namespace.clone(),
            holder: holder(context),
            state,
            result: input.result,
        };
        context.store.write(complete).await?;
        Ok(json!({ "task_id": input.task_id, "state": state.as_str() }))
    }
}
