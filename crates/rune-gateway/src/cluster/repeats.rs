//! What may be asked again although it may have been done.

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use rune_store_runtime::RequestId;
use serde::Deserialize;
use serde::de::IgnoredAny;

use super::front::Api;

const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
/// What keys of a front begin with.
const OURS: &str = "rune-front-";

/// Who has named a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Key {
    None,
    /// The client, which can ask again under it.
    Theirs,
    /// The front, whose client knows nothing of it.
    Ours,
}

impl Key {
    /// That of a request with these headers.
    pub(super) fn of(headers: &HeaderMap) -> Self {
        match headers.get(IDEMPOTENCY_KEY) {
            None => Self::None,
            Some(key) if key.as_bytes().starts_with(OURS.as_bytes()) => Self::Ours,
            Some(_) => Self::Theirs,
        }
    }
}

/// Names a request that has no name, where that lets it be asked again.
pub(super) fn name(api: Api, request: &mut http::Request<Bytes>) {
    if Key::of(request.headers()) == Key::None
        && is_keyed(api, request)
        && let Ok(key) = HeaderValue::try_from(format!("{OURS}{}", RequestId::generate()))
    {
        request.headers_mut().insert(IDEMPOTENCY_KEY, key);
    }
}

/// Whether asking again does nothing twice.
pub(super) fn is_repeatable(api: Api, request: &http::Request<Bytes>) -> bool {
    let is_safe = request.method().is_safe();
    is_safe || (Key::of(request.headers()) != Key::None && is_keyed(api, request))
}

/// Whether whoever answers knows the request again by its `Idempotency-Key`: what begins a request of an agent.
fn is_keyed(api: Api, request: &http::Request<Bytes>) -> bool {
    if api != Api::Gateway || *request.method() != Method::POST {
        return false;
    }
    let path: Vec<&str> = request.uri().path().split('/').collect();
    match *path.as_slice() {
        ["", "v1", "agents", _, "invoke"]
        | ["", "v1", "requests", _, "fork"]
        | ["", "v1", "chat", "completions"]
        | ["", "v1", "responses"] => true,
        // Where it decides what waits, it is decided once.
        ["", "v1", "agents", _, "ag-ui"] => {
            let run: Option<Run> = parsed(request);
            run.is_some_and(|run| run.resume.unwrap_or_default().is_empty())
        }
        ["", "a2a", _] => {
            let call: Option<Call> = parsed(request);
            call.is_some_and(|call| {
                MESSAGES.contains(&call.method.as_str()) && call.params.begins()
            })
        }
        ["", "a2a", _, operation] | ["", "a2a", _, _, operation] => {
            let is_message = matches!(operation, "message:send" | "message:stream");
            is_message && parsed(request).is_some_and(|said: Said| said.begins())
        }
        _ => false,
    }
}

/// The methods that say something to an agent, in both spellings.
const MESSAGES: [&str; 4] = [
    "SendMessage",
    "SendStreamingMessage",
    "message/send",
    "message/stream",
];

/// What of a body of AG-UI says whether it begins a request.
#[derive(Deserialize)]
struct Run {
    #[serde(default)]
    resume: Option<Vec<IgnoredAny>>,
}

/// The same of a call over JSON-RPC.
#[derive(Deserialize)]
struct Call {
    method: String,
    params: Said,
}

/// The same of what is said over A2A.
#[derive(Deserialize)]
struct Said {
    message: Message,
    /// A webhook, of which there would be two.
    configuration: Option<Configuration>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Message {
    task_id: Option<IgnoredAny>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Configuration {
    #[serde(alias = "taskPushNotificationConfig")]
    push_notification_config: Option<IgnoredAny>,
}

impl Said {
    fn begins(&self) -> bool {
        let has_webhook = |it: &Configuration| it.push_notification_config.is_some();
        self.message.task_id.is_none() && !self.configuration.as_ref().is_some_and(has_webhook)
    }
}

fn parsed<'a, T: Deserialize<'a>>(request: &'a http::Request<Bytes>) -> Option<T> {
    serde_json::from_slice(request.body()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(method: &str, path: &str, body: &'static str) -> http::Request<Bytes> {
        let request = http::Request::builder().method(method).uri(path);
        request.body(Bytes::from(body)).unwrap()
    }

    #[test]
    fn only_what_is_known_again_by_its_key_is_asked_again() {
        let message = r#"{"message": {"messageId": "1"}}"#;
        let keyed = [
            ("/v1/agents/hello/invoke?ns=dev", "{}"),
            ("/v1/requests/r/fork", "{}"),
            ("/v1/chat/completions", "{}"),
            ("/v1/responses", "{}"),
            ("/v1/agents/hello/ag-ui", r#"{"resume": []}"#),
            (
                "/a2a/hello",
                r#"{"method": "message/send", "params": {"message": {}}}"#,
            ),
            ("/a2a/hello/message:stream", message),
            ("/a2a/hello/dev/message:send", message),
        ];
        for (path, body) in keyed {
            let mut request = asked("POST", path, body);
            assert!(
                !is_repeatable(Api::Gateway, &request),
                "{path} without a key"
            );
            name(Api::Gateway, &mut request);
            assert_eq!(Key::of(request.headers()), Key::Ours, "{path}");
            assert!(is_repeatable(Api::Gateway, &request), "{path}");
            assert!(!is_repeatable(Api::ControlPlane, &request), "{path}");
        }
        let task = r#"{"message": {"taskId": "t"}}"#;
        let not_keyed = [
            ("POST", "/v1/events", "{}"),
            ("POST", "/v1/requests/r/cancel", "{}"),
            ("POST", "/v1/responses/r/cancel", "{}"),
            ("POST", "/mcp", "{}"),
            ("POST", "/v1/agents/hello/ag-ui", r#"{"resume": [{}]}"#),
            (
                "POST",
                "/a2a/hello",
                r#"{"method": "tasks/cancel", "params": {"id": "t"}}"#,
            ),
            (
                "POST",
                "/a2a/hello",
                r#"{"method": "SendMessage", "params": {"message": {"taskId": "t"}}}"#,
            ),
            ("POST", "/a2a/hello/message:send", task),
            (
                "POST",
                "/a2a/hello/message:send",
                r#"{"message": {}, "configuration": {"pushNotificationConfig": {}}}"#,
            ),
            ("POST", "/a2a/hello/message:send", "no JSON"),
            ("DELETE", "/v1/sessions/s", ""),
        ];
        for (method, path, body) in not_keyed {
            let mut request = asked(method, path, body);
            name(Api::Gateway, &mut request);
            assert_eq!(Key::of(request.headers()), Key::None, "{path} {body}");
            let key = HeaderValue::from_static("one");
            request.headers_mut().insert(IDEMPOTENCY_KEY, key);
            assert!(!is_repeatable(Api::Gateway, &request), "{path} {body}");
        }
        assert!(is_repeatable(
            Api::ControlPlane,
            &asked("GET", "/v1/nodes", "")
        ));
    }
}
