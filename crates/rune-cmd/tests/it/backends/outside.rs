//! Replicas outside the daemon: what happens when one of the two is gone.

use rustix::process::{Signal, kill_process, test_kill_process};
use serde_json::{Value, json};

use super::{Rig, settled};
use crate::wire::{Api, assert_no_panic, lines_of};

#[tokio::test(flavor = "multi_thread")]
async fn a_request_goes_on_in_another_replica_when_its_own_is_killed() {
    let rig = Rig::start("process", "").await;
    let id = rig.slow().await;
    rig.begun(1).await;
    let running = rig.pids();
    assert_eq!(running.len(), 1);
    kill_process(running[0], Signal::KILL).unwrap();
    // The tool is idempotent, so it is run again.
    rig.begun(2).await;
    rig.go();
    let row = rig.api.ended(&id).await;
    assert_eq!(
        (&row["status"], &row["attempts"]),
        (&json!("completed"), &json!(2)),
        "{row}\n{}",
        rig.served.0.log()
    );
    assert_ne!(rig.pids(), running);
    assert_no_panic(&rig.served);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_goes_on_in_its_replica_when_the_daemon_is_killed() {
    let mut rig = settled("process").await;
    let id = rig.slow().await;
    rig.begun(1).await;
    let running = rig.pids();
    rig.served.0.kill9().unwrap();
    rig.served.0.restart().await.unwrap();
    rig.api = Api::of(&rig.served.0);
    rig.ready().await;
    assert_eq!(rig.pids(), running, "{}", rig.served.0.log());
    rig.go();
    let row = rig.api.ended(&id).await;
    assert_eq!(
        (&row["status"], &row["attempts"]),
        (&json!("completed"), &json!(1)),
        "{row}\n{}",
        rig.served.0.log()
    );
    assert_eq!(lines_of(&rig.served, "worker", "started").len(), 1);
    // It takes new ones.
    let (status, body) = rig.api.ask("worker", &json!({"input": "hello"})).await;
    assert_eq!(status, 200, "{body}");
    assert_no_panic(&rig.served);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_ended_while_the_daemon_was_down_is_known_afterwards() {
    let mut rig = settled("process").await;
    let id = rig.slow().await;
    rig.begun(1).await;
    rig.served.0.kill9().unwrap();
    rig.go();
    rig.served.0.restart().await.unwrap();
    rig.api = Api::of(&rig.served.0);
    let row = rig.api.ended(&id).await;
    assert_eq!(
        (&row["status"], &row["attempts"]),
        (&json!("completed"), &json!(1)),
        "{row}\n{}",
        rig.served.0.log()
    );
    assert_eq!(lines_of(&rig.served, "worker", "started").len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn replicas_end_with_the_daemon_and_nothing_of_them_is_left() {
    let mut rig = Rig::start("process", "").await;
    let running = rig.pids();
    assert_eq!(running.len(), 1);
    rig.served.0.terminate().await.unwrap();
    assert!(test_kill_process(running[0]).is_err(), "it still runs");
    let left = std::fs::read_dir(rig.served.0.data_dir().join("replicas")).unwrap();
    assert_eq!(left.count(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_with_a_container_tool_is_refused_with_the_way_out() {
    let rig = Rig::start("process", "").await;
    let dir = rig.served.0.home().join("boxed");
    std::fs::create_dir_all(&dir).unwrap();
    let runefile = "name: boxed\nversion: 0.1.0\ninstructions: Answer.\ndefault_model: default\n\
                    toolset: [rune@docker-exec]\n\
                    models:\n  providers: [offline]\n  model_mapping: {default: offline}\n";
    std::fs::write(dir.join("Runefile"), runefile).unwrap();
    let ran = rig.served.rune(&["run", "boxed"]);
    let told = format!("{}{}", ran.stdout, ran.stderr);
    assert!(
        told.contains("docker-exec") && told.contains("--backend wasm"),
        "{told}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_asks_for_the_key_of_its_daemon() {
    let rig = Rig::start("process", "").await;
    let record: Value = serde_json::from_slice(&std::fs::read(&rig.records()[0]).unwrap()).unwrap();
    let endpoint = record["endpoint"].as_str().unwrap();
    let health = reqwest::get(format!("{endpoint}/health")).await.unwrap();
    assert_eq!(health.status(), 200);
    for (method, path) in [
        (reqwest::Method::GET, "/v1/status"),
        (reqwest::Method::POST, "/v1/run"),
        (reqwest::Method::POST, "/v1/drain"),
    ] {
        let url = format!("{endpoint}{path}");
        let client = reqwest::Client::new();
        for bearer in ["", "wrong"] {
            let asked = client.request(method.clone(), &url).bearer_auth(bearer);
            assert_eq!(asked.send().await.unwrap().status(), 401, "{path}");
        }
    }
    let internal = format!("{}/internal/v1/engine", rig.served.0.control_plane());
    let asked = reqwest::Client::new().post(internal).bearer_auth("wrong");
    assert_eq!(asked.send().await.unwrap().status(), 401);
}
