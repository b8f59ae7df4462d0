use serde_json::{Value, json};

use super::Rig;
use crate::cancel::processes_of;
use crate::wire::{Api, POLL, lines_of};

const TOOLS: [&str; 6] = [
    "process-start",
    "process-poll",
    "process-write",
    "process-kill",
    "process-list",
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

#[tokio::test]
async fn a_conversation_lists_and_kills_its_own_processes_only() {
    let rig = Rig::start().await;
    rig.deploy("runner", &TOOLS, "");
    let (id, request) = started(&rig, "mine").await;
    let (_, of_other) = started(&rig, "theirs").await;
    let list = rig.try_call_in(Some("mine"), "runner", "process-list", json!({}));
    let listed = list.await.unwrap();
    let rows = listed["processes"].as_array().unwrap();
    assert_eq!(rows.len(), 1, "{listed}");
    assert_eq!(rows[0]["process_id"], id.as_str(), "{listed}");
    assert_eq!(rows[0]["state"], "running", "{listed}");

    let kill = json!({ "process_id": id });
    let foreign = rig.try_call_in(Some("theirs"), "runner", "process-kill", kill.clone());
    let refused = foreign.await.unwrap_err();
    assert!(refused.contains("has no process"), "{refused}");
    assert!(!processes_of(&request).is_empty());
    let killed = rig.try_call_in(Some("mine"), "runner", "process-kill", kill);
    assert_eq!(killed.await.unwrap()["state"], "ended");
    gone(request).await;
    assert!(!processes_of(&of_other).is_empty());
}
