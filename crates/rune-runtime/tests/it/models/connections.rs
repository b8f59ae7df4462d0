//! Connections are kept: a new one costs a handshake.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use rune_runtime::model::{ClientConfig, HttpClient, OpenAiClient};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use super::{LIMITS, Shown, ask};

const HEAD: &str =
    "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n";
const EVENTS: &str = "data: {\"choices\":[{\"delta\":{\"content\":\"x\"},\"finish_reason\":\"stop\"}]}\n\ndata: [DONE]\n\n";

/// Answers every request of a connection. The end of the body comes after the end marker,
/// as it does with a real provider.
async fn answer(stream: TcpStream) -> std::io::Result<()> {
    let mut stream = BufReader::new(stream);
    loop {
        let mut length = 0;
        loop {
            let mut line = String::new();
            if stream.read_line(&mut line).await? == 0 {
                return Ok(());
            }
            if line == "\r\n" {
                break;
            }
            if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                length = value.trim().parse().unwrap();
            }
        }
        let mut body = vec![0; length];
        stream.read_exact(&mut body).await?;
        let reply = format!("{HEAD}{:x}\r\n{EVENTS}\r\n", EVENTS.len());
        stream.write_all(reply.as_bytes()).await?;
        stream.flush().await?;
        tokio::time::sleep(Duration::from_millis(5)).await;
        stream.write_all(b"0\r\n\r\n").await?;
        stream.flush().await?;
    }
}

/// A server whose tasks end with the set, and how many connections it has taken.
async fn serve(tasks: &mut JoinSet<()>) -> (SocketAddr, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let accepted = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&accepted);
    tasks.spawn(async move {
        let mut connections = JoinSet::new();
        while let Ok((stream, _)) = listener.accept().await {
            counter.fetch_add(1, Ordering::Relaxed);
            connections.spawn(answer(stream));
        }
    });
    (address, accepted)
}

#[tokio::test]
async fn a_connection_is_used_again_by_every_client() {
    let mut tasks = JoinSet::new();
    let (address, accepted) = serve(&mut tasks).await;
    let http = HttpClient::new();
    for _ in 0..3 {
        let mut config = ClientConfig::new("local").base_url(format!("http://{address}/v1"));
        config.timeouts = LIMITS;
        let client = OpenAiClient::new(config, http.clone());
        let (shown, _) = Shown::output(&client, &ask("hi")).await;
        assert_eq!(shown.text, "x");
    }
    assert_eq!(accepted.load(Ordering::Relaxed), 1);
}
