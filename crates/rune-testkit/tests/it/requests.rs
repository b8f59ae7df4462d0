use std::time::Duration;

use rune_testkit::{Fault, ModelScript, ModelServer, Protocol, RecordedRequest};
use serde_json::Value;

use crate::client::Client;

#[tokio::test]
async fn records_what_came_and_how_it_ended() {
    let server = ModelServer::start(ModelScript::new().fault_first(Fault::status(500)))
        .await
        .unwrap();
    let client = Client::new(&server, Protocol::Anthropic, true).user("hi");
    client.send().await;
    client.ask().await;
    let requests = server.wait_for_requests(2).await.unwrap();
    assert_eq!(
        requests
            .iter()
            .map(|request| request.status)
            .collect::<Vec<_>>(),
        [Some(500), Some(200)]
    );
    let request = &requests[1];
    assert_eq!(
        (request.path.as_str(), request.query.as_str()),
        ("/v1/messages", "beta=true")
    );
    assert_eq!(request.headers["x-api-key"], "k");
    assert_eq!(request.body, client.body());
    assert!(request.answered_ms.is_some() && request.client_closed_ms.is_none());
    server.wait_for_open_streams(0).await.unwrap();

    let get = async |path: &str| {
        reqwest::get(format!("http://{}{path}", server.addr()))
            .await
            .unwrap()
    };
    assert_eq!(
        get("/__requests")
            .await
            .json::<Vec<RecordedRequest>>()
            .await
            .unwrap(),
        requests
    );
    assert_eq!(
        get("/__open").await.json::<Value>().await.unwrap()["open"],
        0
    );
}

#[tokio::test]
async fn sees_a_client_leave_before_the_first_byte() {
    let script = ModelScript::new().fault_first(Fault::slow_first_byte(Duration::from_hours(1)));
    let server = ModelServer::start(script).await.unwrap();
    let client = Client::new(&server, Protocol::Openai, true).user("hi");
    tokio::select! {
        _ = client.try_send() => panic!("there is no answer"),
        waited = server.wait_for_open_streams(1) => waited.unwrap(),
    }
    server.wait_for_open_streams(0).await.unwrap();
    assert!(server.requests()[0].client_closed_ms.is_some());
}

#[tokio::test]
async fn stops_listening_when_dropped() {
    let server = ModelServer::start(ModelScript::new().fault_first(Fault::stall_after(0)))
        .await
        .unwrap();
    let mut response = Client::new(&server, Protocol::Gemini, true)
        .user("hi")
        .send()
        .await;
    drop(server);
    assert!(response.chunk().await.is_err());
}

#[tokio::test]
async fn holds_answers_until_they_are_released() {
    let server = ModelServer::start(ModelScript::new()).await.unwrap();
    server.hold();
    let client = Client::new(&server, Protocol::Openai, false).user("hi");
    let (one, two, ()) = tokio::join!(client.ask(), client.ask(), async {
        server.wait_for_held(2).await.unwrap();
        let answered = |requests: Vec<RecordedRequest>| {
            let answered = requests.iter().filter(|request| request.status.is_some());
            answered.count()
        };
        assert_eq!(answered(server.requests()), 0);
        server.release(1);
        server.wait_for_open_streams(1).await.unwrap();
        assert_eq!((answered(server.requests()), server.held()), (1, 1));
        server.release_all();
    });
    assert_eq!(
        (one.text.as_str(), two.text.as_str()),
        ("Echo: hi", "Echo: hi")
    );
    client.ask().await;
}
