use rune_testkit::TestDaemon;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::Rig;
use crate::home::{RUNE, Served};
use crate::wire::{Api, spawn};

/// Answers one request with this body; gives what was asked.
async fn answers_once(kind: &str, body: &str) -> (String, tokio::task::JoinHandle<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let length = body.len();
    let answer = format!(
        "HTTP/1.1 200 OK\r\ncontent-type: {kind}\r\ncontent-length: {length}\r\n\r\n{body}"
    );
    let asked = spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut buffer = vec![0; 4096];
        let count = stream.read(&mut buffer).await.unwrap();
        stream.write_all(answer.as_bytes()).await.unwrap();
        String::from_utf8(buffer[..count].to_vec()).unwrap()
    });
    (url, asked)
}

#[tokio::test]
async fn what_the_operator_configures_is_what_agents_search_with() {
    let body = json!({"results": [{"title": "T", "url": "https://a.example/", "content": "S"}]});
    let (url, asked) = answers_once("application/json", &body.to_string()).await;
    let daemon = TestDaemon::builder(RUNE)
        .env("RUNE_WEB_SEARCH", "searxng")
        .env("RUNE_WEB_SEARCH_URL", url)
        .env("RUNE_LOCATION", "Berlin, Germany");
    let served = Served(daemon.start().await.unwrap());
    let api = Api::of(&served.0);
    let rig = Rig { served, api };
    rig.deploy("finder", &["web-search", "location-get"], "");
    let found = rig
        .call("finder", "web-search", json!({"query": "rust"}))
        .await;
    assert_eq!(found["results"][0]["url"], "https://a.example/");
    let request = asked.await.unwrap();
    assert!(
        request.starts_with("GET /search?q=rust&format=json"),
        "{request}"
    );
    let place = rig.call("finder", "location-get", json!({})).await;
    assert_eq!(place["location"], "Berlin, Germany");
}

#[tokio::test]
async fn a_page_is_fetched_where_the_operator_allows_its_address() {
    let (url, asked) = answers_once("text/html", "<h1>Hello</h1><p>of <b>the</b> page").await;
    let strict = Rig::start().await;
    strict.deploy("reader", &["web-fetch"], "");
    let page = json!({ "url": format!("{url}/page?a=1") });
    let refused = strict.try_call("reader", "web-fetch", page.clone()).await;
    assert!(refused.unwrap_err().contains("denied"));

    let daemon = TestDaemon::builder(RUNE).env("RUNE_ALLOW_PRIVATE", "127.0.0.1");
    let served = Served(daemon.start().await.unwrap());
    let api = Api::of(&served.0);
    let rig = Rig { served, api };
    rig.deploy("reader", &["web-fetch"], "");
    let fetched = rig.call("reader", "web-fetch", page).await;
    let text = fetched.to_string();
    assert!(
        text.contains("# Hello") && text.contains("**the**"),
        "{text}"
    );
    let request = asked.await.unwrap();
    assert!(request.starts_with("GET /page?a=1 HTTP/1.1"), "{request}");
}
