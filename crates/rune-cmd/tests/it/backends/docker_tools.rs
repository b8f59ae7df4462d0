//! Tools in containers of an agent whose replicas are outside the daemon: the daemon runs them.

use std::time::{Duration, Instant};

use rune_testkit::{TestDaemon, TestDaemonBuilder, TestDocker};
use serde_json::{Value, json};

use super::rig::{Rig, is_here};
use crate::containers::{SHELL, Service, docker, gone, running};
use crate::home::{RUNE, Ran};
use crate::wire::{answer, assert_no_panic, lines_of};

const CANARY: &str = "canary-51c0ffee";
const STUBBORN: &str =
    "trap '' TERM; echo up >> begun; sleep 600 & wait; while :; do sleep 600; done\n";

/// Tools: name, more of the description, script.
const TOOLS: [(&str, &str, &str); 4] = [
    (
        "report",
        "capabilities: [filesystem, \"secret:TOKEN\"]\n",
        "echo made > made\nprintf '{\"input\": %s, \"request\": \"%s\", \"length\": %s, \"token\": \"%s\"}' \
         \"$(cat)\" \"$RUNE_REQUEST_ID\" \"${#TOKEN}\" \"$TOKEN\"\n",
    ),
    (
        "leaks",
        "capabilities: [\"secret:TOKEN\"]\n",
        "echo \"the token is $TOKEN\" >&2; exit 1\n",
    ),
    (
        "late",
        "timeout_ms: 3000\n",
        "trap '' TERM INT HUP; echo so far >&2; while :; do sleep 1; done\n",
    ),
    (
        "stubborn",
        "capabilities: [filesystem]\ntimeout_ms: 600000\n",
        STUBBORN,
    ),
];

/// Makes the tests for a backend.
macro_rules! docker_tools_suite {
    ($($backend:ident),+ $(,)?) => {$(
        mod $backend {
            const BACKEND: &str = stringify!($backend);

            #[tokio::test(flavor = "multi_thread")]
            async fn a_container_answers_in_its_time_and_says_no_secret() {
                if let Some(docker) = super::engine(BACKEND) {
                    super::answers(BACKEND, docker).await;
                }
            }

            #[tokio::test(flavor = "multi_thread")]
            async fn cancel_and_a_killed_replica_leave_no_container() {
                if let Some(docker) = super::engine(BACKEND) {
                    super::ends(BACKEND, docker).await;
                }
            }

            #[tokio::test(flavor = "multi_thread")]
            async fn what_a_killed_daemon_ran_is_not_run_again() {
                if let Some(docker) = super::engine(BACKEND) {
                    super::daemon_killed(BACKEND, docker).await;
                }
            }
        }
    )+};
}

docker_tools_suite!(process, docker);

/// The engine, where this machine has one and what the backend needs.
fn engine(backend: &str) -> Option<TestDocker> {
    docker().filter(|_| is_here(backend))
}

async fn deployed(backend: &'static str, builder: TestDaemonBuilder) -> Rig {
    let rig = Rig::daemon(backend, builder.env("RUST_LOG", "debug")).await;
    let dir = rig.served.0.home().join("worker");
    std::fs::create_dir_all(dir.join("tools")).unwrap();
    let runefile = "name: worker\nversion: 0.1.0\ninstructions: Call.\ndefault_model: default\n\
                    toolset: [report, leaks, late, stubborn, rune@file-read, rune@docker-exec]\ntimeout_ms: 600000\n\
                    models: {providers: [offline], model_mapping: {default: offline}}\n";
    std::fs::write(dir.join("Runefile"), runefile).unwrap();
    for (name, more, script) in TOOLS {
        let timeout = if more.contains("timeout_ms") {
            ""
        } else {
            "timeout_ms: 60000\n"
        };
        let yaml = format!(
            "name: {name}\nruntime: container\nimage: {SHELL}\nmodule: tools/{name}.sh\n{timeout}{more}"
        );
        std::fs::write(dir.join(format!("tools/{name}.yaml")), yaml).unwrap();
        std::fs::write(dir.join(format!("tools/{name}.sh")), script).unwrap();
    }
    let set = rig.served.command(&["secret", "set", "TOKEN"]);
    Ran::with_input(set, CANARY).ok();
    rig.served.rune(&["run", "worker"]).ok();
    rig.ready().await;
    rig.mark("worker");
    rig
}

/// The entry of a tool's result.
async fn done(rig: &Rig, tool: &str, input: Value) -> Value {
    let events = rig.tool(tool, input).await;
    let done = events.iter().find(|event| event.name == "tool_done");
    assert!(done.is_some(), "{tool}: {events:?}\n{}", rig.served.0.log());
    done.unwrap().data.clone()
}

async fn answers(backend: &'static str, docker: TestDocker) {
    let service = Service::start(docker);
    let builder = TestDaemon::builder(RUNE).env("RUNE_DOCKER_EXEC_CONTAINERS", service.name());
    let rig = deployed(backend, builder).await;
    let output = rig.output("report", json!({"a": [1, "two"]})).await;
    assert_eq!(output["input"], json!({"a": [1, "two"]}), "{output}");
    assert_eq!(output["length"], CANARY.len(), "{output}");
    assert_eq!(output["token"], "[redacted]", "{output}");
    gone(docker, output["request"].as_str().unwrap()).await;
    // Both see the same files.
    let read = rig.output("rune@file-read", json!({"path": "made"})).await;
    assert!(read.to_string().contains("made"), "{read}");

    let leaked = done(&rig, "leaks", json!({})).await["error"].to_string();
    assert!(leaked.contains("the token is [redacted]"), "{leaked}");
    let started = Instant::now();
    let late = done(&rig, "late", json!({})).await["error"].to_string();
    assert!(late.contains("did not end within 3000 ms"), "{late}");
    assert!(started.elapsed() < Duration::from_secs(10));

    let input =
        json!({"container": service.name(), "command": "echo \"$RUNE_REQUEST_ID\"; exit 7"});
    let ran = rig.output("rune@docker-exec", input).await;
    assert_eq!(ran["exit_code"], 7, "{ran}");
    gone(docker, ran["stdout"].as_str().unwrap().trim()).await;
    assert!(!rig.served.0.log().contains(CANARY));
    let logged = rig.served.rune(&["agent", "logs", "worker"]).ok();
    assert!(!logged.contains(CANARY), "{logged}");
    assert_no_panic(&rig.served);
}

async fn ends(backend: &'static str, docker: TestDocker) {
    let rig = deployed(backend, TestDaemon::builder(RUNE)).await;
    let replica = rig.running();
    assert_eq!(replica.len(), 1, "{replica:?}");
    let id = rig.api.start("worker", "/tool stubborn {}").await;
    running(docker, &id).await;
    let started = Instant::now();
    let request = rig
        .api
        .post(&format!("/v1/requests/{id}/cancel"), &json!({}));
    let (status, row) = answer(request).await.unwrap();
    assert_eq!(
        (status, &row["status"]),
        (200, &json!("cancelled")),
        "{row}"
    );
    let took = started.elapsed();
    assert!(took < Duration::from_millis(1500), "{took:?}");
    gone(docker, &id).await;

    let id = rig.api.start("worker", "/tool stubborn {}").await;
    running(docker, &id).await;
    rig.kill(&replica[0]);
    gone(docker, &id).await;
    unknown(&rig, &id, 2).await;
    assert_no_panic(&rig.served);
}

async fn daemon_killed(backend: &'static str, docker: TestDocker) {
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = free.local_addr().unwrap().to_string();
    drop(free);
    let builder = TestDaemon::builder(RUNE)
        .arg("--control-plane-addr")
        .arg(addr);
    let mut rig = deployed(backend, builder).await;
    let replica = rig.replicas().await[0]["id"].clone();
    let id = rig.api.start("worker", "/tool stubborn {}").await;
    running(docker, &id).await;
    rig.served.0.kill9().unwrap();
    rig.restart().await;
    gone(docker, &id).await;
    unknown(&rig, &id, 1).await;
    // The replica is the same, and went on by itself.
    assert_eq!(rig.replicas().await[0]["id"], replica);
    let row = rig.api.request(&id).await;
    assert_eq!(row["attempts"], 1, "{row}");
    assert_no_panic(&rig.served);
}

/// Waits for the end of a request whose tool was cut off. So often the tool has begun by then, in all requests.
async fn unknown(rig: &Rig, id: &str, begun: usize) {
    let ended = rig.api.ended(id).await;
    assert_eq!(
        ended["status"],
        "completed",
        "{ended}\n{}",
        rig.served.0.log()
    );
    let events = rig.api.events(id, 0).await.rest().await;
    let done = events.iter().find(|event| event.name == "tool_done");
    let said = done.unwrap().data.to_string();
    assert!(said.contains("unknown"), "{said}");
    let all = lines_of(&rig.served, "worker", "begun");
    assert_eq!(all.len(), begun, "it has begun once");
}
