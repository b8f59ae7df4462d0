//! Events: complete, in order, exactly once.

use std::time::Duration;

use reqwest::RequestBuilder;
use serde_json::{Value, json};

use crate::gateway::{TestGateway, answer, refusal};

#[derive(Debug, Clone, PartialEq)]
struct Event {
    name: String,
    id: Option<u64>,
    data: Value,
}

fn parse(text: &str) -> Vec<Event> {
    let blocks = text
        .split("\n\n")
        .filter(|block| !block.is_empty() && !block.starts_with(':'));
    let event = |block: &str| {
        let field = |name: &str| block.lines().find_map(|line| line.strip_prefix(name));
        Event {
            name: field("event: ").unwrap().to_owned(),
            id: field("id: ").map(|id| id.parse().unwrap()),
            data: serde_json::from_str(field("data: ").unwrap()).unwrap(),
        }
    };
    blocks.map(event).collect()
}

async fn events(request: RequestBuilder) -> Vec<Event> {
    let response = request.send().await.unwrap();
    assert_eq!(response.headers()["content-type"], "text/event-stream");
    assert_eq!(response.headers()["cache-control"], "no-store");
    assert_eq!(response.headers()["x-accel-buffering"], "no");
    parse(&response.text().await.unwrap())
}

fn ids(events: &[Event]) -> Vec<u64> {
    events.iter().filter_map(|event| event.id).collect()
}

#[tokio::test]
async fn a_stream_begins_with_accepted_and_ends_with_done() {
    let gateway = TestGateway::start().await;
    let body = json!({"input": "/tool rune@system-time {}", "stream": true});
    let seen = events(gateway.invoke(&body)).await;
    assert_eq!(seen.first().unwrap().name, "accepted");
    assert_eq!(seen.last().unwrap().name, "done");
    assert_eq!(seen.last().unwrap().data["status"], "completed");
    let numbers = ids(&seen);
    assert_eq!(numbers, (1..=numbers.len() as u64).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_client_that_returns_gets_every_entry_once_and_in_order() {
    let gateway = TestGateway::start().await;
    let body = json!({"input": "hi", "stream": true});
    let seen = events(gateway.invoke(&body)).await;
    let id = seen[0].data["request_id"].as_str().unwrap().to_owned();
    let path = format!("/v1/requests/{id}/events");
    let all = ids(&seen);
    assert_eq!(ids(&events(gateway.get(&path)).await), all);
    for after in 0..=*all.last().unwrap() {
        // Who knows all is told the end once more.
        let known = after.min(all.len() as u64 - 1);
        let expected: Vec<u64> = all.iter().copied().filter(|id| *id > known).collect();
        let by_header = gateway.get(&path).header("last-event-id", after);
        assert_eq!(ids(&events(by_header).await), expected);
        let by_query = gateway.get(&format!("{path}?after={after}"));
        assert_eq!(ids(&events(by_query).await), expected);
        let both = gateway
            .get(&format!("{path}?after=0"))
            .header("last-event-id", after);
        assert_eq!(ids(&events(both).await), expected);
    }
    let bad = gateway.get(&path).header("last-event-id", "x");
    assert_eq!(refusal(bad).await, (400, "invalid_input".to_owned()));
    let unknown = gateway.get(&format!("/v1/requests/req_{}/events", "0".repeat(32)));
    assert_eq!(refusal(unknown).await, (404, "not_found".to_owned()));
}

#[tokio::test]
async fn a_dropped_client_does_not_stop_the_request_and_resumes_live() {
    let gateway = TestGateway::start().await;
    let body = json!({"input": "slow", "stream": true});
    let mut first = gateway.invoke(&body).send().await.unwrap();
    let mut text = String::new();
    while !text.contains("event: started") {
        text.push_str(std::str::from_utf8(&first.chunk().await.unwrap().unwrap()).unwrap());
    }
    drop(first);
    let seen = parse(&text);
    let id = seen[0].data["request_id"].as_str().unwrap().to_owned();
    let last = *ids(&seen).last().unwrap();
    let path = format!("/v1/requests/{id}");
    assert_eq!(answer(gateway.get(&path)).await.1["status"], "running");

    let follow = gateway
        .get(&format!("{path}/events"))
        .header("last-event-id", last);
    let follow = gateway.platform.tasks.spawn("client", events(follow));
    answer(gateway.client.post(gateway.url(&format!("{path}/cancel")))).await;
    let rest = follow.await.unwrap().unwrap();
    let numbers = ids(&rest);
    assert_eq!(
        numbers,
        (last + 1..=last + numbers.len() as u64).collect::<Vec<_>>()
    );
    assert_eq!(rest.last().unwrap().name, "error");
    assert_eq!(rest.last().unwrap().data["code"], "cancelled");
}

#[tokio::test]
async fn open_streams_end_with_the_daemon() {
    let gateway = TestGateway::start().await;
    let body = json!({"input": "slow", "stream": true});
    let mut response = gateway.invoke(&body).send().await.unwrap();
    response.chunk().await.unwrap().unwrap();
    gateway.platform.tasks.shutdown().cancel();
    let rest = async { while response.chunk().await.unwrap().is_some() {} };
    tokio::time::timeout(Duration::from_secs(5), rest)
        .await
        .unwrap();
}

#[tokio::test]
async fn any_position_can_be_named_while_a_request_runs() {
    let gateway = TestGateway::start().await;
    let body = json!({"input": "slow", "background": true});
    let (_, begun) = answer(gateway.invoke(&body)).await;
    let path = format!("/v1/requests/{}", begun["request_id"].as_str().unwrap());
    let far = gateway.get(&format!("{path}/events?after={}", u64::MAX));
    let far = far.send().await.unwrap();
    assert_eq!(far.status(), 200);
    let cancel = gateway.post(&format!("{path}/cancel"), &json!({}));
    assert_eq!(answer(cancel).await.0, 200);
    let told = parse(&far.text().await.unwrap());
    assert_eq!(told.len(), 1, "{told:?}");
    assert_eq!(told[0].data["code"], "cancelled");
}
