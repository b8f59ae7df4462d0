//! Lists of tasks.

use rune_a2a::{A2aError, ListTasks, ProtocolVersion};
use rune_store_runtime::{PageRequest, RequestFilter, RequestOrder, StoreError};
use serde_json::{Value, json};

use super::answer::failure;
use super::find::{agent_says_text, snapshot};
use super::operations::Asking;
use super::task::{TaskView, status_of};

/// The tasks of the caller, the one that changed last first. Without `historyLength` they have no
/// history.
///
/// # Errors
/// `InvalidParams` for a page token that is none.
pub(crate) async fn list_tasks(asking: &Asking<'_>, list: ListTasks) -> Result<Value, A2aError> {
    let target = &asking.target;
    let status = list.status.map(status_of);
    let context = list.context_id.map(|id| id.parse().ok());
    let engine = &asking.shared.engine;
    let store = engine.store();
    // No task is in such a state, or in such a context.
    if matches!(status, Some(None)) || matches!(context, Some(None)) {
        return Ok(page(&[], None, list.page_size, 0));
    }
    let filter = RequestFilter {
        namespace: Some(target.namespace.clone()),
        agent: Some(target.agent.clone()),
        session_id: context.flatten(),
        statuses: status.flatten().into_iter().collect(),
        caller: Some(asking.caller.id.as_ref().to_owned()),
        changed_since: list.status_timestamp_after,
        order: RequestOrder::Changed,
        ..RequestFilter::default()
    };
    let wanted = PageRequest {
        limit: list.page_size,
        cursor: list.page_token,
    };
    let failed = |error: StoreError| match error {
        StoreError::Cursor(_) => A2aError::invalid("pageToken", "is none of this list"),
        error => failure(&error.into()),
    };
    let total = store.request_count(&filter).await.map_err(failed)?;
    let found = store.requests(&filter, &wanted).await.map_err(failed)?;
    let history = list.history_length.unwrap_or_default();
    let mut tasks = Vec::with_capacity(found.items.len());
    for row in &found.items {
        let is_open = !row.status.is_terminal();
        let mut task = if is_open || history > 0 || list.include_artifacts {
            snapshot(engine, &asking.base, row)
                .await?
                .task(Some(history))
        } else {
            let is_text = agent_says_text(engine, row);
            let mut view = TaskView::of_row(row, None, is_text, asking.base.clone());
            view.settle(row);
            view.task(Some(0))
        };
        if !list.include_artifacts {
            task.artifacts.clear();
        }
        tasks.push(task.encode(ProtocolVersion::V1));
    }
    Ok(page(&tasks, found.next, list.page_size, total))
}

/// A page as the protocol has it.
fn page(tasks: &[Value], next: Option<String>, size: u32, total: u64) -> Value {
    json!({
        "tasks": tasks, "nextPageToken": next.unwrap_or_default(), "pageSize": size,
        "totalSize": total,
    })
}
