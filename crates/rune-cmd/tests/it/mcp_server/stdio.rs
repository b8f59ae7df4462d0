//! The command `rune mcp serve`, and clients of the official SDK.

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, ChildStdin, Command};
use std::sync::mpsc;

use super::*;

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
