//! An agent calls another one.

use std::time::{Duration, Instant};

use rune_store_runtime::{EntryBody, ErrorCode, RequestRow, RequestStatus};
use serde_json::{Value, json};

use super::harness::{Bot, Ended, Rig, copy, soon, until};

/// Asks the helper once and reports what it said.
fn caller(target: &str, more: &Value) -> Bot {
    Bot::new().agent_tool("ask", target, more).script(&json!([
        {"match": {"step": 1}, "tool_calls": [{"name": "ask", "input": {"input": "{{ input }}"}}]},
        {"match": {"after_tool": "ask"}, "respond": "helper: {{ result }}"},
    ]))
}

async fn with_helper(bot: Bot, helper: Bot) -> Rig {
    let mut rig = Rig::new(bot).await;
    rig.deploy("helper", helper).await;
    rig
}

async fn children(rig: &Rig, ended: &Ended) -> Vec<RequestRow> {
    rig.engine.tree(ended.row.id).await.unwrap()
}

fn failure(ended: &Ended) -> (ErrorCode, String) {
    let mut failures = ended
        .journal
        .iter()
        .rev()
        .filter_map(|entry| match &entry.body {
            EntryBody::ToolResult(outcome) => outcome.failure.clone(),
            _ => None,
        });
    let failure = failures.next().unwrap();
    (failure.code, failure.message)
}

#[tokio::test]
async fn the_callee_is_a_request_of_its_own_named_before_it_runs() {
    let rig = with_helper(caller("local://helper", &json!({})), Bot::new()).await;
    let ended = rig.ask("hello").await;
    assert_eq!(ended.output(), "helper: Echo: hello");
    assert_eq!(
        ended.kinds(),
        [
            "accepted",
            "started",
            "model_reply",
            "policy_verdict",
            "tool_intent",
            "agent_called",
            "tool_result",
            "model_reply",
            "finished"
        ]
    );
    let [child] = children(&rig, &ended).await.try_into().unwrap();
    let replayed = rig.engine.replay(ended.row.id).await.unwrap();
    assert!(replayed.equal, "{:?}", replayed.divergence);
    let requests = children(&rig, &ended).await.len();
    assert_eq!(requests, 1, "a replay calls nobody");
    let parent = child.parent.clone().unwrap();
    assert_eq!(
        (parent.request_id, parent.root_id, parent.depth),
        (ended.row.id, ended.row.id, 1)
    );
    assert_eq!(
        (child.agent.as_str(), child.caller.as_str()),
        ("helper", "test")
    );
    let named = ended.journal.iter().find_map(|entry| match &entry.body {
        EntryBody::AgentCalled {
            request_id, agent, ..
        } => Some((request_id.unwrap(), agent.clone())),
        _ => None,
    });
    assert_eq!(named, Some((child.id, "dev/helper".to_owned())));
}

#[tokio::test]
async fn a_conversation_with_it_goes_on() {
    let rig = with_helper(caller("local://helper", &json!({})), Bot::new()).await;
    let first = rig.ask("one").await;
    let second = rig.ask_in(&first.row.session_id, "two").await;
    let other = rig.ask("three").await;
    let session = |rows: Vec<RequestRow>| rows[0].session_id.clone();
    let sessions = [
        session(children(&rig, &first).await),
        session(children(&rig, &second).await),
        session(children(&rig, &other).await),
    ];
    assert_eq!(sessions[0], sessions[1]);
    assert_ne!(sessions[0], sessions[2]);
    assert_ne!(sessions[0], first.row.session_id);
}

#[tokio::test]
async fn agents_without_a_common_network_do_not_talk() {
    let helper = Bot::new().set("networks", json!(["back"]));
    let rig = with_helper(caller("local://helper", &json!({})), helper).await;
    let ended = rig.ask("hello").await;
    let (code, message) = failure(&ended);
    assert_eq!(code, ErrorCode::Denied);
    assert!(
        message.contains("`bridge`") && message.contains("`back`"),
        "{message}"
    );
    assert!(children(&rig, &ended).await.is_empty());
}

#[tokio::test]
async fn one_that_is_not_deployed_is_an_error_that_the_model_sees() {
    let rig = Rig::new(caller("local://prod/nobody?alias=canary", &json!({}))).await;
    let (code, message) = failure(&rig.ask("hello").await);
    assert_eq!(code, ErrorCode::NotFound);
    assert!(message.contains("prod/nobody:canary"), "{message}");
}

#[tokio::test]
async fn a_circle_ends_at_the_depth_limit_and_cannot_deadlock() {
    for (more, depth) in [(json!({}), 8), (json!({"max_depth": 2}), 2)] {
        // One place only: each of them gives it to the one it calls.
        let bot = caller("local://bot", &more).set_in("runtime", "concurrency_limit", json!(1));
        let rig = Rig::new(bot).await;
        let ended = rig.ask("down").await;
        assert_eq!(ended.row.status, RequestStatus::Completed);
        let rows = children(&rig, &ended).await;
        let depths: Vec<u32> = rows
            .iter()
            .map(|row| row.parent.as_ref().unwrap().depth)
            .collect();
        assert_eq!(depths, (1..=depth).collect::<Vec<_>>());
        let deepest = rig.journal(rows.last().unwrap().id).await;
        let refused = deepest.iter().find_map(|entry| match &entry.body {
            EntryBody::ToolResult(outcome) => outcome.failure.clone(),
            _ => None,
        });
        assert_eq!(refused.unwrap().code, ErrorCode::LimitExceeded);
    }
}

#[tokio::test]
async fn two_that_call_each_other_cannot_deadlock() {
    let one = |target| {
        caller(target, &json!({"max_depth": 1})).set_in("runtime", "concurrency_limit", json!(1))
    };
    let mut rig = Rig::new(one("local://helper")).await;
    rig.deploy("helper", one("local://bot")).await;
    let there = rig.invoke("there").await;
    let back = rig
        .engine
        .invoke(rune_runtime::Invocation {
            agent: "helper".to_owned(),
            ..super::harness::call("back")
        })
        .await
        .unwrap();
    for invoked in [there, back] {
        assert_eq!(rig.end(invoked).await.row.status, RequestStatus::Completed);
    }
}

#[tokio::test]
async fn cancel_ends_the_whole_tree() {
    let slow = Bot::new().script(&json!([{"delay_ms": 60_000, "respond": "late"}]));
    let mut rig = with_helper(caller("local://middle", &json!({})), slow).await;
    rig.deploy("middle", caller("local://helper", &json!({})))
        .await;
    let invoked = rig.invoke("hello").await;
    let id = invoked.request_id;
    until("three requests", || rig.engine.active() == 3).await;
    let started = Instant::now();
    soon("cancel", rig.engine.cancel(id, "test")).await.unwrap();
    rig.idle().await;
    assert!(
        started.elapsed() < Duration::from_millis(1500),
        "{:?}",
        started.elapsed()
    );
    let ended = rig.end(invoked).await;
    assert_eq!(ended.row.status, RequestStatus::Cancelled);
    for row in children(&rig, &ended).await {
        assert_eq!(row.status, RequestStatus::Cancelled, "{}", row.agent);
    }
}

#[tokio::test]
async fn a_callee_has_no_more_time_than_its_caller_or_its_tool() {
    let slow = || Bot::new().script(&json!([{"delay_ms": 60_000, "respond": "late"}]));
    let bot = caller("local://helper", &json!({})).set("timeout_ms", json!(300));
    let rig = with_helper(bot, slow()).await;
    let ended = rig.ask("hello").await;
    assert_eq!(ended.row.failure.as_ref().unwrap().code, ErrorCode::Timeout);
    rig.idle().await;
    assert!(children(&rig, &ended).await[0].status.is_terminal());

    let rig = with_helper(
        caller("local://helper", &json!({"timeout_ms": 200})),
        slow(),
    )
    .await;
    let ended = rig.ask("hello").await;
    assert_eq!(ended.row.status, RequestStatus::Completed);
    assert_eq!(failure(&ended).0, ErrorCode::Timeout);
    assert_eq!(
        children(&rig, &ended).await[0].status,
        RequestStatus::Cancelled
    );
}

#[tokio::test]
async fn its_failure_reaches_the_caller_with_its_code() {
    let helper = Bot::new()
        .agent_tool("ask", "local://nobody", &json!({}))
        .set("max_steps", json!(1))
        .script(&json!([{"tool_calls": [{"name": "ask", "input": {"input": "x"}}]}]));
    let rig = with_helper(caller("local://helper", &json!({})), helper).await;
    let (code, message) = failure(&rig.ask("hello").await);
    assert_eq!(code, ErrorCode::LimitExceeded);
    assert!(message.starts_with("agent `dev/helper`: "), "{message}");
}

#[tokio::test]
async fn what_it_uses_counts_for_the_outermost_request() {
    let helper = Bot::new().set("instructions", json!("word ".repeat(2000)));
    let bot = caller("local://helper", &json!({})).set_in("models", "token_budget", json!(2000));
    let rig = with_helper(bot, helper).await;
    let ended = rig.ask("hello").await;
    let [child] = children(&rig, &ended).await.try_into().unwrap();
    let failure = child.failure.unwrap();
    assert_eq!(failure.code, ErrorCode::LimitExceeded);
    let whose = format!(
        "2000 tokens of request `{}` with the agents it called (`budget.tokens` or `token_budget`)",
        ended.row.id
    );
    assert!(failure.message.contains(&whose), "{}", failure.message);
}

/// Entries of a caller's journal when it has named its callee and not heard from it.
const NAMED: usize = 6;

#[tokio::test]
async fn a_caller_that_is_taken_up_again_finds_the_same_callee() {
    let rig = with_helper(caller("local://helper", &json!({})), Bot::new()).await;
    let whole = rig.ask("hello").await;
    let [child] = children(&rig, &whole).await.try_into().unwrap();
    let child_journal = rig.journal(child.id).await;
    for parent_len in NAMED..whole.journal.len() {
        // The callee was not accepted, runs, or has ended.
        for child_len in [0, 1, 2, child_journal.len()] {
            let again = rig.cut(&whole.row, &whole.journal, parent_len).await;
            copy(&again.store, &child, &child_journal[..child_len]).await;
            soon("recovery", again.engine.recover()).await.unwrap();
            again.idle().await;
            let row = again.engine.request(whole.row.id).await.unwrap();
            assert_eq!(row.output, whole.row.output, "{parent_len} {child_len}");
            let called = again.engine.tree(row.id).await.unwrap();
            let expected = usize::from(child_len > 0 || parent_len == NAMED);
            assert_eq!(called.len(), expected, "{parent_len} {child_len}");
            assert!(
                called
                    .iter()
                    .all(|row| row.id == child.id && row.status.is_terminal())
            );
        }
    }
}
