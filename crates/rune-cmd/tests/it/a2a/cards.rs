//! Cards: both forms, where they stand, and what a client that has one is told.

use reqwest::header::{ETAG, IF_NONE_MATCH, LAST_MODIFIED};
use serde_json::{Value, json};

use super::{daemon, deploy};
use crate::home::Served;
use crate::wire::{Api, answer};

const CARD: &str = "/a2a/hello/.well-known/agent-card.json";
const ROOT: &str = "/.well-known/agent-card.json";

async fn card(served: &Served, path: &str) -> Value {
    let (status, card) = answer(Api::of(&served.0).get(path)).await.unwrap();
    assert_eq!(status, 200, "{path}: {card}");
    card
}

#[tokio::test(flavor = "multi_thread")]
async fn a_card_says_what_the_agent_is_and_how_either_version_calls_it() {
    let served = daemon(&[]).await;
    deploy(&served, "hello", "", "", &[]);
    let found = card(&served, CARD).await;
    for path in [
        ROOT,
        "/.well-known/agent.json",
        "/a2a/hello/agent-card",
        "/a2a/hello:stable/agent-card",
    ] {
        assert_eq!(card(&served, path).await, found, "{path}");
    }
    let url = format!("{}/a2a/hello", served.0.gateway());
    assert_eq!(
        found["supportedInterfaces"],
        json!([
            {"url": url, "protocolBinding": "JSONRPC", "protocolVersion": "1.0"},
            {"url": url, "protocolBinding": "HTTP+JSON", "protocolVersion": "1.0"},
            {"url": url, "protocolBinding": "JSONRPC", "protocolVersion": "0.3"},
        ])
    );
    for (key, value) in [
        ("name", json!("hello")),
        ("description", json!("The agent hello.")),
        ("version", json!("1.2.3")),
        ("url", json!(url)),
        ("protocolVersion", json!("0.3")),
        ("preferredTransport", json!("JSONRPC")),
        ("defaultOutputModes", json!(["text/plain"])),
    ] {
        assert_eq!(found[key], value, "{key}");
    }
    assert_eq!(found["capabilities"]["streaming"], true);
    assert_eq!(found["skills"][0]["id"], "hello");
    assert!(found.get("securitySchemes").is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_has_the_card_is_told_so() {
    let served = daemon(&[]).await;
    deploy(&served, "hello", "", "", &[]);
    let api = Api::of(&served.0);
    let first = api.get(CARD).send().await.unwrap();
    let headers = first.headers().clone();
    assert!(
        headers["cache-control"]
            .to_str()
            .unwrap()
            .contains("max-age=")
    );
    assert!(headers[LAST_MODIFIED].to_str().unwrap().ends_with(" GMT"));
    // Its URLs are those of the host that was asked.
    assert_eq!(headers["vary"], "host");
    let again = api.get(CARD).header(IF_NONE_MATCH, &headers[ETAG]);
    let again = again.send().await.unwrap();
    assert_eq!(again.status(), 304);
    assert_eq!(again.headers()[ETAG], headers[ETAG]);
    assert!(again.bytes().await.unwrap().is_empty());
    let other = api.get(CARD).header(IF_NONE_MATCH, "\"other\"");
    assert_eq!(other.send().await.unwrap().status(), 200);
    // Another version of the agent has another card.
    deploy(
        &served,
        "hello",
        "",
        "max_steps: 3\noutput_schema: {type: object}\n",
        &[],
    );
    let changed = api.get(CARD).header(IF_NONE_MATCH, &headers[ETAG]);
    let changed = changed.send().await.unwrap();
    assert_eq!(changed.status(), 200);
    let card: Value = changed.json().await.unwrap();
    assert_eq!(card["defaultOutputModes"], json!(["application/json"]));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_card_at_the_root_is_that_of_the_only_agent_or_of_the_one_that_is_named() {
    let served = daemon(&[]).await;
    let api = Api::of(&served.0);
    let (status, none) = answer(api.get(ROOT)).await.unwrap();
    assert_eq!((status, &none["error"]["code"]), (404, &json!("not_found")));
    deploy(&served, "hello", "", "", &[]);
    assert_eq!(card(&served, ROOT).await["name"], "hello");
    deploy(&served, "other", "", "", &[]);
    let (status, several) = answer(api.get(ROOT)).await.unwrap();
    assert_eq!(status, 404);
    let message = several["error"]["message"].as_str().unwrap();
    assert!(
        message.contains("a2a.default_agent") && !message.contains("hello"),
        "{message}"
    );

    let served = daemon(&[
        ("RUNE_A2A_DEFAULT_AGENT", "other"),
        ("RUNE_A2A_LEGACY_CARD", "off"),
        ("RUNE_GATEWAY_BASE_URL", "https://agents.example.org"),
    ])
    .await;
    // The command line asks the daemon, not the public URL.
    let gateway = served.0.gateway().to_owned();
    for name in ["hello", "other"] {
        deploy(&served, name, "", "", &["--gateway", &gateway]);
    }
    let clean = card(&served, ROOT).await;
    assert_eq!(clean["name"], "other");
    for old in [
        "url",
        "protocolVersion",
        "preferredTransport",
        "additionalInterfaces",
    ] {
        assert!(clean.get(old).is_none(), "{old}");
    }
    let url = &clean["supportedInterfaces"][0]["url"];
    assert_eq!(url, "https://agents.example.org/a2a/other");
}

#[tokio::test(flavor = "multi_thread")]
async fn cards_are_public_unless_the_operator_says_otherwise() {
    for (switch, expected) in [("on", 200), ("off", 401)] {
        let served = daemon(&[("RUNE_API_KEY", "key"), ("RUNE_A2A_PUBLIC_CARDS", switch)]).await;
        deploy(&served, "hello", "", "", &[]);
        let api = Api::of(&served.0);
        for path in [ROOT, CARD, "/a2a/hello/agent-card"] {
            let bare = api.get(path).send().await.unwrap();
            assert_eq!(bare.status(), expected, "{switch} {path}");
        }
        let (status, card) = answer(api.get(CARD).bearer_auth("key")).await.unwrap();
        assert_eq!(status, 200);
        assert_eq!(
            card["securityRequirements"],
            json!([{"schemes": {"api_key": {"list": []}}}, {"schemes": {"bearer": {"list": []}}}])
        );
        assert_eq!(card["security"], json!([{"api_key": []}, {"bearer": []}]));
        let call = api.post("/a2a/hello", &json!({})).send().await.unwrap();
        assert_eq!(call.status(), 401, "calls always need credentials");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_namespace_is_a_tenant() {
    let served = daemon(&[]).await;
    deploy(&served, "hello", "", "", &["--namespace", "prod"]);
    let api = Api::of(&served.0);
    let (status, _) = answer(api.get(CARD)).await.unwrap();
    assert_eq!(status, 404);
    let card = card(&served, &format!("{CARD}?ns=prod")).await;
    let interfaces = card["supportedInterfaces"].as_array().unwrap();
    assert!(interfaces.iter().all(|it| it["tenant"] == "prod"));
    let params = json!({"tenant": "prod", "message": super::message("hi")});
    let sent = super::result(&api, "hello", "SendMessage", &params).await;
    assert_eq!(sent["task"]["status"]["state"], "TASK_STATE_COMPLETED");
    let path = format!(
        "/a2a/hello/prod/tasks/{}",
        sent["task"]["id"].as_str().unwrap()
    );
    let (status, task) = answer(api.get(&path)).await.unwrap();
    assert_eq!((status, &task["id"]), (200, &sent["task"]["id"]));
    let params = json!({"tenant": "nobody", "message": super::message("hi")});
    let refused = super::refused(&api, "hello", "SendMessage", &params).await;
    assert_eq!(refused.0, -32602);
}
