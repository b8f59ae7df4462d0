//! Invoking.

use serde_json::json;

use crate::gateway::{TestGateway, answer, refusal};

#[tokio::test]
async fn an_answer_carries_ids_output_usage_and_status() {
    let gateway = TestGateway::start().await;
    let (status, body) = answer(gateway.invoke(&json!({"input": "hi"}))).await;
    assert_eq!(status, 200, "{body}");
    assert!(body["output"].as_str().unwrap().contains("hi"), "{body}");
    assert_eq!(body["status"], "completed");
    assert!(body["request_id"].as_str().unwrap().starts_with("req_"));
    assert!(body["session_id"].as_str().unwrap().starts_with("ses_"));
    assert!(body["usage"]["input_tokens"].is_u64());
}

#[tokio::test]
async fn a_failed_request_answers_its_error_and_id() {
    let gateway = TestGateway::start().await;
    let (status, body) = answer(gateway.invoke(&json!({"input": "broken"}))).await;
    assert_eq!(
        (status, &body["error"]["code"]),
        (400, &json!("invalid_input")),
        "{body}"
    );
    let id = body["error"]["request_id"].as_str().unwrap();
    assert!(id.starts_with("req_"), "{body}");
    let (_, request) = answer(gateway.get(&format!("/v1/requests/{id}"))).await;
    assert_eq!(request["status"], "failed");
    assert_eq!(request["error"]["code"], body["error"]["code"]);
}

#[tokio::test]
async fn a_background_request_goes_on_and_can_be_cancelled() {
    let gateway = TestGateway::start().await;
    let body = json!({"input": "slow", "background": true, "metadata": {"ticket": 7}});
    let (status, accepted) = answer(gateway.invoke(&body)).await;
    assert_eq!(status, 202, "{accepted}");
    let id = accepted["request_id"].as_str().unwrap();
    let path = format!("/v1/requests/{id}");
    let (_, request) = answer(gateway.get(&path)).await;
    assert_eq!(
        (&request["metadata"]["ticket"], &request["input"]),
        (&json!(7), &json!("slow"))
    );
    let cancel = gateway.client.post(gateway.url(&format!("{path}/cancel")));
    let (status, request) = answer(cancel).await;
    assert_eq!((status, &request["status"]), (200, &json!("cancelled")));
    let again = gateway.post(&format!("{path}/cancel"), &json!({"reason": "twice"}));
    assert_eq!(answer(again).await.0, 200);
}

#[tokio::test]
async fn the_same_key_answers_the_same_request_and_another_body_is_a_conflict() {
    let gateway = TestGateway::start().await;
    let send = |body, key: &str| gateway.invoke(&body).header("idempotency-key", key);
    let (_, first) = answer(send(
        json!({"input": "hi", "metadata": {"a": 1, "b": 2}}),
        "k1",
    ))
    .await;
    let again = send(json!({"metadata": {"b": 2, "a": 1}, "input": "hi"}), "k1");
    assert_eq!(answer(again).await, (200, first.clone()));
    let stream = send(json!({"input": "hi", "stream": true}), "k1");
    assert_eq!(refusal(stream).await, (409, "conflict".to_owned()));
    let other = send(json!({"input": "ho"}), "k1");
    assert_eq!(refusal(other).await, (409, "conflict".to_owned()));
    let (_, second) = answer(send(json!({"input": "hi"}), "k2")).await;
    assert_ne!(first["request_id"], second["request_id"]);
    for key in ["", &"k".repeat(256), "a b"] {
        let refused = refusal(send(json!({"input": "hi"}), key)).await;
        assert_eq!(refused, (400, "invalid_input".to_owned()), "{key}");
    }
}

#[tokio::test]
async fn malformed_requests_are_refused() {
    let gateway = TestGateway::start().await;
    let invalid = (400, "invalid_input".to_owned());
    for body in [
        json!({}),
        json!({"input": "a", "inptu": "b"}),
        json!({"input": "a", "session_id": "with space"}),
        json!({"input": "a", "stream": true, "background": true}),
        json!({"input": "a", "stream": "yes"}),
    ] {
        assert_eq!(refusal(gateway.invoke(&body)).await, invalid, "{body}");
    }
    let deep = format!("{{\"input\": {}", "[".repeat(1000));
    let raw = gateway.client.post(gateway.url("/v1/agents/hello/invoke"));
    let raw = raw.header("content-type", "application/json").body(deep);
    assert_eq!(refusal(raw).await, invalid);
    let query = gateway.post(
        "/v1/agents/hello/invoke?namespace=dev",
        &json!({"input": "a"}),
    );
    assert_eq!(refusal(query).await, invalid);
    let missing = (404, "not_found".to_owned());
    for path in [
        "/v1/agents/nobody/invoke",
        "/v1/agents/hello/invoke?ns=prod",
        "/v1/agents/hello/invoke?alias=canary",
    ] {
        assert_eq!(
            refusal(gateway.post(path, &json!({"input": "a"}))).await,
            missing,
            "{path}"
        );
    }
}
