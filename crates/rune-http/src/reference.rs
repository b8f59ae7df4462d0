//! The reference page: Swagger UI over the document of the listener. All of it is in this program.

use std::borrow::Cow;
use std::sync::Arc;

use axum::body::Body;
use axum::response::Response;
use http::HeaderValue;
use http::header::{
    CACHE_CONTROL, CONTENT_ENCODING, CONTENT_SECURITY_POLICY, CONTENT_TYPE, REFERRER_POLICY,
    X_CONTENT_TYPE_OPTIONS,
};
use utoipa_swagger_ui::Config;

use crate::{ApiError, ErrorBody, Path};

/// Scripts, styles and data of this listener alone. Swagger UI styles elements one by one and has its icons in its styles.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; \
                      img-src 'self' data:; connect-src 'self'; base-uri 'none'; form-action 'none'; \
                      frame-ancestors 'none'";

/// The files of Swagger UI that the page uses, with their types.
const SWAGGER_UI: [(&str, &str); 3] = [
    ("swagger-ui-bundle.js", "text/javascript"),
    ("swagger-ui.css", "text/css"),
    ("favicon-32x32.png", "image/png"),
];

/// This document as a page, with a form to try every operation.
#[utoipa::path(
    get, path = "/docs", tag = "status",
    responses((status = 200, body = String, content_type = "text/html", description = "The page"))
)]
pub async fn page() -> Response {
    let page = include_str!("reference/index.html");
    answer(page.as_bytes().into(), "text/html; charset=utf-8", false)
}

/// A part of the page at `/docs`.
#[utoipa::path(
    get, path = "/docs/{file}", tag = "status",
    params(("file" = String, Path, description = "Name of the part", example = "reference.js")),
    responses(
        (status = 200, content((String = "text/javascript"), (String = "text/css"), (String = "image/png")), description = "The part"),
        (status = 404, body = ErrorBody, description = "The page has no such part"),
    )
)]
pub async fn file(Path(file): Path<String>) -> Result<Response, ApiError> {
    if file == "reference.js" {
        let script = include_str!("reference/reference.js");
        return Ok(answer(script.as_bytes().into(), "text/javascript", false));
    }
    let known = SWAGGER_UI.iter().find(|(name, _)| *name == file);
    let (name, media_type) = known.ok_or_else(|| ApiError::not_found("file", &file))?;
    let found = utoipa_swagger_ui::serve(name, Arc::new(Config::default()));
    match found {
        Ok(Some(found)) => Ok(answer(found.bytes, media_type, found.gzpipped)),
        Ok(None) => Err(ApiError::internal(format!("Swagger UI has no `{name}`"))),
        Err(error) => Err(ApiError::internal(error.to_string())),
    }
}

fn answer(bytes: Cow<'static, [u8]>, media_type: &'static str, gzipped: bool) -> Response {
    let body = match bytes {
        Cow::Borrowed(bytes) => Body::from(bytes),
        Cow::Owned(bytes) => Body::from(bytes),
    };
    let mut response = Response::new(body);
    let headers = response.headers_mut();
    for (name, value) in [
        (CONTENT_TYPE, media_type),
        (CONTENT_SECURITY_POLICY, POLICY),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (REFERRER_POLICY, "no-referrer"),
        (CACHE_CONTROL, "max-age=3600"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    if gzipped {
        headers.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    }
    response
}
