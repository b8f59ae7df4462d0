//! Agents as the tools of an MCP server, through the daemon: raw messages in both eras of the protocol and clients of the official SDK,
//! over HTTP and over `rune mcp serve`; lists that are live, progress, cancel, approvals, a crash in the middle of a call.

mod access;
mod calls;
mod people;
pub(crate) mod stdio;

use std::collections::VecDeque;

use futures_util::StreamExt as _;
use reqwest::{Client, Method, RequestBuilder, Response};
use rune_testkit::TestDaemon;
use serde_json::{Value, json};

use crate::callers::{SECRET, token};
use crate::home::{Home, RUNE, Ran, Served};
use crate::mcp::{python, until};
use crate::openai::write_asking;
use crate::readme::root;
use crate::wire::{Api, LIMIT, answer, assert_no_panic, lines_of};

pub(crate) const MODERN: &str = "2026-07-28";
const LEGACY: &str = "2025-11-25";
const KEY: &str = "k3y-0123456789";

/// Two tool calls and an answer.
const STEPS: &str = "rules:\n  - match: {contains: nothing}\n    error: {kind: refused, message: no model for this}\n  \
                     - match: {step: 1}\n    tool_calls: [{name: rune__system-time, input: {}}, {name: rune__memory-list, input: {}}]\n  \
                     - respond: \"You said: {{ input }}\"\n";
/// A tool that waits for a file, and notes that it runs.
const WAIT: &str = "echo run >> log\nwhile [ ! -e go ]; do sleep 0.02; done\necho '{}'\n";

/// Writes an agent and deploys it. `tools` are scripts by name.
pub(crate) fn deploy(
    served: &Served,
    name: &str,
    more: &str,
    script: &str,
    tools: &[(&str, &str)],
) {
    let dir = served.0.home().join(name);
    std::fs::create_dir_all(dir.join("tools")).unwrap();
    let runefile = format!(
        "name: {name}\nversion: 0.1.0\ndescription: The agent {name}\ninstructions: Answer.\ndefault_model: default\n\
         models: {{providers: [offline], model_mapping: {{default: offline}}}}\n{more}"
    );
    std::fs::write(dir.join("Runefile"), runefile).unwrap();
    std::fs::write(dir.join("script.yaml"), script).unwrap();
    for (tool, script) in tools {
        let yaml = format!(
            "name: {tool}\ndescription: A tool.\nmodule: tools/{tool}.sh\ncapabilities: [filesystem]\nidempotent: true\n\
             timeout_ms: 60000\n"
        );
        std::fs::write(dir.join(format!("tools/{tool}.yaml")), yaml).unwrap();
        std::fs::write(dir.join(format!("tools/{tool}.sh")), script).unwrap();
    }
    served.rune(&["run", name]).ok();
}

/// An agent that takes two steps.
fn steps(served: &Served) {
    let more = "toolset: [rune@system-time, rune@memory-list]\n";
    deploy(served, "steps", more, STEPS, &[]);
}

/// An agent that asks before it uses its tool.
fn ask(served: &Served) {
    let more = "toolset: [touch]\npolicy: {ask: [touch]}\n";
    let script = "rules:\n  - match: {step: 1}\n    tool_calls: [{name: touch, input: {}}]\n  - respond: done\n";
    deploy(
        served,
        "ask",
        more,
        script,
        &[("touch", "echo yes >> log\necho '{}'\n")],
    );
}

/// An agent whose tool waits.
fn slow(served: &Served) {
    let script = "rules:\n  - match: {step: 1}\n    tool_calls: [{name: wait, input: {}}]\n  - respond: waited\n";
    deploy(
        served,
        "slow",
        "toolset: [wait]\n",
        script,
        &[("wait", WAIT)],
    );
}

async fn daemon() -> Served {
    Served(TestDaemon::builder(RUNE).start().await.unwrap())
}

/// A client that writes its own messages.
struct Mcp {
    client: Client,
    url: String,
    key: Option<String>,
    session: Option<String>,
    next: i64,
    capabilities: Value,
}

impl Mcp {
    fn modern(served: &Served) -> Self {
        Self {
            client: Client::new(),
            url: format!("{}/mcp", served.0.gateway()),
            key: None,
            session: None,
            next: 0,
            capabilities: json!({}),
        }
    }

    /// A client with a session of the older handshake.
    async fn legacy(served: &Served, capabilities: Value) -> Self {
        Self::modern(served).shaking_hands(capabilities).await
    }

    /// The same client in a session of the older handshake.
    async fn shaking_hands(self, capabilities: Value) -> Self {
        let mut mcp = self;
        mcp.session = Some(String::new());
        let params = json!({
            "protocolVersion": LEGACY, "capabilities": capabilities,
            "clientInfo": {"name": "test", "version": "1"},
        });
        let response = mcp.send("initialize", params).await;
        let session = response.headers()["mcp-session-id"].to_str().unwrap();
        mcp.session = Some(session.to_owned());
        let answered = Stream::of(response).answer(1).await;
        assert_eq!(answered["result"]["protocolVersion"], LEGACY, "{answered}");
        let capabilities = &answered["result"]["capabilities"];
        assert_eq!(capabilities["tools"]["listChanged"], true, "{answered}");
        mcp.notify("notifications/initialized", json!({})).await;
        mcp
    }

    fn asking_people(mut self) -> Self {
        self.capabilities = json!({"elicitation": {"form": {}}});
        self
    }

    fn is_legacy(&self) -> bool {
        self.session.is_some()
    }

    fn request(&self, method: Method) -> RequestBuilder {
        let mut request = self
            .client
            .request(method, &self.url)
            .header("accept", "application/json, text/event-stream");
        if let Some(key) = &self.key {
            request = request.bearer_auth(key);
        }
        match self.session.as_deref() {
            None => request.header("mcp-protocol-version", MODERN),
            Some("") => request,
            Some(session) => request
                .header("mcp-protocol-version", LEGACY)
                .header("mcp-session-id", session),
        }
    }

    /// The HTTP request of a message.
    fn message(&mut self, method: &str, mut params: Value) -> RequestBuilder {
        self.next += 1;
        let mut request = self.request(Method::POST);
        if !self.is_legacy() {
            request = request.header("mcp-method", method);
            if let Some(name) = params["name"].as_str() {
                request = request.header("mcp-name", name);
            }
            let mut meta = params["_meta"].take();
            if meta.is_null() {
                meta = json!({});
            }
            meta["io.modelcontextprotocol/protocolVersion"] = json!(MODERN);
            meta["io.modelcontextprotocol/clientCapabilities"] = self.capabilities.clone();
            params["_meta"] = meta;
        }
        request
            .json(&json!({"jsonrpc": "2.0", "id": self.next, "method": method, "params": params}))
    }

    async fn send(&mut self, method: &str, params: Value) -> Response {
        self.message(method, params).send().await.unwrap()
    }

    async fn notify(&self, method: &str, params: Value) {
        let body = json!({"jsonrpc": "2.0", "method": method, "params": params});
        let response = self.request(Method::POST).json(&body).send().await.unwrap();
        assert_eq!(response.status(), 202);
    }

    /// Sends a message and answers what it is answered.
    async fn ask(&mut self, method: &str, params: Value) -> Value {
        let response = self.send(method, params).await;
        Stream::of(response).answer(self.next).await
    }

    /// Calls a tool and answers its result.
    async fn call(&mut self, tool: &str, arguments: Value) -> Value {
        let params = json!({"name": tool, "arguments": arguments});
        let answered = self.ask("tools/call", params).await;
        assert!(answered["result"].is_object(), "{answered}");
        answered["result"].clone()
    }

    /// Begins a call that tells how far it is, and waits until it tells that.
    async fn begin(&mut self, tool: &str, meta: Value) -> Stream {
        let mut meta = meta;
        meta["progressToken"] = json!("t");
        let params = json!({"name": tool, "arguments": {"input": "go"}, "_meta": meta});
        let mut stream = Stream::of(self.send("tools/call", params).await);
        stream.told("notifications/progress").await;
        stream
    }

    async fn tools(&mut self) -> Vec<String> {
        let listed = self.ask("tools/list", json!({})).await;
        let tools = listed["result"]["tools"].as_array().unwrap();
        tools
            .iter()
            .map(|tool| tool["name"].as_str().unwrap().to_owned())
            .collect()
    }
}

/// The messages of an answer, whether it is one or a stream; dropping it closes the connection.
struct Stream {
    body: futures_util::stream::BoxStream<'static, reqwest::Result<Vec<u8>>>,
    is_stream: bool,
    buffer: Vec<u8>,
    messages: VecDeque<Value>,
}

impl Stream {
    fn of(response: Response) -> Self {
        let kind = response.headers().get("content-type").cloned();
        let kind = kind.as_ref().map_or("", |kind| kind.to_str().unwrap());
        let is_stream = kind.starts_with("text/event-stream");
        assert!(
            is_stream || kind.starts_with("application/json"),
            "{kind} {}",
            response.status()
        );
        let body = response.bytes_stream();
        Self {
            body: body.map(|chunk| chunk.map(|chunk| chunk.to_vec())).boxed(),
            is_stream,
            buffer: Vec::new(),
            messages: VecDeque::new(),
        }
    }

    /// The next message; none at the end.
    async fn next(&mut self) -> Option<Value> {
        loop {
            if let Some(message) = self.messages.pop_front() {
                return Some(message);
            }
            let chunk = tokio::time::timeout(LIMIT, self.body.next()).await.unwrap();
            let ended = !matches!(chunk, Some(Ok(_)));
            if let Some(Ok(chunk)) = chunk {
                self.buffer.extend(chunk);
            }
            if self.is_stream {
                while let Some(end) = self.buffer.windows(2).position(|pair| pair == b"\n\n") {
                    let block: Vec<u8> = self.buffer.drain(..end + 2).collect();
                    let text = String::from_utf8(block).unwrap();
                    let data = text.lines().filter_map(|line| line.strip_prefix("data:"));
                    let data: String = data.map(str::trim_start).collect();
                    if !data.is_empty() {
                        self.messages
                            .push_back(serde_json::from_str(&data).unwrap());
                    }
                }
            } else if ended && !self.buffer.is_empty() {
                let whole = std::mem::take(&mut self.buffer);
                self.messages
                    .push_back(serde_json::from_slice(&whole).unwrap());
            }
            if ended && self.messages.is_empty() {
                return None;
            }
        }
    }

    /// The next message of this method.
    async fn told(&mut self, method: &str) -> Value {
        loop {
            let message = self.next().await;
            assert!(message.is_some(), "the stream ended without {method}");
            let message = message.unwrap();
            if message["method"] == method {
                return message;
            }
        }
    }

    /// The answer to a message.
    async fn answer(mut self, id: i64) -> Value {
        self.until(id).await.1
    }

    /// What is told before the answer to a message, and the answer.
    async fn until(&mut self, id: i64) -> (Vec<Value>, Value) {
        let mut told = Vec::new();
        loop {
            let message = self.next().await;
            assert!(message.is_some(), "no answer to {id}: {told:?}");
            let message = message.unwrap();
            if message["id"] == id && message["method"].is_null() {
                return (told, message);
            }
            told.push(message);
        }
    }
}

/// A client of each era.
async fn both(served: &Served) -> [Mcp; 2] {
    [Mcp::modern(served), Mcp::legacy(served, json!({})).await]
}

pub(crate) fn request_of(result: &Value) -> String {
    result["_meta"]["rune/request_id"]
        .as_str()
        .unwrap()
        .to_owned()
}

async fn row(served: &Served, id: &str) -> Value {
    Api::of(&served.0).request(id).await
}

/// Waits for the request of an agent that runs, and answers its id.
async fn running(served: &Served, agent: &str) -> String {
    let api = Api::of(&served.0);
    let mut found = String::new();
    until("a request runs", async || {
        let path = format!("/v1/requests?agent={agent}&status=running");
        let (_, page) = answer(api.get(&path)).await.unwrap();
        found = page["items"][0]["id"]
            .as_str()
            .unwrap_or_default()
            .to_owned();
        !found.is_empty() && !lines_of(served, agent, "log").is_empty()
    })
    .await;
    found
}

async fn until_status(served: &Served, id: &str, status: &str) {
    let what = format!("{id} becomes {status}");
    until(&what, async || row(served, id).await["status"] == status).await;
}
