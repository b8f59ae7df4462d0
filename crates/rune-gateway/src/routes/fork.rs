//! Forking a request.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::extract::State;
use axum::response::Response;
use rune_http::{ApiError, Caller, CostView, ErrorBody, Json, Path, ServerSentEvent, TokenUsage};
use rune_runtime::Forking;
use rune_store_runtime::{ForkChanges, ForkOrigin, ForkPolicy, RequestId};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use super::failures::Failures;
use super::invoke::{Answering, InvokeAnswer, KeyHeader, PendingAnswer};
use crate::gateway::Shared;

/// Where a request is forked, and what is different from there on.
#[derive(Debug, Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ForkRequest {
    /// The last entry of the journal that the new request begins with.
    at: u64,
    /// Another model: an alias of the agent, a model id, or `provider:model`.
    model: Option<String>,
    /// Another system prompt, taken as it is.
    instructions: Option<String>,
    /// Another policy: a text of Cedar policies in place of the package's Cedar file, or an object in the
    /// short form (`mode`, `allow`, `ask`, `deny`, `approval`) in place of the Runefile's `policy`.
    #[schema(value_type = Option<Value>)]
    policy: Option<ForkPolicy>,
    /// Answer with events (`text/event-stream`).
    #[serde(default)]
    stream: bool,
    /// Answer at once with 202; the request goes on.
    #[serde(default)]
    background: bool,
    /// The caller's own notes, kept with the request.
    #[serde(default)]
    #[schema(value_type = Object)]
    metadata: BTreeMap<String, Value>,
}

/// Makes a new request, in a session of its own, that begins with the journal of another one up to an entry and
/// goes on from there with real models and tools. What was taken over is neither done nor charged again.
#[utoipa::path(
    post, path = "/v1/requests/{id}/fork", tag = "requests",
    params(
        ("id" = String, Path, description = "The request that is forked", pattern = "^req_[0-9a-f]{32}$"),
        ("Idempotency-Key" = Option<String>, Header, description = "1 to 255 visible ASCII characters", pattern = "^[!-~]{1,255}$"),
    ),
    request_body(content = ForkRequest, example = json!({"at": 2, "instructions": "Be brief."})),
    responses(
        (status = 200, content((InvokeAnswer = "application/json"), (ServerSentEvent = "text/event-stream")), description = "The answer, or events with `stream: true`"),
        (status = 202, body = PendingAnswer, description = "Accepted, with `background: true`; or waiting for an approval, with `status`"),
        Failures<ErrorBody>,
    )
)]
pub(crate) async fn fork(
    State(shared): State<Arc<Shared>>,
    Path(id): Path<RequestId>,
    caller: Caller,
    key: KeyHeader,
    Json(body): Json<ForkRequest>,
) -> Result<Response, ApiError> {
    let answering = Answering::new(body.stream, body.background)?;
    let idempotency = key.with(&body, &format!("{}\nfork {id}", caller.id))?;
    let forking = Forking {
        origin: id,
        at: body.at,
        changes: ForkChanges {
            model: body.model,
            instructions: body.instructions,
            policy: body.policy,
        },
        metadata: body.metadata,
        caller: caller.id.as_ref().to_owned(),
        idempotency,
    };
    let forked = shared.engine.fork(forking).await?;
    answering.answer(&shared, forked).await
}

/// Where a forked request comes from.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ForkView {
    #[schema(value_type = String)]
    request_id: RequestId,
    /// The last entry that was taken over.
    seq: u64,
    /// What the entries that were taken over had used. It is part of what the other request used, not of this one.
    inherited: InheritedView,
    /// The other model.
    #[serde(skip_serializing_if = "Option::is_none")]
    model: Option<String>,
    /// The other system prompt.
    #[serde(skip_serializing_if = "Option::is_none")]
    instructions: Option<String>,
    /// The other policy.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Value>)]
    policy: Option<ForkPolicy>,
}

/// What a fork took over.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct InheritedView {
    usage: TokenUsage,
    cost: CostView,
    model_calls: u32,
    tool_calls: u32,
}

impl From<ForkOrigin> for ForkView {
    fn from(origin: ForkOrigin) -> Self {
        Self {
            request_id: origin.request_id,
            seq: origin.seq,
            inherited: InheritedView {
                usage: origin.usage.into(),
                cost: origin.cost.into(),
                model_calls: origin.model_calls,
                tool_calls: origin.tool_calls,
            },
            model: origin.changes.model,
            instructions: origin.changes.instructions,
            policy: origin.changes.policy,
        }
    }
}
