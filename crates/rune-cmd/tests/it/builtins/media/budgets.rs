use rune_testkit::{CutAt, Fault, ModelScript, Protocol, Reply};
use serde_json::{Value, json};

use super::{Studio, mp3, png, used};

/// A picture that costs 3000 millionths of a dollar: 100 tokens of output at 30 dollars a million.
const COST: u64 = 3000;

fn script() -> ModelScript {
    ModelScript::new()
        .on_text("<cut>")
        .fault_first(Fault::cut(CutAt::AfterText).always())
        .reply(Reply::file("image/png", &png()))
        .on_text("A cat")
        .reply(Reply::file("image/png", &png()).usage(used(0, 100)))
        .on_text("Hi")
        .reply(Reply::file("audio/mpeg", &mp3()))
}

/// An agent whose model for pictures has a price.
fn priced(studio: &mut Studio, name: &str, more: &str) {
    let url = studio.server.base_url(Protocol::Openai);
    let models = json!({
        "providers": ["offline", "studio"],
        "endpoints": {"studio": {"protocol": "openai", "base_url": url, "api_key": super::KEY}},
        "model_mapping": {
            "default": {"offline": "offline"},
            "image": {"studio": "gpt-image-2.5-flare"},
            "speech": {"studio": "gpt-4o-mini-tts"},
        },
    });
    studio.write(name, &models, more);
    name.clone_into(&mut studio.agent);
}

async fn last_request(studio: &Studio) -> Value {
    let listed = studio.rig.api.get("/v1/requests").send().await.unwrap();
    let listed: Value = listed.json().await.unwrap();
    let id = listed["items"][0]["id"].as_str().unwrap();
    studio.rig.api.request(id).await
}

#[tokio::test]
async fn what_is_used_is_in_the_ledger_and_a_replay_makes_the_same() {
    let mut studio = Studio::start(Protocol::Openai, script(), "").await;
    priced(&mut studio, "painter", "");
    studio
        .call("image-generate", json!({"prompt": "A cat"}))
        .await;
    let row = last_request(&studio).await;
    assert_eq!(row["cost"]["micro_usd"], COST, "{row}");
    assert_eq!(row["model_calls"], 3, "{row}");
    let id = row["id"].as_str().unwrap();
    let replayed = studio.rig.served.rune(&["requests", "replay", id]).ok();
    assert!(replayed.contains("replays the same"), "{replayed}");
    assert_eq!(studio.server.requests().len(), 1);
    studio.call("text-to-speech", json!({"text": "Hi"})).await;
    let spoken = last_request(&studio).await;
    assert_eq!(spoken["cost"]["unpriced_calls"], 1, "{spoken}");
    let usage = studio.rig.served.rune(&["usage", "-o", "json"]).ok();
    assert!(usage.contains("gpt-image-2.5-flare"), "{usage}");
    assert!(usage.contains("gpt-4o-mini-tts"), "{usage}");
}

#[tokio::test]
async fn a_budget_in_money_lets_no_call_through_that_it_cannot_count() {
    let mut studio = Studio::start(Protocol::Openai, script(), "").await;
    priced(&mut studio, "painter", "budget: {cost_usd: 1}\n");
    let refused = studio
        .refused("text-to-speech", json!({"text": "Hi"}))
        .await;
    assert!(refused.contains("`budget.cost_usd`"), "{refused}");
    assert!(refused.contains("no price by tokens is known"), "{refused}");
    studio
        .call("image-generate", json!({"prompt": "A cat"}))
        .await;
    priced(&mut studio, "poor", "budget: {cost_usd: 0.001}\n");
    let refused = studio
        .refused("image-generate", json!({"prompt": "A cat"}))
        .await;
    assert!(refused.contains("`budget.cost_usd`"), "{refused}");
    assert_eq!(studio.server.requests().len(), 1);
}

#[tokio::test]
async fn a_shared_budget_counts_what_tools_use() {
    let mut studio = Studio::start(Protocol::Openai, script(), "").await;
    priced(&mut studio, "painter", "budget: {cost_usd_per_day: 0.5}\n");
    let balance = || {
        let shown = studio
            .rig
            .served
            .rune(&["usage", "--budgets", "-o", "json"]);
        let rows = shown.json();
        let mut rows = rows.as_array().unwrap().iter();
        let row = rows.find(|row| row["scope"] == "deployment").unwrap();
        (
            row["spent"].as_u64().unwrap(),
            row["reserved"].as_u64().unwrap(),
        )
    };
    studio
        .call("image-generate", json!({"prompt": "A cat"}))
        .await;
    assert_eq!(balance(), (COST, 0));
    // Nobody knows what it used: all that was reserved counts.
    studio
        .refused("image-generate", json!({"prompt": "<cut>"}))
        .await;
    let (spent, reserved) = balance();
    assert!(spent > 2 * COST, "{spent}");
    assert_eq!(reserved, 0);
    let mut calls = 0;
    let refused = loop {
        let drawn = studio
            .rig
            .try_call(&studio.agent, "image-generate", json!({"prompt": "<cut>"}))
            .await
            .unwrap_err();
        if drawn.contains("would exceed the budget") {
            break drawn;
        }
        calls += 1;
        assert!(calls < 10, "{drawn}");
    };
    assert!(refused.contains("`budget.cost_usd_per_day`"), "{refused}");
    assert!(balance().0 <= 500_000);
}
