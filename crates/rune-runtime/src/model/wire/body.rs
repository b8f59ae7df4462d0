//! The body of a response as chunks, with its silences limited.

use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::{self, BoxStream};
use futures_util::{StreamExt, TryStreamExt};
use tokio::time::{Instant, timeout_at};

use crate::model::{ModelError, ModelErrorKind};

/// The chunks of `response`: the first until `first_byte`, each other within `idle` of
/// the one before. A silence and a broken connection are errors.
pub(super) fn chunks(
    provider: &str,
    response: reqwest::Response,
    first_byte: Instant,
    idle: Duration,
) -> BoxStream<'static, Result<Bytes, ModelError>> {
    let provider = provider.to_owned();
    let body = response.bytes_stream().boxed();
    stream::try_unfold((body, first_byte), move |(mut body, until)| {
        let provider = provider.clone();
        async move {
            let Ok(chunk) = timeout_at(until, body.try_next()).await else {
                return Err(silent(&provider));
            };
            let chunk = chunk.map_err(|_| broken(&provider))?;
            Ok(chunk.map(|chunk| (chunk, (body, Instant::now() + idle))))
        }
    })
    .boxed()
}

/// At most `limit` bytes of a body, as text; what cannot be read is left out.
pub(in crate::model) async fn text(
    response: reqwest::Response,
    limit: usize,
    until: Instant,
) -> String {
    let mut body = response.bytes_stream();
    let mut bytes = Vec::new();
    while let Ok(Some(Ok(chunk))) = timeout_at(until, body.next()).await {
        let room = limit.saturating_sub(bytes.len());
        bytes.extend_from_slice(&chunk[..chunk.len().min(room)]);
        if bytes.len() == limit {
            break;
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// The provider says nothing.
pub(super) fn silent(provider: &str) -> ModelError {
    ModelError::new(
        ModelErrorKind::Timeout,
        provider,
        "the provider was silent for too long",
    )
}

fn broken(provider: &str) -> ModelError {
    ModelError::new(
        ModelErrorKind::Truncated,
        provider,
        "the connection broke in the middle of the reply",
    )
}
