//! Agents whose model is a scripted server, and the gateway as a client without a library sees it.

use std::path::Path;
use std::time::Duration;

use futures_util::StreamExt;
use reqwest::{Client, RequestBuilder, Response};
use rune_testkit::{ModelServer, Protocol, TestDaemon};
use serde_json::{Value, json};

use crate::home::{Ran, Served};

/// Longest anything may take; what takes longer hangs.
pub(crate) const LIMIT: Duration = Duration::from_secs(60);
/// How often something is looked at that says nothing when it changes.
pub(crate) const POLL: Duration = Duration::from_millis(20);

/// The three wire protocols with their names in a Runefile.
pub(crate) const PROTOCOLS: [(Protocol, &str); 3] = [
    (Protocol::Anthropic, "anthropic"),
    (Protocol::Openai, "openai"),
    (Protocol::Gemini, "gemini"),
];

/// Writes an agent whose models are `servers`, in this order, or the offline model where there are none, and deploys it.
/// `extra` is Runefile text.
pub(crate) fn deploy(
    served: &Served,
    name: &str,
    servers: &[(&ModelServer, Protocol)],
    tools: &[Tool<'_>],
    extra: &str,
) {
    let dir = served.0.home().join(name);
    std::fs::create_dir_all(dir.join("tools")).unwrap();
    let toolset: Vec<&str> = tools.iter().map(|tool| tool.name).collect();
    let mut providers = Vec::new();
    let mut endpoints = serde_json::Map::new();
    for (n, (server, protocol)) in servers.iter().enumerate() {
        let (_, protocol_name) = PROTOCOLS.iter().find(|(p, _)| p == protocol).unwrap();
        providers.push(format!("server-{n}"));
        let endpoint = json!({
            "protocol": protocol_name, "base_url": server.base_url(*protocol), "api_key": "test",
        });
        endpoints.insert(format!("server-{n}"), endpoint);
    }
    if servers.is_empty() {
        providers.push("offline".to_owned());
    }
    let models = json!({
        "providers": providers, "endpoints": endpoints, "model_mapping": {"default": "scripted"},
    });
    // YAML reads JSON.
    let runefile = format!(
        "name: {name}\nversion: 0.1.0\ninstructions: Answer.\ndefault_model: default\n\
         toolset: {}\nmodels: {models}\n{extra}",
        json!(toolset)
    );
    std::fs::write(dir.join("Runefile"), runefile).unwrap();
    for tool in tools {
        if tool.name.starts_with("rune@") {
            continue;
        }
        let file = |extension: &str| dir.join(format!("tools/{}.{extension}", tool.name));
        let granted = match tool.yaml.contains("capabilities:") {
            true => "",
            false => "capabilities: [filesystem]\n",
        };
        let yaml = format!(
            "name: {0}\ndescription: A tool.\nmodule: tools/{0}.sh\n{granted}{1}",
            tool.name, tool.yaml
        );
        std::fs::write(file("yaml"), yaml).unwrap();
        std::fs::write(file("sh"), tool.script).unwrap();
    }
    served.rune(&["run", name]).ok();
}

/// A process tool: a shell script that may change the workspace, where its description does not say otherwise. Of a
/// built-in tool only the name counts.
pub(crate) struct Tool<'a> {
    pub(crate) name: &'a str,
    pub(crate) script: &'a str,
    /// More of its description.
    pub(crate) yaml: &'a str,
}

/// The gateway of a daemon, as long as that is not started anew.
#[derive(Clone)]
pub(crate) struct Api {
    client: Client,
    base: String,
}

impl Api {
    pub(crate) fn of(daemon: &TestDaemon) -> Self {
        Self {
            client: Client::new(),
            base: daemon.gateway().to_owned(),
        }
    }

    pub(crate) fn get(&self, path: &str) -> RequestBuilder {
        self.client
            .get(format!("{}{path}", self.base))
            .timeout(LIMIT)
    }

    pub(crate) fn post(&self, path: &str, body: &Value) -> RequestBuilder {
        let url = format!("{}{path}", self.base);
        self.client.post(url).timeout(LIMIT).json(body)
    }

    pub(crate) fn invoke(&self, agent: &str, body: &Value) -> RequestBuilder {
        self.post(&format!("/v1/agents/{agent}/invoke"), body)
    }

    /// Asks and answers status and body.
    pub(crate) async fn ask(&self, agent: &str, body: &Value) -> (u16, Value) {
        answer(self.invoke(agent, body)).await.unwrap()
    }

    /// Starts a request in the background and answers its id.
    pub(crate) async fn start(&self, agent: &str, input: &str) -> String {
        let body = json!({"input": input, "background": true});
        let (status, body) = self.ask(agent, &body).await;
        assert_eq!(status, 202, "{body}");
        body["request_id"].as_str().unwrap().to_owned()
    }

    pub(crate) async fn request(&self, id: &str) -> Value {
        let (status, body) = answer(self.get(&format!("/v1/requests/{id}")))
            .await
            .unwrap();
        assert_eq!(status, 200, "{id}: {body}");
        body
    }

    /// Follows a request to its end and answers its row.
    pub(crate) async fn ended(&self, id: &str) -> Value {
        self.events(id, 0).await.rest().await;
        self.request(id).await
    }

    /// The events of a request behind an entry, as a returning client gets them.
    pub(crate) async fn events(&self, id: &str, last_event_id: u64) -> Events {
        let request = self.get(&format!("/v1/requests/{id}/events"));
        let request = request.header("last-event-id", last_event_id.to_string());
        Events::of(request.send().await.unwrap())
    }
}

/// The status and the JSON of an answer.
pub(crate) async fn answer(request: RequestBuilder) -> Result<(u16, Value), reqwest::Error> {
    let response = request.send().await?;
    let status = response.status().as_u16();
    Ok((status, response.json().await?))
}

/// A client of its own; the test waits for its end.
#[expect(
    clippy::disallowed_methods,
    reason = "the tasks of a test are joined by it"
)]
pub(crate) fn spawn<F>(client: F) -> tokio::task::JoinHandle<F::Output>
where
    F: Future<Output: Send> + Send + 'static,
{
    tokio::spawn(client)
}

/// One server-sent event.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Event {
    pub(crate) id: Option<u64>,
    pub(crate) name: String,
    pub(crate) data: Value,
}

impl Event {
    pub(crate) fn is_last(&self) -> bool {
        self.name == "done" || self.name == "error"
    }
}

/// A stream of events; dropping it closes the connection.
pub(crate) struct Events {
    body: futures_util::stream::BoxStream<'static, reqwest::Result<Vec<u8>>>,
    buffer: Vec<u8>,
}

impl Events {
    #[track_caller]
    pub(crate) fn of(response: Response) -> Self {
        assert_eq!(response.status(), 200);
        let body = response.bytes_stream();
        Self {
            body: body.map(|chunk| chunk.map(|chunk| chunk.to_vec())).boxed(),
            buffer: Vec::new(),
        }
    }

    /// The next event; none at the end of the stream, however it ended.
    pub(crate) async fn next(&mut self) -> Option<Event> {
        loop {
            let end = self.buffer.windows(2).position(|pair| pair == b"\n\n");
            if let Some(end) = end {
                let block: Vec<u8> = self.buffer.drain(..end + 2).collect();
                let text = String::from_utf8(block).unwrap();
                if let Some(event) = parse(&text) {
                    return Some(event);
                }
                continue;
            }
            let chunk = self.body.next().await?;
            self.buffer.extend(chunk.ok()?);
        }
    }

    /// Reads to the end.
    pub(crate) async fn rest(mut self) -> Vec<Event> {
        let mut events = Vec::new();
        while let Some(event) = self.next().await {
            events.push(event);
        }
        events
    }
}

/// An event, unless the block is a comment.
fn parse(block: &str) -> Option<Event> {
    let field = |name: &str| block.lines().find_map(|line| line.strip_prefix(name));
    Some(Event {
        id: field("id: ").map(|id| id.parse().unwrap()),
        name: field("event: ")?.to_owned(),
        data: serde_json::from_str(field("data: ")?).unwrap(),
    })
}

/// A small deterministic generator (xorshift), so that a failing round can be repeated.
pub(crate) struct Seeded(u64);

impl Seeded {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed | 1)
    }

    /// A number below `end`.
    pub(crate) fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % end
    }
}

/// The lines of a file in an agent's workspace; none where it is not there.
pub(crate) fn lines_of(served: &Served, agent: &str, file: &str) -> Vec<String> {
    let path = served.0.data_dir().join("workspaces/dev").join(agent);
    read_lines(&path.join(file))
}

fn read_lines(path: &Path) -> Vec<String> {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    text.lines().map(str::to_owned).collect()
}

/// No line of the log says that something went wrong inside.
#[track_caller]
pub(crate) fn assert_no_panic(served: &Served) {
    let log = served.0.log();
    let bad: Vec<&str> = log.lines().filter(|line| line.contains("panic")).collect();
    assert!(bad.is_empty(), "{bad:#?}");
}

/// `rune doctor` finds the database of a daemon that is down sound.
#[track_caller]
pub(crate) fn assert_sound(served: &Served) {
    let ran: Ran = served.rune(&["doctor"]);
    assert!(
        ran.stdout.contains("rune.db is sound"),
        "{}{}",
        ran.stdout,
        ran.stderr
    );
}
