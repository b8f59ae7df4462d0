//! Canvases: what agents show in a browser.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::State;
use axum::response::Response;
use http::HeaderValue;
use http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS,
};
use rune_http::{ApiError, ErrorBody, Path};

use crate::gateway::Shared;

/// A page of its own origin, without scripts and without anything from elsewhere.
const POLICY: &str = "sandbox; default-src 'none'; style-src 'unsafe-inline'; img-src data:; font-src data:; \
                      base-uri 'none'; form-action 'none'";

/// What an agent shows: a page, a drawing or a text, kept for 30 days.
#[utoipa::path(
    get, path = "/canvas/{id}", tag = "canvas",
    params(("id" = String, Path, description = "The canvas, as the tool has named it")),
    responses(
        (status = 200, content((String = "text/html"), (String = "image/svg+xml"), (String = "text/plain")), description = "The content, confined by a Content-Security-Policy"),
        (status = 404, body = ErrorBody, description = "The canvas does not exist, or not any more"),
    )
)]
pub(crate) async fn show(
    State(shared): State<Arc<Shared>>,
    Path(id): Path<String>,
) -> Result<Response, ApiError> {
    let found = shared.engine.canvas(&id).await?;
    let (canvas, content) = found.ok_or_else(|| ApiError::not_found("canvas", &id))?;
    let mut response = Response::new(Body::from(content));
    let headers = response.headers_mut();
    for (name, value) in [
        (CONTENT_TYPE, canvas.format.media_type()),
        (CONTENT_SECURITY_POLICY, POLICY),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (REFERRER_POLICY, "no-referrer"),
        (CACHE_CONTROL, "private, no-store"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    Ok(response)
}
