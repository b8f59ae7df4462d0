//! Every route with its document and its auth rule.

use rune_gateway::PUBLIC_ROUTES;
use rune_http::Auth;
use rune_testkit::openapi::paths_of;
use serde_json::Value;

use crate::gateway::{TestGateway, refusal};

fn keyed() -> Auth {
    Auth::new(Some(&"key".to_owned().into()), None, None).unwrap()
}

#[tokio::test]
async fn every_route_but_the_public_ones_asks_for_credentials() {
    let gateway = TestGateway::with_auth(keyed()).await;
    let document = gateway.document().await;
    assert!(
        document.operations().len() > 40,
        "{:?}",
        document.operations()
    );
    let objections = document
        .access_objections(&gateway.client, &gateway.url(""), "key")
        .await;
    assert_eq!(objections.unwrap(), Vec::<String>::new());
    assert_eq!(
        refusal(gateway.get("/nowhere")).await,
        (401, "unauthenticated".to_owned())
    );
    let models = refusal(gateway.get("/v1/models")).await;
    assert_eq!(
        models,
        (401, "invalid_api_key".to_owned()),
        "in the shape of OpenAI's API"
    );
    let public = document.public_paths();
    assert_eq!(
        public,
        PUBLIC_ROUTES.iter().map(|&it| it.to_owned()).collect()
    );
    // The rule is written twice, so that a route does not become public by one word.
    let expected = [
        "/.well-known/agent-card.json",
        "/.well-known/agent.json",
        "/.well-known/jwks.json",
        "/a2a/{agent}/.well-known/agent-card.json",
        "/a2a/{agent}/agent-card",
        "/docs",
        "/docs/{file}",
        "/health",
        "/openapi.json",
        "/ready",
        "/v1/wakeups/{token}",
    ];
    assert_eq!(
        public.iter().map(String::as_str).collect::<Vec<_>>(),
        expected
    );
}

#[tokio::test]
async fn the_document_has_exactly_the_routes_of_the_router() {
    let gateway = TestGateway::start().await;
    let document = gateway.document().await;
    let documented = document
        .operations()
        .into_iter()
        .map(|operation| operation.path);
    assert_eq!(paths_of(&gateway.router), documented.collect());
    let version = document.json()["openapi"].as_str().unwrap();
    assert!(version.starts_with("3.1"), "{version}");
    references_resolve(document.json(), document.json());
    operations_have_names_of_their_own(document.json());
}

fn operations_have_names_of_their_own(document: &Value) {
    let paths = document["paths"].as_object().unwrap().values();
    let operations = paths.flat_map(|item| item.as_object().unwrap().values());
    let mut names: Vec<&str> = operations
        .map(|it| it["operationId"].as_str().unwrap())
        .collect();
    let all = names.len();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), all, "{names:?}");
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

#[tokio::test]
async fn the_reference_is_shown_to_everybody_and_asks_nobody_else() {
    let gateway = TestGateway::with_auth(keyed()).await;
    let page = gateway.get("/docs").send().await.unwrap();
    assert_eq!(page.status(), 200);
    let policy = page.headers()["content-security-policy"].to_str().unwrap();
    assert!(
        policy.starts_with("default-src 'none'; script-src 'self';"),
        "{policy}"
    );
    assert!(
        !policy.contains("http") && !policy.contains('*'),
        "{policy}"
    );
    let page = page.text().await.unwrap();
    let parts = page
        .split("=\"docs/")
        .skip(1)
        .map(|rest| rest.split('"').next().unwrap());
    let parts: Vec<&str> = parts.collect();
    assert_eq!(parts.len(), 4, "{parts:?}");
    for part in parts {
        let part = gateway.get(&format!("/docs/{part}")).send().await.unwrap();
        assert_eq!(part.status(), 200);
        assert_eq!(part.headers()["x-content-type-options"], "nosniff");
        assert!(!part.bytes().await.unwrap().is_empty());
    }
    let script = gateway.get("/docs/reference.js").send().await.unwrap();
    let script = script.text().await.unwrap();
    assert!(
        !page.contains("//") && !script.contains("://"),
        "{page}{script}"
    );
    for none in [
        "/docs/index.html",
        "/docs/..%2fopenapi.json",
        "/docs/swagger-initializer.js",
    ] {
        assert_eq!(
            refusal(gateway.get(none)).await,
            (404, "not_found".to_owned()),
            "{none}"
        );
    }
}
