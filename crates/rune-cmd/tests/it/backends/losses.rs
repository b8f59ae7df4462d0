//! Replicas outside the daemon: what becomes of their requests when a replica ends, and when the daemon comes back.

use std::path::Path;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use super::rig::Rig;
use crate::wire::{Api, LIMIT, POLL, assert_no_panic, lines_of};

impl Rig {
    /// The daemon again, with this `config.toml`; its replicas go on meanwhile.
    async fn again_with(&mut self, config: &str) {
        let dir = self.served.0.data_dir();
        std::fs::write(dir.join("config.toml"), config).unwrap();
        self.served.0.kill9().unwrap();
        self.served.0.restart().await.unwrap();
        self.api = Api::of(&self.served.0);
        self.ready().await;
    }

    /// Waits for other processes of replicas than these, and answers them.
    async fn others_than(&self, known: &[Pid]) -> Vec<Pid> {
        let waiting = async {
            loop {
                let pids = self.pids();
                if !pids.is_empty() && !pids.iter().any(|pid| known.contains(pid)) {
                    return pids;
                }
                tokio::time::sleep(POLL).await;
            }
        };
        let others = tokio::time::timeout(LIMIT, waiting).await;
        assert!(others.is_ok(), "{}", self.served.0.log());
        others.unwrap()
    }

    /// The row of a request once it has ended. With `on_finish` its events are told before they are stored, and end where
    /// it begins anew.
    async fn over(&self, id: &str) -> Value {
        let waiting = async {
            loop {
                let row = self.api.request(id).await;
                if row["status"] == "completed" || row["status"] == "failed" {
                    return row;
                }
                tokio::time::sleep(POLL).await;
            }
        };
        let row = tokio::time::timeout(LIMIT, waiting).await;
        assert!(row.is_ok(), "{}", self.served.0.log());
        row.unwrap()
    }

    /// The codes of the notices of a request.
    async fn notices(&self, id: &str) -> Vec<Value> {
        let events = self.api.events(id, 0).await.rest().await.into_iter();
        let notices = events.filter(|event| event.name == "notice");
        notices.map(|event| event.data["code"].clone()).collect()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_that_is_told_to_end_by_somebody_else_is_replaced() {
    let rig = Rig::start("process", "runtime: {concurrency_limit: 4}\n").await;
    let id = rig.slow().await;
    rig.begun(1).await;
    let first = rig.pids();
    kill_process(first[0], Signal::TERM).unwrap();
    // It still runs what it has, and takes nothing new.
    let (status, body) = rig.api.ask("worker", &json!({"input": "hello"})).await;
    assert_eq!(status, 200, "{body}\n{}", rig.served.0.log());
    // Nobody asks it again and again meanwhile.
    let refusals = rig.served.0.log();
    let refusals = refusals.matches("a replica was lost while it ran").count();
    assert!(refusals <= 3, "{refusals}");
    rig.go();
    let row = rig.api.ended(&id).await;
    assert_eq!(
        (&row["status"], &row["attempts"]),
        (&json!("completed"), &json!(1)),
        "{row}\n{}",
        rig.served.0.log()
    );
    assert_no_panic(&rig.served);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_that_ends_in_good_order_says_so_in_the_journals() {
    let mut rig = Rig::settled_with("process", "", 1).await;
    let first = rig.pids();
    rig.again_with("[runtime]\ndrain_grace_secs = 1\n").await;
    let second = rig.others_than(&first).await;
    let id = rig.slow().await;
    rig.begun(1).await;
    kill_process(second[0], Signal::TERM).unwrap();
    rig.begun(2).await;
    rig.go();
    let row = rig.api.ended(&id).await;
    assert_eq!(
        (&row["status"], &row["attempts"]),
        (&json!("completed"), &json!(2)),
        "{row}"
    );
    let notices = rig.notices(&id).await;
    assert!(notices.contains(&json!("interrupted")), "{notices:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_ends_its_replicas_is_given_up_with_on_finish_too() {
    let mut rig =
        Rig::settled_with("process", "runtime: {checkpoint_policy: on_finish}\n", 1).await;
    rig.again_with("[recovery]\nmax_attempts = 1\n").await;
    let id = rig.slow().await;
    let mut known = Vec::new();
    // The first attempt is not stored, so that a second one counts as the first.
    for times in 1..=2 {
        rig.begun(times).await;
        known.extend(rig.others_than(&known).await);
        kill_process(*known.last().unwrap(), Signal::KILL).unwrap();
    }
    let row = rig.over(&id).await;
    assert_eq!(row["status"], "failed", "{row}\n{}", rig.served.0.log());
    let failure = row["error"]["message"].as_str().unwrap();
    assert!(failure.contains("recovery.max_attempts"), "{failure}");
    let notices = rig.notices(&id).await;
    assert!(!notices.contains(&json!("interrupted")), "{notices:?}");
    assert_eq!(lines_of(&rig.served, "worker", "started").len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_with_on_finish_runs_once_over_a_restart_of_the_daemon() {
    let mut rig =
        Rig::settled_with("process", "runtime: {checkpoint_policy: on_finish}\n", 1).await;
    rig.served.rune(&["run", "worker", "--replicas", "2"]).ok();
    rig.ready().await;
    let id = rig.slow().await;
    rig.begun(1).await;
    rig.again_with("").await;
    rig.go();
    let row = rig.over(&id).await;
    assert_eq!(row["status"], "completed", "{row}\n{}", rig.served.0.log());
    assert_eq!(lines_of(&rig.served, "worker", "started").len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_of_other_settings_is_not_taken_over() {
    let mut rig = Rig::settled_with("process", "", 1).await;
    let first = rig.pids();
    rig.again_with("").await;
    assert_eq!(rig.pids(), first, "{}", rig.served.0.log());
    let config = "[tools]\nallow_private = \"127.0.0.1\"\n";
    rig.again_with(config).await;
    rig.others_than(&first).await;
    let (status, body) = rig.api.ask("worker", &json!({"input": "hello"})).await;
    assert_eq!(status, 200, "{body}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_goes_on_with_a_daemon_that_comes_back_at_another_port() {
    // Each start of this daemon has its control plane at a port of its own; replicas on this machine need none.
    let mut rig = Rig::start("process", "").await;
    let first = rig.pids();
    let address = rig.served.0.control_plane().to_owned();
    let id = rig.slow().await;
    rig.begun(1).await;
    rig.served.0.kill9().unwrap();
    rig.restart().await;
    assert_ne!(rig.served.0.control_plane(), address);
    rig.go();
    let row = rig.api.ended(&id).await;
    assert_eq!(
        (&row["status"], &row["attempts"]),
        (&json!("completed"), &json!(1)),
        "{row}\n{}",
        rig.served.0.log()
    );
    assert_eq!(rig.pids(), first);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_whose_run_waits_for_another_agent_is_not_idle() {
    let rig = Rig::start("process", "").await;
    let dir = rig.served.0.home().join("caller");
    deploy_caller(&dir, "0.1.0");
    rig.served.rune(&["run", "caller"]).ok();
    let told = json!({"agent": "worker", "message": "/tool slow {}"});
    let input = format!("/tool rune@agent-send {told}");
    let id = rig.api.start("caller", &input).await;
    rig.begun(1).await;
    // Its replica is replaced, and the one before has nothing to do but to wait.
    deploy_caller(&dir, "0.2.0");
    rig.served.rune(&["run", "caller"]).ok();
    let drains = async {
        let is_there = |rows: Vec<Value>| rows.iter().any(|row| row["state"] == "draining");
        while !is_there(rig.replicas().await) {
            tokio::time::sleep(POLL).await;
        }
    };
    tokio::time::timeout(LIMIT, drains).await.unwrap();
    // Longer than one that was told to end would have let it go on.
    tokio::time::sleep(Duration::from_secs(3)).await;
    rig.go();
    let row = rig.api.ended(&id).await;
    assert_eq!(
        (&row["status"], &row["attempts"]),
        (&json!("completed"), &json!(1)),
        "{row}\n{}",
        rig.served.0.log()
    );
}

fn deploy_caller(dir: &Path, version: &str) {
    let runefile = format!(
        "name: caller\nversion: {version}\ninstructions: Answer.\ndefault_model: default\n\
         toolset: [rune@agent-send]\n\
         models:\n  providers: [offline]\n  model_mapping: {{default: offline}}\n"
    );
    std::fs::create_dir_all(dir).unwrap();
    std::fs::write(dir.join("Runefile"), runefile).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_that_are_lost_with_their_replica_count_against_its_version() {
    let mut rig = Rig::settled_with("process", "runtime: {concurrency_limit: 30}\n", 1).await;
    rig.again_with("[recovery]\nmax_attempts = 1\n").await;
    let first = rig.others_than(&[]).await;
    let runefile = rig.served.0.home().join("worker/Runefile");
    let text = std::fs::read_to_string(&runefile).unwrap();
    std::fs::write(&runefile, text.replace("version: 0.1.0", "version: 0.2.0")).unwrap();
    rig.served
        .rune(&["deploy", "worker", "--weight", "100"])
        .ok();
    for _ in 0..20 {
        rig.slow().await;
    }
    rig.begun(20).await;
    let second = rig.pids().into_iter().find(|pid| !first.contains(pid));
    kill_process(second.unwrap(), Signal::KILL).unwrap();
    rig.until("it is rolled back", async || {
        let status = ["rollout", "status", "worker", "-o", "json"];
        let row = rig.served.rune(&status).json();
        let reason = row["rollout"]["reason"].as_str().unwrap_or_default();
        reason.contains("20 of its last 20 requests failed")
    })
    .await;
}
