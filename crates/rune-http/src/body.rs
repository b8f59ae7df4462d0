//! Reading request bodies within limits.

use std::time::Duration;

use axum::extract::Request;
use bytes::{Bytes, BytesMut};
use futures_util::StreamExt as _;
use http::header::CONTENT_LENGTH;
use rune_store_runtime::ErrorCode;

use crate::ApiError;

/// Largest request body in bytes, where a route has no limit of its own.
pub const MAX_BODY_BYTES: usize = 8 * 1024 * 1024;
/// Largest uploaded package in bytes.
pub const MAX_PACKAGE_BYTES: usize = 64 * 1024 * 1024;
/// Longest time between two parts of a body.
const BODY_IDLE: Duration = Duration::from_secs(30);
/// Longest time for a whole body.
const BODY_DEADLINE: Duration = Duration::from_secs(300);

/// Reads the whole body, at the most `limit` bytes.
///
/// # Errors
/// `too_large`; `timeout` where it comes too slowly; `invalid_input` where it breaks off.
pub async fn read_body(request: Request, limit: usize) -> Result<Bytes, ApiError> {
    let announced = request.headers().get(CONTENT_LENGTH);
    let announced = announced.and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
    if announced.is_some_and(|length| length > limit as u64) {
        return Err(too_large(limit));
    }
    let read = read_chunks(request, limit);
    tokio::time::timeout(BODY_DEADLINE, read)
        .await
        .unwrap_or_else(|_| Err(too_slow()))
}

async fn read_chunks(request: Request, limit: usize) -> Result<Bytes, ApiError> {
    let mut chunks = request.into_body().into_data_stream();
    // Most bodies are one chunk, which is handed on as it is.
    let mut whole = Bytes::new();
    let mut joined: Option<BytesMut> = None;
    loop {
        let chunk = tokio::time::timeout(BODY_IDLE, chunks.next())
            .await
            .map_err(|_| too_slow())?;
        let Some(chunk) = chunk else { break };
        let chunk = chunk
            .map_err(|error| ApiError::invalid(format!("the request body broke off: {error}")))?;
        let read = joined.as_ref().map_or(whole.len(), BytesMut::len);
        if chunk.len() > limit - read {
            return Err(too_large(limit));
        }
        if read == 0 {
            whole = chunk;
        } else {
            joined
                .get_or_insert_with(|| BytesMut::from(&whole[..]))
                .extend_from_slice(&chunk);
        }
    }
    Ok(joined.map_or(whole, BytesMut::freeze))
}

fn too_large(limit: usize) -> ApiError {
    ApiError::new(
        ErrorCode::TooLarge,
        format!("the request body is larger than {limit} bytes"),
    )
}

fn too_slow() -> ApiError {
    ApiError::new(
        ErrorCode::Timeout,
        "the request body did not arrive in time",
    )
}
