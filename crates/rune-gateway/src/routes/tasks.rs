//! Tasks that agents leave for each other.

use std::sync::Arc;

use axum::extract::State;
use rune_http::{ApiError, ErrorBody, Json, List, ListPage, PageQuery, Path};
use rune_store_runtime::{SessionId, TaskFilter, TaskId, TaskRow, TaskState, Timestamp};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::{IntoParams, ToSchema};

use crate::gateway::Shared;

/// A task.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct TaskView {
    #[schema(value_type = String)]
    id: TaskId,
    namespace: String,
    queue: String,
    title: String,
    payload: Value,
    /// What is higher is claimed first.
    priority: i32,
    /// `open`, `claimed`, `done` or `failed`.
    state: &'static str,
    /// How often it was claimed.
    attempts: u32,
    max_attempts: u32,
    /// The agent that posted it.
    posted_by: String,
    /// The agent that holds it or held it last.
    held_by: Option<String>,
    /// The conversation that does.
    #[schema(value_type = Option<String>)]
    session_id: Option<SessionId>,
    /// When it can be claimed by others.
    #[schema(value_type = Option<String>, format = DateTime)]
    lease_until: Option<Timestamp>,
    result: Value,
    #[schema(value_type = String, format = DateTime)]
    created_at: Timestamp,
    #[schema(value_type = String, format = DateTime)]
    updated_at: Timestamp,
}

impl From<TaskRow> for TaskView {
    fn from(row: TaskRow) -> Self {
        let holder = row.holder.map(|holder| (holder.agent, holder.session_id));
        let (held_by, session_id) = holder.unzip();
        Self {
            id: row.id,
            namespace: row.namespace,
            queue: row.queue,
            title: row.title,
            payload: row.payload,
            priority: row.priority,
            state: row.state.as_str(),
            attempts: row.attempts,
            max_attempts: row.max_attempts,
            posted_by: row.posted_by,
            held_by,
            session_id,
            lease_until: row.lease_until,
            result: row.result,
            created_at: row.created_at,
            updated_at: row.updated_at,
        }
    }
}

/// Which tasks.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct ListQuery {
    /// Only in this namespace.
    ns: Option<String>,
    /// Only of this queue.
    queue: Option<String>,
    /// Only in this state: `open`, `claimed`, `done` or `failed`.
    #[param(value_type = Option<String>)]
    state: Option<TaskState>,
}

/// Tasks, newest first. Of those of a queue that have ended the last thousand are kept.
#[utoipa::path(
    get, path = "/v1/tasks", tag = "tasks", params(ListQuery, PageQuery),
    responses(
        (status = 200, body = ListPage<TaskView>, description = "A part of the list"),
    )
)]
pub(crate) async fn list(
    State(shared): State<Arc<Shared>>,
    List { filter, page }: List<ListQuery>,
) -> Result<Json<ListPage<TaskView>>, ApiError> {
    let filter = TaskFilter {
        namespace: filter.ns,
        queue: filter.queue,
        state: filter.state,
    };
    let found = shared.engine.store().tasks(&filter, &page).await?;
    let found = found.map(TaskView::from);
    Ok(Json(found.into()))
}

/// One task.
#[utoipa::path(
    get, path = "/v1/tasks/{id}", tag = "tasks",
    params(("id" = String, Path, description = "The task", pattern = "^tsk_[0-9a-f]{32}$")),
    responses(
        (status = 200, body = TaskView, description = "The task"),
        (status = 404, body = ErrorBody, description = "The task does not exist"),
    )
)]
pub(crate) async fn get(
    State(shared): State<Arc<Shared>>,
    Path(id): Path<TaskId>,
) -> Result<Json<TaskView>, ApiError> {
    let row = shared.engine.store().task(id).await?;
    let row = row.ok_or_else(|| ApiError::not_found("task", &id))?;
    Ok(Json(row.into()))
}
