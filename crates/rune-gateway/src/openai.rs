//! OpenAI's API over agents: a model is an agent, a completion or a response is a request.
//!
//! `docs/openai.md` says what of the API is there; [`params`] refuses what is not and would change
//! what is answered.

pub(crate) mod chat;
pub(crate) mod messages;
pub(crate) mod model;
pub(crate) mod params;
pub(crate) mod responses;

use http::{HeaderName, HeaderValue};
use rune_http::{AGENT_REQUEST_ID, ApiError, Caller};
use rune_runtime::EngineError;
use rune_store_runtime::{RequestId, SessionId, Usage};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};

use crate::conversation::Memory;
use model::Model;

/// The routes that answer errors as OpenAI does.
pub(crate) const ROUTES: &[&str] = &[
    "/v1/models",
    "/v1/models/{model}",
    "/v1/chat/completions",
    "/v1/responses",
    "/v1/responses/{id}",
    "/v1/responses/{id}/cancel",
];

/// The header of an answer that names the session.
const SESSION_HEADER: HeaderName = HeaderName::from_static("x-rune-session-id");
/// The key of `metadata` that names the session.
const SESSION_KEY: &str = "session_id";
/// The key of `metadata` that has tool calls and their results shown.
const TOOLS_KEY: &str = "show_tools";

/// The caller's notes of one call, and what in them is for Rune.
pub(crate) type Metadata = Map<String, Value>;

/// The session that the notes name.
fn named_session(metadata: &Metadata) -> Result<Option<SessionId>, ApiError> {
    let Some(name) = metadata.get(SESSION_KEY) else {
        return Ok(None);
    };
    let id = name.as_str().unwrap_or_default().parse();
    id.map(Some)
        .map_err(|error| ApiError::from(error).of_param("metadata"))
}

/// Where the agent remembers a conversation: in the session that the notes name, or in the usual
/// one of the user.
pub(crate) fn memory(
    model: &Model,
    caller: &Caller,
    metadata: &Metadata,
    user: Option<&str>,
) -> Result<Memory, ApiError> {
    if let Some(session) = named_session(metadata)? {
        return Ok(Memory::Session(session));
    }
    Ok(match user.filter(|user| !user.is_empty()) {
        Some(user) => {
            let (namespace, agent) = (&model.namespace, &model.agent);
            Memory::Usual(Memory::session_of(caller, namespace, agent, user))
        }
        None => Memory::Client,
    })
}

/// Whether tool calls and their results are shown.
pub(crate) fn shows_tools(metadata: &Metadata) -> Result<bool, ApiError> {
    match metadata.get(TOOLS_KEY) {
        None => Ok(false),
        Some(Value::Bool(shown)) => Ok(*shown),
        Some(Value::String(text)) if text == "true" => Ok(true),
        Some(Value::String(text)) if text == "false" => Ok(false),
        Some(_) => {
            let message = format!("`metadata.{TOOLS_KEY}` is \"true\" or \"false\"");
            Err(ApiError::invalid(message).of_param("metadata"))
        }
    }
}

/// The fields of a body that are known; others were looked at by [`params`].
pub(crate) fn parse<T: DeserializeOwned>(body: Map<String, Value>) -> Result<T, ApiError> {
    serde_json::from_value(Value::Object(body))
        .map_err(|error| ApiError::invalid(format!("the request body is not valid: {error}")))
}

/// Seconds since the epoch.
pub(crate) fn seconds(at: rune_store_runtime::Timestamp) -> i64 {
    at.as_millis() / 1000
}

/// How the engine refuses a call, with the parameter that it is about.
pub(crate) fn refusal(error: EngineError, input: &'static str) -> ApiError {
    let is_input = matches!(
        error,
        EngineError::Input(_) | EngineError::Part(_) | EngineError::ImageTooLarge
    );
    let error = ApiError::from(error);
    match is_input {
        true => error.of_param(input),
        false => error,
    }
}

/// Names the request and its session in an answer.
pub(crate) fn name(
    mut response: axum::response::Response,
    request: RequestId,
    session: &SessionId,
) -> axum::response::Response {
    let headers = response.headers_mut();
    let named = [
        (AGENT_REQUEST_ID, request.to_string()),
        (SESSION_HEADER, session.to_string()),
    ];
    for (name, value) in named {
        if let Ok(value) = HeaderValue::try_from(value) {
            headers.insert(name, value);
        }
    }
    response
}

/// Tokens as chat completions count them.
fn chat_usage(usage: &Usage) -> Value {
    json!({
        "prompt_tokens": usage.input_tokens,
        "completion_tokens": usage.output_tokens,
        "total_tokens": usage.total(),
        "prompt_tokens_details": {
            "cached_tokens": usage.cached_tokens,
            "cache_write_tokens": usage.cache_write_tokens,
        },
        "completion_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
    })
}

/// Tokens as responses count them.
fn response_usage(usage: &Usage) -> Value {
    json!({
        "input_tokens": usage.input_tokens,
        "input_tokens_details": {
            "cached_tokens": usage.cached_tokens,
            "cache_write_tokens": usage.cache_write_tokens,
        },
        "output_tokens": usage.output_tokens,
        "output_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
        "total_tokens": usage.total(),
    })
}
