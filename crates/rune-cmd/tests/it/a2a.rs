//! Agents over A2A: what is on the wire, in both versions and both bindings.

mod approvals;
mod bindings;
mod cards;
mod crash;
mod lists;
mod parts;
mod sdks;
mod signed;
mod tasks;
mod webhooks;

use rune_testkit::TestDaemon;
use serde_json::{Value, json};

use crate::home::{RUNE, Served};
use crate::wire::{Api, LIMIT, answer};

/// A model that takes long for what is `slow`, fails at what is `broken`, and else repeats what it is told.
const SLOW: &str = "rules:\n  - match: {contains: slow}\n    delay_ms: 600000\n    respond: late\n  \
                    - match: {contains: broken}\n    error: {kind: refused, message: no model}\n";

/// A daemon with these variables, without an agent.
async fn daemon(env: &[(&str, &str)]) -> Served {
    let builder = TestDaemon::builder(RUNE);
    let builder = env
        .iter()
        .fold(builder, |builder, (name, value)| builder.env(name, value));
    Served(builder.start().await.unwrap())
}

/// An agent whose model plays a script, deployed with these arguments of `rune run`.
fn deploy(served: &Served, name: &str, script: &str, extra: &str, args: &[&str]) {
    let dir = served.0.home().join(name);
    std::fs::create_dir_all(&dir).unwrap();
    let runefile = format!(
        "name: {name}\nversion: 1.2.3\ndescription: The agent {name}.\ninstructions: Answer.\ndefault_model: default\n\
         models:\n  providers: [offline]\n  model_mapping: {{default: offline}}\n{extra}"
    );
    std::fs::write(dir.join("Runefile"), runefile).unwrap();
    if !script.is_empty() {
        std::fs::write(dir.join("script.yaml"), script).unwrap();
    }
    let args: Vec<&str> = ["run", name].iter().chain(args).copied().collect();
    served.rune(&args).ok();
}

/// A message of 1.0 with one text.
fn message(text: &str) -> Value {
    json!({"messageId": format!("m-{text}"), "role": "ROLE_USER", "parts": [{"text": text}]})
}

/// A message of 0.3 with one text.
fn message_v03(text: &str) -> Value {
    json!({"kind": "message", "messageId": "m", "role": "user", "parts": [{"kind": "text", "text": text}]})
}

fn envelope(method: &str, params: &Value) -> Value {
    json!({"jsonrpc": "2.0", "id": "call-1", "method": method, "params": params})
}

/// The answer to a call, which has the call's id.
async fn call(api: &Api, agent: &str, method: &str, params: &Value) -> Value {
    let request = api.post(&format!("/a2a/{agent}"), &envelope(method, params));
    let (status, body) = answer(request).await.unwrap();
    assert_eq!((status, &body["id"]), (200, &json!("call-1")), "{body}");
    body
}

/// What a call answers.
async fn result(api: &Api, agent: &str, method: &str, params: &Value) -> Value {
    let body = call(api, agent, method, params).await;
    assert!(body.get("error").is_none(), "{method}: {body}");
    body["result"].clone()
}

/// The code of the error that a call answers, and its reason.
async fn refused(api: &Api, agent: &str, method: &str, params: &Value) -> (i64, String) {
    let body = call(api, agent, method, params).await;
    let error = &body["error"];
    let info = &error["data"][0];
    assert_eq!(
        info["@type"], "type.googleapis.com/google.rpc.ErrorInfo",
        "{body}"
    );
    assert!(!error["message"].as_str().unwrap().is_empty());
    (
        error["code"].as_i64().unwrap(),
        info["reason"].as_str().unwrap().to_owned(),
    )
}

/// A stream of events, each the JSON of one.
struct Stream {
    response: reqwest::Response,
    buffer: Vec<u8>,
}

impl Stream {
    async fn of(request: reqwest::RequestBuilder) -> Self {
        let response = request.send().await.unwrap();
        let kind = response.headers()["content-type"]
            .to_str()
            .unwrap()
            .to_owned();
        assert_eq!(kind, "text/event-stream");
        assert_eq!(response.headers()["cache-control"], "no-store");
        Self {
            response,
            buffer: Vec::new(),
        }
    }

    /// The stream that a call of JSON-RPC answers; its events are the results.
    async fn call(api: &Api, agent: &str, method: &str, params: &Value) -> Self {
        Self::of(api.post(&format!("/a2a/{agent}"), &envelope(method, params))).await
    }

    /// The next event; none at the end, however that comes.
    async fn next(&mut self) -> Option<Value> {
        loop {
            let end = self.buffer.windows(2).position(|pair| pair == b"\n\n");
            if let Some(end) = end {
                let block: Vec<u8> = self.buffer.drain(..end + 2).collect();
                let block = String::from_utf8(block).unwrap();
                if let Some(data) = block.trim_end().strip_prefix("data: ") {
                    let event: Value = serde_json::from_str(data).unwrap();
                    return Some(match event.get("jsonrpc") {
                        Some(_) => {
                            assert_eq!(event["id"], "call-1", "{event}");
                            event["result"].clone()
                        }
                        None => event,
                    });
                }
                continue;
            }
            let chunk = tokio::time::timeout(LIMIT, self.response.chunk()).await;
            self.buffer.extend(chunk.unwrap().ok()??);
        }
    }

    async fn rest(mut self) -> Vec<Value> {
        let mut events = Vec::new();
        while let Some(event) = self.next().await {
            events.push(event);
        }
        events
    }
}

/// What the events of a stream of 1.0 are: the member that each has, and the state of a status.
fn kinds(events: &[Value]) -> Vec<String> {
    let kinds = events.iter().map(|event| {
        let key = event.as_object().unwrap().keys().next().unwrap();
        match event["statusUpdate"]["status"]["state"].as_str() {
            Some(state) => state.trim_start_matches("TASK_STATE_").to_owned(),
            None => key.clone(),
        }
    });
    let mut kinds: Vec<String> = kinds.collect();
    kinds.dedup();
    kinds
}

/// The text of an artifact as a client of a stream puts it together.
fn assembled(events: &[Value]) -> String {
    let mut text = String::new();
    for event in events {
        let update = &event["artifactUpdate"];
        if let Some(part) = update["artifact"]["parts"][0]["text"].as_str() {
            if update["append"] != true {
                text.clear();
            }
            text.push_str(part);
        }
    }
    text
}

fn id(value: &Value) -> String {
    value.as_str().unwrap().to_owned()
}

/// A stream, unless the call is answered with the error that the task has ended.
async fn call_or_stream(api: &Api, agent: &str, method: &str, params: &Value) -> Option<Stream> {
    let request = api.post(&format!("/a2a/{agent}"), &envelope(method, params));
    let response = request.send().await.unwrap();
    let kind = response.headers()["content-type"]
        .to_str()
        .unwrap()
        .to_owned();
    if kind == "text/event-stream" {
        return Some(Stream {
            response,
            buffer: Vec::new(),
        });
    }
    let body: Value = response.json().await.unwrap();
    assert_eq!(body["error"]["code"], -32004, "{body}");
    None
}
