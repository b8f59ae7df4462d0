//! Chat completions of OpenAI's API.

use std::sync::Arc;

use axum::extract::State;
use axum::response::{IntoResponse as _, Response};
use rune_http::{ApiError, Caller, Json, OpenAiErrorBody, ServerSentEvent};
use rune_runtime::{Engine, Followed, Invoked, RequestEvent};
use rune_store_runtime::Failure;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use utoipa::ToSchema;

use super::failures::Failures;
use super::invoke::KeyHeader;
use crate::conversation::{Conversation, output_text};
use crate::event_body::{encoded_stream, interrupted};
use crate::gateway::Shared;
use crate::narration::Narration;
use crate::openai::chat::{ChatStream, Completion, tool_line};
use crate::openai::messages::chat_turns;
use crate::openai::model::Model;
use crate::openai::{self, params};
use crate::trace::Trace;

/// A chat with an agent. Parameters that are not here are left out where they are harmless and
/// refused where they would change the answer.
#[derive(Debug, Deserialize, ToSchema)]
pub(crate) struct ChatCompletionRequest {
    /// The agent: `[NAMESPACE/]AGENT[:ALIAS]`.
    model: String,
    /// The conversation; the last message is the user's.
    #[schema(value_type = Vec<Object>)]
    messages: Vec<Value>,
    /// Answer with chunks (`text/event-stream`).
    stream: Option<bool>,
    stream_options: Option<StreamOptions>,
    /// Whose conversation it is: the agent remembers it, in a session of this name.
    user: Option<String>,
    /// The caller's own notes, kept with the request. `session_id` names the session, and
    /// `show_tools: "true"` shows tool calls and their results.
    #[schema(value_type = Option<Object>)]
    metadata: Option<Map<String, Value>>,
}

/// How a stream is answered.
#[derive(Debug, Deserialize, ToSchema)]
pub(crate) struct StreamOptions {
    /// With a last chunk that has the tokens.
    include_usage: Option<bool>,
}

/// Has an agent answer a conversation. The request is durable before anything is answered and
/// runs to its end even if the client leaves.
#[utoipa::path(
    post, path = "/v1/chat/completions", tag = "openai",
    params(("Idempotency-Key" = Option<String>, Header, description = "1 to 255 visible ASCII characters", pattern = "^[!-~]{1,255}$")),
    request_body(content = ChatCompletionRequest, example = json!({"model": "hello", "messages": [{"role": "user", "content": "What time is it?"}]})),
    responses(
        (status = 200, content((Object = "application/json"), (ServerSentEvent = "text/event-stream")), description = "A `chat.completion`, or its chunks with `stream: true`"),
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
    params::check_chat(&body)?;
    let raw = body.clone();
    let asked: ChatCompletionRequest = openai::parse(body)?;
    let engine = &shared.engine;
    let model = Model::parse(&asked.model);
    let agent = model.agent(engine)?;
    let metadata = asked.metadata.unwrap_or_default();
    let show_tools = openai::shows_tools(&metadata)?;
    let memory = openai::memory(&model, &caller, &metadata, asked.user.as_deref())?;
    let conversation = Conversation {
        instructions: None,
        turns: chat_turns(&asked.messages)?,
    };
    let settled = conversation
        .settle(engine, memory, agent.as_deref())
        .await
        .map_err(|error| error.of_param("messages"));
    let mut notes = metadata;
    notes.insert(
        "openai".to_owned(),
        json!({"api": "chat.completions", "model": model.name, "user": asked.user}),
    );
    let idempotency = key.with(&raw, &model.scope(&caller))?;
    let mut invocation = model.invocation(&caller, settled?, None, notes, idempotency);
    trace.origin(0).keep(&mut invocation.metadata);
    let invoked = engine.invoke(invocation).await;
    let invoked = invoked.map_err(|error| openai::refusal(error, "messages"))?;
    let completion = Completion {
        request_id: invoked.request_id,
        created: openai::seconds(engine.store().now()),
        model: model.name,
        show_tools,
    };
    let (request_id, session_id) = (invoked.request_id, invoked.session_id.clone());
    let response = if asked.stream == Some(true) {
        let options = asked.stream_options;
        let include_usage = options.and_then(|options| options.include_usage);
        let stream = ChatStream::new(completion, include_usage == Some(true));
        encoded_stream(invoked.events, engine.shutdown(), stream)
    } else {
        let whole = whole(engine, invoked, &completion).await;
        Json(whole.map_err(|error| error.of_request(request_id))?).into_response()
    };
    Ok(openai::name(response, request_id, &session_id))
}

/// Follows the request to its end, or until it waits for a person.
async fn whole(
    engine: &Engine,
    invoked: Invoked,
    completion: &Completion,
) -> Result<Value, ApiError> {
    let mut events = invoked.events;
    let mut tools = completion.show_tools.then(String::new);
    let mut notices: Vec<String> = Vec::new();
    let mut narration = Narration::default();
    loop {
        let event = match events.step().await? {
            Followed::Event(event) => event,
            Followed::Parked => {
                let row = engine.request(completion.request_id).await?;
                let text = notices.join("\n\n");
                return Ok(completion.whole(&text, tools.as_deref(), &row.usage, None));
            }
            Followed::End => return Err(interrupted(completion.request_id)),
        };
        narration.hear(&event);
        match &event.event {
            RequestEvent::ApprovalRequired {
                approval_id,
                tool,
                reason,
                ..
            } => notices.push(completion.notice(tool, reason, &approval_id.to_string())),
            RequestEvent::Done { output, usage, .. } => {
                let text = output_text(output);
                return Ok(completion.whole(&text, tools.as_deref(), usage, narration.cut()));
            }
            RequestEvent::Error { code, message, .. } => {
                return Err(Failure::new(*code, message.as_str()).into());
            }
            event => {
                if let (Some(tools), Some(line)) = (&mut tools, tool_line(event)) {
                    tools.push_str(&line);
                }
            }
        }
    }
}
