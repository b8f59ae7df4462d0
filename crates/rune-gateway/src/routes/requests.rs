//! Requests.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::extract::State;
use rune_http::{
    ApiError, Caller, CostView, ErrorBody, Json, JsonOrDefault, List, ListPage, PageQuery, Path,
    TokenUsage,
};
use rune_runtime::{Divergence, Replayed, Waiting};
use rune_spec::CassetteFile;
use rune_store_runtime::{
    DeploymentId, EntryBody, Failure, ParentCall, ReplicaId, RequestFilter, RequestId, RequestRow,
    RequestStatus, SessionId, Timestamp, ToolInvocationRow, UsageFilter, UsageGroup, UsageTotal,
    VersionId,
};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::{IntoParams, ToSchema};

use super::fork::ForkView;
use crate::gateway::Shared;

/// Longest reason of a cancellation in bytes.
const MAX_REASON_BYTES: usize = 1024;

/// One invocation of an agent.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct RequestView {
    #[schema(value_type = String)]
    id: RequestId,
    #[schema(value_type = String)]
    session_id: SessionId,
    namespace: String,
    agent: String,
    #[schema(value_type = String)]
    deployment_id: DeploymentId,
    #[schema(value_type = String)]
    version_id: VersionId,
    /// The replica that last took it.
    #[schema(value_type = Option<String>)]
    replica_id: Option<ReplicaId>,
    /// `accepted`, `running`, `input-required`, `completed`, `failed` or `cancelled`.
    status: &'static str,
    /// How often a replica took it.
    attempts: u32,
    cancel_requested: bool,
    /// Who asked.
    caller: String,
    #[schema(value_type = Object)]
    metadata: BTreeMap<String, Value>,
    /// The tool call of another request that made it.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    parent: Option<ParentCall>,
    /// Sequence number of the last journal entry.
    last_seq: u64,
    /// The answer, once completed.
    #[serde(skip_serializing_if = "Option::is_none")]
    output: Option<Value>,
    /// Why it did not complete.
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<FailureView>,
    /// Tokens so far.
    usage: TokenUsage,
    /// What they cost.
    cost: CostView,
    /// Model calls so far.
    model_calls: u32,
    /// Tool calls so far.
    tool_calls: u32,
    #[schema(value_type = String, format = DateTime)]
    created_at: Timestamp,
    #[schema(value_type = String, format = DateTime)]
    updated_at: Timestamp,
}

/// Why something failed.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct FailureView {
    /// One of the codes of `ErrorDetail`.
    code: &'static str,
    message: String,
}

impl From<Failure> for FailureView {
    fn from(failure: Failure) -> Self {
        Self {
            code: failure.code.as_str(),
            message: failure.message,
        }
    }
}

impl From<RequestRow> for RequestView {
    fn from(row: RequestRow) -> Self {
        Self {
            id: row.id,
            session_id: row.session_id,
            namespace: row.namespace,
            agent: row.agent,
            deployment_id: row.deployment_id,
            version_id: row.version_id,
            replica_id: row.replica_id,
            status: row.status.as_str(),
            attempts: row.attempts,
            cancel_requested: row.cancel_requested,
            caller: row.caller,
            metadata: row.metadata,
            parent: row.parent,
            last_seq: row.last_seq,
            output: row.output,
            error: row.failure.map(Into::into),
            usage: row.usage.into(),
            cost: row.cost.into(),
            model_calls: row.model_calls,
            tool_calls: row.tool_calls,
            created_at: row.created_at,
            updated_at: row.updated_at,
        }
    }
}

/// A request with everything it left behind.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct RequestDetail {
    #[serde(flatten)]
    request: RequestView,
    /// Why it is not taken up again yet, where a crash or a restart interrupted it.
    #[serde(skip_serializing_if = "Option::is_none")]
    waiting: Option<WaitingView>,
    /// The input; absent where its journal is not stored.
    #[serde(skip_serializing_if = "Option::is_none")]
    input: Option<Value>,
    /// The request that it is a fork of.
    #[serde(skip_serializing_if = "Option::is_none")]
    forked_from: Option<ForkView>,
    /// Tokens by model.
    models: Vec<ModelUsage>,
    /// Tool calls, in order.
    tools: Vec<ToolCallView>,
}

/// Why a request waits.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct WaitingView {
    reason: String,
    /// When it is taken up, where that is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    until: Option<Timestamp>,
}

impl From<Waiting> for WaitingView {
    fn from(waiting: Waiting) -> Self {
        Self {
            reason: waiting.reason,
            until: waiting.until,
        }
    }
}

/// Tokens of one model.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ModelUsage {
    provider: String,
    model: String,
    /// How often it was called.
    calls: u64,
    usage: TokenUsage,
    cost: CostView,
}

/// One tool call.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ToolCallView {
    /// The id of the call in the model's reply.
    id: String,
    /// The tool's name in the package.
    name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    input: Option<Value>,
    /// `intended`, `succeeded` or `failed`.
    state: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<FailureView>,
    /// How often it was run.
    attempts: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    duration_ms: Option<u64>,
    #[schema(value_type = String, format = DateTime)]
    started_at: Timestamp,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    finished_at: Option<Timestamp>,
}

impl From<ToolInvocationRow> for ToolCallView {
    fn from(row: ToolInvocationRow) -> Self {
        Self {
            id: row.call_id,
            name: row.tool,
            input: row.input,
            state: row.state.as_str(),
            error: row.failure.map(Into::into),
            attempts: row.attempts,
            duration_ms: row.duration_ms,
            started_at: row.started_at,
            finished_at: row.finished_at,
        }
    }
}

/// Which requests to list.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(crate) struct ListQuery {
    /// Only of agents in this namespace.
    ns: Option<String>,
    /// Only of this agent.
    agent: Option<String>,
    /// Only in one of these states, separated by commas.
    status: Option<String>,
    /// Only of this session.
    #[param(value_type = Option<String>, pattern = "^[A-Za-z0-9._:@-]{1,128}$")]
    session: Option<SessionId>,
    /// Only those that this request made, through any number of agents.
    #[param(value_type = Option<String>, pattern = "^req_[0-9a-f]{32}$")]
    root: Option<RequestId>,
}

/// Why a request is cancelled.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct CancelRequest {
    /// For a person; kept in the journal.
    reason: Option<String>,
}

/// Requests, newest first.
#[utoipa::path(
    get, path = "/v1/requests", tag = "requests", params(ListQuery, PageQuery),
    responses(
        (status = 200, body = ListPage<RequestView>, description = "A part of the list"),
    )
)]
pub(crate) async fn list(
    State(shared): State<Arc<Shared>>,
    List {
        filter: query,
        page,
    }: List<ListQuery>,
) -> Result<Json<ListPage<RequestView>>, ApiError> {
    let filter = RequestFilter {
        namespace: query.ns,
        agent: query.agent,
        session_id: query.session,
        root_id: query.root,
        statuses: query
            .status
            .as_deref()
            .map(statuses)
            .transpose()?
            .unwrap_or_default(),
        ..RequestFilter::default()
    };
    let found = shared.engine.store().requests(&filter, &page).await?;
    let found = found.map(RequestView::from);
    Ok(Json(found.into()))
}

fn statuses(text: &str) -> Result<Vec<RequestStatus>, ApiError> {
    let parse = |word: &str| {
        RequestStatus::parse(word.trim()).ok_or_else(|| {
            let known = RequestStatus::ALL.map(RequestStatus::as_str).join(", ");
            ApiError::invalid(format!("`status` has `{word}`, expected {known}"))
        })
    };
    text.split(',').map(parse).collect()
}

/// One request, with its tokens by model and its tool calls.
#[utoipa::path(
    get, path = "/v1/requests/{id}", tag = "requests",
    params(("id" = String, Path, description = "The request", pattern = "^req_[0-9a-f]{32}$")),
    responses(
        (status = 200, body = RequestDetail, description = "The request"),
        (status = 404, body = ErrorBody, description = "The request does not exist"),
    )
)]
pub(crate) async fn get(
    State(shared): State<Arc<Shared>>,
    Path(id): Path<RequestId>,
) -> Result<Json<RequestDetail>, ApiError> {
    let row = shared.engine.request(id).await?;
    let store = shared.engine.store();
    let accepted = store
        .journal(id, 0, 1)
        .await?
        .into_iter()
        .find_map(|entry| match entry.body {
            EntryBody::Accepted { input, forked_from } => Some((input, forked_from)),
            _ => None,
        });
    let (input, forked_from) = accepted.unzip();
    let tools = store.tool_invocations(id).await?;
    Ok(Json(RequestDetail {
        request: row.into(),
        waiting: shared.engine.waiting(id).map(Into::into),
        input,
        forked_from: forked_from.flatten().map(|origin| (*origin).into()),
        models: by_model(&shared, id).await?,
        tools: tools.into_iter().map(Into::into).collect(),
    }))
}

/// The ledger of a request, summed by model.
async fn by_model(shared: &Shared, id: RequestId) -> Result<Vec<ModelUsage>, ApiError> {
    let filter = UsageFilter {
        request_id: Some(id),
        ..UsageFilter::default()
    };
    let store = shared.engine.store();
    let totals = store.usage_totals(&filter, UsageGroup::Model).await?;
    let view = |total: UsageTotal| ModelUsage {
        provider: total.provider.unwrap_or_default(),
        model: total.model.unwrap_or_default(),
        calls: total.calls,
        usage: total.usage.into(),
        cost: total.cost.into(),
    };
    Ok(totals.into_iter().map(view).collect())
}

/// Cancels a request: its model stream and its tools end within a second. Cancelling twice,
/// or after the end, is no error.
#[utoipa::path(
    post, path = "/v1/requests/{id}/cancel", tag = "requests",
    params(("id" = String, Path, description = "The request", pattern = "^req_[0-9a-f]{32}$")),
    request_body = Option<CancelRequest>,
    responses(
        (status = 200, body = RequestView, description = "The request as it is now"),
        (status = 404, body = ErrorBody, description = "The request does not exist"),
    )
)]
pub(crate) async fn cancel(
    State(shared): State<Arc<Shared>>,
    Path(id): Path<RequestId>,
    caller: Caller,
    JsonOrDefault(body): JsonOrDefault<CancelRequest>,
) -> Result<Json<RequestView>, ApiError> {
    let reason = match body.reason {
        Some(reason) if reason.len() > MAX_REASON_BYTES => {
            let message = format!("`reason` is longer than {MAX_REASON_BYTES} bytes");
            return Err(ApiError::invalid(message));
        }
        Some(reason) => reason,
        None => format!("cancelled by {}", caller.id),
    };
    let row = shared.engine.cancel(id, &reason).await?;
    Ok(Json(row.into()))
}

/// What came of a replay.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ReplayView {
    /// Whether the replay wrote what the journal holds.
    equal: bool,
    /// SHA-256 of the journal without ids, times and durations.
    hash: String,
    /// That of the replay.
    replayed_hash: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    divergence: Option<DivergenceView>,
}

/// The first step of a replay that is not in the journal.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct DivergenceView {
    /// The entry.
    seq: u64,
    /// Its kind in the journal; in the replay where the journal had ended.
    kind: &'static str,
    /// JSON Pointer of the first part that differs; empty where the kinds do.
    field: String,
    /// What the journal has there; null where it had ended.
    journal: Value,
    /// What the replay wrote; null where it wrote nothing.
    replay: Value,
}

impl From<Replayed> for ReplayView {
    fn from(replayed: Replayed) -> Self {
        let view = |divergence: Divergence| DivergenceView {
            seq: divergence.seq,
            kind: divergence.kind,
            field: divergence.field,
            journal: divergence.journal,
            replay: divergence.replay,
        };
        Self {
            equal: replayed.equal,
            hash: replayed.hash,
            replayed_hash: replayed.replayed_hash,
            divergence: replayed.divergence.map(view),
        }
    }
}

/// Runs a request that has ended again, in memory: its journal answers in place of models and tools. Nothing is stored,
/// no model is asked and no tool runs.
#[utoipa::path(
    post, path = "/v1/requests/{id}/replay", tag = "requests",
    params(("id" = String, Path, description = "The request", pattern = "^req_[0-9a-f]{32}$")),
    responses(
        (status = 200, body = ReplayView, description = "Whether it went the same way"),
        (status = 404, body = ErrorBody, description = "The request does not exist"),
        (status = 409, body = ErrorBody, description = "It cannot be replayed; the message says why"),
    )
)]
pub(crate) async fn replay(
    State(shared): State<Arc<Shared>>,
    Path(id): Path<RequestId>,
) -> Result<Json<ReplayView>, ApiError> {
    let replayed = shared.engine.replay(id).await?;
    Ok(Json(replayed.into()))
}

/// The recorded run of a request that has ended, as a cassette for `rune test`: the input, what the model was shown of
/// the conversation so far, and the journal without ids and times.
#[utoipa::path(
    get, path = "/v1/requests/{id}/cassette", tag = "requests",
    params(("id" = String, Path, description = "The request", pattern = "^req_[0-9a-f]{32}$")),
    responses(
        (status = 200, body = Object, description = "The cassette"),
        (status = 404, body = ErrorBody, description = "The request does not exist"),
        (status = 409, body = ErrorBody, description = "There is none; the message says why"),
    )
)]
pub(crate) async fn cassette(
    State(shared): State<Arc<Shared>>,
    Path(id): Path<RequestId>,
) -> Result<Json<CassetteFile>, ApiError> {
    Ok(Json(shared.engine.record(id).await?))
}
