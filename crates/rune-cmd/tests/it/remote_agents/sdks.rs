//! Agents of the official Python SDKs of both versions.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};

use serde_json::json;

use super::{ask, deploy, deploy_asker, named, open_daemon, outcome, ran, tool};
use crate::python::{A2A_0_3, A2A_1, Libraries, interpreter};
use crate::readme::root;
use crate::wire::Api;

/// A program that serves an agent, and where.
struct Serving {
    child: Child,
    url: String,
}

impl Drop for Serving {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The program below `tests/a2a`; none without its libraries.
fn serve(libraries: &Libraries, script: &str) -> Option<Serving> {
    let python = interpreter(libraries)?;
    let mut child = Command::new(python)
        .arg(root().join("crates/rune-cmd/tests/a2a").join(script))
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut url = String::new();
    let mut out = BufReader::new(child.stdout.take().unwrap());
    out.read_line(&mut url).unwrap();
    let url = url.trim().to_owned();
    Some(Serving { child, url })
}

async fn talk(libraries: &Libraries, script: &str, version: &str) {
    let Some(agent) = serve(libraries, script) else {
        return;
    };
    let caller = open_daemon(&[]).await;
    deploy_asker(&caller, &agent.url, "timeout_ms: 60000\n");
    deploy(
        &caller,
        "sender",
        &["rune@a2a-discover", "rune@a2a-send"],
        "",
        "",
    );
    let api = Api::of(&caller.0);
    let events = ran(&api, "asker", &ask("Ada")).await;
    assert_eq!(outcome(&events), Ok(json!("Hello, Ada!")), "{version}");
    assert_eq!(named(&events, "remote_task").len(), 1);
    let (_, message) = outcome(&ran(&api, "asker", &ask("ask")).await).unwrap_err();
    assert!(
        message.contains("waits for input: Who are you?"),
        "{message}"
    );

    let found = tool("rune@a2a-discover", &json!({"url": agent.url}));
    let found = outcome(&ran(&api, "sender", &found).await).unwrap();
    assert_eq!(
        (&found["name"], &found["protocol_version"]),
        (&json!("greeter"), &json!(version))
    );
    let send = |input| {
        let (api, input) = (api.clone(), tool("rune@a2a-send", &input));
        async move { outcome(&ran(&api, "sender", &input).await).unwrap() }
    };
    let asked = send(json!({"url": agent.url, "message": "ask"})).await;
    assert_eq!(
        (&asked["state"], &asked["text"]),
        (&json!("input-required"), &json!("Who are you?"))
    );
    let answer = json!({
        "url": agent.url, "message": "Bob", "task_id": asked["task_id"], "context_id": asked["context_id"],
    });
    let done = send(answer).await;
    assert_eq!(
        (&done["state"], &done["text"]),
        (&json!("completed"), &json!("Hello, Bob!"))
    );
    assert_eq!(done["task_id"], asked["task_id"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_of_1_0_is_called() {
    talk(&A2A_1, "server_1.py", "1.0").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_of_0_3_is_called() {
    talk(&A2A_0_3, "server_0_3.py", "0.3").await;
}
