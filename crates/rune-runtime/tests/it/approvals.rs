//! A request that waits for a person: parked, decided once, gone on.

use futures_util::future::join_all;
use rune_runtime::{Ending, RequestEvent};
use rune_store_runtime::{
    ApprovalDecision, ApprovalFilter, ApprovalQuestion, ApprovalState, DecideApproval, PageRequest,
    Remember, RequestCancel, RequestId, RequestStatus,
};
use serde_json::{Value, json};

use super::harness::{Bot, Rig, soon, until};
use super::recovery::assert_whole;

const TOOL: &str = "cat >/dev/null; echo ran >> log; echo '\"ok\"'\n";

/// Calls `t` once (or, with `both`, `t` and `free` at a time) and then answers.
fn bot() -> Bot {
    let ask = |name: &str| json!({"name": name, "input": {}});
    Bot::new()
        .tool("t", &json!({}), TOOL)
        .tool("free", &json!({}), TOOL)
        .set("policy", json!({"ask": ["t"]}))
        .script(&json!([
            {"match": {"contains": "both", "step": 1}, "tool_calls": [ask("t"), ask("free")]},
            {"match": {"contains": "use", "step": 1}, "tool_calls": [ask("t")]},
            {"match": {"contains": "use"}, "respond": "done"},
            {"match": {"contains": "both"}, "respond": "done"},
            {"respond": "Echo: {{ input }}"},
        ]))
}

async fn park(rig: &Rig, input: &str) -> (RequestId, ApprovalQuestion) {
    let invoked = rig.invoke(input).await;
    let id = invoked.request_id;
    let ending = soon("parking", invoked.events.ending()).await.unwrap();
    assert!(matches!(ending, Ending::Parked), "{ending:?}");
    (id, question(rig, id).await)
}

async fn question(rig: &Rig, id: RequestId) -> ApprovalQuestion {
    let filter = ApprovalFilter {
        request_id: Some(id),
        state: Some(ApprovalState::Waiting),
        ..ApprovalFilter::default()
    };
    let page = PageRequest::first(10);
    let mut rows = rig.store.approvals(&filter, &page).await.unwrap().items;
    assert_eq!(rows.len(), 1);
    rows.remove(0).question
}

fn say(question: &ApprovalQuestion, decision: ApprovalDecision) -> DecideApproval {
    DecideApproval {
        approval_id: question.approval_id,
        decision,
        by: "alice".to_owned(),
        remember: None,
        note: None,
    }
}

fn approve(question: &ApprovalQuestion) -> DecideApproval {
    say(question, ApprovalDecision::Approve)
}

async fn output(rig: &Rig, id: RequestId) -> Value {
    let events = rig.engine.events(id, 0).await.unwrap();
    soon("the end", events.ending()).await.unwrap();
    let row = rig.engine.request(id).await.unwrap();
    assert_eq!(row.status, RequestStatus::Completed, "{:?}", row.failure);
    row.output.unwrap()
}

#[tokio::test]
async fn a_request_waits_without_a_task_and_goes_on_when_approved() {
    let rig = Rig::new(bot()).await;
    until("the start", || rig.tasks.len() == 1).await;
    let mut invoked = rig.invoke("use it").await;
    let id = invoked.request_id;
    let mut names = Vec::new();
    loop {
        let event = soon("an event", invoked.events.next())
            .await
            .unwrap()
            .unwrap();
        names.push(event.event.name());
        if matches!(event.event, RequestEvent::ApprovalRequired { .. }) {
            break;
        }
    }
    rig.idle().await;
    // Only the writer of the store is left.
    until("the task", || rig.tasks.len() == 1).await;
    let row = rig.engine.request(id).await.unwrap();
    assert_eq!(row.status, RequestStatus::InputRequired);
    assert_eq!(rig.file("log"), "");

    let asked = question(&rig, id).await;
    assert_eq!(asked.tool, "t");
    assert!(asked.deadline.is_some());
    let decided = rig.engine.decide(approve(&asked)).await.unwrap();
    assert_eq!(decided.state, ApprovalState::Approved);
    // The same follower sees the rest, each entry once.
    while let Some(event) = soon("the rest", invoked.events.next()).await.unwrap() {
        names.push(event.event.name());
    }
    let entries: Vec<_> = names.iter().filter(|name| **name != "token").collect();
    assert_eq!(
        entries,
        [
            &"accepted",
            &"started",
            &"usage",
            &"policy_verdict",
            &"approval_required",
            &"approval_given",
            &"started",
            &"tool_start",
            &"tool_done",
            &"usage",
            &"done"
        ]
    );
    assert_eq!(rig.file("log"), "ran\n");
    rig.assert_usable(&invoked.session_id).await;
}

#[tokio::test]
async fn a_denied_call_does_not_run_and_the_model_is_told_why() {
    let rig = Rig::new(bot()).await;
    let (id, asked) = park(&rig, "use it").await;
    let deny = DecideApproval {
        note: Some("not on a Friday".to_owned()),
        ..say(&asked, ApprovalDecision::Deny)
    };
    rig.engine.decide(deny).await.unwrap();
    assert_eq!(output(&rig, id).await, "done");
    assert_eq!(rig.file("log"), "");
    let journal = rig.journal(id).await;
    let told = serde_json::to_string(&journal).unwrap();
    assert!(
        told.contains("`alice` denied this call: not on a Friday"),
        "{told}"
    );
}

#[tokio::test]
async fn a_request_may_be_parked_more_often_than_it_may_crash() {
    let call = |step: u32| {
        json!({
            "match": {"contains": "often", "step": step},
            "tool_calls": [{"name": "t", "input": {"n": step}}],
        })
    };
    let mut rules: Vec<Value> = (1..=7).map(call).collect();
    rules.push(json!({"match": {"contains": "often"}, "respond": "done"}));
    let rig = Rig::new(bot().script(&json!(rules))).await;
    let (id, mut asked) = park(&rig, "often").await;
    for n in 1..=7 {
        rig.engine.decide(approve(&asked)).await.unwrap();
        let events = rig.engine.events(id, 0).await.unwrap();
        match soon("the next stop", events.ending()).await.unwrap() {
            Ending::Parked => asked = question(&rig, id).await,
            ending => assert_eq!(n, 7, "{ending:?}"),
        }
    }
    assert_eq!(output(&rig, id).await, "done");
    assert_eq!(rig.file("log"), "ran\n".repeat(7));
}

#[tokio::test]
async fn what_needs_no_approval_runs_in_the_meantime() {
    let rig = Rig::new(bot()).await;
    let (id, asked) = park(&rig, "both").await;
    assert_eq!(rig.file("log"), "ran\n");
    rig.engine.decide(approve(&asked)).await.unwrap();
    assert_eq!(output(&rig, id).await, "done");
    assert_eq!(rig.file("log"), "ran\nran\n");
}

#[tokio::test]
async fn a_parked_request_survives_restarts() {
    let rig = Rig::new(bot()).await;
    let (id, asked) = park(&rig, "use it").await;
    let next = rig.restarted();
    assert_eq!(next.engine.recover().await.unwrap(), 0);
    let row = next.engine.decide(approve(&asked)).await.unwrap();
    assert_eq!(row.state, ApprovalState::Approved);
    assert_eq!(output(&next, id).await, "done");
    assert_eq!(next.file("log"), "ran\n");
}

#[tokio::test]
async fn an_answer_that_a_crash_interrupted_counts_at_the_next_start() {
    let rig = Rig::new(bot()).await;
    let (id, asked) = park(&rig, "use it").await;
    // The answer is stored and the process ends before it takes the request up.
    rig.store.write(approve(&asked)).await.unwrap();
    let next = rig.restarted();
    assert_eq!(next.engine.recover().await.unwrap(), 1);
    assert_eq!(output(&next, id).await, "done");
    assert_eq!(next.file("log"), "ran\n");
}

#[tokio::test]
async fn of_many_that_decide_one_does() {
    let rig = Rig::new(bot()).await;
    let (id, asked) = park(&rig, "use it").await;
    let all = (0..32).map(|n| {
        let decision = if n % 2 == 0 {
            ApprovalDecision::Approve
        } else {
            ApprovalDecision::Deny
        };
        rig.engine.decide(say(&asked, decision))
    });
    let decided = join_all(all).await;
    assert_eq!(decided.iter().filter(|row| row.is_ok()).count(), 1);
    assert_eq!(output(&rig, id).await, "done");
    let given = rig.journal(id).await;
    let given = given
        .iter()
        .filter(|entry| entry.body.kind() == "approval_given");
    assert_eq!(given.count(), 1);
}

#[tokio::test]
async fn a_remembered_decision_is_not_asked_for_again() {
    let rig = Rig::new(bot()).await;
    let (id, asked) = park(&rig, "use it").await;
    let session = rig.engine.request(id).await.unwrap().session_id;
    let remember = DecideApproval {
        remember: Some(Remember::Session),
        ..approve(&asked)
    };
    rig.engine.decide(remember).await.unwrap();
    output(&rig, id).await;
    let again = rig.ask_in(&session, "use it").await;
    assert_eq!(again.output(), "done");
    assert_eq!(rig.file("log"), "ran\nran\n");
    // Another session is asked.
    park(&rig, "use it").await;
}

#[tokio::test]
async fn what_is_remembered_for_the_agent_counts_in_a_session_that_is_not_stored_yet() {
    for (decision, ran) in [
        (ApprovalDecision::Approve, "ran\nran\n"),
        (ApprovalDecision::Deny, ""),
    ] {
        let rig = Rig::new(bot()).await;
        let (id, asked) = park(&rig, "use it").await;
        let remember = DecideApproval {
            remember: Some(Remember::Agent),
            ..say(&asked, decision)
        };
        rig.engine.decide(remember).await.unwrap();
        output(&rig, id).await;
        // The model has answered before the acceptance is committed.
        rig.spy.slow(100);
        let again = rig.ask("use it").await;
        assert_eq!(again.output(), "done");
        assert_eq!(rig.file("log"), ran);
    }
}

#[tokio::test]
async fn the_default_counts_at_the_deadline() {
    let policy = json!({"ask": ["t"], "approval": {"timeout_ms": 50, "default": "approve"}});
    let rig = Rig::new(bot().set("policy", policy)).await;
    let watch = rig
        .tasks
        .spawn("deadlines", rig.engine.clone().watch_deadlines());
    let mut invoked = rig.invoke("use it").await;
    let id = invoked.request_id;
    let mut by = None;
    while let Some(event) = soon("the request", invoked.events.next()).await.unwrap() {
        if let RequestEvent::ApprovalGiven { by: who, .. } = event.event {
            by = Some(who);
        }
    }
    assert_eq!(by.as_deref(), Some("deadline"));
    assert_eq!(output(&rig, id).await, "done");
    assert_eq!(rig.file("log"), "ran\n");
    rig.tasks.shutdown().cancel();
    watch.await.unwrap();
}

#[tokio::test]
async fn a_decision_that_cannot_be_stored_holds_no_other_up() {
    let policy = json!({"ask": ["t"], "approval": {"timeout_ms": 1, "default": "approve"}});
    let rig = Rig::new(bot().set("policy", policy)).await;
    let (first, asked) = park(&rig, "use it").await;
    let (second, _) = park(&rig, "use it").await;
    rig.spy.refuse(asked.approval_id);
    let watch = rig
        .tasks
        .spawn("deadlines", rig.engine.clone().watch_deadlines());
    let mut events = rig.engine.events(second, 0).await.unwrap();
    while soon("the second", events.next()).await.unwrap().is_some() {}
    assert_eq!(output(&rig, second).await, "done");
    let row = rig.engine.request(first).await.unwrap();
    assert_eq!(row.status, RequestStatus::InputRequired);
    rig.tasks.shutdown().cancel();
    watch.await.unwrap();
}

#[tokio::test]
async fn a_cancel_ends_what_is_being_taken_up() {
    let ask = json!([
        {"match": {"contains": "use", "step": 1}, "tool_calls": [{"name": "t", "input": {}}]},
        {"respond": "Echo: {{ input }}"},
    ]);
    let slow = Bot::new()
        .tool("t", &json!({}), "sleep 60; echo 1\n")
        .set("policy", json!({"ask": ["t"]}))
        .script(&ask);
    let rig = Rig::new(slow).await;
    for turns in 0..60 {
        let (id, asked) = park(&rig, "use it").await;
        rig.spy.slow(2);
        let (engine, decision) = (rig.engine.clone(), approve(&asked));
        let deciding = rig
            .tasks
            .spawn("decide", async move { engine.decide(decision).await });
        for _ in 0..turns {
            tokio::task::yield_now().await;
        }
        let row = soon("cancel", rig.engine.cancel(id, "test")).await.unwrap();
        assert_eq!(row.status, RequestStatus::Cancelled, "{turns}");
        // Nothing of it is left that runs, and nothing begins any more.
        assert_eq!(rig.engine.active(), 0, "{turns}");
        let _ = deciding.await.unwrap();
        rig.idle().await;
        assert_whole(&rig.journal(id).await);
        rig.spy.reset();
    }
}

#[tokio::test]
async fn a_parked_request_can_be_cancelled() {
    let rig = Rig::new(bot()).await;
    let (id, asked) = park(&rig, "use it").await;
    let row = rig.engine.cancel(id, "changed my mind").await.unwrap();
    assert_eq!(row.status, RequestStatus::Cancelled);
    let late = rig.engine.decide(approve(&asked)).await;
    assert!(late.is_err());
    let row = rig
        .store
        .approval(asked.approval_id)
        .await
        .unwrap()
        .unwrap();
    assert_eq!(row.state, ApprovalState::Withdrawn);
    rig.assert_usable(&row.session_id).await;
}

#[tokio::test]
async fn a_cancel_that_a_crash_interrupted_counts_at_the_next_start() {
    let rig = Rig::new(bot()).await;
    let (id, asked) = park(&rig, "use it").await;
    // The cancel is stored and the process ends before it stores the end.
    let cancel = RequestCancel {
        request_id: id,
        reason: "test".to_owned(),
    };
    rig.store.write(cancel).await.unwrap();
    let next = rig.restarted();
    next.engine.recover().await.unwrap();
    let row = next.engine.request(id).await.unwrap();
    assert_eq!(row.status, RequestStatus::Cancelled);
    assert_whole(&next.journal(id).await);
    let row = next.store.approval(asked.approval_id).await.unwrap();
    assert_eq!(row.unwrap().state, ApprovalState::Withdrawn);
}

#[tokio::test]
async fn a_follower_of_a_parked_request_sees_its_cancel() {
    let rig = Rig::new(bot()).await;
    let (id, _) = park(&rig, "use it").await;
    let mut events = rig.engine.events(id, 0).await.unwrap();
    loop {
        let event = soon("an event", events.next()).await.unwrap().unwrap();
        if matches!(event.event, RequestEvent::ApprovalRequired { .. }) {
            break;
        }
    }
    let waiting = rig.tasks.spawn("follower", async move {
        let mut last = None;
        while let Some(event) = events.next().await.unwrap() {
            last = Some(event.event.name());
        }
        last
    });
    // It waits before the cancel comes.
    tokio::task::yield_now().await;
    rig.engine.cancel(id, "changed my mind").await.unwrap();
    let last = soon("the follower", waiting).await.unwrap();
    assert_eq!(last, Some(Some("error")));
}

#[tokio::test]
async fn a_session_is_usable_while_a_request_of_it_is_parked() {
    let rig = Rig::new(bot()).await;
    let (id, asked) = park(&rig, "use it").await;
    let session = rig.engine.request(id).await.unwrap().session_id;
    rig.assert_usable(&session).await;
    rig.engine.decide(approve(&asked)).await.unwrap();
    assert_eq!(output(&rig, id).await, "done");
    rig.assert_usable(&session).await;
}

#[tokio::test]
async fn a_request_that_is_never_stored_cannot_wait() {
    let bot = bot().set_in("runtime", "checkpoint_policy", json!("never"));
    let rig = Rig::new(bot).await;
    let mut invoked = rig.invoke("use it").await;
    let mut told = String::new();
    while let Some(event) = soon("the request", invoked.events.next()).await.unwrap() {
        told.push_str(&format!("{:?}", event.event));
    }
    assert!(
        told.contains("`checkpoint_policy: never` cannot wait"),
        "{told}"
    );
    assert_eq!(rig.file("log"), "");
}
