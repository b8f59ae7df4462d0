//! What is sent and what is answered, over either binding.

use bytes::Bytes;
use futures_util::StreamExt as _;
use serde_json::{Value, json};

use super::limits::MAX_ANSWER_BYTES;
use super::{ClientError, HttpRequest, HttpResponse, RemoteError, TransportError};
use crate::{AgentInterface, Binding, ProtocolVersion, SendMessage};

/// Every exchange is alone on its connection, so one id does.
const RPC_ID: &str = "1";

/// What is asked of an agent.
#[derive(Debug, Clone, Copy)]
pub(super) enum Ask<'a> {
    /// Says something; the key makes that safe to do twice.
    Send {
        send: &'a SendMessage,
        streams: bool,
        key: Option<&'a str>,
    },
    Get(&'a str),
    Cancel(&'a str),
    Subscribe(&'a str),
}

impl Ask<'_> {
    const fn streams(self) -> bool {
        matches!(self, Self::Send { streams: true, .. } | Self::Subscribe(_))
    }

    const fn method(self, version: ProtocolVersion) -> &'static str {
        match (self, version) {
            (Self::Send { streams: false, .. }, ProtocolVersion::V1) => "SendMessage",
            (Self::Send { streams: false, .. }, ProtocolVersion::V03) => "message/send",
            (Self::Send { streams: true, .. }, ProtocolVersion::V1) => "SendStreamingMessage",
            (Self::Send { streams: true, .. }, ProtocolVersion::V03) => "message/stream",
            (Self::Get(_), ProtocolVersion::V1) => "GetTask",
            (Self::Get(_), ProtocolVersion::V03) => "tasks/get",
            (Self::Cancel(_), ProtocolVersion::V1) => "CancelTask",
            (Self::Cancel(_), ProtocolVersion::V03) => "tasks/cancel",
            (Self::Subscribe(_), ProtocolVersion::V1) => "SubscribeToTask",
            (Self::Subscribe(_), ProtocolVersion::V03) => "tasks/resubscribe",
        }
    }

    /// The request for it.
    pub(super) fn request(self, interface: &AgentInterface) -> HttpRequest {
        let accept = match self.streams() {
            true => "text/event-stream, application/json",
            false => "application/json, application/a2a+json",
        };
        let mut headers = vec![
            ("accept", accept.to_owned()),
            ("a2a-version", interface.version.as_str().to_owned()),
        ];
        if let Self::Send { key: Some(key), .. } = self {
            headers.push(("idempotency-key", key.to_owned()));
        }
        let (url, body) = match interface.binding {
            Binding::JsonRpc => (interface.url.clone(), Some(self.rpc(interface))),
            Binding::HttpJson => self.http(interface),
        };
        HttpRequest { url, headers, body }
    }

    fn rpc(self, interface: &AgentInterface) -> Value {
        let mut params = match self {
            Self::Send { send, .. } => send.encode(interface.version),
            // What was said does not matter any more.
            Self::Get(id) => json!({"id": id, "historyLength": 0}),
            Self::Cancel(id) | Self::Subscribe(id) => json!({ "id": id }),
        };
        if let Some(tenant) = &interface.tenant {
            params["tenant"] = json!(tenant);
        }
        let method = self.method(interface.version);
        json!({"jsonrpc": "2.0", "id": RPC_ID, "method": method, "params": params})
    }

    fn http(self, interface: &AgentInterface) -> (String, Option<Value>) {
        let mut base = interface.url.trim_end_matches('/').to_owned();
        if let Some(tenant) = &interface.tenant {
            base = format!("{base}/{}", segment(tenant));
        }
        match self {
            Self::Send { send, streams, .. } => {
                let operation = if streams { "stream" } else { "send" };
                let url = format!("{base}/message:{operation}");
                (url, Some(send.encode(interface.version)))
            }
            Self::Get(id) => (
                format!("{base}/tasks/{}?historyLength=0", segment(id)),
                None,
            ),
            Self::Cancel(id) => {
                let url = format!("{base}/tasks/{}:cancel", segment(id));
                (url, Some(json!({})))
            }
            Self::Subscribe(id) => (format!("{base}/tasks/{}:subscribe", segment(id)), None),
        }
    }
}

/// A part of a path that holds whatever a server calls its tasks.
fn segment(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    // A dot alone would be another path.
    match out.as_str() {
        "." | ".." => out.replace('.', "%2E"),
        _ => out,
    }
}

/// What an answer says: the result, or the error.
///
/// # Errors
/// [`ClientError::Remote`], [`ClientError::Malformed`].
pub fn read_answer(binding: Binding, status: u16, body: &[u8]) -> Result<Value, ClientError> {
    let json = serde_json::from_slice::<Value>(body);
    let is_success = (200..300).contains(&status);
    match (binding, json) {
        (Binding::JsonRpc, Ok(Value::Object(mut answer))) if answer.contains_key("jsonrpc") => {
            match (answer.remove("error"), answer.remove("result")) {
                (Some(error @ Value::Object(_)), _) => Err(RemoteError::of_rpc(&error).into()),
                (_, Some(result)) => Ok(result),
                _ => Err(malformed("it has neither `result` nor `error`")),
            }
        }
        (_, json) if !is_success => {
            let json = json.unwrap_or_default();
            Err(RemoteError::of_http(status, &json).into())
        }
        (Binding::JsonRpc, Ok(_)) => Err(malformed("it is no JSON-RPC response")),
        (Binding::HttpJson, Ok(answer @ Value::Object(_))) => match answer.get("error") {
            Some(Value::Object(_)) => Err(RemoteError::of_http(status, &answer).into()),
            _ => Ok(answer),
        },
        (Binding::HttpJson, Ok(_)) => Err(malformed("it is no object")),
        (_, Err(error)) => Err(malformed(&format!("it is not JSON: {error}"))),
    }
}

pub(super) fn malformed(why: &str) -> ClientError {
    ClientError::Malformed {
        what: "answer",
        why: why.to_owned(),
    }
}

/// A whole body.
pub(super) async fn read_body(
    response: HttpResponse,
    what: &'static str,
    limit: usize,
) -> Result<Vec<u8>, ClientError> {
    let mut body = Vec::new();
    let mut chunks = response.body;
    while let Some(chunk) = chunks.next().await {
        let chunk: Bytes = chunk.map_err(|error: TransportError| TransportError {
            is_unsent: false,
            ..error
        })?;
        if body.len() + chunk.len() > limit {
            return Err(ClientError::TooLarge { what, limit });
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body)
}

/// The answer to something that is no stream.
pub(super) async fn answer(
    interface: &AgentInterface,
    response: HttpResponse,
) -> Result<Value, ClientError> {
    let status = response.status;
    if (300..400).contains(&status) {
        return Err(malformed(
            "it is a redirect; the card has to name the place itself",
        ));
    }
    let body = read_body(response, "answer", MAX_ANSWER_BYTES).await?;
    read_answer(interface.binding, status, &body)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(binding: Binding, tenant: Option<&str>) -> AgentInterface {
        AgentInterface {
            url: "https://x/a/".to_owned(),
            binding,
            version: ProtocolVersion::V1,
            tenant: tenant.map(str::to_owned),
        }
    }

    #[test]
    fn a_task_is_named_in_a_path_whatever_it_is_called() {
        let url = |id: &str, tenant| Ask::Get(id).request(&at(Binding::HttpJson, tenant)).url;
        assert_eq!(url("t1", None), "https://x/a/tasks/t1?historyLength=0");
        assert_eq!(
            url("../b c?", Some("prod")),
            "https://x/a/prod/tasks/..%2Fb%20c%3F?historyLength=0"
        );
        assert_eq!(url("..", None), "https://x/a/tasks/%2E%2E?historyLength=0");
    }

    #[test]
    fn a_call_names_tenant_and_version() {
        let request = Ask::Cancel("t").request(&at(Binding::JsonRpc, Some("prod")));
        assert_eq!(request.url, "https://x/a/");
        let body = request.body.unwrap();
        assert_eq!(body["method"], "CancelTask");
        assert_eq!(body["params"], json!({"id": "t", "tenant": "prod"}));
        let version = ("a2a-version", "1.0".to_owned());
        assert!(request.headers.contains(&version));
    }

    #[test]
    fn garbage_is_told_from_refusals() {
        let read = |binding, status, body: &str| read_answer(binding, status, body.as_bytes());
        let rpc = Binding::JsonRpc;
        assert_eq!(
            read(rpc, 200, r#"{"jsonrpc":"2.0","id":"1","result":{"a":1}}"#),
            Ok(json!({"a": 1}))
        );
        for (status, body) in [
            (200, "<html>"),
            (200, "{}"),
            (200, "[]"),
            (200, r#"{"jsonrpc":"2.0"}"#),
        ] {
            let error = read(rpc, status, body).unwrap_err();
            assert!(matches!(error, ClientError::Malformed { .. }), "{body}");
        }
        let error = read(rpc, 503, "<html>").unwrap_err();
        assert!(matches!(error, ClientError::Remote(_)));
        let error = read(
            Binding::HttpJson,
            404,
            r#"{"error":{"details":[{"reason":"TASK_NOT_FOUND"}]}}"#,
        );
        assert_eq!(
            error.unwrap_err().kind(),
            Some(crate::ErrorKind::TaskNotFound)
        );
    }
}
