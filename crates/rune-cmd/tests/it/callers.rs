//! Who calls: subjects of tokens apart from each other, and pages of listed origins.

use std::time::{SystemTime, UNIX_EPOCH};

use jsonwebtoken::{EncodingKey, Header, encode};
use reqwest::{Client, Method, RequestBuilder};
use rune_testkit::TestDaemon;
use serde_json::{Value, json};

use crate::home::{RUNE, Ran, Served};
use crate::wire::Api;

const SECRET: &str = "a-secret-of-a-test-0123456789abcdef";
const PAGE: &str = "https://chat.example.org";

fn token(subject: &str) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let claims = json!({"sub": subject, "exp": now.as_secs() + 600});
    let key = EncodingKey::from_secret(SECRET.as_bytes());
    encode(&Header::default(), &claims, &key).unwrap()
}

/// A daemon with this in its environment, and `plain` deployed.
async fn served(env: &[(&str, &str)]) -> Served {
    let mut builder = TestDaemon::builder(RUNE);
    for (name, value) in env {
        builder = builder.env(name, value);
    }
    let served = Served(builder.start().await.unwrap());
    crate::home::write_plain(&served.0.home().join("plain"));
    let mut run = served.command(&["run", "plain"]);
    run.envs(env.iter().copied());
    Ran::new(run).ok();
    served
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_for_a_conversation_is_one_of_the_caller() {
    let served = served(&[("RUNE_JWT_SECRET", SECRET)]).await;
    let api = Api::of(&served.0);
    let chat = async |subject: &str| {
        let messages = json!([{"role": "user", "content": "hi"}]);
        let body = json!({"model": "plain", "messages": messages, "user": "default"});
        let request = api.post("/v1/chat/completions", &body);
        let response = request.bearer_auth(token(subject)).send().await.unwrap();
        assert_eq!(response.status(), 200);
        response.headers()["x-rune-session-id"]
            .to_str()
            .unwrap()
            .to_owned()
    };
    let (ada, bob) = (chat("ada").await, chat("bob").await);
    assert_ne!(ada, bob);
    assert!(ada.starts_with("dev.plain:"), "{ada}");
    assert_eq!(chat("ada").await, ada);

    let run = async |subject: &str| {
        let messages = json!([{"id": "1", "role": "user", "content": "hi"}]);
        let body = json!({"threadId": "default", "runId": "1", "messages": messages});
        let request = api.post("/v1/agents/plain/ag-ui", &body);
        let response = request.bearer_auth(token(subject)).send().await.unwrap();
        assert!(response.text().await.unwrap().contains("RUN_FINISHED"));
    };
    run("ada").await;
    run("eve").await;
    let path = "/v1/requests?agent=plain";
    let listed = api
        .get(path)
        .bearer_auth(token("ada"))
        .send()
        .await
        .unwrap();
    let listed: Value = listed.json().await.unwrap();
    let rows = listed["items"].as_array().unwrap();
    let sessions = |caller: &str| -> Vec<&Value> {
        let rows = rows.iter().filter(|row| row["caller"] == caller);
        rows.map(|row| &row["session_id"]).collect()
    };
    assert_eq!(sessions("jwt:ada"), [&json!(ada); 3]);
    assert_ne!(sessions("jwt:eve"), [&json!(ada)]);
}

/// What a browser asks before a page may send this.
fn preflight(url: &str, origin: &str) -> RequestBuilder {
    let request = Client::new().request(Method::OPTIONS, url);
    request
        .header("origin", origin)
        .header("access-control-request-method", "POST")
        .header(
            "access-control-request-headers",
            "authorization,content-type,mcp-method",
        )
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_of_listed_origins_may_call_with_credentials() {
    let served = served(&[
        ("RUNE_API_KEY", "key"),
        ("RUNE_ALLOWED_ORIGINS", "https://chat.example.org:443"),
    ])
    .await;
    let allowed = "access-control-allow-origin";
    for path in ["/mcp", "/v1/agents/plain/ag-ui", "/v1/chat/completions"] {
        let url = format!("{}{path}", served.0.gateway());
        let answered = preflight(&url, PAGE).send().await.unwrap();
        assert_eq!(answered.status(), 200, "{path}");
        assert_eq!(answered.headers()[allowed], PAGE);
        let headers = &answered.headers()["access-control-allow-headers"];
        assert_eq!(headers, "authorization,content-type,mcp-method");
        let methods = answered.headers()["access-control-allow-methods"]
            .to_str()
            .unwrap();
        assert!(methods.contains("POST"), "{methods}");
        let foreign = preflight(&url, "https://evil.example")
            .send()
            .await
            .unwrap();
        assert!(!foreign.headers().contains_key(allowed), "{path}");
    }
    let api = Api::of(&served.0);
    let messages = json!([{"id": "1", "role": "user", "content": "hi"}]);
    let body = json!({"threadId": "t", "runId": "1", "messages": messages});
    let run = || {
        api.post("/v1/agents/plain/ag-ui", &body)
            .header("origin", PAGE)
    };
    let refused = run().send().await.unwrap();
    assert_eq!(refused.status(), 401);
    assert_eq!(refused.headers()[allowed], PAGE);
    let ran = run().bearer_auth("key").send().await.unwrap();
    assert_eq!(ran.status(), 200);
    assert_eq!(ran.headers()[allowed], PAGE);
    let shown = ran.headers()["access-control-expose-headers"]
        .to_str()
        .unwrap();
    assert!(shown.contains("mcp-session-id"), "{shown}");
    assert!(ran.text().await.unwrap().contains("RUN_FINISHED"));
}

#[tokio::test(flavor = "multi_thread")]
async fn without_credentials_only_pages_of_listed_origins_may_call() {
    for (listed, expected) in [(Some(PAGE), 200), (None, 403)] {
        let env: Vec<(&str, &str)> = listed
            .map(|page| ("RUNE_ALLOWED_ORIGINS", page))
            .into_iter()
            .collect();
        let served = served(&env).await;
        let api = Api::of(&served.0);
        for (origin, status) in [(PAGE, expected), ("https://evil.example", 403)] {
            let body = json!({"input": "hi"});
            let called = api
                .invoke("plain", &body)
                .header("origin", origin)
                .send()
                .await
                .unwrap();
            assert_eq!(called.status(), status, "{origin} of {listed:?}");
            let is_shown = called.headers().contains_key("access-control-allow-origin");
            assert_eq!(is_shown, status == 200, "{origin} of {listed:?}");
        }
    }
}
