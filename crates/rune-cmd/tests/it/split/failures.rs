//! Requests that ran and failed, as a gateway tells of them.

use serde_json::{Value, json};

use super::Split;
use crate::remote_agents::deploy as deploy_agent;
use crate::remote_agents::server::{Reply, Scripted};
use crate::wire::{Api, answer};

const UNKNOWN: &[u8] = br#"{"error": {"code": "unauthenticated", "message": "who are you?"}}"#;

/// An agent elsewhere that takes nobody's credentials, and `work`, whose only step it is.
async fn refused_step(split: &Split) -> Scripted {
    let elsewhere = Scripted::agent(json!({}), |_| {
        Reply::Whole(401, "application/json", UNKNOWN.to_vec())
    });
    let elsewhere = elsewhere.await;
    let served = &split.control_plane;
    let dir = served.0.home().join("work");
    std::fs::create_dir_all(&dir).unwrap();
    let steps = json!([{"id": "ask", "agent_ref": elsewhere.base, "input_template": "x"}]);
    let workflow = json!({"name": "work", "version": "1.0.0", "steps": steps});
    std::fs::write(dir.join("workflow.yaml"), workflow.to_string()).unwrap();
    deploy_agent(served, "work", &[], "", "");
    elsewhere
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_ran_and_was_refused_elsewhere_is_answered_as_what_it_is() {
    let split = Split::start_with(&[("RUNE_ALLOW_PRIVATE", "127.0.0.1")], &[]).await;
    let elsewhere = refused_step(&split).await;
    let [west, east] = split.apis();

    // The caller's credentials are right, and asking again would run it again.
    let refused = west
        .invoke("work", &json!({"input": "go"}))
        .send()
        .await
        .unwrap();
    assert_eq!(refused.status(), 502);
    for absent in ["www-authenticate", "retry-after", "x-rune-answered"] {
        assert!(!refused.headers().contains_key(absent), "{absent}");
    }
    let body: Value = refused.json().await.unwrap();
    assert_eq!(body["error"]["code"], "unauthenticated", "{body}");
    let id = body["error"]["request_id"].as_str().unwrap();
    let row = east.request(id).await;
    assert_eq!(
        (&row["status"], &row["error"]["code"]),
        (&json!("failed"), &json!("unauthenticated")),
        "{row}"
    );
    assert_eq!(elsewhere.calls().len(), 1);

    let chat = json!({"model": "work", "messages": [{"role": "user", "content": "go"}]});
    let refused = west
        .post("/v1/chat/completions", &chat)
        .send()
        .await
        .unwrap();
    assert_eq!(refused.status(), 502);
    assert_eq!(refused.headers()["x-should-retry"], "false");
    let body: Value = refused.json().await.unwrap();
    let told = (&body["error"]["code"], &body["error"]["type"]);
    assert_eq!(told, (&json!("unauthenticated"), &json!("server_error")));
    assert_eq!(elsewhere.calls().len(), 2);

    // Nothing of it is about the token of the gateway.
    assert!(!split.west.0.log().contains("RUNE_INTERNAL_TOKEN"));
    let (status, ready) = answer(Api::of(&split.west.0).get("/ready")).await.unwrap();
    assert_eq!(status, 200, "{ready}");
}
