//! `rune@task-claim`: takes the next task of a queue.

use async_trait::async_trait;
use rune_store_runtime::{ClaimTask, TaskId};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{holder, parse, show_task};
use crate::{BuiltinTool, ToolContext, ToolError};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Input {
    #[serde(default = "super::default_queue")]
    queue: String,
    task_id: Option<TaskId>,
    #[serde(default = "default_lease")]
    lease_ms: u64,
}

fn default_lease() -> u64 {
    15 * 60 * 1000
}

/// Claims a task for the conversation. That there is none is an answer.
pub(crate) struct TaskClaim;

#[async_trait]
impl BuiltinTool for TaskClaim {
    fn name(&self) -> &'static str {
        "task-claim"
    }

    async fn call(&self, context: &ToolContext, input: Value) -> Result<Value, ToolError> {
        let input: Input = parse(input)?;
        let claim = ClaimTask {
            namespace: context.scope.namespace.clone(),
            queue: input.queue,
            task_id: input.task_id,
            holder: holder(context),
            lease_ms: input.lease_ms,
        };
        let task = context.store.write(claim).await?;
        Ok(json!({ "task": task.as_deref().map(show_task) }))
    }
}
