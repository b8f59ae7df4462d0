//! What requests cost, what they may cost, and requests that go round in circles.

use rune_runtime::RequestEvent;
use rune_store_runtime::{Cost, EntryBody, RequestStatus, UsageFilter, UsageGroup};
use rune_testkit::{ModelScript, ModelServer, Protocol, Reply, ToolCall, Usage};
use serde_json::json;

use super::harness::{Bot, Ended, Rig};

/// What one call costs with the price of `test-model`: 400 * 1 + 200 * 2 USD per million.
const CALL_COST: u64 = 800;

/// A model that calls a tool for ever, each time with another input.
async fn busy() -> ModelServer {
    let usage = Usage {
        input: 400,
        output: 200,
        ..Usage::default()
    };
    let script = (0..10).fold(ModelScript::new().on_text("work"), |script, n| {
        script.reply(Reply::calls([ToolCall::new("t", json!({ "n": n }))]).usage(usage))
    });
    ModelServer::start(script.reply(Reply::text("done").usage(usage)))
        .await
        .unwrap()
}

fn worker(server: &ModelServer) -> Bot {
    Bot::on(&[(server, Protocol::Openai)]).tool("t", &json!({}), "cat >/dev/null; echo 1\n")
}

fn unpriced(server: &ModelServer) -> Bot {
    worker(server).set_in("models", "model_mapping", json!({"main": "brand-new"}))
}

fn notices(ended: &Ended, wanted: &str) -> Vec<String> {
    let notices = ended.journal.iter().filter_map(|entry| match &entry.body {
        EntryBody::Notice { code, message } if code == wanted => Some(message.clone()),
        _ => None,
    });
    notices.collect()
}

fn failure(ended: &Ended) -> String {
    let failure = ended.row.failure.clone().unwrap();
    assert_eq!(failure.code.as_str(), "limit_exceeded", "{failure}");
    failure.message
}

#[tokio::test]
async fn every_call_has_its_cost_and_the_request_their_sum() {
    let server = busy().await;
    let bot = worker(&server).set("max_steps", json!(3));
    let rig = Rig::new(bot).await;
    let ended = rig.ask("work").await;
    let sum = Cost {
        micro_usd: Some(3 * CALL_COST),
        unpriced_calls: 0,
    };
    assert_eq!(ended.row.cost, sum);
    let costs = ended.events.iter().filter_map(|event| match &event.event {
        RequestEvent::Usage { cost_micro_usd, .. } => *cost_micro_usd,
        _ => None,
    });
    assert_eq!(costs.collect::<Vec<_>>(), [CALL_COST; 3]);
    let last = ended.events.last().unwrap();
    assert!(
        matches!(&last.event, RequestEvent::Error { cost, .. } if *cost == sum),
        "{last:?}"
    );
    let filter = UsageFilter::default();
    let totals = rig.store.usage_totals(&filter, UsageGroup::Caller).await;
    let totals = totals.unwrap();
    assert_eq!((totals[0].calls, totals[0].cost), (3, sum));
    assert_eq!(totals[0].caller.as_deref(), Some("test"));
    assert!(notices(&ended, "unpriced_model").is_empty());
}

#[tokio::test]
async fn an_unpriced_model_is_told_once_and_its_cost_is_unknown() {
    let server = busy().await;
    let ended = Rig::new(unpriced(&server).set("max_steps", json!(2)))
        .await
        .ask("work")
        .await;
    let told = notices(&ended, "unpriced_model");
    assert_eq!(told.len(), 1);
    assert!(told[0].contains("brand-new"), "{told:?}");
    let unknown = Cost {
        micro_usd: None,
        unpriced_calls: 2,
    };
    assert_eq!(ended.row.cost, unknown);
}

#[tokio::test]
async fn a_cost_budget_is_checked_before_each_call_and_limits_its_output() {
    let server = busy().await;
    let bot = worker(&server).set("budget", json!({"cost_usd": 0.001_99}));
    let ended = Rig::new(bot).await.ask("work").await;
    let message = failure(&ended);
    assert!(message.contains("budget.cost_usd"), "{message}");
    assert_eq!(ended.row.model_calls, 2);
    assert_eq!(ended.row.cost.micro_usd, Some(2 * CALL_COST));
    let asked: Vec<u64> = server
        .requests()
        .iter()
        .map(|request| {
            let body = &request.body;
            let max = body.get("max_completion_tokens").or(body.get("max_tokens"));
            max.and_then(serde_json::Value::as_u64).unwrap()
        })
        .collect();
    assert!(asked[0] < 995 && asked[1] < 595, "{asked:?}");
}

#[tokio::test]
async fn a_cost_budget_refuses_a_model_without_a_price() {
    let server = busy().await;
    let bot = unpriced(&server).set("budget", json!({"cost_usd": 5}));
    let ended = Rig::new(bot).await.ask("work").await;
    let message = failure(&ended);
    assert!(message.contains("budget.cost_usd"), "{message}");
    assert!(message.contains("prices.toml"), "{message}");
    assert!(server.requests().is_empty(), "nothing was asked");
}

#[tokio::test]
async fn the_offline_model_costs_nothing() {
    let bot = Bot::new().set("budget", json!({"cost_usd": 0.000_001}));
    let ended = Rig::new(bot).await.ask("hello").await;
    assert_eq!(ended.row.status, RequestStatus::Completed);
    assert_eq!(ended.row.cost.micro_usd, Some(0));
}

#[tokio::test]
async fn a_token_budget_is_named_as_it_is_set() {
    let server = busy().await;
    let bot = worker(&server).set("budget", json!({"tokens": 1000}));
    let message = failure(&Rig::new(bot).await.ask("work").await);
    assert!(message.contains("`budget.tokens`"), "{message}");
}

/// Calls the tool with one input, `parallel` times per turn.
fn looping(parallel: usize) -> Bot {
    let calls = vec![json!({"name": "t", "input": {"a": 1, "b": 2}}); parallel];
    Bot::new()
        .tool("t", &json!({}), "cat >/dev/null; echo 1\n")
        .script(&json!([{"tool_calls": calls}]))
}

#[tokio::test]
async fn the_fifth_identical_call_is_refused_and_the_next_ends_the_request() {
    let ended = Rig::new(looping(1)).await.ask("loop").await;
    let message = failure(&ended);
    assert!(message.contains("`t`"), "{message}");
    assert_eq!(ended.row.model_calls, 6);
    let results = ended.results();
    let ran = results.iter().filter(|(_, content)| content.trim() == "1");
    assert_eq!(ran.count(), 4, "{results:?}");
    assert!(results[4].1.contains("5 times"), "{results:?}");
    assert!(results[5].1.contains("not run"), "{results:?}");
    assert_eq!(notices(&ended, "loop_detected").len(), 2);
}

#[tokio::test]
async fn identical_calls_of_one_turn_count() {
    let ended = Rig::new(looping(7)).await.ask("loop").await;
    failure(&ended);
    assert_eq!(ended.row.model_calls, 2, "the model is told once");
    let results = ended.results();
    let ran = results.iter().filter(|(_, content)| content.trim() == "1");
    assert_eq!((ran.count(), results.len()), (4, 14), "{results:?}");
}
