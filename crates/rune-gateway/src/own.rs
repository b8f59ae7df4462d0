//! What a process without an engine answers itself.

use axum::Router;
use axum::extract::State;
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;
use rune_http::{Metrics, Readiness, ReadyReport, reference};

use crate::routes::status;

/// The routes that it answers.
pub(crate) const OWN_ROUTES: [&str; 6] = [
    "/health",
    "/ready",
    "/metrics",
    "/openapi.json",
    "/docs",
    "/docs/{file}",
];

#[derive(Clone)]
struct Own {
    readiness: Readiness,
    metrics: Metrics,
}

/// These routes, without an edge.
pub(crate) fn own_routes(readiness: Readiness, metrics: Metrics) -> Router {
    Router::new()
        .route("/health", get(status::health))
        .route("/ready", get(ready))
        .route("/metrics", get(shown))
        .route("/openapi.json", get(status::openapi))
        .route("/docs", get(reference::page))
        .route("/docs/{file}", get(reference::file))
        .with_state(Own { readiness, metrics })
}

async fn ready(State(own): State<Own>) -> Response {
    ReadyReport::new(&own.readiness).into_response()
}

async fn shown(State(own): State<Own>) -> Response {
    status::shown(&own.metrics)
}
