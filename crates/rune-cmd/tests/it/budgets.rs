//! Shared budgets through the daemon, also where it is killed.

use std::time::Duration;

use rune_testkit::{ModelScript, ModelServer, Protocol, Reply, Usage};
use serde_json::{Value, json};

use crate::home::{RUNE, Served};
use crate::wire::{Api, assert_no_panic, assert_sound, deploy, spawn};

/// What one call costs: 400 * 1 + 200 * 2 USD per million.
const CALL_COST: u64 = 800;
const PRICES: &str = "[models]\nscripted = { input = 1, output = 2 }\n";
const REQUESTS: usize = 100;

fn script() -> ModelScript {
    let usage = Usage {
        input: 400,
        output: 200,
        ..Usage::default()
    };
    ModelScript::new()
        .latency(Duration::from_millis(250))
        .on_text("ask")
        .reply(Reply::text("done").usage(usage))
}

/// A daemon that knows the price of the scripted model.
async fn served(config: &str) -> Served {
    let builder = rune_testkit::TestDaemon::builder(RUNE).env("RUST_LOG", "warn");
    let mut served = Served(builder.start().await.unwrap());
    std::fs::write(served.0.data_dir().join("prices.toml"), PRICES).unwrap();
    let home = served.0.home().join(".rune");
    std::fs::create_dir_all(&home).unwrap();
    std::fs::write(home.join("config.toml"), config).unwrap();
    served.0.terminate().await.unwrap();
    served.0.restart().await.unwrap();
    served
}

/// Deploys an agent whose replies have 200 tokens at the most.
fn deploy_brief(served: &Served, server: &ModelServer, extra: &str) {
    let models = [(server, Protocol::Openai)];
    deploy(served, "bot", &models, &[], extra);
    let path = served.0.home().join("bot/Runefile");
    let text = std::fs::read_to_string(&path).unwrap();
    let brief = text.replace("models: {", "models: {\"max_output_tokens\": 200, ");
    assert_ne!(text, brief);
    std::fs::write(path, brief).unwrap();
    served.rune(&["run", "bot"]).ok();
}

fn budgets(served: &Served) -> Vec<Value> {
    let ran = served.rune(&["usage", "--budgets", "-o", "json"]);
    let rows: Value = serde_json::from_str(&ran.ok()).unwrap();
    rows.as_array().unwrap().clone()
}

/// How a request ended: completed, or at its budget.
fn completed(row: &Value) -> bool {
    if row["status"] == "completed" {
        return true;
    }
    assert_eq!(row["error"]["code"], "limit_exceeded", "{row}");
    let message = row["error"]["message"].as_str().unwrap();
    assert!(message.contains("`budget.cost_usd_per_day`"), "{message}");
    false
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_requests_stay_within_a_budget_when_the_daemon_is_killed() {
    const CAP: u64 = 60_000;
    let server = ModelServer::start(script()).await.unwrap();
    let mut served = served("").await;
    let extra = "budget: {cost_usd_per_day: 0.06}\nruntime: {concurrency_limit: 8}\n";
    deploy_brief(&served, &server, extra);
    let api = Api::of(&served.0);
    let started: Vec<_> = (0..REQUESTS)
        .map(|_| {
            let api = api.clone();
            spawn(async move { api.start("bot", "ask").await })
        })
        .collect();
    let mut ids = Vec::new();
    for started in started {
        ids.push(started.await.unwrap());
    }
    // In the middle of calls, twice.
    for calls in [2, 20] {
        server.wait_for_requests(calls).await.unwrap();
        served.0.kill9().unwrap();
        assert_sound(&served);
        served.0.restart().await.unwrap();
    }
    let api = Api::of(&served.0);
    let mut done = 0;
    for id in &ids {
        done += u64::from(completed(&api.ended(id).await));
    }
    // Also the calls whose reply the daemon did not live to see are charged.
    let asked = server.requests().len() as u64;
    assert!(asked * CALL_COST <= CAP, "{asked} calls");
    assert!(done >= 20 && done <= asked, "{done} of {asked}");
    let [row] = budgets(&served).try_into().unwrap();
    assert_eq!(
        (&row["scope"], &row["name"]),
        (&json!("deployment"), &json!("dev/bot:stable"))
    );
    assert_eq!((&row["cap"], &row["reserved"]), (&json!(CAP), &json!(0)));
    let spent = row["spent"].as_u64().unwrap();
    assert!((asked * CALL_COST..=CAP).contains(&spent), "{row}");
    assert_eq!(row["left"], CAP - spent);
    assert_no_panic(&served);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_caller_may_spend_is_configured_and_shown() {
    let server = ModelServer::start(script()).await.unwrap();
    let served = served("[budgets.default]\ncost_usd_per_day = 0.0025\n").await;
    let shown = served.rune(&["config", "show"]).ok();
    assert!(
        shown.contains("budgets.default.cost_usd_per_day"),
        "{shown}"
    );
    deploy_brief(&served, &server, "budget: {tokens_per_day: 90000}\n");
    let untouched = budgets(&served);
    assert_eq!(untouched.len(), 1, "{untouched:?}");
    assert_eq!(
        (&untouched[0]["unit"], &untouched[0]["left"]),
        (&json!("tokens"), &json!(90000))
    );
    let ask = ["run", "--agent", "bot", "ask"];
    served.rune(&ask).ok();
    served.rune(&ask).ok();
    let refused = served.rune(&ask);
    assert_eq!(refused.code, 4, "{}", refused.stderr);
    assert!(
        refused.stderr.contains("per day of caller `anonymous`"),
        "{}",
        refused.stderr
    );
    let table = served.rune(&["usage", "--budgets"]).ok();
    assert!(
        table.contains("caller") && table.contains("0.002500"),
        "{table}"
    );
}
