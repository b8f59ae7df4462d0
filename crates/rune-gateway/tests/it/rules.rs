//! Every route with its auth rule.

use std::collections::BTreeSet;

use rune_gateway::PUBLIC_ROUTES;
use rune_http::Auth;
use serde_json::Value;

use crate::gateway::{TestGateway, answer, refusal};

/// Every route of this API. A new one is added here with its rule.
const ROUTES: &[(&str, &str, bool)] = &[
    ("POST", "/v1/agents/{name}/invoke", true),
    ("POST", "/v1/agents/{name}/ag-ui", true),
    ("GET", "/v1/models", true),
    ("GET", "/v1/models/{model}", true),
    ("POST", "/v1/chat/completions", true),
    ("POST", "/v1/responses", true),
    ("GET", "/v1/responses/{id}", true),
    ("POST", "/v1/responses/{id}/cancel", true),
    ("POST", "/v1/agents/{name}/sessions", true),
    ("GET", "/v1/agents", true),
    ("GET", "/v1/agents/{name}", true),
    ("GET", "/v1/agents/{name}/mcp-servers", true),
    ("GET", "/v1/sessions/{id}", true),
    ("DELETE", "/v1/sessions/{id}", true),
    ("GET", "/v1/sessions/{id}/messages", true),
    ("GET", "/v1/sessions/{id}/outputs/{handle}", true),
    ("GET", "/v1/requests", true),
    ("GET", "/v1/requests/{id}", true),
    ("GET", "/v1/requests/{id}/calls", true),
    ("GET", "/v1/requests/{id}/context", true),
    ("GET", "/v1/requests/{id}/events", true),
    ("POST", "/v1/requests/{id}/cancel", true),
    ("POST", "/v1/requests/{id}/replay", true),
    ("POST", "/v1/requests/{id}/fork", true),
    ("GET", "/v1/requests/{id}/cassette", true),
    ("GET", "/v1/approvals", true),
    ("POST", "/v1/requests/{id}/approvals/{approval_id}", true),
    ("GET", "/v1/policy-verdicts", true),
    ("GET", "/canvas/{id}", true),
    ("GET", "/v1/outbox", true),
    ("GET", "/v1/events", true),
    ("POST", "/v1/events", true),
    ("GET", "/v1/tasks", true),
    ("GET", "/v1/tasks/{id}", true),
    ("POST", "/mcp", true),
    ("GET", "/mcp", true),
    ("DELETE", "/mcp", true),
    ("GET", "/v1/replicas/{id}/health", true),
    ("GET", "/metrics", true),
    ("GET", "/openapi.json", true),
    ("GET", "/health", false),
    ("GET", "/ready", false),
    ("GET", "/nowhere", true),
];

/// Where errors are answered as OpenAI's API does.
const OPENAI: &[&str] = &["/v1/models", "/v1/chat/", "/v1/responses"];

fn keyed() -> Auth {
    Auth::new(Some(&"key".to_owned().into()), None, None).unwrap()
}

#[tokio::test]
async fn only_health_and_readiness_answer_without_credentials() {
    let gateway = TestGateway::with_auth(keyed()).await;
    for &(method, path, protected) in ROUTES {
        let request = || {
            gateway
                .client
                .request(method.parse().unwrap(), gateway.url(path))
        };
        let (status, code) = refusal(request()).await;
        if protected {
            let expected = if OPENAI.iter().any(|prefix| path.starts_with(prefix)) {
                "invalid_api_key"
            } else {
                "unauthenticated"
            };
            assert_eq!((status, code.as_str()), (401, expected), "{method} {path}");
            let wrong = refusal(request().header("x-api-key", "kez")).await;
            assert_eq!(wrong.0, 401, "{method} {path}");
            let right = refusal(request().header("x-api-key", "key")).await;
            assert!(
                right.0 != 401 && right.0 != 405,
                "{method} {path}: {right:?}"
            );
        } else {
            assert!(status == 200 || status == 503, "{method} {path}: {status}");
        }
    }
}

#[tokio::test]
async fn the_document_lists_exactly_the_routes_and_their_rules() {
    let gateway = TestGateway::start().await;
    let (_, document) = answer(gateway.get("/openapi.json")).await;
    assert_eq!(
        document["openapi"].as_str().unwrap().split('.').next(),
        Some("3")
    );
    let mut found = BTreeSet::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            let rules = operation["security"].as_array().unwrap();
            assert_eq!(
                rules.is_empty(),
                PUBLIC_ROUTES.contains(&path.as_str()),
                "{path}"
            );
            found.insert((method.to_uppercase(), path.clone(), !rules.is_empty()));
        }
    }
    let listed = ROUTES.iter().filter(|(_, path, _)| *path != "/nowhere");
    let expected = listed
        .map(|(m, p, rule)| ((*m).to_owned(), (*p).to_owned(), *rule))
        .collect();
    assert_eq!(found, expected);
    references_resolve(&document, &document);
}

fn references_resolve(document: &Value, value: &Value) {
    match value {
        Value::Object(map) => {
            if let Some(target) = map.get("$ref").and_then(Value::as_str) {
                let pointer = target.strip_prefix('#').unwrap();
                assert!(document.pointer(pointer).is_some(), "{target}");
            }
            map.values()
                .for_each(|value| references_resolve(document, value));
        }
        Value::Array(items) => items
            .iter()
            .for_each(|value| references_resolve(document, value)),
        _ => {}
    }
}
