//! Who calls: subjects of tokens apart from each other, and pages of listed origins.

use std::time::{SystemTime, UNIX_EPOCH};

use jsonwebtoken::{EncodingKey, Header, encode};
use reqwest::{Client, Method, RequestBuilder};
use rune_testkit::TestDaemon;
use serde_json::{Value, json};

use crate::home::{RUNE, Ran, Served};
use crate::openai::write_asking;
use crate::wire::{Api, answer};

pub(crate) const SECRET: &str = "a-secret-of-a-test-0123456789abcdef";
const PAGE: &str = "https://chat.example.org";

pub(crate) fn token(subject: &str) -> String {
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
    deploy(&served, "plain", env);
    served
}

fn deploy(served: &Served, agent: &str, env: &[(&str, &str)]) {
    let mut run = served.command(&["run", agent]);
    run.envs(env.iter().copied());
    Ran::new(run).ok();
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

#[tokio::test(flavor = "multi_thread")]
async fn what_a_client_comes_back_to_is_its_own() {
    let env = [("RUNE_JWT_SECRET", SECRET)];
    let served = served(&env).await;
    write_asking(&served);
    deploy(&served, "ask", &env);
    let api = Api::of(&served.0);
    let by = async |subject: &str, request: RequestBuilder| {
        answer(request.bearer_auth(token(subject))).await.unwrap()
    };
    let waiting = async || {
        let (_, found) = by("eve", api.get("/v1/approvals")).await;
        found["items"].as_array().unwrap().len()
    };

    // Responses.
    let body = json!({"model": "ask", "input": "go"});
    let (_, asked) = by("ada", api.post("/v1/responses", &body)).await;
    assert_eq!(asked["status"], "incomplete", "{asked}");
    let path = format!("/v1/responses/{}", asked["id"].as_str().unwrap());
    let item = &asked["output"][0]["id"];
    let input =
        json!([{"type": "mcp_approval_response", "approval_request_id": item, "approve": true}]);
    let decide = json!({"model": "ask", "previous_response_id": asked["id"], "input": input});
    for (request, status, code) in [
        (api.get(&path), 404, "not_found"),
        (
            api.post(&format!("{path}/cancel"), &json!({})),
            404,
            "not_found",
        ),
        (
            api.post("/v1/responses", &decide),
            400,
            "previous_response_not_found",
        ),
    ] {
        let (found, refused) = by("bob", request).await;
        assert_eq!(
            (found, &refused["error"]["code"]),
            (status, &json!(code)),
            "{refused}"
        );
    }
    assert_eq!(waiting().await, 1);
    let (_, done) = by("ada", api.post("/v1/responses", &decide)).await;
    assert_eq!(done["status"], "completed", "{done}");
    assert_eq!(by("ada", api.get(&path)).await, (200, done));

    // Interrupts of a thread.
    let path = "/v1/agents/ask/ag-ui";
    let messages = json!([{"id": "1", "role": "user", "content": "go"}]);
    let mut body = json!({"threadId": "t", "runId": "1", "messages": messages});
    let run = async |subject: &str, body: &Value| {
        let request = api.post(path, body).bearer_auth(token(subject));
        let response = request.send().await.unwrap();
        (response.status().as_u16(), response.text().await.unwrap())
    };
    let (_, text) = run("ada", &body).await;
    let last = text.lines().rfind(|line| !line.is_empty());
    let last: Value = serde_json::from_str(last.unwrap().strip_prefix("data: ").unwrap()).unwrap();
    let id = &last["outcome"]["interrupts"][0]["id"];
    body["resume"] = json!([{"interruptId": id, "status": "resolved", "payload": true}]);
    assert_eq!(run("bob", &body).await.0, 404);
    let mut elsewhere = body.clone();
    elsewhere["threadId"] = json!("another");
    assert_eq!(run("ada", &elsewhere).await.0, 404);
    assert_eq!(waiting().await, 1);
    let (status, text) = run("ada", &body).await;
    assert_eq!(status, 200);
    assert!(text.contains("RUN_FINISHED"), "{text}");
    assert_eq!(waiting().await, 0);
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
