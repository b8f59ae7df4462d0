use rune_store_runtime::SessionId;
use rune_tools::ToolErrorKind;
use serde_json::{Value, json};

use crate::support::{Sandbox, is_running, number_in, until};

async fn start(sandbox: &mut Sandbox, key: &str, command: &str) -> String {
    sandbox.context.idempotency_key = key.to_owned();
    let answer = sandbox.call("process-start", json!({"command": command}));
    answer.await.unwrap()["process_id"]
        .as_str()
        .unwrap()
        .to_owned()
}

/// Everything that a process writes until the check is content.
async fn read(sandbox: &Sandbox, id: &str, done: impl Fn(&str, &Value) -> bool) -> (String, Value) {
    let (mut text, mut offset) = (String::new(), json!(0));
    loop {
        let input = json!({"process_id": id, "offset": offset, "wait_ms": 10_000});
        let part = sandbox.call("process-poll", input).await.unwrap();
        text.push_str(part["output"].as_str().unwrap());
        offset = part["next_offset"].clone();
        if done(&text, &part) {
            return (text, part);
        }
        let quiet = part["output"] == "" && part["state"] == "ended";
        assert!(!quiet, "ended with {text:?}: {part}");
    }
}

#[tokio::test]
async fn a_process_talks_and_ends_when_its_input_does() {
    let mut sandbox = Sandbox::new();
    let id = start(&mut sandbox, "a", "echo ready; cat; echo done >&2; exit 3").await;
    read(&sandbox, &id, |text, _| text == "ready\n").await;
    let write = json!({"process_id": id, "text": "hello\n"});
    sandbox.call("process-write", write).await.unwrap();
    read(&sandbox, &id, |text, _| text.ends_with("hello\n")).await;
    let close = json!({"process_id": id, "close": true});
    sandbox.call("process-write", close.clone()).await.unwrap();
    let (text, end) = read(&sandbox, &id, |_, part| part["state"] == "ended").await;
    assert_eq!(text, "ready\nhello\ndone\n");
    assert_eq!(
        (&end["exit_code"], &end["reason"]),
        (&json!(3), &json!("it ended"))
    );
    sandbox
        .refused("process-write", close, ToolErrorKind::Failed)
        .await;
    assert!(!sandbox.path(&format!(".rune/processes/{id}")).exists());
}

#[tokio::test]
async fn a_killed_process_takes_what_it_started_along() {
    let mut sandbox = Sandbox::new();
    let command = "sleep 1000 & echo $! > child.pid; wait";
    let id = start(&mut sandbox, "a", command).await;
    let child = number_in(&sandbox.path("child.pid")).await;
    assert!(is_running(child));
    let list = sandbox.call("process-list", json!({"state": "running"}));
    assert_eq!(list.await.unwrap()["processes"][0]["command"], command);
    let ended = sandbox.call("process-kill", json!({"process_id": id}));
    assert_eq!(ended.await.unwrap()["reason"], "it was killed");
    until(|| (!is_running(child)).then_some(())).await;
    let list = sandbox.call("process-list", json!({"state": "running"}));
    assert_eq!(list.await.unwrap(), json!({"processes": []}));
}

#[tokio::test]
async fn a_process_belongs_to_its_conversation() {
    let mut sandbox = Sandbox::new();
    let id = start(&mut sandbox, "a", "cat").await;
    sandbox.context.session_id = SessionId::generate();
    for tool in ["process-poll", "process-write", "process-kill"] {
        sandbox
            .refused(tool, json!({"process_id": id}), ToolErrorKind::NotFound)
            .await;
    }
    let list = sandbox.call("process-list", json!({})).await.unwrap();
    assert_eq!(list, json!({"processes": []}));
}

#[tokio::test]
async fn only_so_many_run_at_a_time() {
    let mut sandbox = Sandbox::new();
    let mut ids = Vec::new();
    for n in 0..8 {
        ids.push(start(&mut sandbox, &n.to_string(), "cat").await);
    }
    sandbox.context.idempotency_key = "ninth".to_owned();
    let ninth = json!({"command": "cat"});
    let message = sandbox
        .refused("process-start", ninth.clone(), ToolErrorKind::Failed)
        .await;
    assert!(message.contains("process-kill"), "{message}");
    let kill = json!({"process_id": ids[0]});
    sandbox.call("process-kill", kill).await.unwrap();
    sandbox.call("process-start", ninth).await.unwrap();
}

#[tokio::test]
async fn the_end_of_a_long_output_is_kept() {
    let mut sandbox = Sandbox::new();
    let id = start(&mut sandbox, "a", "seq 1 100000").await;
    let input = json!({"process_id": id, "offset": u32::MAX, "wait_ms": 60_000});
    let end = loop {
        let part = sandbox.call("process-poll", input.clone()).await.unwrap();
        if part["state"] == "ended" {
            break part;
        }
    };
    let total = end["total"].as_u64().unwrap();
    let tail = json!({"process_id": id, "offset": total - 7});
    let tail = sandbox.call("process-poll", tail).await.unwrap();
    assert_eq!(tail["output"], "100000\n");
    let first = json!({"process_id": id, "max_bytes": 1});
    let first = sandbox.call("process-poll", first).await.unwrap();
    assert_eq!(first["offset"], total - 256 * 1024);
}

#[tokio::test]
async fn no_link_leads_the_pipes_out_of_the_workspace() {
    let mut sandbox = Sandbox::new();
    std::os::unix::fs::symlink(sandbox.outer(), sandbox.path(".rune")).unwrap();
    sandbox.context.idempotency_key = "a".to_owned();
    let refused = sandbox.call("process-start", json!({"command": "cat"}));
    assert!(refused.await.is_err());
    assert!(!sandbox.outer().join("processes").exists());
}
