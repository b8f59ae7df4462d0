//! The floors: what the machine gives when nothing is done but the unavoidable.

use std::path::PathBuf;
use std::sync::mpsc::{Receiver, Sender, channel};

use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use bytes::Bytes;
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::service::TowerToHyperService;
use rusqlite::Connection;
use tokio::net::TcpListener;
use tokio::sync::oneshot;

use crate::error::BenchError;

/// Commands one transaction of the floor takes at the most.
const MAX_BATCH: usize = 512;
/// Tables without an index but their keys.
const SCHEMA: &str = "PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL; \
     CREATE TABLE IF NOT EXISTS request(id INTEGER PRIMARY KEY, body TEXT); \
     CREATE TABLE IF NOT EXISTS session(id INTEGER PRIMARY KEY, body TEXT); \
     CREATE TABLE IF NOT EXISTS journal(id INTEGER PRIMARY KEY, body TEXT); \
     CREATE TABLE IF NOT EXISTS message(id INTEGER PRIMARY KEY, body TEXT); \
     CREATE TABLE IF NOT EXISTS ledger(id INTEGER PRIMARY KEY, body TEXT);";
/// The rows that Rune writes for a plain request, by table, and the bytes of each as
/// measured in a database of Rune: accepted, started, model reply and finished in the
/// journal, the messages of the user and the model, one row of the usage ledger.
const ROWS: [(&str, usize); 9] = [
    ("session", 54),
    ("request", 177),
    ("journal", 34),
    ("message", 8),
    ("journal", 137),
    ("journal", 258),
    ("journal", 169),
    ("message", 8),
    ("ledger", 70),
];

/// Bytes of the largest of them.
const LARGEST_ROW: usize = 258;

/// A floor that runs as a server.
#[derive(Debug, Clone)]
pub(crate) enum Floor {
    /// axum that answers a fixed body.
    Axum,
    /// axum that commits the rows of a request, with full fsync, before it answers.
    AxumSqlite(PathBuf),
    /// axum that forwards to a model and streams its reply back.
    Proxy(String),
    /// axum that forwards to a model, reads its reply and commits the rows of a request,
    /// with full fsync, before it answers.
    ProxySqlite(String, PathBuf),
}

/// Serves a floor until the process ends.
///
/// # Errors
/// Where the listener or the database fails.
pub(crate) async fn serve(listener: TcpListener, floor: Floor) -> Result<(), BenchError> {
    let router = match floor {
        Floor::Axum => Router::new().route("/invoke", post(echo)),
        Floor::AxumSqlite(path) => {
            let writer = GroupCommit::start(&path)?;
            Router::new()
                .route("/invoke", post(commit))
                .with_state(writer)
        }
        Floor::Proxy(upstream) => Router::new()
            .route("/invoke", post(forward))
            .with_state(Proxy::new(upstream)),
        Floor::ProxySqlite(upstream, path) => {
            let writer = GroupCommit::start(&path)?;
            Router::new()
                .route("/invoke", post(forward_and_commit))
                .with_state((Proxy::new(upstream), writer))
        }
    };
    let router = router.route("/ready", get(|| async { "ok" }));
    serve_router(listener, router)
        .await
        .map_err(BenchError::io("serve"))
}

/// Serves a router with TCP_NODELAY, as every listener of Rune does.
pub(crate) async fn serve_router(listener: TcpListener, router: Router) -> std::io::Result<()> {
    let mut connections = tokio::task::JoinSet::new();
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let service = TowerToHyperService::new(router.clone());
        connections.spawn(async move {
            let builder = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
            // A client that goes away is no fault of the floor.
            let _ = builder
                .serve_connection(TokioIo::new(stream), service)
                .await;
        });
        while connections.try_join_next().is_some() {}
    }
}

/// The size of the body that Rune answers to the same request.
const ANSWER: &str = r#"{"request_id":"req_00000000000000000000000000000000","session_id":"ses_00000000000000000000000000000000","output":"Echo: ping","usage":{"input_tokens":1,"output_tokens":3,"cached_tokens":0,"cache_write_tokens":0,"reasoning_tokens":0},"status":"completed"}"#;

async fn echo(body: Bytes) -> impl IntoResponse {
    drop(body);
    ([("content-type", "application/json")], ANSWER)
}

async fn commit(State(writer): State<GroupCommit>, body: Bytes) -> impl IntoResponse {
    drop(body);
    writer.commit().await;
    ([("content-type", "application/json")], ANSWER)
}

#[derive(Clone)]
struct Proxy {
    client: hyper_util::client::legacy::Client<
        hyper_util::client::legacy::connect::HttpConnector,
        Body,
    >,
    upstream: String,
}

impl Proxy {
    fn new(upstream: String) -> Self {
        let client = hyper_util::client::legacy::Client::builder(TokioExecutor::new());
        let mut connector = hyper_util::client::legacy::connect::HttpConnector::new();
        connector.set_nodelay(true);
        Self {
            client: client.build(connector),
            upstream,
        }
    }

    async fn forward(&self, body: Bytes) -> Result<hyper::Response<Incoming>, Failed> {
        let request = hyper::Request::post(&self.upstream)
            .header("content-type", "application/json")
            .body(Body::from(body))?;
        Ok(self.client.request(request).await?)
    }
}

/// Why a floor has no answer; the benchmark ends with it.
type Failed = Box<dyn std::error::Error + Send + Sync>;

async fn forward(State(proxy): State<Proxy>, body: Bytes) -> Response {
    match proxy.forward(body).await {
        Ok(response) => response.map(Body::new),
        Err(error) => bad_gateway(&error),
    }
}

async fn forward_and_commit(
    State((proxy, writer)): State<(Proxy, GroupCommit)>,
    body: Bytes,
) -> Response {
    let whole = async {
        let reply = proxy.forward(body).await?.into_body().collect().await?;
        Ok::<_, Failed>(reply.to_bytes())
    };
    match whole.await {
        Ok(reply) => {
            drop(reply);
            writer.commit().await;
            ([("content-type", "application/json")], ANSWER).into_response()
        }
        Err(error) => bad_gateway(&error),
    }
}

fn bad_gateway(error: &Failed) -> Response {
    (axum::http::StatusCode::BAD_GATEWAY, error.to_string()).into_response()
}

/// A thread that commits whatever waits in one transaction.
#[derive(Clone)]
pub(crate) struct GroupCommit {
    queue: Sender<oneshot::Sender<()>>,
}

impl GroupCommit {
    pub(crate) fn start(path: &std::path::Path) -> Result<Self, BenchError> {
        let connection = Connection::open(path)?;
        connection.execute_batch(SCHEMA)?;
        let (queue, waiting) = channel();
        std::thread::Builder::new()
            .name("floor-writer".to_owned())
            .spawn(move || {
                // A failed commit answers nobody; the requests that wait for it fail.
                let _ = write(&connection, &waiting);
            })
            .map_err(BenchError::io("start a thread"))?;
        Ok(Self { queue })
    }

    pub(crate) async fn commit(&self) {
        let (sender, receiver) = oneshot::channel();
        if self.queue.send(sender).is_ok() {
            let _ = receiver.await;
        }
    }
}

fn write(connection: &Connection, waiting: &Receiver<oneshot::Sender<()>>) -> rusqlite::Result<()> {
    let filler = "x".repeat(LARGEST_ROW);
    let mut batch = Vec::with_capacity(MAX_BATCH);
    while let Ok(first) = waiting.recv() {
        batch.push(first);
        batch.extend(waiting.try_iter().take(MAX_BATCH - 1));
        connection.prepare_cached("BEGIN IMMEDIATE")?.execute([])?;
        for _ in &batch {
            for (table, bytes) in ROWS {
                let sql = format!("INSERT INTO {table}(body) VALUES (?1)");
                connection
                    .prepare_cached(&sql)?
                    .execute([&filler[..bytes]])?;
            }
        }
        connection.prepare_cached("COMMIT")?.execute([])?;
        for answer in batch.drain(..) {
            let _ = answer.send(());
        }
    }
    Ok(())
}
