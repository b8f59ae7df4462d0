//! The same agent, unchanged, in every backend: one suite of cases, and what only replicas outside the daemon have to
//! stand.

mod containers;
mod outside;

use std::net::TcpListener;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use rune_testkit::{TestDaemon, TestDaemonBuilder};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use crate::home::{RUNE, Served};
use crate::wire::{Api, Event, Events, LIMIT, POLL, answer, lines_of};

/// The promise of a cancel.
const CANCEL_BOUND: Duration = Duration::from_secs(1);

const RUNEFILE: &str = "name: worker\nversion: 0.1.0\ninstructions: Answer.\ndefault_model: default\n\
                        toolset: [mark, slow, reveal, ask, rune@memory-store, rune@memory-recall, rune@agent-send, rune@agent-list, \
                        rune@schedule-create, rune@event-publish]\n\
                        policy: {ask: [ask]}\n\
                        models:\n  providers: [offline]\n  model_mapping: {default: offline}\n";

/// Tools: name, more of the description, script.
const TOOLS: [(&str, &str, &str); 4] = [
    (
        "mark",
        "capabilities: [filesystem]\n",
        "echo \"$RUNE_REQUEST_ID\" >> marks\necho '\"marked\"'\n",
    ),
    (
        "slow",
        "capabilities: [filesystem]\ntimeout_ms: 60000\nidempotent: true\n",
        "echo up >> started\nn=0\nwhile [ ! -e go ] && [ $n -lt 500 ]; do sleep 0.1; n=$((n+1)); done\necho '\"slept\"'\n",
    ),
    (
        "reveal",
        "capabilities: [\"secret:TOKEN\"]\n",
        "printf '{\"length\": %s}' \"${#TOKEN}\"\n",
    ),
    (
        "ask",
        "capabilities: [filesystem]\n",
        "echo \"$RUNE_REQUEST_ID\" >> asked\necho '\"done\"'\n",
    ),
];

/// A daemon with one agent on one backend.
struct Rig {
    served: Served,
    api: Api,
}

fn builder(backend: &str) -> TestDaemonBuilder {
    let builder = TestDaemon::builder(RUNE).arg("--backend").arg(backend);
    match backend {
        "docker" => builder.env("RUNE_REPLICA_IMAGE", containers::image().unwrap()),
        _ => builder,
    }
}

/// Whether this machine has what a backend needs; says what is missing.
fn is_here(backend: &str) -> bool {
    backend != "docker" || containers::image().is_some()
}

/// A daemon whose control plane is where it was after a restart.
async fn settled(backend: &str) -> Rig {
    let free = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = free.local_addr().unwrap().to_string();
    drop(free);
    let builder = builder(backend)
        .arg("--control-plane-addr")
        .arg(addr)
        .env("RUST_LOG", "info,rune_runtime=debug");
    Rig::of(builder, "").await
}

impl Rig {
    async fn start(backend: &str, more: &str) -> Self {
        Self::of(builder(backend), more).await
    }

    async fn of(builder: TestDaemonBuilder, more: &str) -> Self {
        let served = Served(builder.start().await.unwrap());
        let dir = served.0.home().join("worker");
        std::fs::create_dir_all(dir.join("tools")).unwrap();
        std::fs::write(dir.join("Runefile"), format!("{RUNEFILE}{more}")).unwrap();
        for (name, yaml, script) in TOOLS {
            let head = format!("name: {name}\ndescription: A tool.\nmodule: tools/{name}.sh\n");
            std::fs::write(dir.join(format!("tools/{name}.yaml")), head + yaml).unwrap();
            std::fs::write(dir.join(format!("tools/{name}.sh")), script).unwrap();
        }
        let command = served.command(&["secret", "set", "TOKEN"]);
        crate::home::Ran::with_input(command, "a-long-secret").ok();
        served.rune(&["run", "worker"]).ok();
        let api = Api::of(&served.0);
        let rig = Self { served, api };
        rig.ready().await;
        rig
    }

    /// Waits until the deployment has as many replicas as it wants.
    async fn ready(&self) {
        let waiting = async {
            loop {
                let (status, agent) = answer(self.api.get("/v1/agents/worker")).await.unwrap();
                if status == 200 && agent["state"] == "ready" {
                    return;
                }
                tokio::time::sleep(POLL).await;
            }
        };
        let ready = tokio::time::timeout(LIMIT, waiting).await;
        assert!(ready.is_ok(), "{}", self.served.0.log());
    }

    async fn tool(&self, tool: &str, input: Value) -> Vec<Event> {
        let body = json!({"input": format!("/tool {tool} {input}"), "stream": true});
        let response = self.api.invoke("worker", &body).send().await.unwrap();
        Events::of(response).rest().await
    }

    /// What a tool answers that must work.
    async fn output(&self, tool: &str, input: Value) -> Value {
        let events = self.tool(tool, input).await;
        let done = events.iter().find(|event| event.name == "tool_done");
        assert!(
            done.is_some_and(|done| done.data["error"].is_null()),
            "{events:?}\n{}",
            self.served.0.log()
        );
        done.unwrap().data["output"].clone()
    }

    async fn slow(&self) -> String {
        self.api.start("worker", "/tool slow {}").await
    }

    /// Waits until the slow tool has begun so often.
    async fn begun(&self, times: usize) {
        let begun = async {
            while lines_of(&self.served, "worker", "started").len() < times {
                tokio::time::sleep(POLL).await;
            }
        };
        let begun = tokio::time::timeout(LIMIT, begun).await;
        assert!(begun.is_ok(), "{}", self.served.0.log());
    }

    /// Lets the slow tool end.
    fn go(&self) {
        let dir = self.served.0.data_dir().join("workspaces/dev/worker");
        std::fs::write(dir.join("go"), "").unwrap();
    }

    /// What the daemon knows of the processes of its replicas.
    fn records(&self) -> Vec<PathBuf> {
        let entries = std::fs::read_dir(self.served.0.data_dir().join("replicas"));
        let paths = entries
            .into_iter()
            .flatten()
            .map(|entry| entry.unwrap().path());
        paths
            .filter(|path| path.extension().is_some_and(|it| it == "json"))
            .collect()
    }

    /// The processes of its replicas.
    fn pids(&self) -> Vec<Pid> {
        let records = self.records().into_iter();
        let pids = records.filter_map(|record| {
            let record: Value = serde_json::from_slice(&std::fs::read(record).ok()?).ok()?;
            Pid::from_raw(i32::try_from(record["pid"].as_i64()?).ok()?)
        });
        pids.collect()
    }

    async fn replicas(&self) -> Vec<Value> {
        let url = format!("{}/v1/replicas", self.served.0.control_plane());
        let page: Value = reqwest::get(url).await.unwrap().json().await.unwrap();
        page["items"].as_array().unwrap().clone()
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        // Whether it still runs or not.
        let _ = self.served.0.kill9();
        for pid in self.pids() {
            // It may have ended by now.
            let _ = kill_process(pid, Signal::KILL);
        }
        containers::remove(&self.served.0.data_dir());
    }
}

/// Makes the tests of the suite for a backend.
macro_rules! backend_suite {
    ($($backend:ident),+ $(,)?) => {$(
        mod $backend {
            const BACKEND: &str = stringify!($backend);

            #[tokio::test(flavor = "multi_thread")]
            async fn answers_streams_and_remembers_the_conversation() {
                if super::is_here(BACKEND) {
                    super::answers(BACKEND).await;
                }
            }

            #[tokio::test(flavor = "multi_thread")]
            async fn runs_tools_with_their_grants() {
                if super::is_here(BACKEND) {
                    super::tools(BACKEND).await;
                }
            }

            #[tokio::test(flavor = "multi_thread")]
            async fn has_the_daemon_do_what_is_the_daemons() {
                if super::is_here(BACKEND) {
                    super::engine_access(BACKEND).await;
                }
            }

            #[tokio::test(flavor = "multi_thread")]
            async fn keeps_to_its_concurrency_limit() {
                if super::is_here(BACKEND) {
                    super::limit(BACKEND).await;
                }
            }

            #[tokio::test(flavor = "multi_thread")]
            async fn a_cancel_ends_a_request_within_a_second() {
                if super::is_here(BACKEND) {
                    super::cancel(BACKEND).await;
                }
            }

            #[tokio::test(flavor = "multi_thread")]
            async fn a_request_waits_for_a_person_and_goes_on_once() {
                if super::is_here(BACKEND) {
                    super::approval(BACKEND).await;
                }
            }

            #[tokio::test(flavor = "multi_thread")]
            async fn a_stopped_deployment_ends_its_requests_and_its_replicas() {
                if super::is_here(BACKEND) {
                    super::stop(BACKEND).await;
                }
            }
        }
    )+};
}

backend_suite!(wasm, process, docker);

async fn answers(backend: &str) {
    let rig = Rig::start(backend, "").await;
    let body = json!({"input": "hello", "session_id": "s", "stream": true});
    let response = rig.api.invoke("worker", &body).send().await.unwrap();
    let events = Events::of(response).rest().await;
    let text: String = events
        .iter()
        .filter(|event| event.name == "token")
        .map(|event| event.data["text"].as_str().unwrap())
        .collect();
    let last = events.last().unwrap();
    assert_eq!(last.name, "done", "{events:?}");
    assert_eq!(last.data["output"], json!(text), "{events:?}");
    assert!(text.contains("Echo: hello"), "{text}");
    let ids: Vec<u64> = events.iter().filter_map(|event| event.id).collect();
    let is_ordered = ids.windows(2).all(|pair| pair[0] < pair[1]);
    assert!(is_ordered, "each entry once and in order: {events:?}");
    // Who comes later sees the same.
    let id = events[0].data["request_id"].as_str().unwrap();
    let again = rig.api.events(id, 0).await.rest().await;
    let entries = |events: &[Event]| {
        let events = events.iter().filter(|event| event.id.is_some());
        events.cloned().collect::<Vec<_>>()
    };
    assert_eq!(entries(&events), entries(&again));
    rig.api
        .ask("worker", &json!({"input": "second", "session_id": "s"}))
        .await;
    let path = "/v1/sessions/s/messages";
    let (_, messages) = answer(rig.api.get(path)).await.unwrap();
    assert_eq!(messages["items"].as_array().unwrap().len(), 4, "{messages}");
    for replica in rig.replicas().await {
        assert_eq!(replica["backend"], backend, "{replica}");
        assert_eq!(replica["state"], "ready", "{replica}");
    }
}

async fn tools(backend: &str) {
    let rig = Rig::start(backend, "").await;
    assert_eq!(rig.output("mark", json!({})).await, "marked");
    assert_eq!(lines_of(&rig.served, "worker", "marks").len(), 1);
    let revealed = rig.output("reveal", json!({})).await;
    assert_eq!(revealed, json!({"length": "a-long-secret".len()}));
    assert!(!rig.served.0.log().contains("a-long-secret"));
}

async fn engine_access(backend: &str) {
    let rig = Rig::start(backend, "").await;
    let stored = json!({"key": "k", "value": {"n": 7}});
    rig.output("rune@memory-store", stored).await;
    let recalled = rig.output("rune@memory-recall", json!({"key": "k"})).await;
    assert!(recalled.to_string().contains("\"n\":7"), "{recalled}");
    let listed = rig.output("rune@agent-list", json!({})).await;
    assert!(listed.to_string().contains("dev/worker"), "{listed}");
    // It calls itself: its one place is free for the call while it waits.
    let told = json!({"agent": "worker", "message": "ping"});
    let answer = rig.output("rune@agent-send", told).await;
    assert!(answer.to_string().contains("Echo: ping"), "{answer}");
    let event = json!({"topic": "t", "payload": {}});
    rig.output("rune@event-publish", event).await;
}

async fn limit(backend: &str) {
    let more = "runtime: {concurrency_limit: 1}\n";
    let rig = Rig::start(backend, more).await;
    let first = rig.slow().await;
    rig.begun(1).await;
    let second = rig.slow().await;
    // The second waits for the place of the first, and a call of the agent by itself would too.
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(lines_of(&rig.served, "worker", "started").len(), 1);
    rig.go();
    for id in [first, second] {
        assert_eq!(rig.api.ended(&id).await["status"], "completed");
    }
    let told = json!({"agent": "worker", "message": "ping"});
    let answer = rig.output("rune@agent-send", told).await;
    assert!(answer.to_string().contains("Echo: ping"), "{answer}");
}

async fn cancel(backend: &str) {
    let rig = Rig::start(backend, "").await;
    let id = rig.slow().await;
    rig.begun(1).await;
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
    assert!(took < CANCEL_BOUND + Duration::from_millis(500), "{took:?}");
    let left = crate::cancel::processes_of(&id);
    assert!(left.is_empty(), "{left:?}");
}

async fn approval(backend: &str) {
    let rig = Rig::start(backend, "").await;
    let (status, body) = rig
        .api
        .ask("worker", &json!({"input": "/tool ask {}"}))
        .await;
    assert_eq!(
        (status, &body["status"]),
        (202, &json!("input-required")),
        "{body}"
    );
    let id = body["request_id"].as_str().unwrap().to_owned();
    let (_, page) = answer(rig.api.get("/v1/approvals")).await.unwrap();
    let approval = page["items"][0]["approval_id"].as_str().unwrap();
    let path = format!("/v1/requests/{id}/approvals/{approval}");
    let decided = rig.api.post(&path, &json!({"decision": "approve"}));
    assert_eq!(answer(decided).await.unwrap().0, 200);
    let row = rig.api.ended(&id).await;
    assert_eq!(row["status"], "completed", "{row}");
    assert_eq!(lines_of(&rig.served, "worker", "asked"), [id]);
}

async fn stop(backend: &str) {
    let rig = Rig::start(backend, "").await;
    let id = rig.slow().await;
    rig.begun(1).await;
    rig.served.rune(&["agent", "stop", "worker"]).ok();
    rig.go();
    assert_eq!(rig.api.ended(&id).await["status"], "completed");
    let gone = async {
        while !rig.replicas().await.is_empty() {
            tokio::time::sleep(POLL).await;
        }
    };
    tokio::time::timeout(LIMIT, gone).await.unwrap();
    let refused = rig.api.ask("worker", &json!({"input": "x"})).await;
    assert_eq!(refused.0, 503, "{refused:?}");
}
