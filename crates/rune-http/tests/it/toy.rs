//! A listener with one route of each kind.

use std::net::SocketAddr;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::routing::{get, post};
use futures_util::StreamExt as _;
use rune_http::{ApiError, Auth, Caller, Edge, Json, Path, Query, Server, ServerLimits};
use rune_runtime::Tasks;
use rune_store_runtime::{ErrorCode, RequestId, StoreError};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Note {
    pub(crate) text: String,
    #[serde(default)]
    pub(crate) count: u32,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Limit {
    limit: Option<u32>,
}

/// Serves until it is stopped.
pub(crate) struct Toy {
    pub(crate) addr: SocketAddr,
    pub(crate) shutdown: CancellationToken,
    pub(crate) run: tokio::task::JoinHandle<Option<bool>>,
}

pub(crate) async fn start(auth: Auth) -> Toy {
    start_with(auth, ServerLimits::default()).await
}

pub(crate) async fn start_with(auth: Auth, limits: ServerLimits) -> Toy {
    let shutdown = CancellationToken::new();
    let router = Edge::new("toy", auth, &["/health"]).protect(router(shutdown.clone()));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let tasks = Tasks::new();
    let server = Server::new("toy", listener, router, tasks.clone()).with_limits(limits);
    let run = tasks.spawn(
        "server",
        server.run(shutdown.clone(), Duration::from_secs(5)),
    );
    Toy {
        addr,
        shutdown,
        run,
    }
}

fn router(shutdown: CancellationToken) -> Router {
    let stream = move || {
        let shutdown = shutdown.clone();
        async move {
            let first = futures_util::stream::iter([Ok::<_, std::io::Error>("first\n")]);
            let last = futures_util::stream::once(async move {
                shutdown.cancelled().await;
                Ok("last\n")
            });
            Body::from_stream(first.chain(last))
        }
    };
    Router::new()
        .route("/health", get(|| async { "ok" }))
        .route(
            "/who",
            get(|caller: Caller| async move { caller.id.to_string() }),
        )
        .route(
            "/notes",
            post(|Json(note): Json<Note>| async move { Json(note) }),
        )
        .route(
            "/limit",
            get(|Query(q): Query<Limit>| async move { Json(q.limit) }),
        )
        .route(
            "/requests/{id}",
            get(|Path(id): Path<RequestId>| async move { id.to_string() }),
        )
        .route("/panic", get(panics))
        .route("/corrupt", get(corrupt))
        .route(
            "/full",
            get(|| async { ApiError::new(ErrorCode::LimitExceeded, "too many") }),
        )
        .route("/cancelled", get(cancelled))
        .route("/stream", get(stream))
}

async fn panics() -> &'static str {
    panic!("secret detail of a panic")
}

async fn corrupt() -> Result<(), ApiError> {
    let error = StoreError::Corrupt {
        what: "secret row".to_owned(),
        reason: "bits".to_owned(),
    };
    Err(error.into())
}

async fn cancelled() -> ApiError {
    let id = RequestId::from_bytes([7; 16]);
    ApiError::new(ErrorCode::Cancelled, "the request was cancelled").of_request(id)
}

impl Toy {
    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.addr)
    }

    /// Sends bytes as they are and reads until the other side closes.
    pub(crate) async fn raw(&self, bytes: &[u8]) -> String {
        let mut stream = TcpStream::connect(self.addr).await.unwrap();
        // The server may answer and close before it has read everything.
        let _ = stream.write_all(bytes).await;
        let mut answer = Vec::new();
        let read = stream.read_to_end(&mut answer);
        let _ = tokio::time::timeout(Duration::from_secs(20), read)
            .await
            .unwrap();
        String::from_utf8_lossy(&answer).into_owned()
    }
}

/// Status, `x-request-id`, code, message and request id of an error.
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) http_id: String,
    pub(crate) retry_after: Option<String>,
    pub(crate) allow: Option<String>,
    pub(crate) text: String,
}

pub(crate) async fn send(request: reqwest::RequestBuilder) -> Answer {
    let response = request.send().await.unwrap();
    let header = |name: &str| {
        response
            .headers()
            .get(name)
            .map(|value| value.to_str().unwrap().to_owned())
    };
    Answer {
        status: response.status().as_u16(),
        http_id: header("x-request-id").unwrap(),
        retry_after: header("retry-after"),
        allow: header("allow"),
        text: response.text().await.unwrap(),
    }
}

impl Answer {
    /// Checks the documented body and answers code and message.
    pub(crate) fn error(&self) -> (String, String, String) {
        let body: rune_http::ErrorBody = serde_json::from_str(&self.text).unwrap();
        (body.error.code, body.error.message, body.error.request_id)
    }
}
