//! What a request made other agents do.

use std::collections::BTreeSet;
use std::sync::Arc;

use axum::extract::State;
use rune_http::{ApiError, ErrorBody, Json, Path, TokenUsage};
use rune_store_runtime::{RequestId, RequestRow, Timestamp};
use serde::Serialize;
use utoipa::ToSchema;

use super::requests::FailureView;
use crate::gateway::Shared;

/// The requests below one, oldest first.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct CallTree {
    #[schema(value_type = String)]
    request_id: RequestId,
    /// Tokens of the request and of everything below it, so far.
    usage: TokenUsage,
    calls: Vec<CallView>,
}

/// One call of another agent.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct CallView {
    /// The callee's request.
    #[schema(value_type = String)]
    request_id: RequestId,
    /// The calling request.
    #[schema(value_type = String)]
    parent_id: RequestId,
    /// The tool call, or the step, of the calling request.
    call_id: String,
    /// The calling agent.
    caller: String,
    /// The called agent.
    callee: String,
    /// Level below the outermost request, from 1.
    depth: u32,
    status: &'static str,
    /// From acceptance to the end, once it has ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    latency_ms: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<FailureView>,
    /// Tokens of this request alone.
    usage: TokenUsage,
    #[schema(value_type = String, format = DateTime)]
    created_at: Timestamp,
}

/// The agents that a request called, and those that they called.
#[utoipa::path(
    get, path = "/v1/requests/{id}/calls", tag = "requests",
    params(("id" = String, Path, description = "The request", pattern = "^req_[0-9a-f]{32}$")),
    responses(
        (status = 200, body = CallTree, description = "The calls"),
        (status = 404, body = ErrorBody, description = "The request does not exist"),
    )
)]
pub(crate) async fn calls(
    State(shared): State<Arc<Shared>>,
    Path(id): Path<RequestId>,
) -> Result<Json<CallTree>, ApiError> {
    let row = shared.engine.request(id).await?;
    let root = row.parent.as_ref().map_or(id, |parent| parent.root_id);
    let mut usage = row.usage;
    let mut below = vec![row];
    let mut known = BTreeSet::from([id]);
    // A caller is always older than what it calls.
    for row in shared.engine.tree(root).await? {
        let is_below = row
            .parent
            .as_ref()
            .is_some_and(|parent| known.contains(&parent.request_id));
        if is_below && known.insert(row.id) {
            usage.add(&row.usage);
            below.push(row);
        }
    }
    let calls = below.iter().filter_map(|row| view(row, &below)).collect();
    Ok(Json(CallTree {
        request_id: id,
        usage: usage.into(),
        calls,
    }))
}

fn view(row: &RequestRow, rows: &[RequestRow]) -> Option<CallView> {
    let parent = row.parent.as_ref()?;
    let caller = rows.iter().find(|other| other.id == parent.request_id)?;
    let millis = row.updated_at.as_millis() - row.created_at.as_millis();
    Some(CallView {
        request_id: row.id,
        parent_id: parent.request_id,
        call_id: parent.call_id.clone(),
        caller: name(caller),
        callee: name(row),
        depth: parent.depth,
        status: row.status.as_str(),
        latency_ms: row
            .status
            .is_terminal()
            .then(|| u64::try_from(millis).unwrap_or_default()),
        error: row.failure.clone().map(Into::into),
        usage: row.usage.into(),
        created_at: row.created_at,
    })
}

fn name(row: &RequestRow) -> String {
    format!("{}/{}", row.namespace, row.agent)
}
