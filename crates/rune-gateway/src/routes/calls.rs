//! What a request made other agents do.

use std::collections::BTreeSet;
use std::sync::Arc;

use axum::extract::State;
use rune_http::{ApiError, ErrorBody, Json, Path, TokenUsage};
use rune_store_runtime::{
    EntryBody, ErrorCode, Failure, RequestId, RequestRow, RequestStatus, Store, StoreError,
    Timestamp,
};
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
    /// Whether agents of other installations were called, of which nobody knows here what they use.
    has_unknown_usage: bool,
    calls: Vec<CallView>,
}

/// One call of another agent.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct CallView {
    /// The callee's request; absent where another installation has it.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    request_id: Option<RequestId>,
    /// What the callee calls it, where another installation has it and has said so.
    #[serde(skip_serializing_if = "Option::is_none")]
    task_id: Option<String>,
    /// The calling request.
    #[schema(value_type = String)]
    parent_id: RequestId,
    /// The tool call, or the step, of the calling request.
    call_id: String,
    /// The calling agent.
    caller: String,
    /// The called agent, by its URL where another installation has it.
    callee: String,
    /// Level below the outermost request, from 1.
    depth: u32,
    status: &'static str,
    /// From acceptance to the end, once it has ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    latency_ms: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<FailureView>,
    /// Tokens of this request alone; absent where nobody knows them here.
    #[serde(skip_serializing_if = "Option::is_none")]
    usage: Option<TokenUsage>,
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
    let mut calls: Vec<CallView> = below.iter().filter_map(|row| view(row, &below)).collect();
    let mut has_unknown_usage = false;
    for row in &below {
        let remote = remote_calls(shared.engine.store(), row).await?;
        has_unknown_usage |= !remote.is_empty();
        calls.extend(remote);
    }
    calls.sort_by_key(|call| call.created_at);
    Ok(Json(CallTree {
        request_id: id,
        usage: usage.into(),
        has_unknown_usage,
        calls,
    }))
}

fn view(row: &RequestRow, rows: &[RequestRow]) -> Option<CallView> {
    let parent = row.parent.as_ref()?;
    let caller = rows.iter().find(|other| other.id == parent.request_id)?;
    let millis = row.updated_at.as_millis() - row.created_at.as_millis();
    Some(CallView {
        request_id: Some(row.id),
        task_id: None,
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
        usage: Some(row.usage.into()),
        created_at: row.created_at,
    })
}

fn name(row: &RequestRow) -> String {
    format!("{}/{}", row.namespace, row.agent)
}

/// Entries that are read at a time.
const JOURNAL_PAGE: u32 = 256;

/// The agents of other installations that a request called, as its journal says.
async fn remote_calls(store: &Store, row: &RequestRow) -> Result<Vec<CallView>, StoreError> {
    let mut calls: Vec<CallView> = Vec::new();
    let mut after = 0;
    loop {
        let entries = store.journal(row.id, after, JOURNAL_PAGE).await?;
        let Some(last) = entries.last() else {
            return Ok(calls);
        };
        after = last.seq;
        for entry in entries {
            let at = entry.at;
            match entry.body {
                EntryBody::AgentCalled {
                    call_id,
                    agent,
                    request_id: None,
                    depth,
                } => calls.push(CallView {
                    request_id: None,
                    task_id: None,
                    parent_id: row.id,
                    call_id,
                    caller: name(row),
                    callee: agent,
                    depth,
                    status: RequestStatus::Running.as_str(),
                    latency_ms: None,
                    error: None,
                    usage: None,
                    created_at: at,
                }),
                EntryBody::RemoteTask {
                    call_id, task_id, ..
                } => {
                    if let Some(call) = open(&mut calls, &call_id) {
                        call.task_id = Some(task_id);
                    }
                }
                EntryBody::ToolResult(outcome) => {
                    if let Some(call) = open(&mut calls, &outcome.call_id) {
                        call.end(outcome.failure, at);
                    }
                }
                EntryBody::StepFinished(outcome) => {
                    if let Some(call) = open(&mut calls, &outcome.step) {
                        call.end(outcome.failure, at);
                    }
                }
                // Another attempt: the one before came to nothing.
                EntryBody::StepStarted { step, .. } => {
                    if let Some(call) = open(&mut calls, &step) {
                        call.status = RequestStatus::Failed.as_str();
                    }
                }
                _ => {}
            }
        }
    }
}

/// The call of this id that is under way.
fn open<'a>(calls: &'a mut [CallView], call_id: &str) -> Option<&'a mut CallView> {
    let running = RequestStatus::Running.as_str();
    let mut calls = calls.iter_mut().rev();
    calls.find(|call| call.call_id == call_id && call.status == running)
}

impl CallView {
    fn end(&mut self, failure: Option<Failure>, at: Timestamp) {
        let status = match &failure {
            None => RequestStatus::Completed,
            Some(failure) if failure.code == ErrorCode::Cancelled => RequestStatus::Cancelled,
            Some(_) => RequestStatus::Failed,
        };
        self.status = status.as_str();
        let millis = at.as_millis() - self.created_at.as_millis();
        self.latency_ms = u64::try_from(millis).ok();
        self.error = failure.map(Into::into);
    }
}
