//! Tools in containers of an agent whose replicas are outside the daemon: the daemon runs them.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use rune_testkit::{TestDaemon, TestDaemonBuilder, TestDocker};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::net::{UnixListener, UnixStream};

use super::rig::{Rig, is_here};
use crate::containers::{SHELL, Service, docker, gone, running};
use crate::home::{RUNE, Ran};
use crate::wire::{answer, assert_no_panic, lines_of, spawn};

const CANARY: &str = "canary-51c0ffee";
/// Where the engine of this machine is.
const ENGINE: &str = "/var/run/docker.sock";
const STUBBORN: &str =
    "trap '' TERM; echo up >> begun; sleep 600 & wait; while :; do sleep 600; done\n";

/// Tools: name, more of the description, script.
const TOOLS: [(&str, &str, &str); 6] = [
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
        "deep",
        "idempotent: true\n",
        "n=0; while [ $n -lt 120 ]; do printf '['; n=$((n+1)); done; while [ $n -gt 0 ]; do printf ']'; n=$((n-1)); done\n",
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
    (
        "waits",
        "capabilities: [filesystem]\n",
        "while [ ! -e go ]; do sleep 0.1; done\necho '\"waited\"'\n",
    ),
];
/// A second call behind the one that waits.
const SCRIPT: &str = "rules:\n  - match: {after_tool: waits}\n    tool_calls: [{name: report}]\n";

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
            async fn a_replica_of_a_deleted_deployment_has_its_containers() {
                if let Some(docker) = super::engine(BACKEND) {
                    super::deleted(BACKEND, docker).await;
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

/// The engine behind a socket that can stop to answer.
struct Gate {
    dir: TempDir,
    hangs: Arc<AtomicBool>,
    /// Connections that were not answered, and those of them that who asked has given up.
    unanswered: Arc<AtomicUsize>,
    given_up: Arc<AtomicUsize>,
}

impl Gate {
    fn start() -> Self {
        let gate = Self {
            dir: TempDir::new().unwrap(),
            hangs: Arc::default(),
            unanswered: Arc::default(),
            given_up: Arc::default(),
        };
        let listener = UnixListener::bind(gate.socket()).unwrap();
        let (hangs, unanswered) = (Arc::clone(&gate.hangs), Arc::clone(&gate.unanswered));
        let given_up = Arc::clone(&gate.given_up);
        spawn(async move {
            while let Ok((mut asks, _)) = listener.accept().await {
                let is_hung = hangs.load(Ordering::Relaxed);
                unanswered.fetch_add(usize::from(is_hung), Ordering::Relaxed);
                let given_up = Arc::clone(&given_up);
                spawn(async move {
                    if is_hung {
                        let _ = tokio::io::copy(&mut asks, &mut tokio::io::sink()).await;
                        given_up.fetch_add(1, Ordering::Relaxed);
                    } else if let Ok(mut engine) = UnixStream::connect(ENGINE).await {
                        let _ = tokio::io::copy_bidirectional(&mut asks, &mut engine).await;
                    }
                });
            }
        });
        gate
    }

    fn socket(&self) -> PathBuf {
        self.dir.path().join("docker.sock")
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_is_taken_over_while_the_engine_does_not_answer() {
    if engine("process").is_none() || !Path::new(ENGINE).exists() {
        return;
    }
    let gate = Gate::start();
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = free.local_addr().unwrap().to_string();
    drop(free);
    let builder = TestDaemon::builder(RUNE)
        .arg("--control-plane-addr")
        .arg(addr)
        .env("DOCKER_HOST", format!("unix://{}", gate.socket().display()));
    let mut rig = deployed("process", builder).await;
    let replica = rig.replicas().await[0]["id"].clone();
    rig.served.0.kill9().unwrap();
    gate.hangs.store(true, Ordering::Relaxed);
    rig.restart().await;
    rig.ready().await;
    let (status, said) = rig.api.ask("worker", &json!({"input": "hello"})).await;
    assert_eq!(status, 200, "{said}");
    assert_eq!(rig.replicas().await[0]["id"], replica);
    // It was asked, and the answer was not waited for.
    rig.until("the engine was asked", async || {
        gate.unanswered.load(Ordering::Relaxed) > 0
    })
    .await;
    assert_eq!(gate.given_up.load(Ordering::Relaxed), 0);
    assert_no_panic(&rig.served);
}

/// The engine, where this machine has one and what the backend needs.
fn engine(backend: &str) -> Option<TestDocker> {
    docker().filter(|_| is_here(backend))
}

async fn deployed(backend: &'static str, builder: TestDaemonBuilder) -> Rig {
    let rig = Rig::daemon(backend, builder.env("RUST_LOG", "debug")).await;
    let dir = rig.served.0.home().join("worker");
    std::fs::create_dir_all(dir.join("tools")).unwrap();
    let runefile = "name: worker\nversion: 0.1.0\ninstructions: Call.\ndefault_model: default\n\
                    toolset: [report, leaks, deep, late, stubborn, waits, rune@file-read, rune@docker-exec]\ntimeout_ms: 600000\n\
                    models: {providers: [offline], model_mapping: {default: offline}}\n";
    std::fs::write(dir.join("Runefile"), runefile).unwrap();
    std::fs::write(dir.join("script.yaml"), SCRIPT).unwrap();
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
    let deep = done(&rig, "deep", json!({})).await["error"].to_string();
    assert!(deep.contains("nests deeper than 100 levels"), "{deep}");
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

async fn deleted(backend: &'static str, docker: TestDocker) {
    let rig = deployed(backend, TestDaemon::builder(RUNE)).await;
    let id = rig.api.start("worker", "/tool waits {}").await;
    running(docker, &id).await;
    rig.served.rune(&["agent", "rm", "worker", "--force"]).ok();
    rig.go();
    let row = rig.api.ended(&id).await;
    assert_eq!(row["status"], "completed", "{row}\n{}", rig.served.0.log());
    let events = rig.api.events(&id, 0).await.rest().await;
    let done = events.iter().filter(|event| event.name == "tool_done");
    let done: Vec<&Value> = done.map(|event| &event.data).collect();
    assert_eq!(done.len(), 2, "{done:?}");
    assert_eq!(done[0]["output"], "waited", "{done:?}");
    // This one began when the deployment was gone.
    assert_eq!(done[1]["output"]["request"], *id, "{done:?}");
    gone(docker, &id).await;
    assert_no_panic(&rig.served);
}

async fn daemon_killed(backend: &'static str, docker: TestDocker) {
    let mut rig = deployed(backend, TestDaemon::builder(RUNE)).await;
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
