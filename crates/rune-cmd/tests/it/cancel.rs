//! Cancel: ended within a second, and nothing is left.

use std::path::Path;
use std::time::{Duration, Instant};

use rune_testkit::{Fault, ModelScript, ModelServer, Reply, TestDaemon, ToolCall};
use serde_json::json;

use crate::home::{RUNE, Served};
use crate::wire::{Api, LIMIT, POLL, PROTOCOLS, Tool, answer, deploy};

/// The promise of `POST /v1/requests/{id}/cancel`.
const BOUND: Duration = Duration::from_secs(1);

/// Ignores a polite signal and has a child in the background, which does so, too.
const STUBBORN: &str = "trap '' TERM\nsleep 600 &\necho up >> started\nsleep 600\necho '{}'\n";

/// Cancels and answers how long that took.
async fn cancel(api: &Api, id: &str) -> Duration {
    let started = Instant::now();
    let request = api.post(&format!("/v1/requests/{id}/cancel"), &json!({}));
    let (status, row) = answer(request).await.unwrap();
    assert_eq!(
        (status, row["status"].as_str()),
        (200, Some("cancelled")),
        "{row}"
    );
    started.elapsed()
}

/// The processes whose environment names the request.
pub(crate) fn processes_of(request: &str) -> Vec<String> {
    processes_with(&format!("RUNE_REQUEST_ID={request}"))
}

/// The processes whose environment has this.
pub(crate) fn processes_with(marker: &str) -> Vec<String> {
    let dirs = std::fs::read_dir("/proc").unwrap().filter_map(Result::ok);
    let marked = dirs.filter(|dir| {
        let environ = std::fs::read(dir.path().join("environ")).unwrap_or_default();
        String::from_utf8_lossy(&environ).contains(marker) && !is_zombie(&dir.path())
    });
    marked
        .map(|dir| dir.file_name().to_string_lossy().into_owned())
        .collect()
}

fn is_zombie(dir: &Path) -> bool {
    let stat = std::fs::read_to_string(dir.join("stat")).unwrap_or_default();
    stat.rsplit_once(") ")
        .is_none_or(|(_, rest)| rest.starts_with('Z'))
}

#[tokio::test]
async fn cancel_ends_a_stalled_model_on_every_protocol() {
    for (protocol, name) in PROTOCOLS {
        let script = ModelScript::new()
            .on_text("stall")
            .fault_first(Fault::stall_after(2))
            .reply(Reply::text(["one ", "two ", "three"]));
        let server = ModelServer::start(script).await.unwrap();
        let served = Served(TestDaemon::builder(RUNE).start().await.unwrap());
        deploy(&served, name, &[(&server, protocol)], &[], "");
        let api = Api::of(&served.0);
        let body = json!({"input": "stall", "background": true, "session_id": "s"});
        let (_, accepted) = api.ask(name, &body).await;
        let id = accepted["request_id"].as_str().unwrap();
        server.wait_for_open_streams(1).await.unwrap();
        let took = cancel(&api, id).await;
        assert!(took < BOUND, "{name}: {took:?}");
        let closed = Instant::now();
        server.wait_for_open_streams(0).await.unwrap();
        assert!(closed.elapsed() < BOUND, "{name}: {:?}", closed.elapsed());
        assert!(server.requests()[0].client_closed_ms.is_some(), "{name}");
        let events = api.events(id, 0).await.rest().await;
        assert_eq!(
            events.last().unwrap().data["code"],
            "cancelled",
            "{events:?}"
        );
        let (status, body) = api
            .ask(name, &json!({"input": "next", "session_id": "s"}))
            .await;
        assert_eq!(status, 200, "{name}: {body}");
    }
}

#[tokio::test]
async fn cancel_ends_a_tool_and_all_its_children() {
    let script = ModelScript::new()
        .on_text("sleep")
        .reply(Reply::calls([ToolCall::new("stubborn", json!({}))]))
        .then(Reply::text("awake"));
    let server = ModelServer::start(script).await.unwrap();
    let served = Served(TestDaemon::builder(RUNE).start().await.unwrap());
    let tool = Tool {
        name: "stubborn",
        script: STUBBORN,
        yaml: "timeout_ms: 600000\n",
    };
    deploy(
        &served,
        "sleeper",
        &[(&server, PROTOCOLS[0].0)],
        &[tool],
        "",
    );
    let api = Api::of(&served.0);
    let body = json!({"input": "sleep", "background": true, "session_id": "s"});
    let (_, accepted) = api.ask("sleeper", &body).await;
    let id = accepted["request_id"].as_str().unwrap();
    let up = async {
        while processes_of(id).len() < 3 {
            tokio::time::sleep(POLL).await;
        }
    };
    tokio::time::timeout(LIMIT, up).await.unwrap();
    let asked = Instant::now();
    let took = cancel(&api, id).await;
    assert!(took < BOUND, "{took:?}");
    // A child that was killed may still be listed while the kernel ends it.
    while !processes_of(id).is_empty() {
        assert!(asked.elapsed() < BOUND, "left: {:?}", processes_of(id));
        tokio::time::sleep(POLL).await;
    }
    assert_eq!(api.request(id).await["status"], "cancelled");
    let (status, body) = api
        .ask("sleeper", &json!({"input": "next", "session_id": "s"}))
        .await;
    assert_eq!(status, 200, "{body}");
}

#[tokio::test]
async fn a_daemon_that_ends_leaves_no_tool_behind() {
    let script = ModelScript::new()
        .on_text("sleep")
        .reply(Reply::calls([ToolCall::new("stubborn", json!({}))]));
    let server = ModelServer::start(script).await.unwrap();
    let builder = TestDaemon::builder(RUNE).env("RUNE_DRAIN_GRACE_SECS", "1");
    let mut served = Served(builder.start().await.unwrap());
    let tool = Tool {
        name: "stubborn",
        script: STUBBORN,
        yaml: "timeout_ms: 600000\n",
    };
    deploy(
        &served,
        "sleeper",
        &[(&server, PROTOCOLS[0].0)],
        &[tool],
        "",
    );
    let id = Api::of(&served.0).start("sleeper", "sleep").await;
    let up = async {
        while processes_of(&id).len() < 3 {
            tokio::time::sleep(POLL).await;
        }
    };
    tokio::time::timeout(LIMIT, up).await.unwrap();
    served.0.terminate().await.unwrap();
    let log = served.0.log();
    assert!(log.contains("go on with the next start"), "{log}");
    assert!(!log.contains("tasks did not end in time"), "{log}");
    let left = processes_of(&id);
    for pid in &left {
        // So that a failing test leaves none, either.
        let pid = rustix::process::Pid::from_raw(pid.parse().unwrap()).unwrap();
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
    }
    assert_eq!(left, Vec::<String>::new());
}
