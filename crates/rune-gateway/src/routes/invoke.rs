//! Invoking an agent.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::Arc;

use axum::extract::{FromRequestParts, State};
use axum::response::{IntoResponse as _, Response};
use http::StatusCode;
use http::request::Parts;
use rune_http::{
    ApiError, Caller, CostView, ErrorBody, Json, Path, Query, ServerSentEvent, TokenUsage,
};
use rune_runtime::{Ending, Invocation, Invoked, RequestEvent};
use rune_store_runtime::{ErrorCode, Failure, IdempotencyKey, RequestId, RequestStatus, SessionId};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use super::Target;
use super::failures::Failures;
use crate::event_body::{event_stream, interrupted};
use crate::fingerprint::fingerprint;
use crate::gateway::Shared;
use crate::trace::Trace;

/// Longest idempotency key in bytes.
const MAX_IDEMPOTENCY_KEY_BYTES: usize = 255;

/// What an agent is asked.
#[derive(Debug, Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct InvokeRequest {
    /// The input: text, or what the agent's `input_schema` asks for.
    input: Value,
    /// The conversation; a new one where absent.
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    session_id: Option<SessionId>,
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

/// A finished request.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct InvokeAnswer {
    /// The request.
    #[schema(value_type = String)]
    request_id: RequestId,
    /// Its session.
    #[schema(value_type = String)]
    session_id: SessionId,
    /// What the agent answered.
    output: Value,
    /// Tokens of the whole request.
    usage: TokenUsage,
    /// What they cost.
    cost: CostView,
    /// `completed`.
    #[schema(value_type = String)]
    status: RequestStatus,
}

/// A request that goes on, or waits for a person; `GET /v1/approvals?request=` shows for what.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct PendingAnswer {
    /// The request.
    #[schema(value_type = String)]
    request_id: RequestId,
    /// Its session.
    #[schema(value_type = String)]
    session_id: SessionId,
    /// `input-required` where it waits for a person; else absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    status: Option<RequestStatus>,
}

/// Invokes an agent. The request is durable before anything is answered and runs to its end
/// even if the client leaves; the same `Idempotency-Key` with the same body answers the
/// first request again.
#[utoipa::path(
    post, path = "/v1/agents/{name}/invoke", tag = "agents",
    params(
        ("name" = String, Path, description = "Name of the agent", example = "hello"),
        Target,
        ("Idempotency-Key" = Option<String>, Header, description = "1 to 255 visible ASCII characters", pattern = "^[!-~]{1,255}$"),
        ("traceparent" = Option<String>, Header, description = "W3C Trace Context, with `tracestate`; kept with the request and passed on to agents that it calls"),
    ),
    request_body(content = InvokeRequest, example = json!({"input": "What time is it?", "session_id": "demo"})),
    responses(
        (status = 200, content((InvokeAnswer = "application/json"), (ServerSentEvent = "text/event-stream")), description = "The answer, or events with `stream: true`"),
        (status = 202, body = PendingAnswer, description = "Accepted, with `background: true`; or waiting for an approval, with `status`"),
        Failures<ErrorBody>,
    )
)]
pub(crate) async fn invoke(
    State(shared): State<Arc<Shared>>,
    Path(name): Path<String>,
    Query(target): Query<Target>,
    caller: Caller,
    key: KeyHeader,
    trace: Trace,
    Json(body): Json<InvokeRequest>,
) -> Result<Response, ApiError> {
    let answering = Answering::new(body.stream, body.background)?;
    let scope = scope(&caller, &target.ns, &name, &target.alias);
    let idempotency = key.with(&body, &scope)?;
    let mut metadata = body.metadata;
    trace.origin(0).keep(&mut metadata);
    let invocation = Invocation {
        namespace: target.ns,
        agent: name,
        alias: target.alias,
        input: body.input,
        session_id: body.session_id,
        follows: None,
        metadata,
        caller: caller.id.as_ref().to_owned(),
        idempotency,
    };
    let invoked = shared.engine.invoke(invocation).await?;
    answering.answer(&shared, invoked).await
}

/// How a caller wants to be answered.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Answering {
    stream: bool,
    background: bool,
}

impl Answering {
    /// What the body asks for.
    pub(crate) fn new(stream: bool, background: bool) -> Result<Self, ApiError> {
        if stream && background {
            return Err(ApiError::invalid(
                "`stream` and `background` exclude each other",
            ));
        }
        Ok(Self { stream, background })
    }

    /// Answers for an accepted request.
    pub(crate) async fn answer(
        self,
        shared: &Shared,
        invoked: Invoked,
    ) -> Result<Response, ApiError> {
        if self.stream {
            return Ok(event_stream(invoked.events, shared.engine.shutdown()));
        }
        if self.background {
            let Invoked {
                request_id,
                session_id,
                ..
            } = invoked;
            let answer = Json(PendingAnswer {
                request_id,
                session_id,
                status: None,
            });
            return Ok((StatusCode::ACCEPTED, answer).into_response());
        }
        let request_id = invoked.request_id;
        let session_id = invoked.session_id.clone();
        let ending = invoked.events.ending().await;
        match ending.map_err(|error| ApiError::from(error).of_request(request_id))? {
            Ending::Ended(last) => {
                answer(request_id, last).map(|answer| Json(answer).into_response())
            }
            Ending::Parked => {
                let answer = Json(PendingAnswer {
                    request_id,
                    session_id,
                    status: Some(RequestStatus::InputRequired),
                });
                Ok((StatusCode::ACCEPTED, answer).into_response())
            }
            Ending::Interrupted => Err(interrupted(request_id)),
        }
    }
}

/// What the last event says.
fn answer(id: RequestId, last: RequestEvent) -> Result<InvokeAnswer, ApiError> {
    match last {
        RequestEvent::Done {
            request_id,
            session_id,
            output,
            status,
            usage,
            cost,
        } => Ok(InvokeAnswer {
            request_id,
            session_id,
            output,
            usage: usage.into(),
            cost: cost.into(),
            status,
        }),
        RequestEvent::Error { code, message, .. } => {
            Err(ApiError::from(Failure { code, message }).of_request(id))
        }
        other => {
            let message = format!("a request cannot end with `{}`", other.name());
            Err(ApiError::new(ErrorCode::Internal, message).of_request(id))
        }
    }
}

/// Who may share an idempotency key: the calls of one caller of one agent.
pub(crate) fn scope(caller: &Caller, namespace: &str, agent: &str, alias: &str) -> String {
    format!("{}\n{namespace}/{agent}:{alias}", caller.id)
}

/// The `Idempotency-Key` header, unchecked.
pub(crate) struct KeyHeader(Option<Vec<u8>>);

impl<S: Sync> FromRequestParts<S> for KeyHeader {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        let value = parts.headers.get("idempotency-key");
        Ok(Self(value.map(|value| value.as_bytes().to_owned())))
    }
}

impl KeyHeader {
    /// A key that came another way.
    pub(crate) fn of(key: Option<String>) -> Self {
        Self(key.map(String::into_bytes))
    }

    /// The key for this body; `scope` says who may share it.
    pub(crate) fn with(
        self,
        body: &impl Serialize,
        scope: &str,
    ) -> Result<Option<IdempotencyKey>, ApiError> {
        let Some(key) = self.0 else { return Ok(None) };
        let visible = key.iter().all(u8::is_ascii_graphic);
        let key = String::from_utf8(key)
            .ok()
            .filter(|key| visible && (1..=MAX_IDEMPOTENCY_KEY_BYTES).contains(&key.len()));
        let Some(key) = key else {
            return Err(ApiError::invalid(format!(
                "`Idempotency-Key` must be 1 to {MAX_IDEMPOTENCY_KEY_BYTES} visible ASCII characters"
            )));
        };
        let value = serde_json::to_value(body);
        let print = value
            .map_err(std::io::Error::from)
            .and_then(|value| fingerprint(&value));
        Ok(Some(IdempotencyKey {
            scope: scope.to_owned(),
            key,
            fingerprint: print.map_err(|error| ApiError::internal(error.to_string()))?,
        }))
    }
}
