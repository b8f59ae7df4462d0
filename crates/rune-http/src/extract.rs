//! Extractors that refuse bad input with the documented error body.

use axum::extract::{FromRequest, FromRequestParts, Request};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::request::Parts;
use http::{HeaderMap, HeaderValue};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::{ApiError, MAX_BODY_BYTES, read_body};

/// A JSON body, in and out.
#[derive(Debug, Clone)]
pub struct Json<T>(pub T);

impl<T: DeserializeOwned, S: Sync> FromRequest<S> for Json<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, _: &S) -> Result<Self, ApiError> {
        check_content_type(request.headers())?;
        let bytes = read_body(request, MAX_BODY_BYTES).await?;
        parse(&bytes).map(Self)
    }
}

impl<T: Serialize> IntoResponse for Json<T> {
    fn into_response(self) -> Response {
        match serde_json::to_vec(&self.0) {
            Ok(body) => {
                let mut response = Response::new(body.into());
                response
                    .headers_mut()
                    .insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
                response
            }
            Err(error) => ApiError::internal(format!("answer: {error}")).into_response(),
        }
    }
}

/// A JSON body that may be left out, or be `null`.
#[derive(Debug, Clone)]
pub struct JsonOrDefault<T>(pub T);

impl<T: DeserializeOwned + Default, S: Sync> FromRequest<S> for JsonOrDefault<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, _: &S) -> Result<Self, ApiError> {
        let checked = check_content_type(request.headers());
        let bytes: Bytes = read_body(request, MAX_BODY_BYTES).await?;
        if bytes.is_empty() {
            return Ok(Self(T::default()));
        }
        checked?;
        let body: Option<T> = parse(&bytes)?;
        Ok(Self(body.unwrap_or_default()))
    }
}

fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, ApiError> {
    // The message of serde_json ends with line and column.
    serde_json::from_slice(bytes)
        .map_err(|error| ApiError::invalid(format!("the request body is not valid: {error}")))
}

/// Besides helping callers this keeps web pages out, whose plain forms cannot send it.
fn check_content_type(headers: &HeaderMap) -> Result<(), ApiError> {
    let value = headers
        .get(CONTENT_TYPE)
        .and_then(|value| value.to_str().ok());
    let essence = value
        .and_then(|value| value.split(';').next())
        .unwrap_or_default()
        .trim();
    let json = essence.eq_ignore_ascii_case("application/json")
        || (essence.starts_with("application/") && essence.ends_with("+json"));
    if json {
        return Ok(());
    }
    Err(ApiError::invalid(
        "the request needs `content-type: application/json`",
    ))
}

/// Query parameters. Types deny unknown fields, so that a typing mistake is an error.
#[derive(Debug, Clone)]
pub struct Query<T>(pub T);

impl<T: DeserializeOwned, S: Sync> FromRequestParts<S> for Query<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        parse_query(&parts.uri).map(Self)
    }
}

pub(crate) fn parse_query<T: DeserializeOwned>(uri: &http::Uri) -> Result<T, ApiError> {
    match axum::extract::Query::try_from_uri(uri) {
        Ok(axum::extract::Query(query)) => Ok(query),
        Err(rejection) => Err(ApiError::invalid(reason(&rejection.body_text()))),
    }
}

/// Parameters of the path.
#[derive(Debug, Clone)]
pub struct Path<T>(pub T);

impl<T: DeserializeOwned + Send, S: Send + Sync> FromRequestParts<S> for Path<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        match axum::extract::Path::from_request_parts(parts, state).await {
            Ok(axum::extract::Path(path)) => Ok(Self(path)),
            Err(rejection) => Err(ApiError::invalid(reason(&rejection.body_text()))),
        }
    }
}

/// What is wrong, without the extractor's words before it.
fn reason(text: &str) -> String {
    let prefixes = ["Failed to deserialize query string: ", "Invalid URL: "];
    let text = prefixes
        .iter()
        .find_map(|prefix| text.strip_prefix(prefix))
        .unwrap_or(text);
    text.to_owned()
}
