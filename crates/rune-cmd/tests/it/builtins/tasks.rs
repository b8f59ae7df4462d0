use serde_json::json;

use super::Rig;
use crate::wire::answer;

#[tokio::test]
async fn agents_leave_work_for_each_other() {
    let rig = Rig::start().await;
    rig.deploy("boss", &["task-post", "task-list"], "");
    rig.deploy("worker", &["task-claim", "task-complete"], "");
    for (title, priority) in [("later", 0), ("now", 9)] {
        let input = json!({"title": title, "priority": priority, "payload": {"n": priority}});
        rig.call("boss", "task-post", input).await;
    }
    let claimed = rig
        .try_call_in(Some("shift-1"), "worker", "task-claim", json!({}))
        .await
        .unwrap();
    assert_eq!(claimed["task"]["title"], "now");
    let done = json!({"task_id": claimed["task"]["task_id"], "result": {"ok": true}});
    let other = rig
        .try_call_in(Some("shift-2"), "worker", "task-complete", done.clone())
        .await;
    assert!(other.unwrap_err().contains("somebody else"));
    rig.try_call_in(Some("shift-1"), "worker", "task-complete", done)
        .await
        .unwrap();

    let (status, page) = answer(rig.api.get("/v1/tasks?state=done")).await.unwrap();
    assert_eq!(status, 200, "{page}");
    let task = &page["items"][0];
    assert_eq!(
        (&task["title"], &task["posted_by"]),
        (&json!("now"), &json!("boss"))
    );
    assert_eq!(task["result"], json!({"ok": true}));
    let (_, first) = answer(rig.api.get("/v1/tasks?limit=1")).await.unwrap();
    let next = format!(
        "/v1/tasks?limit=1&cursor={}",
        first["next"].as_str().unwrap()
    );
    let (_, second) = answer(rig.api.get(&next)).await.unwrap();
    assert_eq!(second["items"][0]["title"], "later");
    let rows = rig
        .served
        .rune(&["task", "ls", "--state", "open", "-o", "json"]);
    assert_eq!(rows.json()[0]["title"], "later");
    let table = rig.served.rune(&["task", "ls"]).ok();
    assert!(table.contains("worker"), "{table}");
}
