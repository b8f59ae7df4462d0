//! The process itself: liveness, readiness, metrics, the API document.

use std::sync::Arc;

use axum::extract::State;
use axum::response::{IntoResponse as _, Response};
use http::header::CONTENT_TYPE;
use rune_http::{Health, Json, Metrics, ReadyReport};

use crate::gateway::{DOCUMENT, Shared};

/// The format of `/metrics`.
const PROMETHEUS_TEXT: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Whether the process lives.
#[utoipa::path(
    get, path = "/health", tag = "status",
    responses((status = 200, body = Health, description = "It does"))
)]
pub(crate) async fn health() -> Json<Health> {
    Json(Health::new(env!("CARGO_PKG_VERSION")))
}

/// Whether every part of the process is ready.
#[utoipa::path(
    get, path = "/ready", tag = "status",
    responses(
        (status = 200, body = ReadyReport, description = "Every part is ready"),
        (status = 503, body = ReadyReport, description = "Some part is not"),
    )
)]
pub(crate) async fn ready(State(shared): State<Arc<Shared>>) -> Response {
    ReadyReport::new(&shared.readiness).into_response()
}

/// Metrics in the text format of Prometheus.
#[utoipa::path(
    get, path = "/metrics", tag = "status",
    responses(
        (status = 200, body = String, content_type = "text/plain", description = "The metrics"),
    )
)]
pub(crate) async fn metrics(State(shared): State<Arc<Shared>>) -> Response {
    shared.engine.observe();
    shown(&shared.metrics)
}

/// The metrics as an answer.
pub(crate) fn shown(metrics: &Metrics) -> Response {
    ([(CONTENT_TYPE, PROMETHEUS_TEXT)], metrics.render()).into_response()
}

/// This document.
#[utoipa::path(
    get, path = "/openapi.json", tag = "status",
    responses(
        (status = 200, body = Object, description = "OpenAPI 3.1"),
    )
)]
pub(crate) async fn openapi() -> Response {
    ([(CONTENT_TYPE, "application/json")], DOCUMENT.clone()).into_response()
}
