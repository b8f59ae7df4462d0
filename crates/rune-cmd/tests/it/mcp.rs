//! Tools of MCP servers, through the daemon: servers written with the official SDK, over standard input and output and over HTTP
//! in both eras of the protocol. They come back after a restart, are cancelled, say how far they are, and their secrets stay theirs.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use rune_testkit::{ModelScript, ModelServer, Protocol, Reply, TestDaemon, ToolCall};
use serde_json::{Value, json};

use crate::cancel::processes_with;
use crate::home::{Home, RUNE, Served};
use crate::python::{MCP, interpreter};
use crate::readme::root;
use crate::wire::{Api, Event, LIMIT, POLL, answer, assert_no_panic};

/// A secret of the agent's environment.
const TOKEN: &str = "s3cret-0123456789";

/// The interpreter for [`server`]; none where this machine has none, which is said.
pub(crate) fn python() -> Option<PathBuf> {
    interpreter(&MCP)
}

fn server() -> PathBuf {
    root().join("crates/rune-cmd/tests/mcp/server.py")
}

/// A server over HTTP, killed when dropped.
pub(crate) struct Http {
    python: PathBuf,
    legacy: bool,
    port: u16,
    child: Option<Child>,
}

impl Http {
    pub(crate) async fn start(python: &Path, legacy: bool) -> Self {
        let port = TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap()
            .port();
        let mut http = Self {
            python: python.to_owned(),
            legacy,
            port,
            child: None,
        };
        http.again().await;
        http
    }

    pub(crate) fn url(&self) -> String {
        format!("http://127.0.0.1:{}/mcp", self.port)
    }

    fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    /// Starts it, and waits until it listens.
    async fn again(&mut self) {
        self.kill();
        let mut command = Command::new(&self.python);
        command.arg(server()).arg("http").arg(self.port.to_string());
        if self.legacy {
            command.arg("legacy");
        }
        command
            .env_clear()
            .env("NOTES", "/dev/null")
            .stdin(Stdio::null());
        self.child = Some(command.spawn().unwrap());
        let up = async {
            while tokio::net::TcpStream::connect(("127.0.0.1", self.port))
                .await
                .is_err()
            {
                tokio::time::sleep(POLL).await;
            }
        };
        tokio::time::timeout(LIMIT, up).await.unwrap();
    }
}

impl Drop for Http {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Writes an agent with these servers, whose offline model calls the tools that it is told to.
pub(crate) fn write(
    home: &Path,
    name: &str,
    toolset: &Value,
    servers: &Value,
    more: &str,
) -> PathBuf {
    let dir = home.join(name);
    std::fs::create_dir_all(dir.join("tools")).unwrap();
    let runefile = format!(
        "name: {name}\nversion: 0.1.0\ninstructions: Call.\ndefault_model: default\n\
         toolset: {toolset}\nmcp_servers: {servers}\n\
         models: {{providers: [offline], model_mapping: {{default: offline}}}}\n{more}"
    );
    std::fs::write(dir.join("Runefile"), runefile).unwrap();
    dir
}

/// What a program of this interpreter may read, beside the package and the system.
pub(crate) fn readable(python: &Path) -> Vec<String> {
    let prefix = |python: &Path| python.ancestors().nth(2).unwrap().to_owned();
    let real = python.canonicalize().unwrap();
    let dirs = [prefix(python), prefix(&real)].into_iter();
    let dirs = dirs.filter(|dir| dir != Path::new("/usr"));
    let dirs = dirs.chain([server().parent().unwrap().to_owned()]);
    dirs.map(|dir| format!("filesystem:ro:{}", dir.display()))
        .collect()
}

/// What the environment of the servers of this test has, and nothing else.
pub(crate) fn mark() -> String {
    format!("mcp-test-{}", std::process::id())
}

/// The processes of these servers.
pub(crate) fn marked() -> Vec<String> {
    processes_with(&format!("MARK={}", mark()))
}

/// The server as a process of the agent, in whose workspace it takes notes. Its processes are found by `MARK`.
pub(crate) fn stdio(python: &Path) -> Value {
    let mut capabilities = readable(python);
    capabilities.push("filesystem".to_owned());
    json!({
        "name": "sdk", "command": python, "args": [server(), "stdio"],
        "env": {"TOKEN": "${TOKEN}", "MARK": mark()}, "capabilities": capabilities,
    })
}

fn http(url: &str) -> Value {
    json!({"name": "sdk", "url": url, "headers": {"Authorization": "Bearer ${TOKEN}"}})
}

async fn daemon() -> Served {
    let builder = TestDaemon::builder(RUNE)
        .env("TOKEN", TOKEN)
        .env("RUNE_ALLOW_PRIVATE", "127.0.0.1");
    Served(builder.start().await.unwrap())
}

async fn deployed(toolset: Value, servers: Value, more: &str) -> Served {
    let served = daemon().await;
    write(served.0.home(), "agent", &toolset, &servers, more);
    served.rune(&["run", "agent"]).ok();
    served
}

/// Has the model call a tool; answers all events.
pub(crate) async fn events(api: &Api, tool: &str, input: &Value) -> Vec<Event> {
    let id = api.start("agent", &format!("/tool {tool} {input}")).await;
    api.events(&id, 0).await.rest().await
}

/// Has the model call a tool; answers what came of it.
pub(crate) async fn called(api: &Api, tool: &str, input: &Value) -> Value {
    let events = events(api, tool, input).await;
    let done = events.iter().find(|event| event.name == "tool_done");
    assert!(done.is_some(), "{events:?}");
    done.unwrap().data.clone()
}

/// The servers as the daemon sees them.
pub(crate) async fn servers(api: &Api) -> Value {
    let (status, body) = answer(api.get("/v1/agents/agent/mcp-servers"))
        .await
        .unwrap();
    assert_eq!(status, 200, "{body}");
    body["items"].clone()
}

pub(crate) async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let wait = async {
        while !holds().await {
            tokio::time::sleep(POLL).await;
        }
    };
    assert!(tokio::time::timeout(LIMIT, wait).await.is_ok(), "{what}");
}

/// What a server does, whatever it is reached by.
async fn works(served: &Served) {
    let api = Api::of(&served.0);
    let done = called(&api, "sdk__add", &json!({"a": 2, "b": 3})).await;
    assert_eq!(
        (&done["name"], &done["output"]),
        (&json!("sdk/add"), &json!({"sum": 5})),
        "{done}"
    );

    let done = called(&api, "sdk__add", &json!({"a": "two"})).await;
    assert_eq!(done["error"]["code"], "invalid_input", "{done}");
    let done = called(&api, "sdk__fail", &json!({"why": "rain"})).await;
    assert!(
        done["error"]["message"].to_string().contains("rain"),
        "{done}"
    );

    let seen = events(&api, "sdk__count", &json!({"to": 4})).await;
    let progress: Vec<&Value> = seen
        .iter()
        .filter(|event| event.name == "tool_progress")
        .map(|event| &event.data)
        .collect();
    assert!(!progress.is_empty(), "{seen:?}");
    let last = progress.last().unwrap();
    assert_eq!(
        (
            &last["name"],
            &last["progress"],
            &last["total"],
            &last["message"]
        ),
        (
            &json!("sdk/count"),
            &json!(4.0),
            &json!(4.0),
            &json!("at 4")
        )
    );

    let state = servers(&api).await;
    assert_eq!(state[0]["state"], "ready", "{state}");
    let tools = state[0]["tools"].as_array().unwrap();
    let add = tools.iter().find(|tool| tool["name"] == "add").unwrap();
    assert!(
        add["tokens"].as_u64().unwrap() > 10 && add["taken"] == true,
        "{add}"
    );
    assert_no_panic(served);
}

/// Nothing that the daemon has written holds the secret.
fn assert_secret_stays(served: &Served) {
    assert!(!served.0.log().contains(TOKEN));
    let mut dirs = vec![served.0.data_dir()];
    while let Some(dir) = dirs.pop() {
        for entry in std::fs::read_dir(&dir).unwrap().map(Result::unwrap) {
            let path = entry.path();
            if entry.file_type().unwrap().is_dir() {
                dirs.push(path);
            } else if entry.file_type().unwrap().is_file() {
                let bytes = std::fs::read(&path).unwrap();
                let found = bytes
                    .windows(TOKEN.len())
                    .any(|part| part == TOKEN.as_bytes());
                assert!(!found, "{} holds the secret", path.display());
            }
        }
    }
}

#[tokio::test]
async fn a_server_that_is_a_process_is_used_and_ends_with_its_agent() {
    let Some(python) = python() else { return };
    let served = deployed(json!(["sdk/*"]), json!([stdio(&python)]), "").await;
    works(&served).await;
    let api = Api::of(&served.0);
    let who = called(&api, "sdk__who", &json!({})).await["output"].clone();
    assert_eq!(who["token"], "[redacted]", "{who}");
    let variables = who["variables"].as_str().unwrap();
    for own in ["HOME", "PATH", "TMPDIR", "TOKEN"] {
        assert!(variables.split(' ').any(|name| name == own), "{variables}");
    }
    assert!(!variables.contains("RUNE_"), "{variables}");
    let workspace = served.0.data_dir().join("workspaces/dev/agent");
    assert_eq!(who["home"], json!(workspace), "{who}");

    // It dies while it is called, is started again, and the conversation goes on.
    let notes = std::path::Path::new(&workspace).join("notes.txt");
    let starts = || {
        let notes = std::fs::read_to_string(&notes).unwrap();
        notes.lines().filter(|line| *line == "started").count()
    };
    let before = starts();
    let done = called(&api, "sdk__die", &json!({})).await;
    assert_eq!(done["error"]["code"], "unavailable", "{done}");
    assert!(done["error"].to_string().contains("not known"), "{done}");
    called(&api, "sdk__who", &json!({})).await;
    assert!(starts() > before);
    assert!(
        served
            .0
            .log()
            .contains("the last words of the server [redacted]")
    );

    assert!(!marked().is_empty());
    served.rune(&["agent", "rm", "agent"]).ok();
    until("the server ends with its agent", async || {
        marked().is_empty()
    })
    .await;
    assert_secret_stays(&served);
}

#[tokio::test]
async fn a_server_that_is_a_process_does_not_outlive_a_daemon_that_is_killed() {
    let Some(python) = python() else { return };
    let mut served = deployed(json!(["sdk/*"]), json!([stdio(&python)]), "").await;
    called(&Api::of(&served.0), "sdk__who", &json!({})).await;
    assert!(!marked().is_empty());
    served.0.kill9().unwrap();
    until("the server ends with the daemon", async || {
        marked().is_empty()
    })
    .await;
}

#[tokio::test]
async fn a_server_over_http_is_used_in_both_eras_and_recovers_from_a_restart() {
    let Some(python) = python() else { return };
    for (legacy, protocol) in [(false, "2026-07-28"), (true, "2025-11-25")] {
        let mut server = Http::start(&python, legacy).await;
        let served = deployed(json!(["sdk/*"]), json!([http(&server.url())]), "").await;
        works(&served).await;
        let api = Api::of(&served.0);
        let state = servers(&api).await;
        assert_eq!(state[0]["protocol"], protocol, "{state}");
        let who = called(&api, "sdk__who", &json!({})).await["output"].clone();
        assert_eq!(who["authorization"], "[redacted]", "{who}");

        // A restart between two calls: the next one works as if nothing had been.
        server.again().await;
        let done = called(&api, "sdk__add", &json!({"a": 1, "b": 1})).await;
        assert_eq!(done["output"], json!({"sum": 2}), "{protocol}: {done}");

        // While it is down its tools answer clearly, and soon.
        server.kill();
        let done = called(&api, "sdk__add", &json!({"a": 1, "b": 1})).await;
        let error = done["error"]["message"].as_str().unwrap();
        assert!(error.contains("MCP server `sdk`"), "{error}");
        assert_eq!(done["error"]["code"], "unavailable", "{done}");
        server.again().await;
        until("the server is there again", async || {
            let done = called(&api, "sdk__add", &json!({"a": 1, "b": 1})).await;
            done["output"] == json!({"sum": 2})
        })
        .await;
        assert_secret_stays(&served);
    }
}

#[tokio::test]
async fn a_call_is_cancelled_on_the_server_when_its_request_is() {
    let Some(python) = python() else { return };
    let served = deployed(json!(["sdk/*"]), json!([stdio(&python)]), "").await;
    let api = Api::of(&served.0);
    let notes = served.0.data_dir().join("workspaces/dev/agent/notes.txt");
    let noted = |what: &str| {
        let notes = std::fs::read_to_string(&notes).unwrap_or_default();
        notes.lines().any(|line| line == what)
    };
    let id = api.start("agent", "/tool sdk__wait {}").await;
    until("the tool waits", async || noted("waiting")).await;
    let request = api.post(&format!("/v1/requests/{id}/cancel"), &json!({}));
    let (status, row) = answer(request).await.unwrap();
    assert_eq!(
        (status, &row["status"]),
        (200, &json!("cancelled")),
        "{row}"
    );
    until("the server is told", async || noted("cancelled")).await;
    // The server goes on for others.
    let done = called(&api, "sdk__add", &json!({"a": 1, "b": 1})).await;
    assert_eq!(done["output"], json!({"sum": 2}), "{done}");
}

#[tokio::test]
async fn a_tool_that_a_server_adds_is_there_for_the_next_request() {
    let Some(python) = python() else { return };
    let server = Http::start(&python, false).await;
    for config in [stdio(&python), http(&server.url())] {
        let served = deployed(json!(["sdk/*"]), json!([config]), "").await;
        let api = Api::of(&served.0);
        called(&api, "sdk__learn", &json!({})).await;
        until("the new tool is listed", async || {
            let state = servers(&api).await;
            let tools = state[0]["tools"].as_array().unwrap();
            tools.iter().any(|tool| tool["name"] == "multiply")
        })
        .await;
        let done = called(&api, "sdk__multiply", &json!({"a": 6, "b": 7})).await;
        assert_eq!(done["output"], json!({"product": 42}), "{done}");
    }
}

#[tokio::test]
async fn a_server_that_is_not_there_stops_only_an_agent_that_requires_it() {
    let nowhere = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/mcp", nowhere.local_addr().unwrap());
    drop(nowhere);
    let optional = json!([{"name": "sdk", "url": url}]);
    let toolset = json!(["sdk/add", "rune@system-time"]);
    let served = deployed(toolset.clone(), optional, "").await;
    let api = Api::of(&served.0);
    let done = called(&api, "rune__system-time", &json!({})).await;
    assert!(done["output"].is_object(), "{done}");
    let done = called(&api, "sdk__add", &json!({})).await;
    let error = done["error"]["message"].as_str().unwrap();
    assert!(error.contains("MCP server `sdk` is unavailable"), "{error}");
    let ran = served.rune(&["mcp", "test", "agent"]).ends(6);
    assert!(
        ran.stderr.contains("cannot be called: sdk"),
        "{}",
        ran.stderr
    );
    let listed = served.rune(&["mcp", "ls", "-o", "json"]).json();
    assert_eq!(listed[0]["state"], "unavailable", "{listed}");

    let required = json!([{"name": "sdk", "url": url, "required": true}]);
    write(served.0.home(), "strict", &toolset, &required, "");
    let ran = served.rune(&["run", "strict", "hello"]).ends(6);
    let expected = "MCP server `sdk` is required and unavailable";
    assert!(ran.stderr.contains(expected), "{}", ran.stderr);
}

#[tokio::test]
async fn the_model_sees_names_it_may_call_and_what_the_server_says() {
    let Some(python) = python() else { return };
    let script = ModelScript::new()
        .on_text("sum")
        .reply(Reply::calls([ToolCall::new(
            "sdk__add",
            json!({"a": 2, "b": 3}),
        )]))
        .then(Reply::text("five"));
    let model = ModelServer::start(script).await.unwrap();
    let served = daemon().await;
    let models = json!({
        "providers": ["scripted"],
        "endpoints": {"scripted": {
            "protocol": "openai", "base_url": model.base_url(Protocol::Openai), "api_key": "test",
        }},
        "model_mapping": {"default": "scripted"},
    });
    let dir = write(
        served.0.home(),
        "agent",
        &json!(["sdk/add", "sum-up"]),
        &json!([stdio(&python)]),
        "",
    );
    // Described by the package, under its own name.
    std::fs::write(
        dir.join("tools/sum-up.yaml"),
        "name: sum-up\nruntime: mcp\nmcp_server: sdk\nread_only: true\ndescription: Sums up.\n",
    )
    .unwrap();
    let runefile = std::fs::read_to_string(dir.join("Runefile")).unwrap();
    let runefile: Vec<&str> = runefile
        .lines()
        .filter(|l| !l.starts_with("models:"))
        .collect();
    let runefile = format!("{}\nmodels: {models}\n", runefile.join("\n"));
    std::fs::write(dir.join("Runefile"), runefile).unwrap();
    served.rune(&["validate", "agent"]).ok();
    served.rune(&["run", "agent"]).ok();
    let api = Api::of(&served.0);
    let (status, body) = api.ask("agent", &json!({"input": "sum"})).await;
    assert_eq!((status, &body["output"]), (200, &json!("five")), "{body}");
    let asked = &model.requests()[0].body;
    let tools = asked["tools"].as_array().unwrap();
    let named = |name: &str| {
        tools
            .iter()
            .map(|tool| tool.get("function").unwrap_or(tool))
            .find(|tool| tool["name"] == name)
            .unwrap_or_else(|| panic!("{name}: {tools:?}"))
    };
    let add = named("sdk__add");
    assert_eq!(add["description"], "Adds two numbers.");
    assert_eq!(add["parameters"]["required"], json!(["a", "b"]));
    assert_eq!(named("sum-up")["description"], "Sums up.");

    // What it was told is in the cassette, and is enough to play it without the server.
    let id = body["request_id"].as_str().unwrap().to_owned();
    let ran = served.rune(&["test", "agent", "--from-requests", &id]).ok();
    assert!(ran.contains("passed"), "{ran}");
}

#[tokio::test]
async fn strict_policy_asks_unless_the_servers_word_is_trusted() {
    let Some(python) = python() else { return };
    let strict = "policy: {mode: strict}\n";
    for (trusted, asked) in [(false, true), (true, false)] {
        let mut config = stdio(&python);
        config["trust_annotations"] = trusted.into();
        let served = deployed(json!(["sdk/*"]), json!([config]), strict).await;
        let api = Api::of(&served.0);
        let input = r#"/tool sdk__add {"a": 2, "b": 3}"#;
        let id = api.start("agent", input).await;
        if asked {
            until("a person is asked", async || {
                api.request(&id).await["status"] == "input-required"
            })
            .await;
            served.rune(&["requests", "approve", &id]).ok();
        }
        let events = api.events(&id, 0).await.rest().await;
        let done = events.iter().find(|event| event.name == "tool_done");
        assert_eq!(
            done.unwrap().data["output"],
            json!({"sum": 5}),
            "{events:?}"
        );
        let questions = events
            .iter()
            .filter(|event| event.name == "approval_required");
        assert_eq!(questions.count(), usize::from(asked));
    }
}

#[test]
fn a_server_is_tried_from_the_command_line() {
    let home = Home::new();
    let example = root().join("examples/mcp");
    let example = example.to_str().unwrap();
    let printed = home.rune(&["mcp", "test", example]).ok();
    for part in [
        "shopping  ready  stdio python3",
        "shopping 1.0.0 speaks MCP 2025-11-25",
        "shopping/add",
        "2 tools, about",
    ] {
        assert!(printed.contains(part), "{part}: {printed}");
    }
    let machine = home
        .rune(&["mcp", "test", example, "shopping", "-o", "json"])
        .json();
    assert_eq!(machine[0]["tools"][1]["name"], "show", "{machine}");
    let ran = home.rune(&["mcp", "test", example, "other"]).ends(2);
    assert!(ran.stderr.contains("it has shopping"), "{}", ran.stderr);
    let listed = home.rune(&["mcp", "ls", example]).ok();
    assert!(
        listed.contains("shopping") && listed.contains("ready"),
        "{listed}"
    );

    // What is wrong is said, with what the server said.
    let servers = json!([
        {"name": "dies", "command": "sh", "args": ["-c", "echo cannot start: no licence >&2; exit 4"]},
        {"name": "missing", "command": "no-such-program"},
    ]);
    write(home.path(), "broken", &json!(["dies/*"]), &servers, "");
    let ran = home.rune(&["mcp", "test", "broken"]).ends(6);
    for part in [
        "cannot start: no licence",
        "`no-such-program` is not installed",
    ] {
        assert!(ran.stdout.contains(part), "{part}: {}", ran.stdout);
    }
    let ran = home.rune(&["mcp", "ls", "nobody"]).ends(6);
    assert!(ran.stderr.contains("cannot reach"), "{}", ran.stderr);
}

#[tokio::test]
async fn the_operator_says_where_a_server_is() {
    let Some(python) = python() else { return };
    let server = Http::start(&python, false).await;
    let builder = TestDaemon::builder(RUNE).env("RUNE_MCP_MY_SDK_URL", server.url());
    let served = Served(builder.start().await.unwrap());
    // Nothing in the Runefile describes it.
    write(
        served.0.home(),
        "agent",
        &json!(["my-sdk/add"]),
        &json!([]),
        "",
    );
    served.rune(&["run", "agent"]).ok();
    let api = Api::of(&served.0);
    let done = called(&api, "my-sdk__add", &json!({"a": 2, "b": 2})).await;
    assert_eq!(done["output"], json!({"sum": 4}), "{done}");
    // The agent needs a server of which nobody says anything.
    write(
        served.0.home(),
        "lost",
        &json!(["nobody/add"]),
        &json!([]),
        "",
    );
    let ran = served.rune(&["run", "lost", "hi"]).ends(2);
    assert!(
        ran.stderr.contains("MCP server `nobody` is neither in"),
        "{}",
        ran.stderr
    );
}
