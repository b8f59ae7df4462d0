use rune_testkit::TestDaemon;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::Rig;
use crate::home::{RUNE, Served};
use crate::wire::{Api, spawn};

#[tokio::test]
async fn what_the_operator_configures_is_what_agents_search_with() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let asked = spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut buffer = vec![0; 4096];
        let count = stream.read(&mut buffer).await.unwrap();
        let body =
            json!({"results": [{"title": "T", "url": "https://a.example/", "content": "S"}]});
        let body = body.to_string();
        let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", body.len());
        stream.write_all((head + &body).as_bytes()).await.unwrap();
        String::from_utf8(buffer[..count].to_vec()).unwrap()
    });
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
