//! Agents as the tools of an MCP server, through the daemon: raw messages in both eras of the protocol and clients of the official SDK,
//! over HTTP and over `rune mcp serve`; lists that are live, progress, cancel, approvals, a crash in the middle of a call.

use std::collections::VecDeque;
use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, ChildStdin, Command};
use std::sync::mpsc;

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

#[tokio::test]
async fn agents_are_tools_and_calls_are_requests_in_both_eras() {
    let served = daemon().await;
    steps(&served);
    let more = "input_schema: {type: object, properties: {n: {$ref: '#/$defs/n'}}, $defs: {n: {type: integer}}}\n\
                output_schema: {type: object, properties: {sum: {type: integer}}, required: [sum]}\n";
    deploy(
        &served,
        "typed",
        more,
        "rules:\n  - respond: '{\"sum\": 5}'\n",
        &[],
    );
    let api = Api::of(&served.0);

    let discovered = Mcp::modern(&served).ask("server/discover", json!({})).await;
    let versions = &discovered["result"]["supportedVersions"];
    assert!(
        versions.as_array().unwrap().contains(&json!(MODERN)),
        "{discovered}"
    );

    for mut mcp in both(&served).await {
        let listed = mcp.ask("tools/list", json!({})).await["result"].clone();
        assert_eq!(mcp.is_legacy(), listed["resultType"].is_null(), "{listed}");
        let tools = listed["tools"].as_array().unwrap();
        assert_eq!(tools.len(), 2, "{listed}");
        assert_eq!(
            (&tools[0]["name"], &tools[0]["description"]),
            (&json!("steps"), &json!("The agent steps"))
        );
        assert_eq!(tools[0]["inputSchema"]["required"], json!(["input"]));
        let typed = &tools[1];
        let n = &typed["inputSchema"]["properties"]["input"]["properties"]["n"]["$ref"];
        assert_eq!(n, "#/properties/input/$defs/n", "{typed}");
        assert_eq!(typed["outputSchema"]["required"], json!(["sum"]), "{typed}");

        let session = format!("talk-{}", mcp.is_legacy());
        for input in ["one", "two"] {
            let result = mcp
                .call("steps", json!({"input": input, "session_id": session}))
                .await;
            assert_eq!(
                result["content"][0]["text"],
                format!("You said: {input}"),
                "{result}"
            );
            assert_ne!(result["isError"], true);
            assert_eq!(result.get("structuredContent"), None);
            assert_eq!(result["_meta"]["rune/session_id"], session.as_str());
            let row = row(&served, &request_of(&result)).await;
            assert_eq!(
                (&row["agent"], &row["status"], &row["session_id"]),
                (&json!("steps"), &json!("completed"), &json!(session)),
                "{row}"
            );
        }
        let path = format!("/v1/sessions/{session}/messages");
        let (_, messages) = answer(api.get(&path)).await.unwrap();
        let text = messages.to_string();
        assert!(
            text.contains("You said: one") && text.contains("You said: two"),
            "{text}"
        );

        let result = mcp.call("typed", json!({})).await;
        assert_eq!(result["structuredContent"], json!({"sum": 5}), "{result}");
        assert_eq!(result["content"][0]["text"], r#"{"sum":5}"#);

        // What is wrong with a call is for whoever has made it; a tool that is not there is not a tool.
        for (tool, arguments, part) in [
            ("steps", json!({}), "`input`"),
            (
                "steps",
                json!({"input": "a", "session_id": "a b"}),
                "`session_id`",
            ),
            ("typed", json!({"input": {"n": "x"}}), "integer"),
            ("steps", json!({"input": "nothing"}), "no model for this"),
        ] {
            let result = mcp.call(tool, arguments).await;
            let text = result["content"][0]["text"].as_str().unwrap();
            assert!(result["isError"] == true && text.contains(part), "{result}");
        }
        let params = json!({"name": "nobody", "arguments": {"input": "a"}});
        let unknown = mcp.ask("tools/call", params).await;
        assert_eq!(unknown["error"]["code"], -32602, "{unknown}");
        assert!(
            unknown["error"]["message"].to_string().contains("nobody"),
            "{unknown}"
        );
    }
    assert_no_panic(&served);
}

#[tokio::test]
async fn the_url_names_the_namespace() {
    let served = daemon().await;
    steps(&served);
    served
        .rune(&["run", "steps", "--namespace", "prod", "--alias", "canary"])
        .ok();
    for (query, count) in [("", 1), ("?ns=prod", 0), ("?ns=prod&alias=canary", 1)] {
        let mut mcp = Mcp::modern(&served);
        mcp.url.push_str(query);
        assert_eq!(mcp.tools().await.len(), count, "{query}");
    }
    let mut mcp = Mcp::modern(&served);
    mcp.url.push_str("?namespace=prod");
    let refused = mcp.ask("tools/list", json!({})).await;
    assert_eq!(refused["error"]["code"], -32602, "{refused}");
}

#[tokio::test]
async fn an_older_handshake_is_answered_whatever_version_it_asks_for() {
    let served = daemon().await;
    for (asked, answered) in [
        (MODERN, LEGACY),
        ("1999-01-01", LEGACY),
        ("2025-03-26", "2025-03-26"),
    ] {
        let mut mcp = Mcp::modern(&served);
        mcp.session = Some(String::new());
        let params = json!({
            "protocolVersion": asked, "capabilities": {}, "clientInfo": {"name": "test", "version": "1"},
        });
        let result = mcp.ask("initialize", params).await;
        assert_eq!(
            result["result"]["protocolVersion"], answered,
            "{asked}: {result}"
        );
    }
    // A session that is not there, such as one of before a restart, is begun again by the client.
    let mut mcp = Mcp::modern(&served);
    mcp.session = Some("00000000-0000-4000-8000-000000000000".to_owned());
    assert_eq!(mcp.send("tools/list", json!({})).await.status(), 404);
    let mut mcp = Mcp::legacy(&served, json!({})).await;
    assert!(mcp.tools().await.is_empty());
    let ended = mcp.request(Method::DELETE).send().await.unwrap();
    assert!(ended.status().is_success());
    assert_eq!(mcp.send("tools/list", json!({})).await.status(), 404);
}

#[tokio::test]
async fn clients_are_told_when_agents_come_and_go() {
    let served = daemon().await;
    let mut modern = Mcp::modern(&served);
    let params = json!({"notifications": {"toolsListChanged": true}});
    let mut subscribed = Stream::of(modern.send("subscriptions/listen", params).await);
    subscribed
        .told("notifications/subscriptions/acknowledged")
        .await;
    let mut legacy = Mcp::legacy(&served, json!({})).await;
    let mut listening = Stream::of(legacy.request(Method::GET).send().await.unwrap());
    assert!(legacy.tools().await.is_empty());

    steps(&served);
    for stream in [&mut subscribed, &mut listening] {
        stream.told("notifications/tools/list_changed").await;
    }
    for mcp in [&mut modern, &mut legacy] {
        assert_eq!(mcp.tools().await, ["steps"]);
    }
    served.rune(&["agent", "rm", "steps"]).ok();
    for stream in [&mut subscribed, &mut listening] {
        stream.told("notifications/tools/list_changed").await;
    }
    assert!(modern.tools().await.is_empty());

    // Streams of clients do not keep the daemon from ending.
    let mut served = served;
    assert!(served.0.terminate().await.unwrap().success());
}

#[tokio::test]
async fn a_call_tells_how_far_it_is() {
    let served = daemon().await;
    steps(&served);
    for mut mcp in both(&served).await {
        let params = json!({
            "name": "steps", "arguments": {"input": "go"}, "_meta": {"progressToken": 7},
        });
        let mut stream = Stream::of(mcp.send("tools/call", params).await);
        let (told, answered) = stream.until(mcp.next).await;
        assert_eq!(answered["result"]["content"][0]["text"], "You said: go");
        let progress: Vec<f64> = told
            .iter()
            .filter(|message| message["method"] == "notifications/progress")
            .map(|message| {
                assert_eq!(message["params"]["progressToken"], 7);
                message["params"]["progress"].as_f64().unwrap()
            })
            .collect();
        assert!(
            progress.len() >= 3 && progress.is_sorted_by(|a, b| a < b),
            "{told:?}"
        );
        let text = Value::from(told).to_string();
        assert!(text.contains("uses rune@system-time"), "{text}");
    }
}

#[tokio::test]
async fn a_client_that_leaves_cancels_only_where_the_protocol_says_so() {
    let served = daemon().await;
    slow(&served);
    let mut modern = Mcp::modern(&served);
    let stream = modern.begin("slow", json!({})).await;
    let id = running(&served, "slow").await;
    drop(stream);
    until_status(&served, &id, "cancelled").await;

    // Before anything is said, too.
    let params = json!({"name": "slow", "arguments": {"input": "go"}});
    let sending = modern.message("tools/call", params).send();
    let id = tokio::select! {
        _ = sending => unreachable!("the tool waits"),
        id = running(&served, "slow") => id,
    };
    until_status(&served, &id, "cancelled").await;

    let mut legacy = Mcp::legacy(&served, json!({})).await;
    let stream = legacy.begin("slow", json!({})).await;
    let call = legacy.next;
    let id = running(&served, "slow").await;
    drop(stream);
    assert_eq!(legacy.ask("ping", json!({})).await["result"], json!({}));
    assert_eq!(row(&served, &id).await["status"], "running");
    legacy
        .notify("notifications/cancelled", json!({"requestId": call}))
        .await;
    until_status(&served, &id, "cancelled").await;
    assert_no_panic(&served);
}

#[tokio::test]
async fn who_leaves_a_call_with_a_key_leaves_it_to_the_others() {
    let served = daemon().await;
    slow(&served);
    let meta = json!({"rune/idempotency_key": "shared"});
    let mut leaving = Mcp::modern(&served);
    let stream = leaving.begin("slow", meta.clone()).await;
    let id = running(&served, "slow").await;
    let mut staying = Mcp::modern(&served);
    let staying_stream = staying.begin("slow", meta.clone()).await;
    drop(stream);
    // Once a call without a key that was left behind it is cancelled, it would be, too.
    let mut other = Mcp::modern(&served);
    let params =
        json!({"name": "slow", "arguments": {"input": "other"}, "_meta": {"progressToken": "p"}});
    let sending = Stream::of(other.send("tools/call", params).await);
    let api = Api::of(&served.0);
    let mut second = String::new();
    until("two requests run", async || {
        let (_, page) = answer(api.get("/v1/requests?agent=slow&status=running"))
            .await
            .unwrap();
        let items = page["items"].as_array().unwrap();
        second = items[0]["id"].as_str().unwrap().to_owned();
        items.len() == 2
    })
    .await;
    drop(sending);
    until_status(&served, &second, "cancelled").await;
    assert_eq!(row(&served, &id).await["status"], "running");
    std::fs::write(served.0.data_dir().join("workspaces/dev/slow/go"), "").unwrap();
    let answered = staying_stream.answer(staying.next).await;
    assert_eq!(
        answered["result"]["content"][0]["text"], "waited",
        "{answered}"
    );
    assert_eq!(request_of(&answered["result"]), id);
}

#[tokio::test]
async fn an_answer_that_is_no_object_is_text() {
    let served = daemon().await;
    let list = "output_schema: {type: array, items: {type: string}}\n";
    deploy(
        &served,
        "list",
        list,
        "rules:\n  - respond: '[\"a\"]'\n",
        &[],
    );
    let object = "output_schema: {type: object, properties: {a: {type: integer}}}\n";
    deploy(
        &served,
        "object",
        object,
        "rules:\n  - respond: '{\"a\": 1}'\n",
        &[],
    );
    for mut mcp in both(&served).await {
        let listed = mcp.ask("tools/list", json!({})).await;
        let tools = &listed["result"]["tools"];
        assert_eq!(tools[0].get("outputSchema"), None, "{listed}");
        assert_eq!(tools[1]["outputSchema"]["type"], "object", "{listed}");
        let answered = mcp.call("list", json!({"input": "go"})).await;
        assert_eq!(answered["content"][0]["text"], r#"["a"]"#, "{answered}");
        assert_eq!(answered.get("structuredContent"), None, "{answered}");
        let answered = mcp.call("object", json!({"input": "go"})).await;
        assert_eq!(answered["structuredContent"], json!({"a": 1}), "{answered}");
    }
}

#[tokio::test]
async fn an_answer_that_was_missed_is_sent_again_in_a_session() {
    let served = daemon().await;
    slow(&served);
    let mut mcp = Mcp::legacy(&served, json!({})).await;
    let params =
        json!({"name": "slow", "arguments": {"input": "go"}, "_meta": {"progressToken": 1}});
    let mut response = mcp.send("tools/call", params).await;
    let mut text = String::new();
    while !text.contains("notifications/progress") {
        let chunk = response.chunk().await.unwrap().unwrap();
        text.push_str(std::str::from_utf8(&chunk).unwrap());
    }
    let mut ids = text.lines().filter_map(|line| line.strip_prefix("id:"));
    let last = ids.next_back().unwrap().trim().to_owned();
    let id = running(&served, "slow").await;
    drop(response);
    let again = mcp.request(Method::GET).header("last-event-id", last);
    let mut stream = Stream::of(again.send().await.unwrap());
    std::fs::write(served.0.data_dir().join("workspaces/dev/slow/go"), "").unwrap();
    let (_, answered) = stream.until(mcp.next).await;
    assert_eq!(
        answered["result"]["content"][0]["text"], "waited",
        "{answered}"
    );
    assert_eq!(request_of(&answered["result"]), id);
}

#[tokio::test]
async fn a_call_survives_a_crash_of_the_daemon_and_can_be_sent_again() {
    let mut served = daemon().await;
    slow(&served);
    let mut mcp = Mcp::modern(&served);
    let meta = json!({"rune/idempotency_key": "once"});
    let mut stream = mcp.begin("slow", meta.clone()).await;
    let id = running(&served, "slow").await;
    served.0.kill9().unwrap();
    while stream.next().await.is_some() {}
    served.0.restart().await.unwrap();

    let mut mcp = Mcp::modern(&served);
    let params = json!({"name": "slow", "arguments": {"input": "go"}, "_meta": meta});
    let again = mcp.message("tools/call", params.clone()).send();
    let release = async {
        running(&served, "slow").await;
        std::fs::write(served.0.data_dir().join("workspaces/dev/slow/go"), "").unwrap();
    };
    let (response, ()) = tokio::join!(again, release);
    let answered = Stream::of(response.unwrap()).answer(mcp.next).await;
    assert_eq!(
        answered["result"]["content"][0]["text"], "waited",
        "{answered}"
    );
    assert_eq!(request_of(&answered["result"]), id);
    let row = row(&served, &id).await;
    assert_eq!(
        (&row["status"], &row["attempts"]),
        (&json!("completed"), &json!(2)),
        "{row}"
    );

    // The key stands for this call and no other.
    let mut other = params;
    other["arguments"]["input"] = json!("something else");
    let refused = mcp.ask("tools/call", other).await;
    assert_eq!(refused["result"]["isError"], true, "{refused}");
    assert!(refused.to_string().contains("idempotency"), "{refused}");
}

#[tokio::test]
async fn a_person_is_asked_in_the_client() {
    let served = daemon().await;
    ask(&served);
    for (decision, lines) in [("approve", 1), ("deny", 1)] {
        let mut mcp = Mcp::modern(&served).asking_people();
        let params = json!({"name": "ask", "arguments": {"input": "go"}});
        let asked = mcp.ask("tools/call", params.clone()).await["result"].clone();
        assert_eq!(asked["resultType"], "input_required", "{asked}");
        let requests = asked["inputRequests"].as_object().unwrap();
        let (approval, form) = requests.iter().next().unwrap();
        assert_eq!(form["method"], "elicitation/create", "{asked}");
        assert!(
            form["params"]["message"].to_string().contains("touch"),
            "{asked}"
        );
        let id = request_of(&asked);
        until_status(&served, &id, "input-required").await;

        // An answer that is none is asked for again.
        let mut again = params.clone();
        again["requestState"] = asked["requestState"].clone();
        again["inputResponses"] =
            json!({approval.as_str(): {"action": "accept", "content": {"decision": "maybe"}}});
        let asked = mcp.ask("tools/call", again.clone()).await["result"].clone();
        assert_eq!(asked["resultType"], "input_required", "{asked}");

        again["inputResponses"] =
            json!({approval.as_str(): {"action": "accept", "content": {"decision": decision}}});
        let done = mcp.ask("tools/call", again).await["result"].clone();
        assert_eq!(
            (&done["content"][0]["text"], &done["resultType"]),
            (&json!("done"), &json!("complete")),
            "{done}"
        );
        assert_eq!(request_of(&done), id);
        assert_eq!(lines_of(&served, "ask", "log").len(), lines);

        let mut made_up = params.clone();
        made_up["requestState"] = json!("req_1@1");
        assert_eq!(
            mcp.ask("tools/call", made_up).await["error"]["code"],
            -32602
        );
    }

    // The older protocol asks on the stream of the call.
    let mut mcp = Mcp::legacy(&served, json!({"elicitation": {}})).await;
    let params = json!({"name": "ask", "arguments": {"input": "go"}});
    let mut stream = Stream::of(mcp.send("tools/call", params).await);
    let asked = stream.told("elicitation/create").await;
    let id = &asked["id"];
    let said = json!({"jsonrpc": "2.0", "id": id, "result": {"action": "accept", "content": {"decision": "approve"}}});
    let taken = mcp.request(Method::POST).json(&said).send().await.unwrap();
    assert_eq!(taken.status(), 202);
    let (_, done) = stream.until(mcp.next).await;
    assert_eq!(done["result"]["content"][0]["text"], "done", "{done}");
    assert_eq!(lines_of(&served, "ask", "log").len(), 2);
    assert_no_panic(&served);
}

#[tokio::test]
async fn a_client_that_cannot_ask_is_told_who_can() {
    let served = daemon().await;
    ask(&served);
    steps(&served);
    for mut mcp in both(&served).await {
        let result = mcp.call("ask", json!({"input": "go"})).await;
        let id = request_of(&result);
        let text = result["content"][0]["text"].as_str().unwrap();
        assert!(
            text.contains("touch") && text.contains(&format!("rune requests approve {id}")),
            "{text}"
        );
        assert_eq!(result["_meta"]["rune/status"], "input-required");
        until_status(&served, &id, "input-required").await;
        served.rune(&["requests", "approve", &id]).ok();
        until_status(&served, &id, "completed").await;
    }
    // What a client has got about one agent is of no use with another.
    let mut mcp = Mcp::modern(&served).asking_people();
    let asked = mcp
        .ask(
            "tools/call",
            json!({"name": "ask", "arguments": {"input": "go"}}),
        )
        .await;
    let params = json!({
        "name": "steps", "arguments": {"input": "go"}, "requestState": asked["result"]["requestState"],
    });
    let refused = mcp.ask("tools/call", params).await;
    assert_eq!(refused["result"]["isError"], true, "{refused}");
}

#[tokio::test]
async fn callers_hosts_and_origins_are_checked() {
    let builder = TestDaemon::builder(RUNE)
        .env("RUNE_API_KEY", KEY)
        .env("RUNE_ALLOWED_HOSTS", "rune.lan")
        .env("RUNE_ALLOWED_ORIGINS", "https://chat.example.org");
    let served = Served(builder.start().await.unwrap());
    let mut mcp = Mcp::modern(&served);
    for method in [Method::POST, Method::GET, Method::DELETE] {
        let refused = mcp.request(method).send().await.unwrap();
        assert_eq!(refused.status(), 401);
        assert_eq!(refused.headers()["www-authenticate"], "Bearer");
    }
    for path in [
        "/.well-known/oauth-protected-resource",
        "/.well-known/oauth-protected-resource/mcp",
        "/.well-known/oauth-authorization-server",
        "/.well-known/openid-configuration",
        "/register",
    ] {
        for method in [Method::GET, Method::POST] {
            let url = format!("{}{path}", served.0.gateway());
            let absent = mcp.client.request(method, url).send().await.unwrap();
            assert_eq!(absent.status(), 404, "{path}");
        }
    }
    mcp.key = Some("wrong".to_owned());
    assert_eq!(mcp.send("tools/list", json!({})).await.status(), 401);
    mcp.key = Some(KEY.to_owned());
    assert!(mcp.tools().await.is_empty());
    for (header, value, status) in [
        ("origin", "https://evil.example", 403),
        ("origin", "null", 403),
        ("origin", "http://chat.example.org", 403),
        ("origin", "https://chat.example.org", 200),
        ("origin", "http://localhost:6274", 200),
        ("host", "evil.example", 403),
        ("host", "rune.lan:8080", 200),
        ("host", "localhost:1", 200),
    ] {
        let request = mcp.message("tools/list", json!({})).header(header, value);
        let answered = request.send().await.unwrap();
        assert_eq!(answered.status(), status, "{header}: {value}");
    }

    let home = Home::new();
    for (name, value) in [
        ("RUNE_ALLOWED_HOSTS", "http://a"),
        ("RUNE_ALLOWED_ORIGINS", "a.example"),
    ] {
        let mut command = home.command(&["daemon", "start", "--foreground"]);
        command.env(name, value);
        let refused = Ran::new(command).ends(2);
        assert!(refused.stderr.contains(value), "{}", refused.stderr);
    }
}

#[tokio::test]
async fn a_call_and_a_session_are_of_the_caller_that_began_them() {
    let builder = TestDaemon::builder(RUNE).env("RUNE_JWT_SECRET", SECRET);
    let served = Served(builder.start().await.unwrap());
    write_asking(&served);
    let mut run = served.command(&["run", "ask"]);
    run.env("RUNE_JWT_SECRET", SECRET);
    Ran::new(run).ok();
    let of = |subject: &str| {
        let mut mcp = Mcp::modern(&served).asking_people();
        mcp.key = Some(token(subject));
        mcp
    };
    let params = json!({"name": "ask", "arguments": {"input": "go"}});
    let asked = of("ada").ask("tools/call", params.clone()).await["result"].clone();
    let (approval, _) = asked["inputRequests"]
        .as_object()
        .unwrap()
        .iter()
        .next()
        .unwrap();
    let mut again = params.clone();
    again["requestState"] = asked["requestState"].clone();
    again["inputResponses"] =
        json!({approval.as_str(): {"action": "accept", "content": {"decision": "approve"}}});
    let refused = of("bob").ask("tools/call", again.clone()).await["result"].clone();
    assert_eq!(
        (&refused["isError"], &refused["_meta"]["rune/code"]),
        (&json!(true), &json!("not_found")),
        "{refused}"
    );
    let done = of("ada").ask("tools/call", again).await["result"].clone();
    assert_eq!(done["content"][0]["text"], "done", "{done}");

    let mut ada = of("ada").shaking_hands(json!({"elicitation": {}})).await;
    let mut stream = Stream::of(ada.send("tools/call", params).await);
    let asked = stream.told("elicitation/create").await;
    let said = json!({
        "jsonrpc": "2.0", "id": asked["id"],
        "result": {"action": "accept", "content": {"decision": "approve"}},
    });
    let own = ada.key.replace(token("bob"));
    for method in [Method::POST, Method::GET, Method::DELETE] {
        let foreign = ada.request(method).json(&said).send().await.unwrap();
        assert_eq!(foreign.status(), 404);
    }
    ada.key = own;
    let taken = ada.request(Method::POST).json(&said).send().await.unwrap();
    assert_eq!(taken.status(), 202);
    let (_, done) = stream.until(ada.next).await;
    assert_eq!(done["result"]["content"][0]["text"], "done", "{done}");
    assert_no_panic(&served);
}

#[tokio::test]
async fn without_credentials_web_pages_are_kept_out() {
    let served = daemon().await;
    let mut mcp = Mcp::modern(&served);
    for (header, value, status) in [
        ("origin", "https://evil.example", 403),
        ("host", "evil.example", 403),
        ("origin", "http://127.0.0.1:9", 200),
    ] {
        let request = mcp.message("tools/list", json!({})).header(header, value);
        let answered = request.send().await.unwrap();
        assert_eq!(answered.status(), status, "{header}: {value}");
    }
}

/// `rune mcp serve`, written to and read line by line.
pub(crate) struct Stdio {
    child: Child,
    input: Option<ChildStdin>,
    lines: mpsc::Receiver<String>,
}

impl Stdio {
    pub(crate) fn start(mut command: Command) -> Self {
        command
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped());
        let mut child = command.spawn().unwrap();
        let (sender, lines) = mpsc::channel();
        let output = BufReader::new(child.stdout.take().unwrap());
        std::thread::spawn(move || {
            for line in output.lines() {
                if sender.send(line.unwrap()).is_err() {
                    return;
                }
            }
        });
        Self {
            input: child.stdin.take(),
            child,
            lines,
        }
    }

    fn write(&mut self, message: &Value) {
        let input = self.input.as_mut().unwrap();
        writeln!(input, "{message}").unwrap();
        input.flush().unwrap();
    }

    /// The next message for which this holds; every line is one.
    fn read(&self, holds: impl Fn(&Value) -> bool) -> Value {
        loop {
            let line = self.lines.recv_timeout(LIMIT).unwrap();
            let message: Value = serde_json::from_str(&line).unwrap();
            assert_eq!(message["jsonrpc"], "2.0", "{line}");
            if holds(&message) {
                return message;
            }
        }
    }

    pub(crate) fn ask(&mut self, id: i64, method: &str, params: &Value) -> Value {
        self.write(&json!({"jsonrpc": "2.0", "id": id, "method": method, "params": params}));
        self.read(|message| message["id"] == id)
    }

    pub(crate) fn initialize(&mut self) {
        let params = json!({
            "protocolVersion": LEGACY, "capabilities": {"elicitation": {}}, "clientInfo": {"name": "t", "version": "1"},
        });
        let answered = self.ask(1, "initialize", &params);
        assert_eq!(answered["result"]["protocolVersion"], LEGACY, "{answered}");
        self.write(&json!({"jsonrpc": "2.0", "method": "notifications/initialized"}));
    }

    /// Closes the input and waits for the end.
    pub(crate) fn end(mut self) {
        drop(self.input.take());
        assert!(self.child.wait().unwrap().success());
        // Whatever was still said was a message, too.
        for line in self.lines.try_iter() {
            assert!(serde_json::from_str::<Value>(&line).is_ok(), "{line}");
        }
    }
}

impl Drop for Stdio {
    fn drop(&mut self) {
        // It has ended where the test did not fail.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_starts_the_command_has_the_agents_of_the_daemon() {
    let served = daemon().await;
    steps(&served);
    ask(&served);
    let mut stdio = Stdio::start(served.command(&["mcp", "serve"]));
    stdio.initialize();
    let listed = stdio.ask(2, "tools/list", &json!({}));
    let names: Vec<&Value> = listed["result"]["tools"]
        .as_array()
        .unwrap()
        .iter()
        .map(|tool| &tool["name"])
        .collect();
    assert_eq!(names, ["ask", "steps"]);
    let params = json!({
        "name": "steps", "arguments": {"input": "hi", "session_id": "desk"}, "_meta": {"progressToken": "p"},
    });
    stdio.write(&json!({"jsonrpc": "2.0", "id": 3, "method": "tools/call", "params": params}));
    let told = stdio.read(|message| message["method"] == "notifications/progress");
    assert_eq!(told["params"]["progressToken"], "p");
    let called = stdio.read(|message| message["id"] == 3);
    assert_eq!(
        called["result"]["content"][0]["text"], "You said: hi",
        "{called}"
    );
    let row = row(&served, &request_of(&called["result"])).await;
    assert_eq!(
        (&row["status"], &row["session_id"]),
        (&json!("completed"), &json!("desk"))
    );

    let params = json!({"name": "ask", "arguments": {"input": "go"}});
    stdio.write(&json!({"jsonrpc": "2.0", "id": 4, "method": "tools/call", "params": params}));
    let asked = stdio.read(|message| message["method"] == "elicitation/create");
    let said = json!({"action": "accept", "content": {"decision": "approve"}});
    stdio.write(&json!({"jsonrpc": "2.0", "id": asked["id"], "result": said}));
    let done = stdio.read(|message| message["id"] == 4 && message["method"].is_null());
    assert_eq!(done["result"]["content"][0]["text"], "done", "{done}");

    let unknown = stdio.ask(5, "tools/call", &json!({"name": "nobody", "arguments": {}}));
    assert_eq!(unknown["error"]["code"], -32602, "{unknown}");

    served.rune(&["agent", "rm", "ask"]).ok();
    stdio.read(|message| message["method"] == "notifications/tools/list_changed");
    let listed = stdio.ask(6, "tools/list", &json!({}));
    assert_eq!(
        listed["result"]["tools"].as_array().unwrap().len(),
        1,
        "{listed}"
    );
    stdio.end();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_speaks_the_stateless_era_and_shows_what_it_is_told_to() {
    let served = daemon().await;
    steps(&served);
    ask(&served);
    let mut stdio = Stdio::start(served.command(&["mcp", "serve", "--agent", "steps"]));
    let meta = json!({
        "io.modelcontextprotocol/protocolVersion": MODERN, "io.modelcontextprotocol/clientCapabilities": {},
    });
    let discovered = stdio.ask(1, "server/discover", &json!({"_meta": meta}));
    assert_eq!(
        discovered["result"]["capabilities"]["tools"]["listChanged"], true,
        "{discovered}"
    );
    let listed = stdio.ask(2, "tools/list", &json!({"_meta": meta}));
    assert_eq!(
        listed["result"]["tools"].as_array().unwrap().len(),
        1,
        "{listed}"
    );
    let params = json!({"name": "steps", "arguments": {"input": "hi"}, "_meta": meta});
    let called = stdio.ask(3, "tools/call", &params);
    assert_eq!(
        called["result"]["content"][0]["text"], "You said: hi",
        "{called}"
    );
    let params = json!({"name": "ask", "arguments": {"input": "hi"}, "_meta": meta});
    assert_eq!(stdio.ask(4, "tools/call", &params)["error"]["code"], -32602);
    stdio.end();

    // A client that asks and closes at once is answered.
    let lines = [
        json!({"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": {
            "protocolVersion": LEGACY, "capabilities": {}, "clientInfo": {"name": "t", "version": "1"}}}),
        json!({"jsonrpc": "2.0", "method": "notifications/initialized"}),
        json!({"jsonrpc": "2.0", "id": 2, "method": "tools/call", "params": {
            "name": "steps", "arguments": {"input": "hi"}, "_meta": {"progressToken": 1}}}),
    ];
    let input: String = lines.iter().map(|line| format!("{line}\n")).collect();
    let ran = Ran::with_input(served.command(&["mcp", "serve"]), &input).ends(0);
    assert!(ran.stdout.contains("You said: hi"), "{}", ran.stdout);
    for line in ran.stdout.lines() {
        assert!(serde_json::from_str::<Value>(line).is_ok(), "{line}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_of_the_command_that_goes_away_leaves_nothing_running() {
    let served = daemon().await;
    slow(&served);
    let mut stdio = Stdio::start(served.command(&["mcp", "serve"]));
    stdio.initialize();
    let params = json!({"name": "slow", "arguments": {"input": "go"}});
    stdio.write(&json!({"jsonrpc": "2.0", "id": 2, "method": "tools/call", "params": params}));
    let id = running(&served, "slow").await;
    stdio.write(
        &json!({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 2}}),
    );
    until_status(&served, &id, "cancelled").await;

    let params = json!({"name": "slow", "arguments": {"input": "go"}});
    stdio.write(&json!({"jsonrpc": "2.0", "id": 3, "method": "tools/call", "params": params}));
    let id = running(&served, "slow").await;
    stdio.end();
    until_status(&served, &id, "cancelled").await;
}

#[test]
fn the_command_says_that_no_daemon_runs() {
    let home = Home::new();
    let args = ["--gateway", "http://127.0.0.1:1", "mcp", "serve"];
    let ran = home.rune(&args).ends(6);
    assert!(
        ran.stdout.is_empty() && ran.stderr.contains("rune daemon start"),
        "{}",
        ran.stderr
    );
}

#[tokio::test]
async fn clients_of_the_official_sdk_work_on_the_first_try() {
    let Some(python) = python() else { return };
    let builder = TestDaemon::builder(RUNE).env("RUNE_API_KEY", KEY);
    let served = Served(builder.start().await.unwrap());
    steps(&served);
    ask(&served);
    let script = root().join("crates/rune-cmd/tests/mcp/client.py");
    let url = format!("{}/mcp", served.0.gateway());
    for (mode, version) in [(MODERN, MODERN), ("auto", MODERN), ("legacy", LEGACY)] {
        for stdio in [false, true] {
            let own = served.command(&[]);
            let mut command = Command::new(&python);
            command.arg(&script).arg(mode).env_clear();
            command.envs(
                own.get_envs()
                    .filter_map(|(name, value)| Some((name, value?))),
            );
            if stdio {
                // The key is the daemon's, and the client hands on what it is told to.
                command.args(["stdio", RUNE, "mcp", "serve"]);
            } else {
                command.arg(&url).arg(KEY);
            }
            let seen = Ran::new(command).json();
            assert_eq!(seen["version"], version, "{mode} {stdio}: {seen}");
            assert_eq!(seen["tools"].as_object().unwrap().len(), 2, "{seen}");
            assert_eq!(seen["steps"][1], "You said: go", "{seen}");
            assert_eq!(seen["steps"][2]["rune/session_id"], "sdk", "{seen}");
            assert!(seen["progress"].as_array().unwrap().len() >= 3, "{seen}");
            assert_eq!(seen["ask"], json!([false, "done"]), "{seen}");
            assert!(seen["asked"].to_string().contains("touch"), "{seen}");
            assert_eq!(seen["wrong"][0], true, "{seen}");
            assert_eq!(seen["unknown"], -32602, "{seen}");
        }
    }
    assert_no_panic(&served);
}
