use serde_json::{Value, json};

use super::Rig;
use crate::cancel::processes_of;
use crate::wire::{Api, POLL, lines_of};

const TOOLS: [&str; 4] = [
    "process-start",
    "process-poll",
    "process-write",
    "file-read",
];

/// A conversation that has started a process, which has written the id of its request into the workspace.
async fn started(rig: &Rig, session: &str) -> (String, String) {
    let command = format!("echo \"$RUNE_REQUEST_ID\" > {session}.request; echo ready; cat");
    let command = json!({ "command": command });
    let process = rig
        .try_call_in(Some(session), "runner", "process-start", command)
        .await
        .unwrap();
    let id = process["process_id"].as_str().unwrap().to_owned();
    let poll = json!({"process_id": id, "wait_ms": 30_000});
    let part = poll_in(rig, session, poll).await;
    assert_eq!(part["output"], "ready\n", "{part}");
    let lines = lines_of(&rig.served, "runner", &format!("{session}.request"));
    assert!(!processes_of(&lines[0]).is_empty());
    (id, lines[0].clone())
}

async fn poll_in(rig: &Rig, session: &str, input: Value) -> Value {
    let answer = rig.try_call_in(Some(session), "runner", "process-poll", input);
    answer.await.unwrap()
}

async fn gone(request: String) {
    while !processes_of(&request).is_empty() {
        tokio::time::sleep(POLL).await;
    }
}

#[tokio::test]
async fn a_process_is_written_to_and_ends_with_session_deployment_and_daemon() {
    let mut rig = Rig::start().await;
    rig.deploy("runner", &TOOLS, "");
    let (id, by_session) = started(&rig, "one").await;
    let write = json!({"process_id": id, "text": "hello\n"});
    rig.try_call_in(Some("one"), "runner", "process-write", write)
        .await
        .unwrap();
    let next = json!({"process_id": id, "offset": 6, "wait_ms": 30_000});
    assert_eq!(poll_in(&rig, "one", next).await["output"], "hello\n");
    let url = format!("{}/v1/sessions/one", rig.served.0.gateway());
    let deleted = reqwest::Client::new().delete(url).send().await.unwrap();
    assert_eq!(deleted.status(), 204);
    gone(by_session).await;

    let (_, by_deployment) = started(&rig, "two").await;
    rig.served.rune(&["agent", "stop", "runner"]).ok();
    gone(by_deployment).await;

    rig.deploy("runner", &TOOLS, "");
    let (id, by_daemon) = started(&rig, "three").await;
    rig.served.0.kill9().unwrap();
    gone(by_daemon).await;
    rig.served.0.restart().await.unwrap();
    rig.api = Api::of(&rig.served.0);
    let lost = poll_in(&rig, "three", json!({"process_id": id})).await;
    assert_eq!(lost["state"], "ended");
    assert!(
        lost["reason"].as_str().unwrap().contains("with the daemon"),
        "{lost}"
    );
}
