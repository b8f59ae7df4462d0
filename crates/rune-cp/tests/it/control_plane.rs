//! A control plane and a client of it.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use reqwest::{Client, RequestBuilder};
use rune_cp::{ControlPlane, NodeInfo};
use rune_http::{Auth, Readiness, Server};
use rune_remote_store::InternalTokens;
use rune_runtime::{Scheduler, SecretKeySource, SecretVault};
use rune_testkit::openapi::{ApiDocument, held_to_document};
use secrecy::SecretString;
use serde_json::Value;
use tokio::net::TcpListener;

use crate::platform::Platform;

pub(crate) struct TestControlPlane {
    pub(crate) platform: Platform,
    pub(crate) client: Client,
    pub(crate) router: Router,
    pub(crate) tokens: Arc<InternalTokens>,
    base: String,
}

/// The file of the key of internal tokens.
const INTERNAL_KEY: &str = "internal.key";

impl TestControlPlane {
    pub(crate) async fn start(auth: Auth) -> Self {
        let platform = Platform::start();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let (scheduler, handle) = Scheduler::new(platform.engine.clone(), platform.tasks.clone());
        platform.tasks.spawn("scheduler", scheduler.run());
        let tokens = Arc::new(InternalTokens::new(
            platform.store.clone(),
            SecretKeySource::File(platform.dir.path().join(INTERNAL_KEY)),
        ));
        let control_plane = ControlPlane {
            store: platform.store.clone(),
            blobs: Arc::clone(&platform.blobs),
            router: platform.engine.router().clone(),
            reconcile: platform.reconcile.clone(),
            scheduler: handle,
            secrets: SecretVault::new(
                Arc::new(platform.store.clone()),
                SecretKeySource::File(platform.dir.path().join("secret.key")),
            ),
            admission: Arc::default(),
            node: NodeInfo {
                id: "node-1".to_owned(),
                gateway_addr: None,
                control_plane_addr: Some(addr),
                started_at: platform.store.now(),
            },
            auth,
            readiness: Readiness::default(),
            tokens: Arc::clone(&tokens),
            replicas: None,
            gateways: None,
        };
        let running = platform.tasks.clone();
        let router = control_plane.router();
        let held = held_to_document(router.clone()).await.unwrap();
        let server = Server::new("control-plane", listener, held, running.clone());
        running.spawn(
            "server",
            server.run(running.shutdown(), Duration::from_secs(5)),
        );
        Self {
            platform,
            client: Client::new(),
            router,
            tokens,
            base: format!("http://{addr}"),
        }
    }

    /// The token of a split gateway.
    pub(crate) async fn gateway_token(&self) -> SecretString {
        let source = SecretKeySource::File(self.platform.dir.path().join(INTERNAL_KEY));
        let (now, hour) = (self.platform.store.now(), Duration::from_secs(3600));
        let issued = InternalTokens::for_gateway(&source, "test", now, hour).await;
        issued.unwrap().token
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

    pub(crate) fn publish(&self, package: Vec<u8>) -> RequestBuilder {
        let request = self.client.post(self.url("/v1/agent-versions"));
        request
            .header("content-type", "application/x-tar")
            .body(package)
    }
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

/// Status, code and message of an error.
pub(crate) async fn refusal(request: RequestBuilder) -> (u16, String, String) {
    let (status, body) = answer(request).await;
    let text = |name: &str| body["error"][name].as_str().unwrap_or_default().to_owned();
    (status, text("code"), text("message"))
}
