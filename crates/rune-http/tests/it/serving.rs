//! Connections, limits and the end.

use std::time::Duration;

use rune_http::{Auth, ServerLimits};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::toy::{start, start_with};

#[tokio::test]
async fn answers_in_flight_are_finished_at_shutdown() {
    let toy = start(Auth::Anonymous).await;
    let client = reqwest::Client::new();
    let mut response = client.get(toy.url("/stream")).send().await.unwrap();
    assert_eq!(response.chunk().await.unwrap().unwrap(), "first\n");
    let idle = TcpStream::connect(toy.addr).await.unwrap();
    toy.shutdown.cancel();
    assert_eq!(response.chunk().await.unwrap().unwrap(), "last\n");
    assert_eq!(response.chunk().await.unwrap(), None);
    drop(idle);
    assert_eq!(toy.run.await.unwrap(), Some(true));
    assert!(TcpStream::connect(toy.addr).await.is_err());
}

#[tokio::test]
async fn http2_with_prior_knowledge_is_served() {
    let toy = start(Auth::Anonymous).await;
    let client = reqwest::Client::builder()
        .http2_prior_knowledge()
        .build()
        .unwrap();
    let response = client.get(toy.url("/who")).send().await.unwrap();
    assert_eq!(response.version(), reqwest::Version::HTTP_2);
    assert_eq!(response.text().await.unwrap(), "anonymous");
}

#[tokio::test]
async fn a_connection_that_sends_no_request_is_closed() {
    let limits = ServerLimits {
        head_timeout: Duration::from_millis(100),
        ..Default::default()
    };
    let toy = start_with(Auth::Anonymous, limits).await;
    // Nothing, the beginning of HTTP/2, half a head.
    for bytes in [
        &b""[..],
        b"PRI",
        b"GET / HT",
        b"GET / HTTP/1.1\r\nhost: loc",
    ] {
        let mut stream = TcpStream::connect(toy.addr).await.unwrap();
        stream.write_all(bytes).await.unwrap();
        let mut rest = Vec::new();
        let closed = stream.read_to_end(&mut rest);
        let _ = tokio::time::timeout(Duration::from_secs(10), closed)
            .await
            .unwrap();
    }
}

#[tokio::test]
async fn connections_beyond_the_limit_wait() {
    let limits = ServerLimits {
        connections: 1,
        ..Default::default()
    };
    let toy = start_with(Auth::Anonymous, limits).await;
    let mut first = TcpStream::connect(toy.addr).await.unwrap();
    first
        .write_all(b"GET /health HTTP/1.1\r\nhost: localhost\r\n\r\n")
        .await
        .unwrap();
    let mut answer = [0; 15];
    first.read_exact(&mut answer).await.unwrap();
    let waiting = toy.raw(b"GET /health HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n");
    tokio::pin!(waiting);
    let early = tokio::time::timeout(Duration::from_millis(50), &mut waiting).await;
    assert!(early.is_err(), "served beside the first");
    drop(first);
    assert!(waiting.await.starts_with("HTTP/1.1 200"));
}
