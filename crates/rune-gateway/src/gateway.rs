//! The router of the public API.

use std::sync::Arc;

use axum::Router;
use bytes::Bytes;
use metrics_exporter_prometheus::PrometheusHandle;
use rune_http::{Auth, Edge, Readiness, secure};
use rune_runtime::Engine;
use utoipa::OpenApi;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::routes::{agents, events, invoke, replicas, requests, sessions, status};

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
    pub metrics: PrometheusHandle,
}

/// What handlers share.
pub(crate) struct Shared {
    pub(crate) engine: Engine,
    pub(crate) readiness: Readiness,
    pub(crate) metrics: PrometheusHandle,
    pub(crate) document: Bytes,
}

#[derive(OpenApi)]
#[openapi(info(
    title = "Rune gateway",
    description = "Invoke agents and follow their requests. Every error has the body `ErrorBody`."
))]
struct Document;

impl Gateway {
    /// Every route of the public API, protected.
    pub fn router(self) -> Router {
        let (router, document) = all_routes();
        let shared = Shared {
            engine: self.engine,
            readiness: self.readiness,
            metrics: self.metrics,
            document: document.to_json().map(Bytes::from).unwrap_or_default(),
        };
        let router = router.with_state(Arc::new(shared));
        Edge::new("gateway", self.auth, PUBLIC_ROUTES).protect(router)
    }
}

/// The one list of routes, and the document that describes it.
fn all_routes() -> (Router<Arc<Shared>>, utoipa::openapi::OpenApi) {
    let (router, mut document) = OpenApiRouter::with_openapi(Document::openapi())
        .routes(routes!(invoke::invoke))
        .routes(routes!(sessions::create))
        .routes(routes!(agents::list))
        .routes(routes!(agents::get))
        .routes(routes!(sessions::get, sessions::delete))
        .routes(routes!(sessions::messages))
        .routes(routes!(requests::list))
        .routes(routes!(requests::get))
        .routes(routes!(events::events))
        .routes(routes!(requests::cancel))
        .routes(routes!(replicas::health))
        .routes(routes!(status::health))
        .routes(routes!(status::ready))
        .routes(routes!(status::metrics))
        .routes(routes!(status::openapi))
        .split_for_parts();
    secure(&mut document, PUBLIC_ROUTES);
    (router, document)
}
