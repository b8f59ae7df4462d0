//! Reading request bodies within limits.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::Request;
use bytes::{Bytes, BytesMut};
use futures_util::StreamExt as _;
use http::HeaderMap;
use http::header::CONTENT_LENGTH;
use rune_store_runtime::ErrorCode;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

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
    let (parts, body) = request.into_parts();
    read(&parts.headers, body, limit, |_| Ok(())).await
}

/// The same within the bytes that are left of `space`, which are the body's as long as what is given with it is kept.
///
/// # Errors
/// As of [`read_body`]; `limit_exceeded` where nothing is left.
pub async fn read_body_within(
    headers: &HeaderMap,
    body: Body,
    limit: usize,
    space: &Arc<Semaphore>,
) -> Result<(Bytes, Option<OwnedSemaphorePermit>), ApiError> {
    let mut taken: Option<OwnedSemaphorePermit> = None;
    let take = |bytes: usize| {
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
        let more = Arc::clone(space).try_acquire_many_owned(bytes);
        let more = more.map_err(|_| ApiError::new(ErrorCode::LimitExceeded, FULL))?;
        match &mut taken {
            Some(taken) => taken.merge(more),
            None => taken = Some(more),
        }
        Ok(())
    };
    let body = read(headers, body, limit, take).await?;
    Ok((body, taken))
}

const FULL: &str = "bodies of other requests fill the space that there is for them; try again";

/// Reads a body; `take` is asked before a part of so many bytes is kept.
async fn read(
    headers: &HeaderMap,
    body: Body,
    limit: usize,
    take: impl FnMut(usize) -> Result<(), ApiError>,
) -> Result<Bytes, ApiError> {
    let announced = headers.get(CONTENT_LENGTH);
    let announced = announced.and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
    if announced.is_some_and(|length| length > limit as u64) {
        return Err(too_large(limit));
    }
    let read = read_chunks(body, limit, take);
    tokio::time::timeout(BODY_DEADLINE, read)
        .await
        .unwrap_or_else(|_| Err(too_slow()))
}

async fn read_chunks(
    body: Body,
    limit: usize,
    mut take: impl FnMut(usize) -> Result<(), ApiError>,
) -> Result<Bytes, ApiError> {
    let mut chunks = body.into_data_stream();
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
        take(chunk.len())?;
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
