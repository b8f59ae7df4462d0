//! Refuses what the real providers refuse, and reduces the rest to a [`Conversation`].

mod anthropic;
mod gemini;
mod openai;
mod responses;

use axum::http::HeaderMap;
use serde_json::Value;

use super::{
    conversation::Conversation,
    issuer::Issuer,
    protocol::{Protocol, Route},
};

/// The longest tool name all vendors take.
const MAX_TOOL_NAME: usize = 64;

/// A request as it came.
pub(crate) struct Incoming<'a> {
    pub(crate) route: &'a Route,
    pub(crate) query: &'a str,
    pub(crate) headers: &'a HeaderMap,
    pub(crate) body: &'a Value,
    /// The only key accepted, if there is one.
    pub(crate) api_key: Option<&'a str>,
    pub(crate) issuer: &'a Issuer,
}

impl Incoming<'_> {
    fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .get(name)?
            .to_str()
            .ok()
            .filter(|value| !value.is_empty())
    }

    fn bearer(&self) -> Option<&str> {
        self.header("authorization")?
            .strip_prefix("Bearer ")
            .filter(|key| !key.is_empty())
    }

    /// Whether a key that was given is the right one.
    fn accepts(&self, key: &str) -> bool {
        self.api_key.is_none_or(|wanted| wanted == key)
    }
}

/// Checks a request.
pub(crate) fn check(incoming: &Incoming<'_>) -> Result<Conversation, Rejection> {
    let conversation = match incoming.route.protocol {
        Protocol::Anthropic => anthropic::check,
        Protocol::Openai => openai::check,
        Protocol::Responses => responses::check,
        Protocol::Gemini => gemini::check,
    };
    conversation(incoming)
}

/// Checks the key of a request in OpenAI's way.
pub(crate) fn openai_key(incoming: &Incoming<'_>) -> Result<(), Rejection> {
    openai::key(incoming)
}

/// A refusal; each protocol has its own form for it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Rejection {
    pub(crate) status: u16,
    pub(crate) message: String,
    pub(crate) code: Option<String>,
    pub(crate) param: Option<String>,
    pub(crate) retry_seconds: Option<f64>,
    pub(crate) request_id: String,
}

impl Rejection {
    pub(crate) fn new(status: u16, message: impl Into<String>) -> Self {
        Self {
            status,
            message: message.into(),
            code: None,
            param: None,
            retry_seconds: None,
            request_id: "req_scripted".to_owned(),
        }
    }

    /// 400.
    pub(crate) fn bad(message: impl Into<String>) -> Self {
        Self::new(400, message)
    }

    pub(crate) fn param(mut self, param: impl Into<String>) -> Self {
        self.param = Some(param.into());
        self
    }

    pub(crate) fn code(mut self, code: impl Into<String>) -> Self {
        self.code = Some(code.into());
        self
    }
}

fn valid_tool_name(name: &str) -> bool {
    (1..=MAX_TOOL_NAME).contains(&name.len()) && is_identifier(name)
}

fn is_identifier(text: &str) -> bool {
    !text.is_empty()
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-')
}

/// Standard base64 with its padding, and not empty.
fn is_base64(text: &str) -> bool {
    let body = text.trim_end_matches('=');
    let letter = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'+' || byte == b'/';
    !body.is_empty()
        && text.len().is_multiple_of(4)
        && text.len() - body.len() < 3
        && body.bytes().all(letter)
}

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value.get(key).and_then(Value::as_str).unwrap_or_default()
}

fn list<'a>(value: &'a Value, key: &str) -> &'a [Value] {
    value
        .get(key)
        .and_then(Value::as_array)
        .map_or(&[], Vec::as_slice)
}

fn flag(value: &Value, key: &str) -> bool {
    value.get(key).and_then(Value::as_bool).unwrap_or(false)
}

/// The first name that comes twice.
fn duplicate<'a>(names: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let mut seen = std::collections::HashSet::new();
    names.into_iter().find(|name| !seen.insert(*name))
}

/// The first field of an object that is not in `known`.
fn unknown_field<'a>(body: &'a Value, known: &[&str]) -> Option<&'a str> {
    body.as_object()?
        .keys()
        .map(String::as_str)
        .find(|key| !known.contains(key))
}
