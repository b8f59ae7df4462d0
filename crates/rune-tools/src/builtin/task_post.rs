//! `rune@task-post`: leaves work for whoever claims it.

use async_trait::async_trait;
use rune_store_runtime::{PostTask, TaskId};
use serde::Deserialize;
use serde_json::{Value, json};

use super::parse;
use crate::identity::repeatable_id;
use crate::{BuiltinTool, ToolContext, ToolError};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Input {
    title: String,
    #[serde(default)]
    payload: Value,
    #[serde(default = "super::default_queue")]
    queue: String,
    #[serde(default)]
    priority: i32,
    #[serde(default = "default_attempts")]
    max_attempts: u32,
}

fn default_attempts() -> u32 {
    3
}

/// Posts a task; called again with the same key it is the same task.
pub(crate) struct TaskPost;

#[async_trait]
impl BuiltinTool for TaskPost {
    fn name(&self) -> &'static str {
        "task-post"
    }

    async fn call(&self, context: &ToolContext, input: Value) -> Result<Value, ToolError> {
        let input: Input = parse(input)?;
        let task_id = TaskId::from_bytes(repeatable_id(&context.idempotency_key, "task"));
        let post = PostTask {
            task_id,
            namespace: context.scope.namespace.clone(),
            queue: input.queue.clone(),
            title: input.title,
            payload: input.payload,
            priority: input.priority,
            max_attempts: input.max_attempts,
            posted_by: context.scope.agent.clone(),
        };
        context.store.write(post).await?;
        Ok(json!({ "task_id": task_id, "queue": input.queue, "state": "open" }))
    }
}
