//! Responses of OpenAI's API.

use std::sync::Arc;

use axum::extract::State;
use axum::response::{IntoResponse as _, Response};
use rune_http::{ApiError, Caller, Json, OpenAiErrorBody, Path, Query, ServerSentEvent};
use rune_runtime::{EngineError, Followed, RequestEvent, RequestEvents};
use rune_store_runtime::{
    ErrorCode, Failure, Reject, RequestId, RequestRow, RequestStatus, SessionId, StoreError,
    Timestamp,
};
use serde::Deserialize;
use serde_json::{Map, Value};
use utoipa::{IntoParams, ToSchema};

use super::approvals::{DecideRequest, decide_all};
use super::failures::Failures;
use super::invoke::KeyHeader;
use crate::conversation::{Conversation, Memory};
use crate::event_body::{encoded_stream, interrupted};
use crate::gateway::Shared;
use crate::narration::request_id;
use crate::openai::messages::{ResponseInput, response_input};
use crate::openai::model::Model;
use crate::openai::responses::{Asked, PREFIX, ResponseStream, response_id};
use crate::openai::{self, params};
use crate::trace::Trace;

/// The key of a request's notes under which what was asked is kept.
const NOTES: &str = "openai_response";
/// Longest instructions of a call in bytes: they are kept with the request.
const MAX_INSTRUCTIONS_BYTES: usize = 128 * 1024;

/// What an agent is asked. Parameters that are not here are left out where they are harmless and
/// refused where they would change the answer.
#[derive(Debug, Deserialize, ToSchema)]
pub(crate) struct ResponseRequest {
    /// The agent: `[NAMESPACE/]AGENT[:ALIAS]`.
    model: String,
    /// A text, or items: messages of any role, and answers to approval requests.
    #[schema(value_type = Value)]
    input: Value,
    /// Told to the agent with this call.
    instructions: Option<String>,
    /// The response that this one follows, in its session.
    previous_response_id: Option<String>,
    /// The session, or `{"id": …}`.
    #[schema(value_type = Option<Value>)]
    conversation: Option<Value>,
    /// Answer with events (`text/event-stream`).
    stream: Option<bool>,
    /// Answer at once; the request goes on.
    background: Option<bool>,
    /// Whether the response can be asked for later, `true` by default. The request is in the
    /// journal either way.
    store: Option<bool>,
    /// Whose conversation it is: the agent remembers it, in a session of this name.
    user: Option<String>,
    /// The caller's own notes, kept with the request. `session_id` names the session, and
    /// `show_tools: "true"` shows tool calls and their results.
    #[schema(value_type = Option<Object>)]
    metadata: Option<Map<String, Value>>,
}

/// How a response is looked at.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct GetQuery {
    /// As events, from the first one on.
    stream: Option<bool>,
    /// Not supported.
    starting_after: Option<u64>,
}

/// Has an agent respond. The request is durable before anything is answered and runs to its
/// end even if the client leaves.
#[utoipa::path(
    post, path = "/v1/responses", tag = "openai",
    params(("Idempotency-Key" = Option<String>, Header, description = "1 to 255 visible ASCII characters", pattern = "^[!-~]{1,255}$")),
    request_body(content = ResponseRequest, example = json!({"model": "hello", "input": "What time is it?"})),
    responses(
        (status = 200, content((Object = "application/json"), (ServerSentEvent = "text/event-stream")), description = "A `response`, or its events with `stream: true`"),
        Failures<OpenAiErrorBody>,
    )
)]
pub(crate) async fn create(
    State(shared): State<Arc<Shared>>,
    caller: Caller,
    key: KeyHeader,
    trace: Trace,
    Json(body): Json<Map<String, Value>>,
) -> Result<Response, ApiError> {
    params::check_response(&body)?;
    let raw = body.clone();
    let request: ResponseRequest = openai::parse(body)?;
    let engine = &shared.engine;
    let model = Model::parse(&request.model);
    let agent = model.agent(engine)?;
    let metadata = request.metadata.unwrap_or_default();
    if let Some(told) = &request.instructions
        && told.len() > MAX_INSTRUCTIONS_BYTES
    {
        let message = format!("`instructions` may have {MAX_INSTRUCTIONS_BYTES} bytes");
        return Err(ApiError::invalid(message).of_param("instructions"));
    }
    let answering = Answering {
        stream: request.stream == Some(true),
        background: request.background == Some(true),
    };
    let asked = Asked {
        model: model.name.clone(),
        instructions: request.instructions,
        previous_response_id: request.previous_response_id,
        user: request.user,
        background: answering.background,
        store: request.store != Some(false),
        show_tools: openai::shows_tools(&metadata)?,
        metadata,
    };
    if asked.background && !asked.store {
        let error = ApiError::invalid("`background` needs `store`: how else would you look at it");
        return Err(error.of_param("store"));
    }
    let previous = match &asked.previous_response_id {
        Some(id) => Some(previous(&shared, &caller, &model, id).await?),
        None => None,
    };
    let ResponseInput { turns, decisions } = response_input(&request.input)?;
    if !decisions.is_empty() {
        let Some((row, of)) = previous else {
            let message =
                "approvals are answered with `previous_response_id`: the response that asks";
            return Err(ApiError::invalid(message).of_param("previous_response_id"));
        };
        if turns.iter().any(|turn| !turn.parts.is_empty()) {
            let message = "approvals are answered alone: send what the user says when the response \
                           has ended";
            return Err(ApiError::invalid(message).of_param("input"));
        }
        let answers = decisions.into_iter().map(|decision| {
            let answer = DecideRequest::once(decision.approve, decision.note);
            (decision.approval_id, answer)
        });
        let told = decide_all(&shared, &caller, row.id, answers.collect()).await?;
        let answered = async {
            let events = engine.events(row.id, 0).await?;
            let about = About::from(&row);
            answering.answer(&shared, of, about, events, told).await
        };
        return answered.await.map_err(|error| error.of_request(row.id));
    }
    let follows = previous.as_ref().map(|(row, _)| row.id);
    let memory = memory(&model, &caller, &asked, request.conversation, previous)?;
    let conversation = Conversation {
        instructions: asked.instructions.clone(),
        turns,
    };
    let settled = conversation
        .settle(engine, memory, agent.as_deref())
        .await
        .map_err(|error| error.of_param("input"));
    let mut notes = asked.metadata.clone();
    let kept = serde_json::to_value(&asked);
    let kept = kept.map_err(|error| ApiError::internal(error.to_string()))?;
    notes.insert(NOTES.to_owned(), kept);
    let idempotency = key.with(&raw, &model.scope(&caller))?;
    let mut invocation = model.invocation(&caller, settled?, follows, notes, idempotency);
    trace.origin(0).keep(&mut invocation.metadata);
    let invoked = engine.invoke(invocation).await.map_err(refusal)?;
    let request_id = invoked.request_id;
    let answered = async {
        let about = About {
            request_id,
            session_id: invoked.session_id,
            created: openai::seconds(created_at(&shared, request_id).await?),
        };
        let events = invoked.events;
        answering.answer(&shared, asked, about, events, 0).await
    };
    answered.await.map_err(|error| error.of_request(request_id))
}

/// How the engine refuses a call. A session has one end: only its last response can be followed.
fn refusal(error: EngineError) -> ApiError {
    let EngineError::Store(StoreError::Rejected(Reject::Superseded { id })) = &error else {
        return openai::refusal(error, "input");
    };
    let id = id.parse().map_or_else(|_| id.clone(), response_id);
    let message = format!(
        "the conversation went on behind `{id}`: name the last response of it, or send the \
         conversation in `input`"
    );
    ApiError::invalid(message)
        .of_param("previous_response_id")
        .labelled("previous_response_not_latest")
}

/// Where the agent remembers the conversation.
fn memory(
    model: &Model,
    caller: &Caller,
    asked: &Asked,
    conversation: Option<Value>,
    previous: Option<(RequestRow, Asked)>,
) -> Result<Memory, ApiError> {
    if let Some((row, _)) = previous {
        return Ok(Memory::Session(row.session_id));
    }
    if let Some(conversation) = conversation.filter(|value| !value.is_null()) {
        let id = conversation.as_str().or(conversation["id"].as_str());
        let id = id.unwrap_or_default().parse();
        let id = id.map_err(|error| ApiError::from(error).of_param("conversation"))?;
        return Ok(Memory::Session(id));
    }
    openai::memory(model, caller, &asked.metadata, asked.user.as_deref())
}

/// The response of this model that another one follows.
async fn previous(
    shared: &Shared,
    caller: &Caller,
    model: &Model,
    id: &str,
) -> Result<(RequestRow, Asked), ApiError> {
    let found = find(shared, caller, id).await;
    let (row, asked) = found.map_err(|error| match error.code() {
        ErrorCode::NotFound => {
            ApiError::invalid(format!("the previous response `{id}` does not exist"))
                .of_param("previous_response_id")
                .labelled("previous_response_not_found")
        }
        _ => error,
    })?;
    if (&row.namespace, &row.agent) != (&model.namespace, &model.agent) {
        let message = format!(
            "the previous response `{id}` is one of `{}/{}`, and the model is `{}`",
            row.namespace, row.agent, model.name
        );
        return Err(ApiError::invalid(message).of_param("previous_response_id"));
    }
    Ok((row, asked))
}

/// A response that is kept, of this caller: there are no others for a client of the API.
async fn find(shared: &Shared, caller: &Caller, id: &str) -> Result<(RequestRow, Asked), ApiError> {
    let unknown = || ApiError::not_found("response", &id);
    let request: RequestId = request_id(PREFIX, id).ok_or_else(unknown)?;
    let row = match shared.engine.request(request).await {
        Ok(row) if row.caller == *caller.id => row,
        Ok(_) | Err(EngineError::NotFound(_)) => return Err(unknown()),
        Err(error) => return Err(error.into()),
    };
    let notes = row.metadata.get(NOTES).cloned();
    let asked = notes.and_then(|notes| serde_json::from_value::<Asked>(notes).ok());
    let mut asked = asked.filter(|asked| asked.store).ok_or_else(unknown)?;
    let own = row.metadata.iter().filter(|(key, _)| *key != NOTES);
    asked.metadata = own.map(|(key, note)| (key.clone(), note.clone())).collect();
    Ok((row, asked))
}

/// When a request was accepted. One that is never stored may be gone by now.
async fn created_at(shared: &Shared, id: RequestId) -> Result<Timestamp, ApiError> {
    match shared.engine.request(id).await {
        Ok(row) => Ok(row.created_at),
        Err(EngineError::NotFound(_)) => Ok(shared.engine.store().now()),
        Err(error) => Err(error.into()),
    }
}

/// The request behind a response.
struct About {
    request_id: RequestId,
    session_id: SessionId,
    /// Seconds since the epoch.
    created: i64,
}

impl From<&RequestRow> for About {
    fn from(row: &RequestRow) -> Self {
        Self {
            request_id: row.id,
            session_id: row.session_id.clone(),
            created: openai::seconds(row.created_at),
        }
    }
}

/// How a client wants to be answered.
#[derive(Debug, Clone, Copy)]
struct Answering {
    stream: bool,
    background: bool,
}

impl Answering {
    /// Answers with a request; `told` is its last entry that the client knows of.
    async fn answer(
        self,
        shared: &Shared,
        asked: Asked,
        about: About,
        events: RequestEvents,
        told: u64,
    ) -> Result<Response, ApiError> {
        let About {
            request_id,
            session_id,
            created,
        } = about;
        let response = ResponseStream::new(asked.clone(), request_id, created, told);
        let answer = if self.stream {
            encoded_stream(events, shared.engine.shutdown(), response)
        } else if self.background {
            let response = match shared.engine.request(request_id).await {
                Ok(row) => now(shared, &row, asked).await?,
                // It is over, and its agent keeps nothing.
                Err(EngineError::NotFound(_)) => whole(events, request_id, response).await?,
                Err(error) => return Err(error.into()),
            };
            Json(response).into_response()
        } else {
            Json(whole(events, request_id, response).await?).into_response()
        };
        Ok(openai::name(answer, request_id, &session_id))
    }
}

/// Follows a request to its end, or until it waits for a person.
async fn whole(
    mut events: RequestEvents,
    request_id: RequestId,
    mut response: ResponseStream,
) -> Result<Value, ApiError> {
    loop {
        match events.step().await? {
            Followed::Event(event) => {
                response.apply(&event);
                match event.event {
                    RequestEvent::Done { .. } => return Ok(response.response()),
                    RequestEvent::Error { code, message, .. } => {
                        return Err(Failure::new(code, message).into());
                    }
                    _ => {}
                }
            }
            Followed::Parked => {
                response.wait();
                return Ok(response.response());
            }
            Followed::End => return Err(interrupted(request_id)),
        }
    }
}

/// A response as it is now.
#[utoipa::path(
    get, path = "/v1/responses/{id}", tag = "openai",
    params(("id" = String, Path, description = "The response", pattern = "^resp_[0-9a-f]{32}$"), GetQuery),
    responses(
        (status = 200, content((Object = "application/json"), (ServerSentEvent = "text/event-stream")), description = "The `response`, or its events with `?stream=true`"),
        (status = 404, body = OpenAiErrorBody, description = "The caller has no such response"),
    )
)]
pub(crate) async fn get(
    State(shared): State<Arc<Shared>>,
    Path(id): Path<String>,
    Query(query): Query<GetQuery>,
    caller: Caller,
) -> Result<Response, ApiError> {
    if query.starting_after.is_some() {
        let message = "`starting_after` is not supported: a stream begins with the first event";
        return Err(ApiError::invalid(message)
            .of_param("starting_after")
            .labelled("unsupported_parameter"));
    }
    let (row, asked) = find(&shared, &caller, &id).await?;
    if query.stream == Some(true) {
        let events = shared.engine.events(row.id, 0).await?;
        let answering = Answering {
            stream: true,
            background: false,
        };
        let about = About::from(&row);
        return answering.answer(&shared, asked, about, events, 0).await;
    }
    let response = now(&shared, &row, asked).await?;
    Ok(openai::name(
        Json(response).into_response(),
        row.id,
        &row.session_id,
    ))
}

/// The response as it is: with its output, where that is whole or waits.
async fn now(shared: &Shared, row: &RequestRow, asked: Asked) -> Result<Value, ApiError> {
    let created = openai::seconds(row.created_at);
    let mut response = ResponseStream::new(asked, row.id, created, 0);
    if !row.status.is_terminal() && row.status != RequestStatus::InputRequired {
        return Ok(response.with_status(row.status).response());
    }
    let mut events = match shared.engine.events(row.id, 0).await {
        Ok(events) => events,
        // It is over, and its agent keeps nothing.
        Err(EngineError::NotFound(_)) => return Ok(response.with_status(row.status).response()),
        Err(error) => return Err(error.into()),
    };
    // What a decision lets go on since is not waited for.
    while let Followed::Event(event) = events.step().await? {
        response.apply(&event);
        if event.seq.is_some_and(|seq| seq >= row.last_seq) {
            break;
        }
    }
    if row.status == RequestStatus::InputRequired {
        response.wait();
    }
    Ok(response.response())
}

/// Cancels a response. Cancelling twice, or after the end, is no error.
#[utoipa::path(
    post, path = "/v1/responses/{id}/cancel", tag = "openai",
    params(("id" = String, Path, description = "The response", pattern = "^resp_[0-9a-f]{32}$")),
    responses(
        (status = 200, body = Object, description = "The `response` as it is now"),
        (status = 404, body = OpenAiErrorBody, description = "The caller has no such response"),
    )
)]
pub(crate) async fn cancel(
    State(shared): State<Arc<Shared>>,
    Path(id): Path<String>,
    caller: Caller,
) -> Result<Json<Value>, ApiError> {
    let (row, asked) = find(&shared, &caller, &id).await?;
    let reason = format!("cancelled by {}", caller.id);
    let row = shared.engine.cancel(row.id, &reason).await?;
    Ok(Json(now(&shared, &row, asked).await?))
}
