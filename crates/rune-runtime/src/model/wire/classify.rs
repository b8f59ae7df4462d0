//! What a provider's error means.

use std::time::Duration;

use reqwest::header::HeaderMap;
use serde_json::Value;

use crate::model::{ModelError, ModelErrorKind, retry};

/// Characters of a provider's message that are kept.
const MAX_MESSAGE_CHARS: usize = 500;

/// Codes and types that mean "no money", whatever the status.
const NO_QUOTA: [&str; 8] = [
    "enforced_spend_limit_reached",
    "contract_spend_limit_reached",
    "credit_balance_exhausted",
    "organization_spend_limit_exceeded",
    "project_spend_limit_exceeded",
    "organization_usage_limit_exceeded",
    "insufficient_quota",
    "billing_error",
];

/// Codes that mean "too long".
const TOO_LONG: [&str; 3] = [
    "context_length_exceeded",
    "request_too_large",
    "model_context_window_exceeded",
];

/// Words of a 400 that mean "too long"; there is no code for it with several vendors.
const TOO_LONG_WORDS: [&str; 8] = [
    "prompt is too long",
    "context length",
    "context window",
    "context limit",
    "context size",
    "maximum context",
    "input token count",
    "input is too long",
];

/// A failure before it has a provider's name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::model) struct Fault {
    pub(in crate::model) kind: ModelErrorKind,
    pub(in crate::model) message: String,
    pub(in crate::model) retry_after: Option<Duration>,
    /// The HTTP status, or the one that the error names.
    pub(in crate::model) status: Option<u16>,
}

impl Fault {
    pub(in crate::model) fn new(kind: ModelErrorKind, message: impl Into<String>) -> Self {
        Self {
            kind,
            message: message.into(),
            retry_after: None,
            status: None,
        }
    }

    pub(in crate::model) fn malformed(message: impl Into<String>) -> Self {
        Self::new(ModelErrorKind::Malformed, message)
    }

    pub(in crate::model) fn into_error(self, provider: &str) -> ModelError {
        let mut error = ModelError::new(self.kind, provider, self.message);
        error.retry_after = self.retry_after;
        error.status = self.status;
        error
    }
}

/// Whether the JSON of an event or body reports an error.
pub(super) fn is_error(json: &Value) -> bool {
    let json = json.get(0).unwrap_or(json);
    let type_is_error = ["type", "object"]
        .iter()
        .any(|key| json.get(key).and_then(Value::as_str) == Some("error"));
    type_is_error
        || match json.get("error") {
            None | Some(Value::Null | Value::Bool(false)) => false,
            Some(Value::String(text)) => !text.is_empty(),
            Some(_) => true,
        }
}

/// The failure that a status and a message say.
pub(in crate::model) fn error_of(provider: &str, status: u16, said: &str) -> ModelError {
    body(Some(status), said).into_error(provider)
}

/// The failure that an HTTP error says.
pub(super) fn response(status: u16, headers: &HeaderMap, text: &str) -> Fault {
    let mut fault = body(Some(status), text);
    fault.retry_after = retry::retry_after(headers).or(fault.retry_after);
    fault
}

/// The failure that the body of an error says; without `status` it came in a stream with
/// status 200.
pub(super) fn body(status: Option<u16>, text: &str) -> Fault {
    let json: Value = serde_json::from_str(text).unwrap_or(Value::Null);
    // Gemini without `alt=sse` and some proxies send a list of one.
    let json = json.get(0).cloned().unwrap_or(json);
    let error = match json.get("error") {
        Some(error @ Value::Object(_)) => error.clone(),
        Some(Value::String(message)) => serde_json::json!({ "message": message }),
        _ => json,
    };
    let words = words(&error);
    let said = error.get("message").and_then(Value::as_str).unwrap_or("");
    let status = status.or_else(|| status_of(&error, &words));
    let mut fault = Fault::new(kind(status, &words, said), message(status, said, text));
    fault.retry_after = retry_info(&error);
    fault.status = status;
    fault
}

/// The failure that the error object of a stream says.
pub(in crate::model) fn error_fault(error: &Value) -> Fault {
    let known = error.is_object();
    let text = if known {
        error.to_string()
    } else {
        r#"{"message": "the provider gave up without a reason"}"#.to_owned()
    };
    body(None, &text)
}

/// Every word by which a vendor names an error.
fn words(error: &Value) -> Vec<String> {
    let places = ["/type", "/code", "/status", "/details/error_code"];
    let plain = places.iter().filter_map(|place| error.pointer(place));
    let reasons = error.get("details").and_then(Value::as_array);
    let reasons = reasons
        .into_iter()
        .flatten()
        .filter_map(|detail| detail.get("reason"));
    let text = plain.chain(reasons).filter_map(Value::as_str);
    text.map(str::to_ascii_lowercase).collect()
}

/// The status an error in a stream would have had.
fn status_of(error: &Value, words: &[String]) -> Option<u16> {
    let code = error.get("code").and_then(Value::as_u64);
    if let Some(code) = code.and_then(|code| u16::try_from(code).ok()) {
        return Some(code);
    }
    words.iter().find_map(|word| {
        Some(match word.as_str() {
            "invalid_request_error"
            | "invalid_prompt"
            | "invalid_argument"
            | "failed_precondition" => 400,
            "authentication_error" | "unauthenticated" | "invalid_api_key" => 401,
            "permission_error" | "permission_denied" => 403,
            "not_found_error" | "not_found" | "model_not_found" => 404,
            "conflict_error" => 409,
            "rate_limit_error" | "rate_limit_exceeded" | "resource_exhausted" => 429,
            "timeout_error" | "deadline_exceeded" => 504,
            "overloaded_error" => 529,
            "api_error" | "server_error" | "internal" | "unavailable" => 500,
            _ => return None,
        })
    })
}

fn kind(status: Option<u16>, words: &[String], said: &str) -> ModelErrorKind {
    let any = |list: &[&str]| words.iter().any(|word| list.contains(&word.as_str()));
    if any(&NO_QUOTA) {
        return ModelErrorKind::QuotaExhausted;
    }
    if any(&TOO_LONG) {
        return ModelErrorKind::ContextOverflow;
    }
    if any(&["api_key_invalid", "invalid_api_key"]) {
        return ModelErrorKind::Unauthenticated;
    }
    if any(&["model_not_found"]) {
        return ModelErrorKind::ModelNotFound;
    }
    match status {
        Some(401 | 403) => ModelErrorKind::Unauthenticated,
        Some(402) => ModelErrorKind::QuotaExhausted,
        Some(404) => ModelErrorKind::ModelNotFound,
        Some(413) => ModelErrorKind::ContextOverflow,
        Some(429) => ModelErrorKind::RateLimited,
        Some(408 | 504) => ModelErrorKind::Timeout,
        Some(409 | 500..) | None => ModelErrorKind::Overloaded,
        Some(_) => {
            let said = said.to_ascii_lowercase();
            if TOO_LONG_WORDS.iter().any(|words| said.contains(words)) {
                ModelErrorKind::ContextOverflow
            } else if said.contains("api key not valid") {
                ModelErrorKind::Unauthenticated
            } else {
                ModelErrorKind::InvalidRequest
            }
        }
    }
}

fn message(status: Option<u16>, said: &str, text: &str) -> String {
    let said = if said.is_empty() { text } else { said };
    let looks_like_page = said.trim_start().starts_with('<');
    let said = if looks_like_page {
        "the answer is a web page; check the base URL"
    } else {
        said
    };
    let short: String = said.trim().chars().take(MAX_MESSAGE_CHARS).collect();
    match (status, short.is_empty()) {
        (Some(status), true) => format!("HTTP {status}"),
        (Some(status), false) => format!("HTTP {status}: {short}"),
        (None, true) => "an error without a message".to_owned(),
        (None, false) => short,
    }
}

/// Gemini's wait: `RetryInfo` in the details.
fn retry_info(error: &Value) -> Option<Duration> {
    let details = error.get("details")?.as_array()?;
    let delay = details
        .iter()
        .find_map(|detail| detail.get("retryDelay")?.as_str())?;
    let seconds = delay.strip_suffix('s')?.parse().ok()?;
    Duration::try_from_secs_f64(seconds).ok()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[track_caller]
    fn check(status: Option<u16>, text: &str, kind: ModelErrorKind) {
        assert_eq!(body(status, text).kind, kind, "{text}");
    }

    #[test]
    fn reads_every_vendors_error_body() {
        use ModelErrorKind::*;
        let anthropic = r#"{"type":"error","error":{"type":"overloaded_error","message":"busy"}}"#;
        check(Some(529), anthropic, Overloaded);
        check(None, anthropic, Overloaded);
        let money = json!({"error": {"type": "rate_limit_error", "message": "m",
            "details": {"error_code": "enforced_spend_limit_reached"}}});
        check(Some(429), &money.to_string(), QuotaExhausted);
        let quota = r#"{"error":{"type":"insufficient_quota","message":"m"}}"#;
        check(Some(429), quota, QuotaExhausted);
        let overflow = r#"{"error":{"code":"context_length_exceeded","message":"m"}}"#;
        check(Some(400), overflow, ContextOverflow);
        let words = r#"{"error":{"message":"prompt is too long: 2 > 1"}}"#;
        check(Some(400), words, ContextOverflow);
        check(None, r#"{"error":{"code":502,"message":"m"}}"#, Overloaded);
        let bare = r#"{"object":"error","message":"m","type":"BadRequestError","code":400}"#;
        check(Some(400), bare, InvalidRequest);
        let key = json!({"error": {"code": 400, "status": "INVALID_ARGUMENT", "message": "m",
            "details": [{"reason": "API_KEY_INVALID"}]}});
        check(Some(400), &key.to_string(), Unauthenticated);
        check(Some(503), "<html>", Overloaded);
        check(Some(401), "", Unauthenticated);
    }

    #[test]
    fn reads_the_wait_of_gemini() {
        let text = json!([{"error": {"code": 429, "message": "m",
            "details": [{"retryDelay": "1.5s"}]}}]);
        let fault = body(None, &text.to_string());
        assert_eq!(fault.kind, ModelErrorKind::RateLimited);
        assert_eq!(fault.retry_after, Some(Duration::from_millis(1500)));
    }

    #[test]
    fn an_error_that_is_null_is_none() {
        assert!(!is_error(&json!({"error": null, "choices": []})));
        assert!(is_error(&json!({"error": "boom"})));
    }
}
