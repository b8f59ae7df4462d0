use rune_store_runtime::SessionId;
use rune_tools::ToolErrorKind;
use serde_json::{Value, json};

use crate::support::Sandbox;

async fn post(sandbox: &mut Sandbox, title: &str, priority: i32) -> Value {
    sandbox.context.idempotency_key = title.to_owned();
    let input = json!({"title": title, "priority": priority, "queue": "mail"});
    sandbox.call("task-post", input).await.unwrap()
}

async fn claim(sandbox: &Sandbox) -> Value {
    let answer = sandbox.call("task-claim", json!({"queue": "mail"})).await;
    answer.unwrap()["task"].clone()
}

#[tokio::test]
async fn a_task_is_posted_once_and_worked_on_by_one() {
    let mut sandbox = Sandbox::new();
    let first = post(&mut sandbox, "old", 0).await;
    assert_eq!(post(&mut sandbox, "old", 0).await, first);
    post(&mut sandbox, "urgent", 3).await;
    let task = claim(&sandbox).await;
    assert_eq!(
        (&task["title"], &task["state"]),
        (&json!("urgent"), &json!("claimed"))
    );

    // Another conversation of the same agent holds nothing of it.
    let own = sandbox.context.session_id.clone();
    sandbox.context.session_id = SessionId::generate();
    let complete = json!({"task_id": task["task_id"], "result": "sent"});
    let message = sandbox
        .refused("task-complete", complete.clone(), ToolErrorKind::Failed)
        .await;
    assert!(message.contains("somebody else"), "{message}");
    assert_eq!(claim(&sandbox).await["title"], "old");
    assert_eq!(claim(&sandbox).await, Value::Null);

    sandbox.context.session_id = own;
    sandbox.call("task-complete", complete).await.unwrap();
    let done = sandbox.call("task-list", json!({"state": "done"})).await;
    let done = done.unwrap();
    assert_eq!(done["tasks"][0]["result"], "sent");
    assert_eq!(done["tasks"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn a_task_that_is_given_back_can_be_claimed_again() {
    let mut sandbox = Sandbox::new();
    post(&mut sandbox, "a", 0).await;
    let task = claim(&sandbox).await;
    let release = json!({"task_id": task["task_id"], "status": "released"});
    sandbox.call("task-complete", release).await.unwrap();
    let again = claim(&sandbox).await;
    assert_eq!(
        (&again["task_id"], &again["attempts"]),
        (&task["task_id"], &json!(2))
    );
}
