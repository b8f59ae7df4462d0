//! Tasks that agents leave for each other.

use std::time::Duration;

use rune_store_runtime::{
    ClaimTask, CompleteTask, PageRequest, PostTask, Reject, TaskFilter, TaskHolder, TaskId,
    TaskRow, TaskState,
};
use serde_json::{Value, json};

use super::fixture::{Fixture, session};
use crate::store::TestStore;

const LEASE_MS: u64 = 60_000;

fn post(title: &str, priority: i32) -> PostTask {
    PostTask {
        task_id: TaskId::generate(),
        namespace: "dev".to_owned(),
        queue: "mail".to_owned(),
        title: title.to_owned(),
        payload: json!({"to": title}),
        priority,
        max_attempts: 2,
        posted_by: "boss".to_owned(),
    }
}

fn holder(name: &str) -> TaskHolder {
    TaskHolder {
        agent: "worker".to_owned(),
        session_id: session(name),
    }
}

fn claim(who: &str) -> ClaimTask {
    ClaimTask {
        namespace: "dev".to_owned(),
        queue: "mail".to_owned(),
        task_id: None,
        holder: holder(who),
        lease_ms: LEASE_MS,
    }
}

fn complete(task: &TaskRow, who: &str, state: TaskState) -> CompleteTask {
    CompleteTask {
        task_id: task.id,
        namespace: "dev".to_owned(),
        holder: holder(who),
        state,
        result: json!("sent"),
    }
}

async fn claimed(f: &Fixture, who: &str) -> Option<TaskRow> {
    f.write(claim(who)).await.map(|row| *row)
}

async fn titles(f: &Fixture, state: Option<TaskState>) -> Vec<String> {
    let filter = TaskFilter {
        namespace: Some("dev".to_owned()),
        queue: Some("mail".to_owned()),
        state,
    };
    let page = f.store.tasks(&filter, &PageRequest::default()).await;
    let rows = page.unwrap().items.into_iter();
    rows.map(|row| row.title).collect()
}

pub async fn a_task_is_claimed_by_one_in_order_of_priority_and_age(test: TestStore) {
    let f = Fixture::new(test);
    let first = post("old", 0);
    f.write(first.clone()).await;
    for (title, priority) in [("urgent", 5), ("young", 0), ("some day", -1)] {
        f.write(post(title, priority)).await;
    }
    // Posted again it is the same one.
    f.write(first).await;
    assert_eq!(
        titles(&f, None).await,
        ["some day", "young", "urgent", "old"]
    );
    let mut order = Vec::new();
    while let Some(task) = claimed(&f, &format!("s{}", order.len())).await {
        assert_eq!((task.state, task.attempts), (TaskState::Claimed, 1));
        order.push(task.title);
    }
    assert_eq!(order, ["urgent", "old", "young", "some day"]);
    assert_eq!(titles(&f, Some(TaskState::Open)).await, [""; 0]);
    let elsewhere = ClaimTask {
        namespace: "prod".to_owned(),
        ..claim("s")
    };
    assert_eq!(f.write(elsewhere).await, None);
}

pub async fn only_the_holder_ends_a_task(test: TestStore) {
    let f = Fixture::new(test);
    f.write(post("a", 0)).await;
    let task = claimed(&f, "one").await.unwrap();
    let refused = f.rejected(complete(&task, "two", TaskState::Done)).await;
    assert!(matches!(refused, Reject::Conflict { .. }), "{refused:?}");
    f.write(complete(&task, "one", TaskState::Open)).await;
    let refused = f.rejected(complete(&task, "one", TaskState::Done)).await;
    assert!(matches!(refused, Reject::Conflict { .. }), "{refused:?}");
    let again = claimed(&f, "two").await.unwrap();
    assert_eq!((again.id, again.attempts), (task.id, 2));
    f.write(complete(&task, "two", TaskState::Done)).await;
    // Said again, and otherwise.
    f.write(complete(&task, "two", TaskState::Done)).await;
    let refused = f.rejected(complete(&task, "two", TaskState::Failed)).await;
    assert!(matches!(refused, Reject::Conflict { .. }), "{refused:?}");
    let row = f.store.task(task.id).await.unwrap().unwrap();
    assert_eq!((row.state, row.result), (TaskState::Done, json!("sent")));
    assert_eq!(row.lease_until, None);
    let unknown = TaskRow {
        id: TaskId::generate(),
        ..task
    };
    let refused = f.rejected(complete(&unknown, "two", TaskState::Done)).await;
    assert!(matches!(refused, Reject::NotFound { .. }), "{refused:?}");
}

pub async fn a_task_comes_back_when_its_lease_is_over_and_fails_in_the_end(test: TestStore) {
    let f = Fixture::new(test);
    f.write(post("a", 0)).await;
    let task = claimed(&f, "one").await.unwrap();
    assert_eq!(claimed(&f, "two").await, None);
    f.pass(Duration::from_millis(LEASE_MS / 2));
    let extend = ClaimTask {
        task_id: Some(task.id),
        ..claim("one")
    };
    let extended = f.write(extend).await.unwrap();
    assert!(extended.lease_until > task.lease_until);
    assert_eq!(extended.attempts, 1);
    f.pass(Duration::from_millis(LEASE_MS * 3 / 4));
    assert_eq!(claimed(&f, "two").await, None);
    f.pass(Duration::from_millis(LEASE_MS));
    let second = claimed(&f, "two").await.unwrap();
    assert_eq!((second.id, second.attempts), (task.id, 2));
    let refused = f.rejected(complete(&task, "one", TaskState::Done)).await;
    assert!(matches!(refused, Reject::Conflict { .. }), "{refused:?}");
    f.pass(Duration::from_millis(LEASE_MS * 2));
    assert_eq!(claimed(&f, "three").await, None);
    let row = f.store.task(task.id).await.unwrap().unwrap();
    assert_eq!(row.state, TaskState::Failed);
    assert!(matches!(row.result, Value::String(_)), "{row:?}");
}
