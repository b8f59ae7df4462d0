//! The router of the public API.

use std::sync::{Arc, LazyLock};

use axum::Router;
use bytes::Bytes;
use rune_http::{Auth, Edge, Metrics, Readiness, api, secure};
use rune_runtime::Engine;
use utoipa::OpenApi;

use crate::routes::{
    agents, approvals, calls, canvas, context, events, fork, invoke, outbox, policy, published,
    replicas, requests, sessions, status, tasks,
};

/// The routes that answer without credentials.
pub const PUBLIC_ROUTES: &[&str] = &["/health", "/ready"];

/// What the public API needs.
pub struct Gateway {
    /// Runs the requests.
    pub engine: Engine,
    /// Who may call.
    pub auth: Auth,
    /// What `/ready` reports.
    pub readiness: Readiness,
    /// What `/metrics` shows.
    pub metrics: Metrics,
}

/// What handlers share.
pub(crate) struct Shared {
    pub(crate) engine: Engine,
    pub(crate) readiness: Readiness,
    pub(crate) metrics: Metrics,
}

#[derive(OpenApi)]
#[openapi(info(
    title = "Rune gateway",
    description = "Invoke agents and follow their requests. Every error has the body `ErrorBody`."
))]
struct Document;

/// The document of the API, made when somebody asks for it first.
pub(crate) static DOCUMENT: LazyLock<Bytes> = LazyLock::new(|| {
    let mut document = document();
    secure(&mut document, PUBLIC_ROUTES);
    document.to_json().map(Bytes::from).unwrap_or_default()
});

impl Gateway {
    /// Every route of the public API, protected.
    pub fn router(self) -> Router {
        let shared = Shared {
            engine: self.engine,
            readiness: self.readiness,
            metrics: self.metrics,
        };
        let router = routes().with_state(Arc::new(shared));
        Edge::new("gateway", self.auth, PUBLIC_ROUTES).protect(router)
    }
}

// The one list of routes.
api! {
    Arc<Shared>: Document:
    invoke::invoke,
    sessions::create,
    agents::list,
    agents::get,
    agents::mcp_servers,
    sessions::get,
    sessions::delete,
    sessions::messages,
    sessions::output,
    requests::list,
    requests::get,
    calls::calls,
    context::context,
    events::events,
    requests::cancel,
    requests::replay,
    fork::fork,
    requests::cassette,
    approvals::list,
    approvals::decide,
    policy::verdicts,
    canvas::show,
    outbox::list,
    published::list,
    published::publish,
    tasks::list,
    tasks::get,
    replicas::health,
    status::health,
    status::ready,
    status::metrics,
    status::openapi,
}
