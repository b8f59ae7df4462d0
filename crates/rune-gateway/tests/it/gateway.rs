//! A gateway and a client of it.

use std::sync::OnceLock;
use std::time::Duration;

use axum::Router;
use reqwest::{Client, RequestBuilder};
use rune_gateway::{A2aAccess, Gateway};
use rune_http::{Auth, Metrics, Readiness, ReadyPart, Server};
use rune_mcp::McpAccess;
use rune_runtime::SecretVault;
use rune_testkit::openapi::{ApiDocument, held_to_document};
use serde_json::Value;
use tokio::net::TcpListener;

use crate::platform::Platform;

pub(crate) struct TestGateway {
    pub(crate) platform: Platform,
    pub(crate) part: ReadyPart,
    pub(crate) client: Client,
    pub(crate) router: Router,
    base: String,
}

/// Answers at once, except to `slow`.
pub(crate) const SCRIPT: &str = "rules:\n  - match: { contains: slow }\n    delay_ms: 600000\n    respond: late\n  \
                                 - match: { contains: broken }\n    error: { kind: refused, message: no model }\n";

impl TestGateway {
    pub(crate) async fn start() -> Self {
        let gateway = Self::with_auth(Auth::Anonymous).await;
        gateway.platform.deploy("hello", SCRIPT).await;
        gateway
    }

    pub(crate) async fn with_auth(auth: Auth) -> Self {
        let platform = Platform::start();
        let readiness = Readiness::default();
        let part = readiness.part("store");
        let gateway = Gateway {
            engine: platform.engine.clone(),
            auth,
            readiness,
            metrics: metrics(),
            mcp: McpAccess::default(),
            a2a: A2aAccess::default(),
            secrets: SecretVault::empty(),
        };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let base = format!("http://{}", listener.local_addr().unwrap());
        let tasks = platform.tasks.clone();
        let router = gateway.router();
        let held = held_to_document(router.clone()).await.unwrap();
        let server = Server::new("gateway", listener, held, tasks.clone());
        tasks.spawn(
            "server",
            server.run(tasks.shutdown(), Duration::from_secs(5)),
        );
        Self {
            platform,
            part,
            client: Client::new(),
            router,
            base,
        }
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("{}{path}", self.base)
    }

    pub(crate) async fn document(&self) -> ApiDocument {
        ApiDocument::fetch(&self.client, &self.base).await.unwrap()
    }

    pub(crate) fn get(&self, path: &str) -> RequestBuilder {
        self.client.get(self.url(path))
    }

    pub(crate) fn post(&self, path: &str, body: &Value) -> RequestBuilder {
        self.client.post(self.url(path)).json(body)
    }

    pub(crate) fn invoke(&self, body: &Value) -> RequestBuilder {
        self.post("/v1/agents/hello/invoke", body)
    }
}

/// What the recorder of this process has collected.
fn metrics() -> Metrics {
    static HANDLE: OnceLock<Metrics> = OnceLock::new();
    HANDLE
        .get_or_init(|| {
            let metrics = Metrics::default();
            metrics.install().unwrap();
            metrics
        })
        .clone()
}

/// Status and body.
pub(crate) async fn answer(request: RequestBuilder) -> (u16, Value) {
    let response = request.send().await.unwrap();
    let status = response.status().as_u16();
    let text = response.text().await.unwrap();
    (
        status,
        serde_json::from_str(&text).unwrap_or(Value::String(text)),
    )
}

/// Status and code of an error.
pub(crate) async fn refusal(request: RequestBuilder) -> (u16, String) {
    let (status, body) = answer(request).await;
    (
        status,
        body["error"]["code"]
            .as_str()
            .unwrap_or_default()
            .to_owned(),
    )
}
