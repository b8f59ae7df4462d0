//! Budgets that requests share.

use std::collections::BTreeMap;
use std::time::Duration;

use futures_util::future::join_all;
use rune_env::{BudgetsConfig, CallerBudget};
use rune_runtime::{Forking, Invocation};
use rune_store_runtime::{
    BudgetFilter, BudgetKind, BudgetRow, BudgetScope, EntryBody, ForkChanges, PageRequest,
    RequestStatus, SessionId,
};
use rune_testkit::{CutAt, Fault, ModelScript, ModelServer, Protocol, Reply, Usage};
use serde_json::json;

use super::harness::{Bot, Ended, Rig, call, soon, until};

/// What one call costs with the price of `test-model`: 400 * 1 + 200 * 2 USD per million.
const CALL_COST: u64 = 800;
const CALL_TOKENS: u64 = 600;

fn reply() -> Reply {
    Reply::text("done").usage(Usage {
        input: 400,
        output: 200,
        ..Usage::default()
    })
}

async fn serve(script: ModelScript) -> ModelServer {
    ModelServer::start(script).await.unwrap()
}

/// Answers everything, at the price of a call.
fn answering() -> ModelScript {
    ModelScript::new().on_text("ask").reply(reply())
}

fn bot(server: &ModelServer) -> Bot {
    Bot::on(&[(server, Protocol::Openai)])
        .set_in("models", "max_output_tokens", json!(200))
        .set_in("runtime", "concurrency_limit", json!(100))
}

async fn budgets(rig: &Rig) -> Vec<BudgetRow> {
    let page = PageRequest::first(PageRequest::MAX_LIMIT);
    let found = rig.store.budgets(&BudgetFilter::default(), &page).await;
    found.unwrap().items
}

/// The only budget of a kind, with nothing reserved.
async fn settled(rig: &Rig, kind: BudgetKind) -> BudgetRow {
    let mut rows = budgets(rig).await;
    rows.retain(|row| row.scope.kind() == kind);
    let [row] = rows.try_into().unwrap();
    assert_eq!((row.reserved_tokens, row.reserved_micro_usd), (0, 0));
    row
}

/// Asks, and answers how that ended, also where nothing of it is stored.
async fn last_event(rig: &Rig) -> &'static str {
    let mut invoked = rig.invoke("ask").await;
    let mut last = "";
    while let Some(event) = soon("an event", invoked.events.next()).await.unwrap() {
        last = event.event.name();
    }
    rig.idle().await;
    last
}

fn notices(ended: &Ended, wanted: &str) -> usize {
    let codes = ended
        .journal
        .iter()
        .filter(|entry| matches!(&entry.body, EntryBody::Notice { code, .. } if code == wanted));
    codes.count()
}

fn refused(ended: &Ended) -> String {
    let failure = ended.row.failure.clone().unwrap();
    assert_eq!(failure.code.as_str(), "limit_exceeded", "{failure}");
    assert_eq!(notices(ended, "budget_exceeded"), 1);
    failure.message
}

#[tokio::test]
async fn a_hundred_requests_at_once_spend_no_more_than_the_budget_of_the_day() {
    const CAP: u64 = 20_000;
    let server = serve(answering().latency(Duration::from_millis(5))).await;
    let rig = Rig::new(bot(&server).set("budget", json!({"cost_usd_per_day": 0.02}))).await;
    let ended = join_all((0..100).map(|_| rig.ask("ask"))).await;
    let completed = ended
        .iter()
        .filter(|ended| ended.row.status == RequestStatus::Completed);
    let completed = completed.count();
    assert_eq!(server.requests().len(), completed);
    let spent = completed as u64 * CALL_COST;
    // No call was left out that would have fitted with what it reserves.
    assert!(spent <= CAP && spent + 2 * CALL_COST > CAP, "{spent}");
    for ended in ended {
        if ended.row.status != RequestStatus::Completed {
            let message = refused(&ended);
            assert!(message.contains("0.020000 USD per day of deployment `dev/bot:stable`"));
            assert!(message.contains("`budget.cost_usd_per_day`"), "{message}");
            assert!(message.contains("the day ends at 20"), "{message}");
        }
    }
    let row = settled(&rig, BudgetKind::Deployment).await;
    assert_eq!((row.spent_micro_usd, row.cap_micro_usd), (spent, Some(CAP)));
}

#[tokio::test]
async fn a_call_waits_for_those_that_hold_what_is_left_and_says_so() {
    let slow = answering().latency(Duration::from_millis(200));
    let server = serve(slow).await;
    // For one call at a time.
    let rig = Rig::new(bot(&server).set("budget", json!({"cost_usd_per_day": 0.0025}))).await;
    let first = rig.invoke("ask").await;
    server.wait_for_requests(1).await.unwrap();
    let second = rig.ask("ask").await;
    assert_eq!(second.row.status, RequestStatus::Completed);
    assert_eq!(notices(&second, "budget_wait"), 1);
    let first = rig.end(first).await;
    assert_eq!(notices(&first, "budget_wait"), 0);
    let row = settled(&rig, BudgetKind::Deployment).await;
    assert_eq!(row.spent_micro_usd, 2 * CALL_COST);
}

#[tokio::test]
async fn the_requests_of_a_session_share_its_budget() {
    let server = serve(answering()).await;
    let budget = json!({"session": {"tokens": 2200}});
    let rig = Rig::new(bot(&server).set("budget", budget)).await;
    let session = SessionId::generate();
    for _ in 0..2 {
        let ended = rig.ask_in(&session, "ask").await;
        assert_eq!(ended.row.status, RequestStatus::Completed);
    }
    let message = refused(&rig.ask_in(&session, "ask").await);
    assert!(message.contains("2200 tokens of session"), "{message}");
    assert!(message.contains("`budget.session.tokens`"), "{message}");
    let row = settled(&rig, BudgetKind::Session).await;
    assert_eq!(row.spent_tokens, 2 * CALL_TOKENS);
    let other = rig.ask("ask").await;
    assert_eq!(other.row.status, RequestStatus::Completed);
}

#[tokio::test]
async fn each_caller_has_a_budget_of_the_day() {
    let server = serve(answering()).await;
    let rig = Rig::new(bot(&server)).await;
    let ask = async |caller: &str| {
        let invocation = Invocation {
            caller: caller.to_owned(),
            ..call("ask")
        };
        let invoked = rig.engine.invoke(invocation).await.unwrap();
        rig.end(invoked).await
    };
    let usd = |usd| CallerBudget {
        cost_usd_per_day: Some(usd),
        tokens_per_day: None,
    };
    let config = BudgetsConfig {
        default: usd(0.0025),
        callers: [("alice".to_owned(), usd(1.0))].into(),
    };
    let _ = rig.engine.clone().with_caller_budgets(config);
    for _ in 0..5 {
        assert_eq!(ask("alice").await.row.status, RequestStatus::Completed);
    }
    for _ in 0..2 {
        assert_eq!(ask("bob").await.row.status, RequestStatus::Completed);
    }
    let message = refused(&ask("bob").await);
    assert!(message.contains("per day of caller `bob`"), "{message}");
    assert_eq!(ask("carol").await.row.status, RequestStatus::Completed);
}

#[tokio::test]
async fn a_fork_is_counted_against_the_budgets_of_a_request_of_its_own() {
    let server = serve(answering()).await;
    let budget = json!({"cost_usd_per_day": 0.0025, "session": {"tokens": 100_000}});
    let rig = Rig::new(bot(&server).set("budget", budget)).await;
    let first = rig.ask("ask").await;
    assert_eq!(first.row.status, RequestStatus::Completed);
    let fork = async || {
        let forking = Forking {
            origin: first.row.id,
            at: 1,
            changes: ForkChanges::default(),
            metadata: BTreeMap::new(),
            caller: "alice".to_owned(),
            idempotency: None,
        };
        let forked = rig.engine.fork(forking).await.unwrap();
        rig.end(forked).await
    };
    let forked = fork().await.row;
    assert_eq!(forked.status, RequestStatus::Completed);
    let scopes: Vec<_> = forked.budgets.iter().map(|cap| &cap.scope).collect();
    let session = BudgetScope::Session(forked.session_id.clone());
    let deployment = BudgetScope::Deployment("dev/bot:stable".to_owned());
    assert_eq!(scopes, [&session, &deployment]);
    let message = refused(&fork().await);
    assert!(message.contains("deployment `dev/bot:stable`"), "{message}");
    let row = settled(&rig, BudgetKind::Deployment).await;
    assert_eq!(row.spent_micro_usd, 2 * CALL_COST);
}

/// An agent that calls `helper` through six tools in one turn.
fn manager() -> Bot {
    let tools = ["a", "b", "c", "d", "e", "f"];
    let calls: Vec<_> = tools
        .iter()
        .map(|tool| json!({"name": tool, "input": {"input": "ask"}}))
        .collect();
    let script = json!([{"match": {"step": 1}, "tool_calls": calls}, {"respond": "over"}]);
    let bot = tools.into_iter().fold(Bot::new(), |bot, tool| {
        bot.agent_tool(tool, "local://helper", &json!({}))
    });
    bot.script(&script)
}

#[tokio::test]
async fn the_calls_of_agents_that_it_calls_count_for_every_budget_of_the_caller() {
    let server = serve(answering().latency(Duration::from_millis(20))).await;
    let manager = manager().set(
        "budget",
        json!({
            "cost_usd": 0.004, "cost_usd_per_day": 0.005, "session": {"cost_usd": 1},
        }),
    );
    let mut rig = Rig::new(manager).await;
    rig.deploy("helper", bot(&server)).await;
    let first = rig.ask("go").await;
    let failure = first.row.failure.clone();
    assert_eq!(first.row.status, RequestStatus::Completed, "{failure:?}");
    let asked = server.requests().len() as u64;
    assert!(asked >= 2 && asked * CALL_COST <= 4000, "{asked}");
    let contents = first.results();
    let failed = contents
        .iter()
        .filter(|(_, c)| c.contains("budget of 0.004000 USD of request"));
    assert_eq!(failed.count() as u64, 6 - asked, "{contents:?}");
    let day = settled(&rig, BudgetKind::Deployment).await;
    assert_eq!(day.spent_micro_usd, asked * CALL_COST);
    let session = settled(&rig, BudgetKind::Session).await;
    assert_eq!(session.spent_micro_usd, asked * CALL_COST);
    let of_request = |row: &BudgetRow| row.scope.kind() == BudgetKind::Request;
    assert!(!budgets(&rig).await.iter().any(of_request), "it has ended");

    rig.ask("go").await;
    let asked = server.requests().len() as u64;
    assert!(asked * CALL_COST <= 5000, "{asked}");
}

#[tokio::test]
async fn nothing_is_left_of_the_budget_of_a_workflow_that_has_ended() {
    let server = serve(answering()).await;
    for policy in ["each_step", "never"] {
        let steps = json!([
            {"id": "a", "agent_ref": "local://helper", "depends_on": [], "input_template": "ask"},
        ]);
        let workflow = Bot::new()
            .workflow(&json!({"name": "w", "version": "1.0.0", "steps": steps}))
            .set("budget", json!({"cost_usd_per_day": 1}))
            .set_in("runtime", "checkpoint_policy", json!(policy));
        let mut rig = Rig::new(workflow).await;
        rig.deploy("helper", bot(&server)).await;
        assert_eq!(last_event(&rig).await, "done", "{policy}");
        let row = settled(&rig, BudgetKind::Deployment).await;
        assert_eq!(row.spent_micro_usd, CALL_COST, "{policy}");
        assert_eq!(budgets(&rig).await.len(), 1, "{policy}");
    }
}

#[tokio::test]
async fn a_reply_that_broke_off_counts_as_all_that_was_reserved() {
    let broken = ModelScript::new()
        .on_text("ask")
        .fault_first(Fault::cut(CutAt::AfterText))
        .reply(reply());
    let server = serve(broken).await;
    let rig = Rig::new(bot(&server).set("budget", json!({"cost_usd_per_day": 1}))).await;
    let ended = rig.ask("ask").await;
    assert_eq!(ended.row.status, RequestStatus::Completed);
    assert_eq!(notices(&ended, "usage_unknown"), 1);
    let row = settled(&rig, BudgetKind::Deployment).await;
    // The prompt has at the least the bytes and the allowance of the bound.
    assert!(row.spent_micro_usd > CALL_COST + 1024 + 400, "{row:?}");
}

#[tokio::test]
async fn an_error_that_the_provider_answers_is_not_counted() {
    let limited = ModelScript::new()
        .on_text("ask")
        .fault_first(Fault::status(400).body("no"))
        .reply(reply());
    let server = serve(limited).await;
    let rig = Rig::new(bot(&server).set("budget", json!({"cost_usd_per_day": 1}))).await;
    let ended = rig.ask("ask").await;
    assert_eq!(ended.row.status, RequestStatus::Failed);
    assert_eq!(notices(&ended, "usage_unknown"), 0);
    let row = settled(&rig, BudgetKind::Deployment).await;
    assert_eq!(row.spent_micro_usd, 0);
}

#[tokio::test]
async fn a_call_that_is_cancelled_on_its_way_counts_as_all_that_was_reserved() {
    let stalling = ModelScript::new()
        .on_text("ask")
        .fault_first(Fault::stall_after(1).always())
        .reply(reply());
    let server = serve(stalling).await;
    for policy in ["each_step", "on_finish", "never"] {
        let bot = bot(&server)
            .set("budget", json!({"cost_usd_per_day": 1}))
            .set_in("runtime", "checkpoint_policy", json!(policy));
        let rig = Rig::new(bot).await;
        let asked = server.requests().len();
        let invoked = rig.invoke("ask").await;
        server.wait_for_requests(asked + 1).await.unwrap();
        let row = soon("cancel", rig.engine.cancel(invoked.request_id, "test"))
            .await
            .unwrap();
        assert_eq!(row.status, RequestStatus::Cancelled);
        if policy != "never" {
            let ended = rig.end(invoked).await;
            assert_eq!(notices(&ended, "usage_unknown"), 1, "{policy}");
        }
        let row = settled(&rig, BudgetKind::Deployment).await;
        assert!(row.spent_micro_usd > 1024 + 400, "{policy}: {row:?}");
        let page = PageRequest::default();
        assert!(
            rig.store
                .reservations(&page)
                .await
                .unwrap()
                .items
                .is_empty()
        );
    }
}

#[tokio::test]
async fn a_budget_costs_one_commit_per_model_call_and_none_where_there_is_none() {
    let server = serve(answering()).await;
    let budget = json!({"cost_usd_per_day": 1});
    for (policy, commands) in [
        (
            "each_step",
            &["AcceptRequest", "ReserveBudget", "AppendEntries"][..],
        ),
        (
            "on_finish",
            &[
                "AcceptRequest",
                "ReserveBudget",
                "SettleBudget",
                "AppendEntries",
            ],
        ),
        ("never", &["ReserveBudget", "SettleBudget", "SettleBudget"]),
    ] {
        let bot = |budget| {
            bot(&server)
                .set("budget", budget)
                .set_in("runtime", "checkpoint_policy", json!(policy))
        };
        let rig = Rig::new(bot(budget.clone())).await;
        assert_eq!(last_event(&rig).await, "done", "{policy}");
        assert_eq!(rig.spy.commands(), commands, "{policy}");
        let row = settled(&rig, BudgetKind::Deployment).await;
        assert_eq!(row.spent_micro_usd, CALL_COST, "{policy}");
        let rig = Rig::new(bot(json!({"cost_usd": 1}))).await;
        assert_eq!(last_event(&rig).await, "done", "{policy}");
        assert!(!rig.spy.commands().contains(&"ReserveBudget"), "{policy}");
    }
}

#[tokio::test]
async fn a_shared_budget_in_money_refuses_a_model_without_a_price() {
    let server = serve(answering()).await;
    let bot = bot(&server)
        .set("budget", json!({"cost_usd_per_day": 5}))
        .set_in("models", "model_mapping", json!({"main": "brand-new"}));
    let ended = Rig::new(bot).await.ask("ask").await;
    let failure = ended.row.failure.unwrap();
    assert_eq!(failure.code.as_str(), "limit_exceeded", "{failure}");
    assert!(failure.message.contains("prices.toml"), "{failure}");
    assert!(server.requests().is_empty(), "nothing was asked");
}

#[tokio::test]
async fn a_replay_reserves_nothing() {
    let server = serve(answering()).await;
    let rig = Rig::new(bot(&server).set("budget", json!({"cost_usd_per_day": 0.0025}))).await;
    let ended = rig.ask("ask").await;
    rig.spy.reset();
    let replayed = rig.engine.replay(ended.row.id).await.unwrap();
    assert!(replayed.equal, "{replayed:?}");
    assert!(rig.spy.commands().is_empty());
    rig.ask("ask").await;
    let refused = rig.ask("ask").await;
    let error = rig.engine.replay(refused.row.id).await.unwrap_err();
    assert!(error.to_string().contains("budget"), "{error}");
}

#[tokio::test]
async fn a_request_that_is_taken_up_again_counts_the_call_it_was_in() {
    let stalling = ModelScript::new()
        .on_text("ask")
        .fault_first(Fault::stall_after(1))
        .reply(reply());
    let server = serve(stalling).await;
    let rig = Rig::new(bot(&server).set("budget", json!({"cost_usd_per_day": 1}))).await;
    let invoked = rig.invoke("ask").await;
    server.wait_for_requests(1).await.unwrap();
    // Ended as a daemon is whose time to drain is over.
    assert!(!soon("drain", rig.engine.drain(Duration::ZERO)).await);
    let again = rig.restarted();
    assert_eq!(soon("recovery", again.engine.recover()).await.unwrap(), 1);
    again.idle().await;
    let row = again.engine.request(invoked.request_id).await.unwrap();
    assert_eq!(row.status, RequestStatus::Completed, "{row:?}");
    let journal = again.journal(row.id).await;
    let unknown = journal.iter().filter(
        |entry| matches!(&entry.body, EntryBody::Notice { code, .. } if code == "usage_unknown"),
    );
    assert_eq!(unknown.count(), 1);
    let replayed = again.engine.replay(row.id).await.unwrap();
    assert!(replayed.equal, "{replayed:?}");
    let row = settled(&again, BudgetKind::Deployment).await;
    assert!(row.spent_micro_usd > CALL_COST + 1024 + 400, "{row:?}");
}

#[tokio::test]
async fn what_a_lost_request_reserved_is_counted_by_the_next_start() {
    let stalling = ModelScript::new()
        .on_text("ask")
        .fault_first(Fault::stall_after(1).always())
        .reply(reply());
    let server = serve(stalling).await;
    let bot = bot(&server)
        .set("budget", json!({"cost_usd_per_day": 1}))
        .set_in("runtime", "checkpoint_policy", json!("never"));
    let rig = Rig::new(bot).await;
    let _invoked = rig.invoke("ask").await;
    server.wait_for_requests(1).await.unwrap();
    until("the reservation", || !rig.spy.commands().is_empty()).await;
    assert!(!soon("drain", rig.engine.drain(Duration::ZERO)).await);
    let again = rig.restarted();
    assert_eq!(soon("recovery", again.engine.recover()).await.unwrap(), 0);
    let row = settled(&again, BudgetKind::Deployment).await;
    assert!(row.spent_micro_usd > 1024 + 400, "{row:?}");
}

#[tokio::test]
async fn a_request_that_ends_without_being_taken_up_counts_the_call_it_was_in() {
    let stalling = ModelScript::new()
        .on_text("ask")
        .fault_first(Fault::stall_after(1).always())
        .reply(reply());
    let server = serve(stalling).await;
    for cancelled in [true, false] {
        let bot = bot(&server).set("budget", json!({"cost_usd_per_day": 1}));
        let rig = Rig::new(bot).await;
        let asked = server.requests().len();
        let id = rig.invoke("ask").await.request_id;
        server.wait_for_requests(asked + 1).await.unwrap();
        assert!(!soon("drain", rig.engine.drain(Duration::ZERO)).await);
        let again = rig.restarted();
        let status = if cancelled {
            let _ = soon("cancel", again.engine.cancel(id, "test"))
                .await
                .unwrap();
            RequestStatus::Cancelled
        } else {
            let row = again.engine.request(id).await.unwrap();
            again.router.remove_deployment(row.deployment_id);
            soon("recovery", again.engine.recover()).await.unwrap();
            RequestStatus::Failed
        };
        let row = again.engine.request(id).await.unwrap();
        assert_eq!(row.status, status);
        let journal = again.journal(id).await;
        let ended = Ended {
            journal,
            row,
            events: Vec::new(),
        };
        assert_eq!(notices(&ended, "usage_unknown"), 1, "{status:?}");
        let row = settled(&again, BudgetKind::Deployment).await;
        assert!(row.spent_micro_usd > 1024 + 400, "{row:?}");
    }
}
