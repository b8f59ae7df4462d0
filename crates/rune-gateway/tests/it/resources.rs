//! Agents, sessions, requests, replicas, and the process itself.

use serde_json::{Value, json};

use crate::gateway::{TestGateway, answer, refusal};

#[tokio::test]
async fn agents_show_version_tools_and_replica_health() {
    let gateway = TestGateway::start().await;
    gateway.platform.deploy("other", "").await;
    let (status, list) = answer(gateway.get("/v1/agents?limit=1")).await;
    assert_eq!(
        (status, &list["items"][0]["name"]),
        (200, &json!("hello")),
        "{list}"
    );
    let next = list["next"].as_str().unwrap();
    let (_, rest) = answer(gateway.get(&format!("/v1/agents?limit=1&cursor={next}"))).await;
    assert_eq!(rest["items"][0]["name"], "other");
    assert_eq!(
        answer(gateway.get("/v1/agents?ns=prod")).await.1["items"],
        json!([])
    );

    let (_, agent) = answer(gateway.get("/v1/agents/hello")).await;
    assert_eq!(agent, list["items"][0]);
    assert_eq!(
        (&agent["version"], &agent["state"]),
        (&json!("0.1.0"), &json!("ready"))
    );
    assert_eq!(agent["tools"][0]["name"], "rune@system-time");
    let replica = &agent["replicas"][0];
    assert_eq!(
        (&replica["state"], &replica["in_flight"]),
        (&json!("ready"), &json!(0))
    );
    let id = replica["id"].as_str().unwrap();
    let (status, health) = answer(gateway.get(&format!("/v1/replicas/{id}/health"))).await;
    assert_eq!(
        (status, &health["healthy"], &health["id"]),
        (200, &json!(true), &json!(id))
    );

    let missing = (404, "not_found".to_owned());
    assert_eq!(refusal(gateway.get("/v1/agents/nobody")).await, missing);
    let gone = format!("/v1/replicas/rep_{}/health", "0".repeat(32));
    assert_eq!(refusal(gateway.get(&gone)).await, missing);
}

#[tokio::test]
async fn a_session_keeps_its_history_until_it_is_deleted() {
    let gateway = TestGateway::start().await;
    let sessions = "/v1/agents/hello/sessions";
    let (status, body) = answer(gateway.post(sessions, &json!({"metadata": {"a": 1}}))).await;
    assert_eq!(status, 201, "{body}");
    let id = body["session_id"].as_str().unwrap().to_owned();
    for input in ["one", "two", "three"] {
        let (status, _) = answer(gateway.invoke(&json!({"input": input, "session_id": id}))).await;
        assert_eq!(status, 200);
    }
    let path = format!("/v1/sessions/{id}");
    let (_, session) = answer(gateway.get(&path)).await;
    assert_eq!(
        (&session["messages"], &session["requests"]),
        (&json!(6), &json!(3))
    );
    assert_eq!(session["metadata"], json!({"a": 1}));

    let (mut texts, mut cursor) = (Vec::new(), String::new());
    loop {
        let (_, page) = answer(gateway.get(&format!("{path}/messages?limit=4{cursor}"))).await;
        let items = page["items"].as_array().unwrap();
        texts.extend(
            items
                .iter()
                .map(|message| message["blocks"][0]["text"].clone()),
        );
        match page["next"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => break,
        }
    }
    assert_eq!(texts.len(), 6);
    let asked: Vec<&Value> = texts.iter().step_by(2).collect();
    assert_eq!(asked, ["one", "two", "three"]);

    let invalid = (400, "invalid_input".to_owned());
    for query in [
        "limit=0",
        "limit=1001",
        "limit=x",
        "cursor=nonsense",
        "offset=1",
    ] {
        let refused = refusal(gateway.get(&format!("{path}/messages?{query}"))).await;
        assert_eq!(refused, invalid, "{query}");
    }
    let delete = || gateway.client.delete(gateway.url(&path));
    assert_eq!(answer(delete()).await.0, 204);
    let missing = (404, "not_found".to_owned());
    assert_eq!(refusal(delete()).await, missing);
    assert_eq!(refusal(gateway.get(&path)).await, missing);
    assert_eq!(
        refusal(gateway.get(&format!("{path}/messages"))).await,
        missing
    );
    let nobody = gateway.post("/v1/agents/nobody/sessions", &json!({}));
    assert_eq!(refusal(nobody).await, missing);
    let bare = gateway.client.post(gateway.url(sessions));
    assert_eq!(answer(bare).await.0, 201);
}

#[tokio::test]
async fn requests_are_listed_by_filter_and_shown_with_usage_and_tools() {
    let gateway = TestGateway::start().await;
    let (_, first) = answer(gateway.invoke(&json!({"input": "hi"}))).await;
    answer(gateway.invoke(&json!({"input": "broken"}))).await;
    let count = async |query: &str| {
        let (status, list) = answer(gateway.get(&format!("/v1/requests?{query}"))).await;
        assert_eq!(status, 200, "{list}");
        list["items"].as_array().unwrap().len()
    };
    assert_eq!(count("").await, 2);
    assert_eq!(count("agent=hello&ns=dev").await, 2);
    assert_eq!(count("agent=other").await, 0);
    assert_eq!(count("status=completed").await, 1);
    assert_eq!(count("status=completed,failed").await, 2);
    assert_eq!(
        count(&format!(
            "session={}",
            first["session_id"].as_str().unwrap()
        ))
        .await,
        1
    );
    let bad = refusal(gateway.get("/v1/requests?status=done")).await;
    assert_eq!(bad, (400, "invalid_input".to_owned()));

    let path = format!("/v1/requests/{}", first["request_id"].as_str().unwrap());
    let (_, request) = answer(gateway.get(&path)).await;
    assert_eq!(
        (&request["output"], &request["usage"]),
        (&first["output"], &first["usage"])
    );
    assert_eq!(request["models"][0]["calls"], 1);
    assert_eq!(request["caller"], "anonymous");
    assert_eq!(refusal(gateway.get("/v1/requests/nonsense")).await.0, 400);
    let unknown = format!("/v1/requests/req_{}", "0".repeat(32));
    assert_eq!(refusal(gateway.get(&unknown)).await.0, 404);
    let cancel = gateway
        .client
        .post(gateway.url(&format!("{unknown}/cancel")));
    assert_eq!(refusal(cancel).await.0, 404);
}

#[tokio::test]
async fn readiness_is_true_only_after_every_part_reports() {
    let gateway = TestGateway::start().await;
    let (status, report) = answer(gateway.get("/ready")).await;
    assert_eq!(status, 503);
    assert_eq!(report["parts"], json!([{"name": "store", "ready": false}]));
    gateway.part.set(true);
    assert_eq!(answer(gateway.get("/ready")).await.0, 200);
    let (status, health) = answer(gateway.get("/health")).await;
    assert_eq!((status, &health["status"]), (200, &json!("ok")));
}

#[tokio::test]
async fn metrics_show_the_requests_that_were_answered() {
    let gateway = TestGateway::start().await;
    assert_eq!(
        answer(gateway.invoke(&json!({ "input": "hi" }))).await.0,
        200
    );
    let (status, metrics) = answer(gateway.get("/metrics")).await;
    assert_eq!(status, 200);
    let line = "http_requests_total{listener=\"gateway\",route=\"/v1/agents/{name}/invoke\",method=\"POST\",\
                status=\"200\"}";
    assert!(metrics.as_str().unwrap().contains(line), "{metrics}");
}
