//! An agent that is a script, and a wire that breaks.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use crate::wire::spawn;

/// What a request is answered with.
pub(crate) enum Reply {
    /// JSON, with status 200.
    Json(Value),
    /// Status, content type and more headers, and the body.
    Whole(u16, &'static str, Vec<u8>),
    /// Nothing, ever.
    Hang,
}

/// A request that came.
#[derive(Debug, Clone)]
pub(crate) struct Seen {
    pub(crate) path: String,
    /// The lines of its head, in lower case.
    pub(crate) head: String,
    pub(crate) body: Value,
}

type Script = dyn Fn(&Seen, &str) -> Reply + Send + Sync;

/// A server that answers as a function says.
pub(crate) struct Scripted {
    pub(crate) base: String,
    seen: Arc<Mutex<Vec<Seen>>>,
    task: JoinHandle<()>,
}

impl Drop for Scripted {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Scripted {
    /// The function gets the request and the URL of the server.
    pub(crate) async fn start(
        script: impl Fn(&Seen, &str) -> Reply + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let base = format!("http://{}", listener.local_addr().unwrap());
        let seen = Arc::new(Mutex::new(Vec::new()));
        let script: Arc<Script> = Arc::new(script);
        let (kept, place) = (Arc::clone(&seen), base.clone());
        let task = spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (script, seen) = (Arc::clone(&script), Arc::clone(&kept));
                drop(spawn(serve(stream, script, seen, place.clone())));
            }
        });
        Self { base, seen, task }
    }

    /// A server whose card names itself, with these capabilities and an interface of JSON-RPC; calls are answered by the
    /// function.
    pub(crate) async fn agent(
        capabilities: Value,
        script: impl Fn(&Seen) -> Reply + Send + Sync + 'static,
    ) -> Self {
        Self::start(move |seen, base| match seen.body.is_null() {
            true => Reply::Json(json!({
                "name": "scripted", "description": "A script.", "version": "1", "capabilities": capabilities,
                "supportedInterfaces": [
                    {"url": base, "protocolBinding": "JSONRPC", "protocolVersion": "1.0"},
                ],
            })),
            false => script(seen),
        })
        .await
    }

    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }

    /// The calls among the requests.
    pub(crate) fn calls(&self) -> Vec<Seen> {
        let seen = self.seen().into_iter();
        seen.filter(|seen| !seen.body.is_null()).collect()
    }
}

/// The result of a call.
pub(crate) fn result(value: &Value) -> Reply {
    Reply::Json(json!({"jsonrpc": "2.0", "id": "1", "result": value}))
}

async fn serve(
    mut stream: TcpStream,
    script: Arc<Script>,
    seen: Arc<Mutex<Vec<Seen>>>,
    base: String,
) {
    let Some(request) = read(&mut stream).await else {
        return;
    };
    seen.lock().unwrap().push(request.clone());
    let (status, kind, body) = match script(&request, &base) {
        Reply::Json(value) => (200, "application/json", value.to_string().into_bytes()),
        Reply::Whole(status, kind, body) => (status, kind, body),
        Reply::Hang => std::future::pending().await,
    };
    let head = format!(
        "HTTP/1.1 {status} x\r\ncontent-type: {kind}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
        body.len()
    );
    let _ = stream.write_all(head.as_bytes()).await;
    let _ = stream.write_all(&body).await;
    let _ = stream.shutdown().await;
}

async fn read(stream: &mut TcpStream) -> Option<Seen> {
    let mut buffer = Vec::new();
    loop {
        let end = buffer.windows(4).position(|four| four == b"\r\n\r\n");
        if let Some(end) = end {
            let head = String::from_utf8_lossy(&buffer[..end]).to_lowercase();
            let length = head
                .lines()
                .find_map(|line| line.strip_prefix("content-length: "));
            let length: usize = length.map_or(0, |length| length.parse().unwrap());
            while buffer.len() < end + 4 + length {
                stream.read_buf(&mut buffer).await.ok().filter(|n| *n > 0)?;
            }
            let line = String::from_utf8_lossy(&buffer[..end]).into_owned();
            let path = line.split(' ').nth(1)?.to_owned();
            let body = serde_json::from_slice(&buffer[end + 4..]).unwrap_or_default();
            return Some(Seen { path, head, body });
        }
        stream.read_buf(&mut buffer).await.ok().filter(|n| *n > 0)?;
    }
}

/// A wire to a server that breaks streams.
pub(crate) struct Wire {
    pub(crate) base: String,
    /// Streams that broke.
    pub(crate) broken: Arc<AtomicUsize>,
    task: JoinHandle<()>,
}

impl Drop for Wire {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Wire {
    /// A wire to the server at a URL on which the first `breaks` streams end behind so many of their bytes.
    pub(crate) async fn to(url: &str, breaks: usize, after: usize) -> Self {
        let server = url.trim_start_matches("http://").to_owned();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let base = format!("http://{}", listener.local_addr().unwrap());
        let broken = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&broken);
        let task = spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let server = TcpStream::connect(&server).await.unwrap();
                drop(spawn(pass(
                    client,
                    server,
                    breaks,
                    after,
                    Arc::clone(&count),
                )));
            }
        });
        Self { base, broken, task }
    }
}

async fn pass(
    client: TcpStream,
    server: TcpStream,
    breaks: usize,
    after: usize,
    broken: Arc<AtomicUsize>,
) {
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = server.into_split();
    let up = async { tokio::io::copy(&mut from_client, &mut to_server).await };
    let down = async {
        let mut buffer = vec![0; 16 << 10];
        let mut streamed = None;
        loop {
            let Ok(n @ 1..) = from_server.read(&mut buffer).await else {
                return;
            };
            let chunk = &buffer[..n];
            let begins = String::from_utf8_lossy(chunk).contains("text/event-stream");
            if begins {
                streamed = Some(0);
            }
            if let Some(streamed) = &mut streamed {
                *streamed += n;
                if *streamed > after && broken.load(Ordering::SeqCst) < breaks {
                    broken.fetch_add(1, Ordering::SeqCst);
                    return;
                }
            }
            if to_client.write_all(chunk).await.is_err() {
                return;
            }
        }
    };
    tokio::select! {
        _ = up => {}
        () = down => {}
    }
}
