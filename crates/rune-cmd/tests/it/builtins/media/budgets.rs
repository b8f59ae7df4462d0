use rune_testkit::{CutAt, Fault, ModelScript, Protocol, Reply};
use serde_json::{Value, json};

use super::{Studio, mp3, png, used, wav};
use crate::wire::Api;

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

/// Money of the deployment's day that is spent, and reserved.
fn balance(studio: &Studio) -> (u64, u64) {
    let rows = studio
        .rig
        .served
        .rune(&["usage", "--budgets", "-o", "json"]);
    let rows = rows.json();
    let mut rows = rows.as_array().unwrap().iter();
    let row = rows.find(|row| row["scope"] == "deployment").unwrap();
    (
        row["spent"].as_u64().unwrap(),
        row["reserved"].as_u64().unwrap(),
    )
}

/// Starts the daemon again with a file in its directory.
async fn restart_with(studio: &mut Studio, file: &str, text: &str) {
    let daemon = &mut studio.rig.served.0;
    std::fs::write(daemon.data_dir().join(file), text).unwrap();
    daemon.restart().await.unwrap();
    studio.rig.api = Api::of(daemon);
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
    assert!(
        refused.contains("nobody says how many tokens") && !refused.contains("prices.toml"),
        "{refused}"
    );
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
    studio
        .call("image-generate", json!({"prompt": "A cat"}))
        .await;
    assert_eq!(balance(&studio), (COST, 0));
    // Nobody knows what it used: all that was reserved counts.
    studio
        .refused("image-generate", json!({"prompt": "<cut>"}))
        .await;
    let (spent, reserved) = balance(&studio);
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
    assert!(balance(&studio).0 <= 500_000);
}

#[tokio::test]
async fn a_provider_without_a_price_is_passed_over_where_money_counts() {
    let mut studio = Studio::start(Protocol::Openai, script(), "").await;
    let url = studio.server.base_url(Protocol::Openai);
    let endpoint = json!({"protocol": "openai", "base_url": url, "api_key": super::KEY});
    let models = json!({
        "providers": ["offline", "first", "second"],
        "endpoints": {"first": endpoint, "second": endpoint},
        "model_mapping": {
            "default": {"offline": "offline"},
            "image": {"first": "nobody-knows", "second": "gpt-image-2.5-flare"},
        },
    });
    studio.write("painter", &models, "budget: {cost_usd: 1}\n");
    studio.agent = "painter".to_owned();
    let drawn = studio.call("image-generate", json!({"prompt": "A cat"}));
    assert_eq!(drawn.await["provider"], "second");
    assert_eq!(studio.server.requests().len(), 1);
    // Who is left out says why.
    let models = models.to_string().replace("gpt-image-2.5-flare", "other");
    let models: Value = serde_json::from_str(&models).unwrap();
    studio.write("poor", &models, "budget: {cost_usd: 1}\n");
    studio.agent = "poor".to_owned();
    let refused = studio
        .refused("image-generate", json!({"prompt": "A cat"}))
        .await;
    for part in ["`first`", "`second`", "prices.toml"] {
        assert!(refused.contains(part), "{refused}");
    }
    assert_eq!(studio.server.requests().len(), 1);
}

#[tokio::test]
async fn what_is_not_counted_counts_with_its_estimate() {
    let script = ModelScript::new().reply(Reply::text("Hello."));
    let mut studio = Studio::start(Protocol::Openai, script, "").await;
    let prices = "[models]\nscripted = { input = 1, output = 100 }\n";
    restart_with(&mut studio, "prices.toml", prices).await;
    let budget = "budget: {cost_usd_per_day: 0.5}\n";
    studio.deploy("listener", Protocol::Openai, budget);
    studio.agent = "listener".to_owned();
    studio.put("call.wav", &wav());
    // The server tells seconds and no tokens.
    let listen = json!({"source": "call.wav"});
    studio.call("speech-to-text", listen.clone()).await;
    let (spent, reserved) = balance(&studio);
    assert!(spent > 250_000, "{spent}");
    assert_eq!(reserved, 0);
    let row = last_request(&studio).await;
    assert_eq!(row["cost"]["unpriced_calls"], 1, "{row}");
    let refused = studio.refused("speech-to-text", listen).await;
    assert!(refused.contains("`budget.cost_usd_per_day`"), "{refused}");
    assert_eq!(studio.server.requests().len(), 1);
}

#[tokio::test]
async fn a_call_waits_for_others_that_have_reserved_what_it_needs() {
    let mut studio = Studio::start(Protocol::Openai, script(), "").await;
    // There is room for one that is under way.
    priced(&mut studio, "painter", "budget: {cost_usd_per_day: 0.3}\n");
    studio.server.hold();
    let draw = "/tool rune@image-generate {\"prompt\": \"A cat\"}";
    let first = studio.rig.api.start("painter", draw).await;
    studio.server.wait_for_held(1).await.unwrap();
    let second = studio.rig.api.start("painter", draw).await;
    let mut events = studio.rig.api.events(&second, 0).await;
    loop {
        let event = events.next().await.unwrap();
        assert!(!event.is_last(), "{event:?}");
        if event.data["code"] == "budget_wait" {
            break;
        }
    }
    assert_eq!(studio.server.requests().len(), 1);
    studio.server.release_all();
    for id in [first, second] {
        let row = studio.rig.api.ended(&id).await;
        assert_eq!(row["cost"]["micro_usd"], COST, "{row}");
    }
    assert_eq!(balance(&studio), (2 * COST, 0));
}

#[tokio::test]
async fn a_call_that_was_never_sent_is_not_charged() {
    let mut studio = Studio::start(Protocol::Openai, script(), "").await;
    let limits = "[providers.studio]\nmax_concurrent = 1\n";
    restart_with(&mut studio, "config.toml", limits).await;
    priced(&mut studio, "painter", "budget: {cost_usd_per_day: 1}\n");
    studio.server.hold();
    let draw = "/tool rune@image-generate {\"prompt\": \"A cat\"}";
    let first = studio.rig.api.start("painter", draw).await;
    studio.server.wait_for_held(1).await.unwrap();
    let (_, one) = balance(&studio);
    let second = studio.rig.api.start("painter", draw).await;
    // It has reserved what it needs, and waits for its turn at the provider.
    while balance(&studio).1 < 2 * one {}
    let cancel = format!("/v1/requests/{second}/cancel");
    let cancel = studio.rig.api.post(&cancel, &json!({})).send();
    assert_eq!(cancel.await.unwrap().status(), 200);
    let events = studio.rig.api.events(&second, 0).await.rest().await;
    assert!(
        events
            .iter()
            .all(|event| event.data["code"] != "usage_unknown"),
        "{events:?}"
    );
    assert_eq!(balance(&studio), (0, one));
    studio.server.release_all();
    studio.rig.api.ended(&first).await;
    assert_eq!(balance(&studio), (COST, 0));
    assert_eq!(studio.server.requests().len(), 1);
}

#[tokio::test]
async fn what_a_model_has_answered_is_counted_whatever_happens_then() {
    // Large, so that it is being written when the daemon is killed.
    let mut large = png();
    large.resize(24 << 20, 7);
    let script = ModelScript::new().reply(Reply::file("image/png", &large).usage(used(0, 100)));
    let mut studio = Studio::start(Protocol::Openai, script, "").await;
    priced(&mut studio, "painter", "budget: {cost_usd_per_day: 1}\n");
    let draw = "/tool rune@image-generate {\"prompt\": \"A cat\"}";
    let id = studio.rig.api.start("painter", draw).await;
    let mut events = studio.rig.api.events(&id, 0).await;
    loop {
        let event = events.next().await.unwrap();
        assert!(!event.is_last() && event.name != "tool_done", "{event:?}");
        if event.name == "model_called" {
            assert_eq!(event.data["call"]["cost_micro_usd"], COST, "{event:?}");
            break;
        }
    }
    studio.rig.served.0.kill9().unwrap();
    studio.rig.served.0.restart().await.unwrap();
    studio.rig.api = Api::of(&studio.rig.served.0);
    let row = studio.rig.api.ended(&id).await;
    assert_eq!(row["status"], "completed", "{row}");
    assert_eq!(row["cost"]["micro_usd"], COST, "{row}");
    assert_eq!(balance(&studio), (COST, 0));
    assert_eq!(studio.server.requests().len(), 1);
    let replayed = studio.rig.served.rune(&["requests", "replay", &id]).ok();
    assert!(replayed.contains("replays the same"), "{replayed}");
}
