//! Wires that break.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use rune_testkit::{ModelScript, ModelServer, Protocol, Reply as ModelReply};
use serde_json::json;

use super::server::{Reply, Scripted, Wire, result};
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

/// What an agent of JSON-RPC refuses with.
fn refusal(code: i64) -> Reply {
    Reply::Json(json!({"jsonrpc": "2.0", "id": "1", "error": {"code": code, "message": "no"}}))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_whose_task_is_known_is_not_sent_again() {
    // The stream ends behind its first event, and there is no way to look at the task.
    let agent = Scripted::agent(json!({"streaming": true}), |seen| match seen.body["method"]
        .as_str()
    {
        Some("SendStreamingMessage") => {
            let task =
                json!({"id": "t1", "contextId": "c", "status": {"state": "TASK_STATE_WORKING"}});
            let event = json!({"jsonrpc": "2.0", "id": "1", "result": {"task": task}});
            let body = format!("data: {event}\n\n");
            Reply::Whole(200, "text/event-stream", body.into_bytes())
        }
        Some("SendMessage") => result(&json!({"message": {
            "messageId": "m", "role": "ROLE_AGENT", "parts": [{"text": "done twice"}],
        }})),
        _ => refusal(-32601),
    })
    .await;
    let caller = open_daemon(&[]).await;
    deploy_asker(&caller, &agent.base, "timeout_ms: 60000\n");
    let events = ran(&Api::of(&caller.0), "asker", &ask("x")).await;
    let told = outcome(&events);
    assert!(told.is_err(), "{told:?}");
    let calls = agent.calls().into_iter();
    let methods: Vec<_> = calls.map(|call| call.body["method"].clone()).collect();
    assert_eq!(methods, [json!("SendStreamingMessage"), json!("GetTask")]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_does_not_take_the_webhook_is_called_without_it() {
    let agent = Scripted::agent(json!({"pushNotifications": true}), |seen| {
        match seen.body["params"]["configuration"]["taskPushNotificationConfig"].is_null() {
            true => result(&json!({"message": {
                "messageId": "m", "role": "ROLE_AGENT", "parts": [{"text": "without"}],
            }})),
            false => refusal(-32602),
        }
    })
    .await;
    let base = "http://gateway.example";
    let caller = open_daemon(&[("RUNE_GATEWAY_BASE_URL", base)]).await;
    deploy_asker(&caller, &agent.base, "timeout_ms: 60000\n");
    let events = ran(&Api::of(&caller.0), "asker", &ask("x")).await;
    assert_eq!(outcome(&events), Ok(json!("without")));
    assert_eq!(agent.calls().len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_says_otherwise_than_its_task_is_not_followed_in_haste() {
    let looks = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&looks);
    let agent = Scripted::agent(json!({"streaming": true}), move |seen| {
        let task = |state: &str| json!({"id": "t1", "contextId": "c", "status": {"state": state}});
        match seen.body["method"].as_str() {
            // By its streams it has ended long ago.
            Some("SubscribeToTask") => {
                let event = json!({"jsonrpc": "2.0", "id": "1", "result": {"task": task("TASK_STATE_COMPLETED")}});
                let body = format!("data: {event}\n\n");
                Reply::Whole(200, "text/event-stream", body.into_bytes())
            }
            Some("GetTask") => {
                count.fetch_add(1, Ordering::SeqCst);
                result(&task("TASK_STATE_WORKING"))
            }
            Some("SendMessage") => result(&json!({"task": task("TASK_STATE_WORKING")})),
            _ => refusal(-32601),
        }
    })
    .await;
    let caller = open_daemon(&[]).await;
    deploy_asker(&caller, &agent.base, "timeout_ms: 4000\n");
    let events = ran(&Api::of(&caller.0), "asker", &ask("x")).await;
    assert!(outcome(&events).is_err(), "{events:?}");
    // In the four seconds of the call: at once, at once again, and then behind pauses that grow.
    let looks = looks.load(Ordering::SeqCst);
    assert!((2..=8).contains(&looks), "{looks}");
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
