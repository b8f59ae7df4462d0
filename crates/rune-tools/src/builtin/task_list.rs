//! `rune@task-list`: the tasks of the namespace.

use async_trait::async_trait;
use rune_store_runtime::{PageRequest, TaskFilter, TaskState};
use serde::Deserialize;
use serde_json::{Value, json};

use super::answer::whole;
use super::{parse, show_task};
use crate::{BuiltinTool, ToolContext, ToolError};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Input {
    queue: Option<String>,
    state: Option<TaskState>,
    #[serde(default = "default_limit")]
    limit: u32,
    cursor: Option<String>,
}

fn default_limit() -> u32 {
    20
}

/// Lists tasks, newest first.
pub(crate) struct TaskList;

#[async_trait]
impl BuiltinTool for TaskList {
    fn name(&self) -> &'static str {
        "task-list"
    }

    async fn call(&self, context: &ToolContext, input: Value) -> Result<Value, ToolError> {
        let input: Input = parse(input)?;
        let filter = TaskFilter {
            namespace: Some(context.scope.namespace.clone()),
            queue: input.queue,
            state: input.state,
        };
        let mut page = PageRequest {
            cursor: input.cursor,
            ..PageRequest::first(input.limit)
        };
        let (rows, next) = loop {
            let found = context.store.tasks(&filter, &page).await?;
            match whole(&found.items, context.answer_budget(), show_task) {
                Ok(rows) => break (rows, found.next),
                Err(fewer) => page.limit = fewer,
            }
        };
        let mut answer = json!({ "tasks": rows });
        if let Some(next) = next {
            answer["cursor"] = next.into();
        }
        Ok(answer)
    }
}
