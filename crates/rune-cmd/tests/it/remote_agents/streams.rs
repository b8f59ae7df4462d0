//! Wires that break.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rune_testkit::{ModelScript, ModelServer, Protocol, Reply as ModelReply};
use serde_json::json;

use super::server::{Scripted, Wire, result};
use super::{ask, deploy_asker, open_daemon, outcome, ran, requests};
use crate::wire::{Api, POLL, answer, assert_no_panic, deploy as deploy_model, spawn};

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_breaks_is_taken_up_again() {
    let whole: String = (0..60).map(|n| format!("{n} ")).collect();
    let told = ModelReply::text([whole.as_str()]).chunks(60);
    let told = told.chunk_every(Duration::from_millis(100));
    let model = ModelServer::start(ModelScript::new().then(told))
        .await
        .unwrap();
    let callee = open_daemon(&[]).await;
    deploy_model(&callee, "teller", &[(&model, Protocol::Anthropic)], &[], "");
    let wire = Wire::to(callee.0.gateway(), 3, 1500).await;
    let caller = open_daemon(&[]).await;
    deploy_asker(
        &caller,
        &format!("{}/a2a/teller", wire.base),
        "timeout_ms: 60000\n",
    );
    let api = Api::of(&caller.0);
    let events = ran(&api, "asker", &ask("go")).await;
    assert_eq!(outcome(&events), Ok(json!(whole)));
    assert!(wire.broken.load(Ordering::SeqCst) > 0, "nothing broke");
    assert_eq!(requests(&Api::of(&callee.0), "teller").await.len(), 1);
    assert_no_panic(&caller);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_webhook_wakes_a_call_that_looks_now_and_then() {
    let ended = Arc::new(AtomicBool::new(false));
    let flag = Arc::clone(&ended);
    let agent = Scripted::agent(json!({"pushNotifications": true}), move |seen| {
        let task = |state: &str, text: &str| {
            json!({"id": "t1", "contextId": "c", "status": {"state": state, "message": {
                "messageId": "m", "role": "ROLE_AGENT", "parts": [{"text": text}],
            }}})
        };
        match (seen.body["method"].as_str(), flag.load(Ordering::SeqCst)) {
            (Some("SendMessage"), _) => result(&json!({"task": task("TASK_STATE_WORKING", "")})),
            (_, false) => result(&task("TASK_STATE_WORKING", "")),
            (_, true) => result(&task("TASK_STATE_COMPLETED", "woken")),
        }
    })
    .await;
    // The agent here reaches the gateway by its own address.
    let base = "http://gateway.example";
    let caller = open_daemon(&[("RUNE_GATEWAY_BASE_URL", base), ("RUNE_API_KEY", "key")]).await;
    deploy_asker(&caller, &agent.base, "timeout_ms: 60000\n");
    let client = reqwest::Client::new();
    let invoke = client
        .post(format!("{}/v1/agents/asker/invoke", caller.0.gateway()))
        .bearer_auth("key")
        .json(&json!({"input": ask("x")}));
    let asked = spawn(answer(invoke));
    // By now it pauses for longer than it takes to be woken.
    while agent.calls().len() < 7 {
        tokio::time::sleep(POLL).await;
    }
    let config = &agent.calls()[0].body["params"]["configuration"]["taskPushNotificationConfig"];
    let hook = config["url"]
        .as_str()
        .unwrap()
        .replace(base, caller.0.gateway());
    ended.store(true, Ordering::SeqCst);
    let post = |url: String| client.post(url).json(&json!({"statusUpdate": {}})).send();
    let wrong = post(hook.replace("/wakeups/", "/wakeups/0")).await.unwrap();
    assert_eq!(wrong.status(), 404);
    let begun = std::time::Instant::now();
    assert_eq!(post(hook.clone()).await.unwrap().status(), 204);
    let (status, done) = asked.await.unwrap().unwrap();
    assert_eq!(status, 200, "{done}");
    assert!(done["output"].as_str().unwrap().contains("woken"), "{done}");
    // Looking by itself it would not have been that fast.
    assert!(
        begun.elapsed() < Duration::from_secs(2),
        "{:?}",
        begun.elapsed()
    );
    // A token is that of one call.
    assert_eq!(post(hook).await.unwrap().status(), 404);
}
