use rune_tools::ToolErrorKind;
use serde_json::{Value, json};

use crate::support::Sandbox;

fn keys(answer: &Value) -> Vec<&str> {
    let rows = answer["memories"].as_array().unwrap();
    rows.iter()
        .map(|row| row["key"].as_str().unwrap())
        .collect()
}

#[tokio::test]
async fn recalls_what_was_stored() {
    let sandbox = Sandbox::new();
    let facts = [
        ("user/name", json!("Ada"), json!(["person"])),
        (
            "user/city",
            json!({"name": "Paris", "since": 2019}),
            json!([]),
        ),
        ("note", json!("the city of light"), json!(["paris"])),
    ];
    for (key, value, tags) in &facts {
        sandbox
            .call(
                "memory-store",
                json!({"key": key, "value": value, "tags": tags}),
            )
            .await
            .unwrap();
    }
    let one = sandbox
        .call("memory-recall", json!({"key": "user/city"}))
        .await
        .unwrap();
    assert_eq!(one["memories"][0]["value"], facts[1].1);
    let none = sandbox
        .call("memory-recall", json!({"key": "gone"}))
        .await
        .unwrap();
    assert_eq!(none, json!({"memories": [], "truncated": false}));
    let found = sandbox
        .call("memory-recall", json!({"query": "CITY"}))
        .await
        .unwrap();
    assert_eq!(keys(&found), ["user/city", "note"]);
    let best = sandbox
        .call("memory-recall", json!({"query": "city", "limit": 1}))
        .await
        .unwrap();
    assert_eq!(
        (keys(&best), &best["truncated"]),
        (vec!["user/city"], &json!(true))
    );
}

#[tokio::test]
async fn lists_page_by_page() {
    let sandbox = Sandbox::new();
    for n in 0..5 {
        sandbox
            .call("memory-store", json!({"key": format!("k/{n}"), "value": n}))
            .await
            .unwrap();
    }
    let first = sandbox
        .call("memory-list", json!({"prefix": "k/", "limit": 3}))
        .await
        .unwrap();
    assert_eq!(keys(&first), ["k/0", "k/1", "k/2"]);
    assert!(first["memories"][0].get("value").is_none());
    let input = json!({"prefix": "k/", "limit": 3, "cursor": first["cursor"]});
    let second = sandbox.call("memory-list", input).await.unwrap();
    assert_eq!(keys(&second), ["k/3", "k/4"]);
    assert!(second.get("cursor").is_none());
}

#[tokio::test]
async fn another_agent_sees_nothing() {
    let mut sandbox = Sandbox::new();
    sandbox
        .call("memory-store", json!({"key": "mine", "value": 1}))
        .await
        .unwrap();
    sandbox.context.scope.agent = "somebody-else".to_owned();
    for (tool, input) in [
        ("memory-recall", json!({"key": "mine"})),
        ("memory-recall", json!({"query": "mine"})),
        ("memory-list", json!({})),
    ] {
        assert!(keys(&sandbox.call(tool, input).await.unwrap()).is_empty());
    }
}

#[tokio::test]
async fn refuses_a_value_that_is_too_large() {
    let sandbox = Sandbox::new();
    let input = json!({"key": "big", "value": "x".repeat(300_000)});
    let message = sandbox
        .refused("memory-store", input, ToolErrorKind::InvalidInput)
        .await;
    assert!(message.contains("262144"), "{message}");
    sandbox
        .refused("memory-recall", json!({}), ToolErrorKind::InvalidInput)
        .await;
}
