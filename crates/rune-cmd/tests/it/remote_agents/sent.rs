//! `rune@a2a-discover` and `rune@a2a-send`.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::{Value, json};

use super::server::{Reply, Scripted, result};
use super::{deploy, open_daemon, outcome, ran, tool};
use crate::home::Served;
use crate::openai::deploy_asking;
use crate::wire::{Api, lines_of};

/// A daemon with an agent that has both tools.
async fn sender() -> (Served, Api) {
    let served = open_daemon(&[]).await;
    let tools = ["rune@a2a-discover", "rune@a2a-send", "rune@file-write"];
    deploy(&served, "sender", &tools, "", "");
    let api = Api::of(&served.0);
    (served, api)
}

async fn call(api: &Api, name: &str, input: Value) -> Result<Value, (String, String)> {
    outcome(&ran(api, "sender", &tool(name, &input)).await)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_is_discovered_and_talked_to() {
    let (_served, api) = sender().await;
    let callee = open_daemon(&[]).await;
    deploy(&callee, "helper", &[], "", "");
    let url = format!("{}/a2a/helper", callee.0.gateway());
    // By its URL, by that of its card, and by that of the host whose only agent it is.
    let card = format!("{url}/.well-known/agent-card.json");
    for url in [url.as_str(), &card, callee.0.gateway()] {
        let found = call(&api, "rune@a2a-discover", json!({"url": url}))
            .await
            .unwrap();
        assert_eq!(
            (
                &found["name"],
                &found["version"],
                &found["protocol_version"],
                &found["callable"]
            ),
            (
                &json!("helper"),
                &json!("0.1.0"),
                &json!("1.0"),
                &json!(true)
            ),
            "{found}"
        );
        assert_eq!(found["skills"][0]["id"], "helper");
        assert_eq!(found["interfaces"][1]["binding"], "HTTP+JSON");
    }
    let send = |input: Value| call(&api, "rune@a2a-send", input);
    let said = send(json!({"url": url, "message": "hello"})).await.unwrap();
    assert_eq!(
        (&said["state"], &said["text"], &said["truncated"]),
        (&json!("completed"), &json!("Echo: hello"), &json!(false)),
        "{said}"
    );
    let context = said["context_id"].clone();
    let again = json!({"url": url, "message": "again", "context_id": context});
    let again = send(again).await.unwrap();
    assert_eq!(again["context_id"], context);
    assert_ne!(again["task_id"], said["task_id"]);
    let data = send(json!({"url": url, "data": {"n": 1}})).await.unwrap();
    assert!(data["text"].as_str().unwrap().contains("\"n\""), "{data}");
    let nothing = send(json!({"url": url})).await.unwrap_err();
    assert_eq!(nothing.0, "invalid_input");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_asks_is_answered() {
    let (_served, api) = sender().await;
    let callee = open_daemon(&[]).await;
    deploy_asking(&callee);
    let url = format!("{}/a2a/ask", callee.0.gateway());
    let send = |input: Value| call(&api, "rune@a2a-send", input);
    let asked = send(json!({"url": url, "message": "go"})).await.unwrap();
    assert_eq!(asked["state"], "input-required", "{asked}");
    assert!(asked["note"].as_str().unwrap().contains("task_id"));
    assert!(!asked["text"].as_str().unwrap().is_empty());
    let answer = json!({
        "url": url, "message": "yes", "task_id": asked["task_id"], "context_id": asked["context_id"],
    });
    let done = send(answer).await.unwrap();
    assert_eq!(
        (&done["state"], &done["task_id"]),
        (&json!("completed"), &asked["task_id"])
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn files_go_there_and_artifacts_come_back() {
    let (served, api) = sender().await;
    let agent = Scripted::agent(json!({}), |seen| {
        let parts = seen.body["params"]["message"]["parts"].clone();
        result(&json!({"task": {
            "id": "t1", "contextId": "c1", "status": {"state": "TASK_STATE_COMPLETED"},
            "artifacts": [
                {"artifactId": "a", "parts": [{"text": "See:"}, {"data": parts}]},
                {"artifactId": "b", "parts": [{"raw": "AP8A", "filename": "x.bin", "mediaType": "application/x"}]},
            ],
        }}))
    })
    .await;
    let write = json!({"path": "notes.txt", "content": "line\n"});
    call(&api, "rune@file-write", write).await.unwrap();
    assert_eq!(lines_of(&served, "sender", "notes.txt"), ["line"]);
    let input = json!({"url": agent.base, "message": "look", "files": ["notes.txt"]});
    let told = call(&api, "rune@a2a-send", input).await.unwrap();
    assert_eq!(
        (&told["text"], &told["task_id"]),
        (&json!("See:"), &json!("t1")),
        "{told}"
    );
    let sent = &told["artifacts"][0]["data"];
    let file = json!({"raw": "bGluZQo=", "filename": "notes.txt", "mediaType": "text/plain"});
    assert_eq!((&sent[0]["text"], &sent[1]), (&json!("look"), &file));
    let binary = json!({"bytes": 3, "media_type": "application/x", "name": "x.bin"});
    assert_eq!(told["artifacts"][1], binary);
    let outside = json!({"url": agent.base, "files": ["../../etc/passwd"]});
    assert!(call(&api, "rune@a2a-send", outside).await.is_err());
    assert_eq!(agent.calls().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_card_is_kept_and_asked_for_again_by_its_tag() {
    let (_served, api) = sender().await;
    let agent = Scripted::start(|seen, base| {
        if seen.head.contains("if-none-match: \"v1\"") {
            let kind = "text/plain\r\ncache-control: no-cache";
            return Reply::Whole(304, kind, Vec::new());
        }
        let one = json!({"url": base, "protocolBinding": "JSONRPC", "protocolVersion": "1.0"});
        let card = json!({"name": "kept", "supportedInterfaces": [one]});
        let kind = match seen.path.starts_with("/long") {
            true => "application/json\r\netag: \"v1\"\r\ncache-control: max-age=600",
            false => "application/json\r\netag: \"v1\"\r\ncache-control: no-cache",
        };
        Reply::Whole(200, kind, card.to_string().into_bytes())
    })
    .await;
    for (path, asked) in [("long", 1), ("short", 3)] {
        for _ in 0..3 {
            let url = format!("{}/{path}/card.json", agent.base);
            let found = call(&api, "rune@a2a-discover", json!({"url": url}))
                .await
                .unwrap();
            assert_eq!(found["name"], "kept");
        }
        let seen = agent.seen().into_iter();
        let seen = seen.filter(|seen| seen.path.contains(path)).count();
        assert_eq!(seen, asked, "{path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_card_that_has_moved_is_found_again() {
    let (_served, api) = sender().await;
    let has_moved = Arc::new(AtomicBool::new(false));
    let flag = Arc::clone(&has_moved);
    let agent = Scripted::start(move |seen, base| {
        let place = match flag.load(Ordering::SeqCst) {
            false => "/it/.well-known/agent-card.json",
            true => "/it/.well-known/agent.json",
        };
        if seen.path != place {
            return Reply::Whole(404, "text/plain", Vec::new());
        }
        let one = json!({"url": base, "protocolBinding": "JSONRPC", "protocolVersion": "1.0"});
        let card = json!({"name": place, "supportedInterfaces": [one]});
        let kind = "application/json\r\ncache-control: no-cache";
        Reply::Whole(200, kind, card.to_string().into_bytes())
    })
    .await;
    let url = format!("{}/it", agent.base);
    for place in [
        "/it/.well-known/agent-card.json",
        "/it/.well-known/agent.json",
    ] {
        let found = call(&api, "rune@a2a-discover", json!({"url": url})).await;
        assert_eq!(found.unwrap()["name"], place);
        has_moved.store(true, Ordering::SeqCst);
    }
}
