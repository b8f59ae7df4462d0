//! A run as the body of an answer (`text/event-stream`).

use std::time::Duration;

use axum::body::Body;
use axum::response::Response;
use bytes::Bytes;
use futures_util::stream;
use http::HeaderValue;
use http::header::{CACHE_CONTROL, CONTENT_TYPE};
use rune_runtime::{JoinedRun, RunItem};

/// What is said where nothing happens.
const KEEP_ALIVE: &[u8] = b": keep-alive\n\n";

/// Answers what happens in a run, each as soon as it is there, and ends with it. Something is
/// said at least every `quiet`.
pub(crate) fn run_body(run: JoinedRun, quiet: Duration) -> Response {
    let joined = event(0, &RunItem::Joined(run.id().to_owned()));
    let body = stream::unfold((run, Some(joined)), move |(mut run, first)| async move {
        if let Some(first) = first {
            return Some((first, (run, None)));
        }
        let chunk = match tokio::time::timeout(quiet, run.next()).await {
            Ok(None) => return None,
            Ok(Some((position, item))) => event(position, &item),
            Err(_) => Ok(Bytes::from_static(KEEP_ALIVE)),
        };
        Some((chunk, (run, None)))
    });
    let mut response = Response::new(Body::from_stream(body));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// One event; JSON has no line ends of its own.
fn event(position: u64, item: &RunItem) -> Result<Bytes, serde_json::Error> {
    let data = serde_json::to_string(item)?;
    Ok(format!("id: {position}\ndata: {data}\n\n").into())
}
