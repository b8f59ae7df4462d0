//! What comes of a call, as each binding has it.

use axum::body::Body;
use axum::response::Response;
use bytes::BytesMut;
use http::header::{ACCEPT, CACHE_CONTROL, CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderMap, HeaderValue, StatusCode};
use rune_a2a::{A2aError, ErrorKind, ProtocolVersion, RpcId, rpc_error, rpc_result};
use rune_http::ApiError;
use rune_store_runtime::ErrorCode;
use serde_json::{Map, Value};
use tokio_util::sync::CancellationToken;

use super::operations::Outcome;
use crate::event_body::{encoded_stream, write_data};

/// The media type of A2A, which is JSON.
const A2A_JSON: &str = "application/a2a+json";
const JSON: &str = "application/json";

/// How the engine or the store refuses a call, in the protocol's words. What went wrong inside is
/// logged.
pub(crate) fn failure(error: &ApiError) -> A2aError {
    if matches!(error.code(), ErrorCode::Internal | ErrorCode::Unavailable) {
        error.log();
    }
    match error.code() {
        // A parameter, a session of another agent, an input that is too large.
        ErrorCode::InvalidInput | ErrorCode::Conflict | ErrorCode::TooLarge => {
            A2aError::new(ErrorKind::InvalidParams, error.message())
        }
        code => A2aError::new(ErrorKind::Other(code), error.message()),
    }
}

/// An answer of JSON-RPC; its status is always 200.
pub(crate) fn rpc(
    id: &RpcId,
    version: ProtocolVersion,
    outcome: Result<Outcome, A2aError>,
    shutdown: CancellationToken,
) -> Response {
    match outcome {
        Ok(Outcome::Value(value)) => json(StatusCode::OK, JSON, &rpc_result(id, &value)),
        Ok(Outcome::Stream(events, stream)) => encoded_stream(events, shutdown, *stream),
        Err(error) => json(StatusCode::OK, JSON, &rpc_error(id, version, &error)),
    }
}

/// The error of a streaming call of 0.3: the only event of a stream, as clients of 0.3 read nothing else there.
pub(crate) fn rpc_event(id: &RpcId, version: ProtocolVersion, error: &A2aError) -> Response {
    let mut event = BytesMut::new();
    write_data(&mut event, &rpc_error(id, version, error));
    let mut response = Response::new(Body::from(event.freeze()));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// An answer of the HTTP binding.
pub(crate) fn http(
    media_type: &'static str,
    outcome: Result<Outcome, A2aError>,
    shutdown: CancellationToken,
) -> Response {
    match outcome {
        // Nothing is an object without members there.
        Ok(Outcome::Value(Value::Null)) => {
            json(StatusCode::OK, media_type, &Value::Object(Map::new()))
        }
        Ok(Outcome::Value(value)) => json(StatusCode::OK, media_type, &value),
        Ok(Outcome::Stream(events, stream)) => encoded_stream(events, shutdown, *stream),
        Err(error) => http_error(media_type, error.kind().http_status(), &error),
    }
}

/// An error of the HTTP binding with another status than that of the table.
pub(crate) fn http_error(media_type: &'static str, status: u16, error: &A2aError) -> Response {
    let code = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut response = json(code, media_type, &error.to_http(status));
    if matches!(status, 429 | 503) {
        response
            .headers_mut()
            .insert(RETRY_AFTER, HeaderValue::from(2));
    }
    response
}

fn json(status: StatusCode, media_type: &'static str, value: &Value) -> Response {
    let mut response = Response::new(Body::from(value.to_string()));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(media_type));
    response
}

/// Whether a body is JSON, by what the client says of it.
pub(crate) fn is_json(headers: &HeaderMap) -> bool {
    content_type(headers).is_some_and(|it| it == JSON || it == A2A_JSON)
}

/// The media type of answers of the HTTP binding: that of A2A only where the client names it.
pub(crate) fn media_type(headers: &HeaderMap) -> &'static str {
    let accept = headers.get(ACCEPT).and_then(|accept| accept.to_str().ok());
    let accepts = accept.is_some_and(|accept| {
        let mut types = accept.split(',').map(essence);
        types.any(|it| it == A2A_JSON)
    });
    match accepts || content_type(headers).as_deref() == Some(A2A_JSON) {
        true => A2A_JSON,
        false => JSON,
    }
}

fn content_type(headers: &HeaderMap) -> Option<String> {
    let value = headers.get(CONTENT_TYPE)?.to_str().ok()?;
    Some(essence(value))
}

fn essence(media_type: &str) -> String {
    let essence = media_type.split(';').next().unwrap_or_default();
    essence.trim().to_ascii_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_plain_json_unless_the_client_names_the_other_type() {
        let of = |name, value: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(name, HeaderValue::from_static(value));
            (media_type(&headers), is_json(&headers))
        };
        assert_eq!(
            of(CONTENT_TYPE, "application/json; charset=utf-8"),
            (JSON, true)
        );
        assert_eq!(of(CONTENT_TYPE, "Application/A2A+JSON"), (A2A_JSON, true));
        assert_eq!(of(CONTENT_TYPE, "text/plain"), (JSON, false));
        assert_eq!(
            of(ACCEPT, "text/html, application/a2a+json;q=0.9"),
            (A2A_JSON, false)
        );
        assert_eq!(of(ACCEPT, "*/*"), (JSON, false));
    }
}
