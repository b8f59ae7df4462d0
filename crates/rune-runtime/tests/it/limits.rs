//! Hard caps and places on replicas.

use std::time::Duration;

use rune_runtime::RouteError;
use rune_store_runtime::{DeploymentRow, EntryBody, RequestStatus, SessionId};
use rune_testkit::{Fault, ModelScript, ModelServer, Protocol, Reply, Usage};
use serde_json::json;

use super::harness::{Bot, Ended, Rig, script, soon, until};

/// Calls a tool for ever where the input says so.
fn looping() -> Bot {
    Bot::new()
        .tool("t", &json!({}), "cat >/dev/null; echo 1\n")
        .script(&json!([
            {"match": {"contains": "loop"}, "tool_calls": [{"name": "t"}, {"name": "t"}]},
            {"respond": "Echo: {{ input }}"},
        ]))
}

async fn fails(bot: Bot, input: &str, code: &str) -> Ended {
    let rig = Rig::new(bot).await;
    let ended = rig.ask(input).await;
    let failure = ended.row.failure.clone().unwrap();
    assert_eq!(failure.code.as_str(), code, "{failure}");
    let kinds = ended.kinds();
    let count = |kind| kinds.iter().filter(|k| **k == kind).count();
    assert_eq!(count("finished"), 1);
    rig.assert_usable(&ended.row.session_id).await;
    ended
}

#[tokio::test]
async fn max_steps_counts_model_turns() {
    let ended = fails(
        looping().set("max_steps", json!(3)),
        "loop",
        "limit_exceeded",
    )
    .await;
    assert_eq!(ended.row.model_calls, 3);
    assert_eq!(ended.results().len(), 6);
}

#[tokio::test]
async fn tool_calls_are_capped_and_each_is_answered() {
    let bot = looping().set("budget", json!({"tool_calls": 3}));
    let ended = fails(bot, "loop", "limit_exceeded").await;
    assert_eq!(ended.row.model_calls, 2);
    assert_eq!(ended.results().len(), 4);
    assert!(ended.results()[2].1.contains("not run"));
}

#[tokio::test]
async fn the_token_budget_is_checked_before_a_call() {
    let usage = Usage {
        input: 400,
        output: 200,
        ..Usage::default()
    };
    let script = ModelScript::new()
        .on_text("loop")
        .reply(Reply::calls([rune_testkit::ToolCall::new("t", json!({}))]).usage(usage));
    let server = ModelServer::start(script).await.unwrap();
    let bot = Bot::on(&[(&server, Protocol::Openai)])
        .tool("t", &json!({}), "cat >/dev/null; echo 1\n")
        .set_in("models", "token_budget", json!(1000));
    let ended = fails(bot, "loop", "limit_exceeded").await;
    assert_eq!(ended.row.model_calls, 2);
    assert_eq!(ended.row.usage.total(), 1200);
}

#[tokio::test]
async fn a_request_ends_at_its_timeout() {
    let script = script()
        .on_text("stall")
        .fault_first(Fault::stall_after(1).always())
        .reply(Reply::text(["a", "b"]));
    let server = ModelServer::start(script).await.unwrap();
    let bot = Bot::on(&[(&server, Protocol::Anthropic)]).set("timeout_ms", json!(300));
    fails(bot, "stall", "timeout").await;
    let bot = Bot::new()
        .tool("t", &json!({}), "cat >/dev/null; sleep 60\n")
        .script(&json!([
            {"match": {"contains": "loop"}, "tool_calls": [{"name": "t"}]},
            {"respond": "Echo: {{ input }}"},
        ]))
        .set("budget", json!({"wall_ms": 300}));
    let ended = fails(bot, "loop", "limit_exceeded").await;
    let message = ended.row.failure.unwrap().message;
    assert!(message.contains("`budget.wall_ms`"), "{message}");
}

#[tokio::test]
async fn a_request_too_many_waits_and_runs() {
    let server = ModelServer::start(ModelScript::new().latency(Duration::from_millis(150)))
        .await
        .unwrap();
    let rig = Rig::new(Bot::on(&[(&server, Protocol::Openai)])).await;
    let mut invoked = Vec::new();
    for n in 0..11 {
        invoked.push(rig.invoke(&n.to_string()).await);
    }
    let replica = rig.router.replicas(rig.deployment.id).remove(0);
    until("the replica", || replica.in_flight() == 10).await;
    server.wait_for_requests(10).await.unwrap();
    assert_eq!(server.requests().len(), 10);
    for invoked in invoked {
        assert_eq!(rig.end(invoked).await.row.status, RequestStatus::Completed);
    }
    until("the replica", || replica.in_flight() == 0).await;
}

#[tokio::test]
async fn places_are_sticky_then_least_loaded_and_given_in_turn() {
    let bot = Bot::new().set_in("runtime", "concurrency_limit", json!(2));
    let rig = Rig::new(bot).await;
    rig.add_replica();
    let id = rig.deployment.id;
    let wait = Duration::from_millis(20);
    let sessions: Vec<SessionId> = (0..5).map(|_| SessionId::generate()).collect();
    let first = rig
        .router
        .lease(id, &sessions[0], None, wait)
        .await
        .unwrap();
    let second = rig
        .router
        .lease(id, &sessions[1], None, wait)
        .await
        .unwrap();
    assert_ne!(first.replica().id(), second.replica().id());
    let home = first.replica().id();
    drop(first);
    let third = rig
        .router
        .lease(id, &sessions[1], None, wait)
        .await
        .unwrap();
    assert_eq!(
        third.replica().id(),
        second.replica().id(),
        "the session's replica"
    );
    let fourth = rig
        .router
        .lease(id, &sessions[2], None, wait)
        .await
        .unwrap();
    assert_eq!(fourth.replica().id(), home, "the least loaded");
    let fifth = rig
        .router
        .lease(id, &sessions[3], None, wait)
        .await
        .unwrap();
    // Full: the line, first come first served; one that gave up is passed over.
    let late = rig.router.lease(id, &sessions[4], None, wait).await;
    assert_eq!(late.unwrap_err(), RouteError::Deadline(wait));
    let waiting = rig
        .router
        .lease(id, &sessions[4], None, super::harness::HANG);
    tokio::pin!(waiting);
    assert!(futures_util::poll!(&mut waiting).is_pending());
    drop(fifth);
    soon("the line", waiting).await.unwrap();
    drop((second, third, fourth));
    let free: u32 = rig.router.replicas(id).iter().map(|r| r.in_flight()).sum();
    assert_eq!(free, 0, "every place was given back");
}

#[tokio::test]
async fn those_who_wait_are_told_when_nothing_will_come() {
    let rig = Rig::new(Bot::new().set_in("runtime", "concurrency_limit", json!(1))).await;
    let (id, session) = (rig.deployment.id, SessionId::generate());
    let held = rig
        .router
        .lease(id, &session, None, super::harness::HANG)
        .await
        .unwrap();
    let wait = || rig.router.lease(id, &session, None, super::harness::HANG);

    let scaled = async {
        tokio::task::yield_now().await;
        rig.router.set_deployment(DeploymentRow {
            replicas: 0,
            ..rig.deployment.clone()
        });
    };
    let (told, ()) = soon("the line", async { tokio::join!(wait(), scaled) }).await;
    assert_eq!(told.unwrap_err(), RouteError::Stopped);

    rig.router.set_deployment(rig.deployment.clone());
    let removed = async {
        tokio::task::yield_now().await;
        rig.router.remove_deployment(id);
    };
    let (told, ()) = soon("the line", async { tokio::join!(wait(), removed) }).await;
    assert_eq!(told.unwrap_err(), RouteError::Removed);
    drop(held);
}

#[tokio::test]
async fn a_stopped_deployment_takes_no_request_while_its_replica_is_still_there() {
    let rig = Rig::new(Bot::new()).await;
    let (id, wait) = (rig.deployment.id, super::harness::HANG);
    let session = SessionId::generate();
    drop(rig.router.lease(id, &session, None, wait).await.unwrap());
    rig.router.set_deployment(DeploymentRow {
        replicas: 0,
        ..rig.deployment.clone()
    });
    assert_eq!(rig.router.replicas(id).len(), 1);
    let refused = rig.router.lease(id, &session, None, wait).await;
    assert_eq!(refused.unwrap_err(), RouteError::Stopped);
    let refused = rig.router.ready(id, wait).await;
    assert_eq!(refused.err(), Some(RouteError::Stopped));
}

#[tokio::test]
async fn a_request_whose_deployment_goes_away_fails() {
    let rig = Rig::new(Bot::new().set_in("runtime", "concurrency_limit", json!(1))).await;
    let id = rig.deployment.id;
    let held = rig
        .router
        .lease(id, &SessionId::generate(), None, super::harness::HANG)
        .await
        .unwrap();
    let invoked = rig.invoke("hello").await;
    rig.spy.wait_for(1).await;
    rig.router.remove_deployment(id);
    let ended = rig.end(invoked).await;
    assert_eq!(ended.row.failure.unwrap().code.as_str(), "not_found");
    drop(held);
    let error = rig
        .engine
        .invoke(super::harness::call("x"))
        .await
        .err()
        .unwrap();
    assert_eq!(error.code().as_str(), "not_found");
}

#[tokio::test]
async fn a_history_that_is_left_out_is_told() {
    let bot = Bot::new().set_in("models", "token_budget", json!(2_000));
    let rig = Rig::new(bot).await;
    let first = rig.ask(&"long ".repeat(900)).await;
    let next = rig.ask_in(&first.row.session_id, "and now?").await;
    assert_eq!(next.row.status, RequestStatus::Completed);
    let notice = next.journal.iter().find_map(|entry| match &entry.body {
        EntryBody::Notice { code, message } if code == "history_left_out" => Some(message),
        _ => None,
    });
    assert!(notice.unwrap().contains("token_budget"), "{notice:?}");
}
