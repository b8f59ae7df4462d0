//! The command line against a control plane that does not answer everything, or takes its time.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use serde_json::{Value, json};

use crate::home::{Home, Ran, write_plain};
use crate::remote_agents::server::{Reply, Scripted, Seen};

/// A refusal of the API.
fn refused(status: u16, code: &str, message: &str) -> Reply {
    let body = json!({"error": {"code": code, "message": message}});
    Reply::Whole(status, "application/json", body.to_string().into_bytes())
}

fn page(items: &Value) -> Reply {
    Reply::Json(json!({ "items": items }))
}

fn deployment(state: &str, reason: &str) -> Value {
    json!({
        "id": "dep_1", "namespace": "dev", "agent": "plain", "alias": "stable", "version_id": "ver_1",
        "replicas": 2, "state": state, "reason": reason, "releases": [],
    })
}

/// A command to a daemon that is a script.
fn rune(home: &Home, daemon: &Scripted, args: &[&str]) -> Ran {
    let mut all = vec!["--control-plane", &daemon.base, "--gateway", &daemon.base];
    all.extend(args);
    home.rune(&all)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_cannot_be_looked_up_is_not_deployed_as_a_new_one() {
    let is_list = |seen: &Seen| seen.path.starts_with("/v1/deployments?") && seen.body.is_null();
    let daemon = Scripted::start(move |seen, _| match is_list(seen) {
        true => refused(503, "unavailable", "the store is busy"),
        false => Reply::Json(deployment("ready", "")),
    })
    .await;
    let home = Home::new();
    write_plain(&home.path().join("plain"));
    for args in [
        &["deploy", "plain"][..],
        &["deploy", "plain", "--weight", "10"],
    ] {
        let ran = rune(&home, &daemon, args).ends(6);
        assert!(ran.stderr.contains("the store is busy"), "{}", ran.stderr);
    }
    let changes = daemon.seen();
    assert!(
        changes.iter().all(|seen| seen.head.starts_with("get ")),
        "{changes:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn replicas_that_are_slow_to_start_are_waited_for() {
    // Longer than one would wait who takes that for a failure.
    const LOOKS: u32 = 100;
    let looks = Arc::new(AtomicU32::new(0));
    let counted = Arc::clone(&looks);
    let daemon = Scripted::start(move |seen, _| {
        let slow = deployment("degraded", "0 of 2 replicas are ready");
        match seen.path.as_str() {
            path if path.starts_with("/v1/deployments?") => page(&json!([slow])),
            path if path.starts_with("/v1/deployments/dep_1/rollback") => Reply::Json(slow),
            "/v1/deployments/dep_1" => match counted.fetch_add(1, Ordering::SeqCst) {
                0..LOOKS => Reply::Json(slow),
                _ => Reply::Json(deployment("ready", "")),
            },
            path if path.starts_with("/v1/replicas?") => page(&json!([])),
            "/v1/agent-versions/ver_1" => Reply::Json(json!({"version": "1.2.3"})),
            path => refused(404, "not_found", path),
        }
    })
    .await;
    let home = Home::new();
    let text = rune(&home, &daemon, &["rollout", "undo", "plain"]).ok();
    assert!(text.contains("1.2.3") && text.contains("ready"), "{text}");
    assert!(looks.load(Ordering::SeqCst) > LOOKS);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_that_has_just_gone_hides_no_other_log() {
    let daemon = Scripted::start(|seen, _| match seen.path.as_str() {
        path if path.starts_with("/v1/deployments?") => page(&json!([deployment("ready", "")])),
        path if path.starts_with("/v1/replicas?") => {
            page(&json!([{"id": "rep_1"}, {"id": "rep_2"}]))
        }
        path if path.starts_with("/v1/replicas/rep_1/logs") => {
            refused(404, "not_found", "there is no replica `rep_1`")
        }
        path if path.starts_with("/v1/replicas/rep_2/logs") => {
            Reply::Json(json!({"lines": ["it is ready"]}))
        }
        path if path.starts_with("/v1/requests?") => page(&json!([])),
        path => refused(404, "not_found", path),
    })
    .await;
    let home = Home::new();
    let ran = rune(&home, &daemon, &["agent", "logs", "plain"]).ends(0);
    assert_eq!(ran.stdout, "rep_2 it is ready\n");
    assert!(
        ran.stderr.contains("no log of rep_1: there is no replica"),
        "{}",
        ran.stderr
    );
    let ran = rune(&home, &daemon, &["agent", "logs", "plain", "--tail", "0"]).ends(0);
    assert_eq!((ran.stdout, ran.stderr), (String::new(), String::new()));
}
