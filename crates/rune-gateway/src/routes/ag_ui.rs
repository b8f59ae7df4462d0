//! Runs of the Agent User Interaction Protocol.

use std::sync::Arc;

use axum::extract::State;
use axum::response::Response;
use rune_http::{ApiError, Caller, ErrorBody, Json, Path, Query, ServerSentEvent};
use rune_runtime::{EngineError, Invocation};
use rune_store_runtime::{ApprovalId, ApprovalRow};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use utoipa::ToSchema;

use super::Target;
use super::approvals::{DecideRequest, decide_all};
use super::invoke::{KeyHeader, scope};
use crate::ag_ui::Run;
use crate::conversation::{Conversation, Memory, Speaker, Turn, image_part, text_part};
use crate::event_body::encoded_stream;
use crate::gateway::Shared;
use crate::trace::Trace;

/// Longest id of a thread or a run in bytes.
const MAX_ID_BYTES: usize = 256;

/// `RunAgentInput` of the protocol. Fields that are not here, and `state`, `tools` and
/// `forwardedProps`, have no effect: an agent has its own tools and shares no state.
#[derive(Debug, Deserialize, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct RunInput {
    /// The conversation; the agent remembers it in a session of this name.
    thread_id: String,
    /// The run, as the client names it.
    run_id: String,
    /// The conversation so far; the last message is the user's.
    #[schema(value_type = Vec<Object>)]
    messages: Vec<Value>,
    /// What the agent should know, each `{description, value}`.
    #[schema(value_type = Option<Vec<Object>>)]
    context: Option<Vec<Note>>,
    /// Answers to the interrupts of the run before, each `{interruptId, status, payload}`.
    #[schema(value_type = Option<Vec<Object>>)]
    resume: Option<Vec<Resume>>,
}

/// Something that the application lets the agent know.
#[derive(Debug, Deserialize, Serialize)]
struct Note {
    description: String,
    value: Value,
}

/// An answer to an interrupt.
#[derive(Debug, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
struct Resume {
    interrupt_id: ApprovalId,
    status: ResumeStatus,
    payload: Option<Value>,
}

/// Whether an interrupt was answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
enum ResumeStatus {
    Resolved,
    Cancelled,
}

/// Runs an agent and answers with the events of the protocol. The request is durable before
/// the first one and runs to its end even if the client leaves.
#[utoipa::path(
    post, path = "/v1/agents/{name}/ag-ui", tag = "agents",
    params(
        ("name" = String, Path, description = "Name of the agent", example = "hello"),
        Target,
        ("Idempotency-Key" = Option<String>, Header, description = "1 to 255 visible ASCII characters", pattern = "^[!-~]{1,255}$"),
    ),
    request_body(content = RunInput, example = json!({"threadId": "t-1", "runId": "r-1", "messages": [{"id": "1", "role": "user", "content": "What time is it?"}]})),
    responses(
        (status = 200, body = ServerSentEvent, content_type = "text/event-stream", description = "Events of AG-UI 1.0"),
        (status = 404, body = ErrorBody, description = "The agent is not deployed, or the thread has no such interrupt"),
        (status = 409, body = ErrorBody, description = "The session is another agent's, the interrupt was answered before, or the idempotency key was used with another body"),
        (status = 429, body = ErrorBody, description = "Too many requests wait, or a budget is used up"),
    )
)]
pub(crate) async fn run(
    State(shared): State<Arc<Shared>>,
    Path(name): Path<String>,
    Query(target): Query<Target>,
    caller: Caller,
    key: KeyHeader,
    trace: Trace,
    Json(body): Json<RunInput>,
) -> Result<Response, ApiError> {
    let engine = &shared.engine;
    for (field, id) in [("threadId", &body.thread_id), ("runId", &body.run_id)] {
        if id.is_empty() || id.len() > MAX_ID_BYTES {
            let message = format!("`{field}` has 1 to {MAX_ID_BYTES} bytes");
            return Err(ApiError::invalid(message));
        }
    }
    let route = engine.router().route(&target.ns, &name, &target.alias);
    let deployment = route.map_err(EngineError::from)?.deployment;
    let session = Memory::session_of(&caller, &target.ns, &name, &body.thread_id);
    let resume = body.resume.as_deref().unwrap_or_default();
    if let Some(first) = resume.first() {
        let row = engine.store().approval(first.interrupt_id).await?;
        // The threads of other callers are other sessions.
        let is_its = |row: &ApprovalRow| {
            row.session_id == session && (&row.namespace, &row.agent) == (&target.ns, &name)
        };
        let row = row.filter(is_its);
        let row = row.ok_or_else(|| ApiError::not_found("interrupt", &first.interrupt_id))?;
        let answers = resume.iter().map(decision).collect::<Result<_, _>>()?;
        let told = decide_all(&shared, &caller, row.request_id, answers).await?;
        let events = engine.events(row.request_id, 0).await?;
        let run = Run::new(body.thread_id, body.run_id, row.request_id, told);
        return Ok(encoded_stream(events, engine.shutdown(), run));
    }
    let agent = engine.router().agent(deployment.id);
    let notes = body.context.as_deref().unwrap_or_default();
    let conversation = Conversation {
        instructions: instructions(notes),
        turns: turns(&body.messages)?,
    };
    let settled = conversation.settle(engine, Memory::Session(session), agent.as_deref());
    let (input, session_id) = settled.await?;
    let scope = scope(&caller, &target.ns, &name, &target.alias);
    let idempotency = key.with(&body, &scope)?;
    let ids = json!({"thread_id": body.thread_id, "run_id": body.run_id});
    let mut metadata = [("ag_ui".to_owned(), ids)].into();
    trace.origin(0).keep(&mut metadata);
    let invocation = Invocation {
        namespace: target.ns,
        agent: name,
        alias: target.alias,
        input,
        session_id,
        follows: None,
        metadata,
        caller: caller.id.as_ref().to_owned(),
        idempotency,
    };
    let invoked = engine.invoke(invocation).await?;
    let run = Run::new(body.thread_id, body.run_id, invoked.request_id, 0);
    Ok(encoded_stream(invoked.events, engine.shutdown(), run))
}

/// What an answer to an interrupt decides: a payload of `true`, or one whose `approved` is.
fn decision(resume: &Resume) -> Result<(ApprovalId, DecideRequest), ApiError> {
    let payload = resume.payload.as_ref().unwrap_or(&Value::Null);
    let approved = payload.as_bool().or(payload["approved"].as_bool());
    let approve = match (resume.status, approved) {
        (ResumeStatus::Cancelled, _) => false,
        (ResumeStatus::Resolved, Some(approve)) => approve,
        (ResumeStatus::Resolved, None) => {
            let message = format!(
                "the payload for interrupt `{}` has to be {{\"approved\": true}} or \
                 {{\"approved\": false}}",
                resume.interrupt_id
            );
            return Err(ApiError::invalid(message));
        }
    };
    let note = payload["note"].as_str().map(str::to_owned);
    Ok((resume.interrupt_id, DecideRequest::once(approve, note)))
}

/// What the application lets the agent know.
fn instructions(notes: &[Note]) -> Option<String> {
    let lines = notes.iter().map(|note| {
        let value = note
            .value
            .as_str()
            .map_or_else(|| note.value.to_string(), str::to_owned);
        format!("{}: {value}", note.description)
    });
    let lines: Vec<String> = lines.collect();
    (!lines.is_empty()).then(|| lines.join("\n"))
}

/// What was said. Calls and what came of them are the agent's own, and in its session.
fn turns(messages: &[Value]) -> Result<Vec<Turn>, ApiError> {
    let mut turns = Vec::new();
    for (n, message) in messages.iter().enumerate() {
        let at = format!("messages[{n}]");
        let speaker = match message["role"].as_str() {
            Some("user") => Speaker::User,
            Some("assistant") => Speaker::Assistant,
            Some("system" | "developer") => Speaker::Client,
            Some("tool" | "activity" | "reasoning") => continue,
            _ => {
                return Err(ApiError::invalid(format!(
                    "`{at}.role` is none of the protocol"
                )));
            }
        };
        let parts = match &message["content"] {
            Value::String(text) => vec![text_part(text)],
            Value::Array(parts) => {
                let parts = parts.iter().enumerate();
                let parts = parts.map(|(n, part)| content(part, &format!("{at}.content[{n}]")));
                parts.collect::<Result<_, _>>()?
            }
            Value::Null if speaker == Speaker::Assistant => Vec::new(),
            _ => {
                let message = format!("`{at}.content` is a text or a list of parts");
                return Err(ApiError::invalid(message));
            }
        };
        turns.push(Turn { speaker, parts });
    }
    Ok(turns)
}

fn content(part: &Value, at: &str) -> Result<Value, ApiError> {
    let source = &part["source"];
    let value = source["value"].as_str();
    match (part["type"].as_str(), source["type"].as_str(), value) {
        (Some("text"), ..) => match part["text"].as_str() {
            Some(text) => Ok(text_part(text)),
            None => Err(ApiError::invalid(format!("`{at}.text` is missing"))),
        },
        (Some("image"), Some("url"), Some(url)) => image_part(url),
        (Some("image"), Some("data"), Some(data)) => {
            let media_type = source["mimeType"].as_str().unwrap_or_default();
            Ok(json!({"type": "image", "media_type": media_type, "data": data}))
        }
        _ => Err(ApiError::invalid(format!(
            "`{at}`: agents take text and images, by URL or data"
        ))),
    }
}
