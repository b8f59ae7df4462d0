//! Streams of events.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use futures_util::stream::BoxStream;
use futures_util::{FutureExt as _, StreamExt as _};
use sse_stream::{Sse, SseByteStream};

use super::limits::{MAX_EVENT_BYTES, MAX_STREAM_BYTES};
use super::wire::{answer, malformed, read_answer};
use super::{ClientError, HttpResponse, TransportError};
use crate::{AgentInterface, Binding, ProtocolVersion, StreamEvent};

/// What a stream tells, in its order.
pub type Events = BoxStream<'static, Result<StreamEvent, ClientError>>;

/// The events of an answer. What is no stream is an error, or the one thing that there is to say.
pub(super) async fn events(
    interface: &AgentInterface,
    response: HttpResponse,
) -> Result<Events, ClientError> {
    let is_success = (200..300).contains(&response.status);
    if is_success && response.is("text/event-stream") {
        return Ok(decode(interface.binding, interface.version, response.body));
    }
    let result = answer(interface, response).await?;
    let event = StreamEvent::decode(interface.version, &result);
    let event = event.map_err(|error| malformed(error.message()));
    Ok(futures_util::stream::iter([event]).boxed())
}

fn decode(
    binding: Binding,
    version: ProtocolVersion,
    chunks: BoxStream<'static, Result<Bytes, TransportError>>,
) -> Events {
    // Bytes since the last event, and all.
    let since = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&since);
    let mut total = 0;
    let counted = chunks.map(move |chunk| {
        let chunk = chunk.map_err(ClientError::from)?;
        total += chunk.len();
        let event = counter.fetch_add(chunk.len(), Ordering::Relaxed) + chunk.len();
        let limits = [
            ("event", event, MAX_EVENT_BYTES),
            ("stream", total, MAX_STREAM_BYTES),
        ];
        match limits.into_iter().find(|(_, size, limit)| size > limit) {
            Some((what, _, limit)) => Err(ClientError::TooLarge { what, limit }),
            None => Ok(chunk),
        }
    });
    let sse = SseByteStream::new(counted.boxed());
    let events = sse.filter_map(move |item| {
        since.store(0, Ordering::Relaxed);
        let event = match item {
            Ok(sse) => event(binding, version, &sse),
            Err(error) => Some(Err(broken(error))),
        };
        std::future::ready(event)
    });
    events.boxed()
}

fn event(
    binding: Binding,
    version: ProtocolVersion,
    sse: &Sse,
) -> Option<Result<StreamEvent, ClientError>> {
    let data = sse.data.as_deref().unwrap_or_default().trim();
    if data.is_empty() {
        return None;
    }
    // Some servers say so in the middle of a stream, in whatever form.
    let is_error = sse.event.as_deref() == Some("error");
    let status = if is_error { 500 } else { 200 };
    let result = read_answer(binding, status, data.as_bytes());
    Some(result.and_then(|result| {
        StreamEvent::decode(version, &result).map_err(|error| malformed(error.message()))
    }))
}

fn broken(error: sse_stream::Error) -> ClientError {
    match error {
        sse_stream::Error::Body(source) => match source.downcast::<ClientError>() {
            Ok(error) => *error,
            Err(source) => malformed(&source.to_string()),
        },
        other => malformed(&other.to_string()),
    }
}

/// The events of bytes in memory, for tests and fuzzers.
pub fn read_events<'a>(
    binding: Binding,
    version: ProtocolVersion,
    chunks: impl IntoIterator<Item = &'a [u8]>,
) -> Vec<Result<StreamEvent, ClientError>> {
    let chunks = chunks.into_iter();
    let chunks: Vec<_> = chunks
        .map(|chunk| Ok(Bytes::copy_from_slice(chunk)))
        .collect();
    let events = decode(binding, version, futures_util::stream::iter(chunks).boxed());
    events
        .collect::<Vec<_>>()
        .now_or_never()
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ErrorKind;

    fn read(text: &str) -> Vec<Result<StreamEvent, ClientError>> {
        read_events(Binding::JsonRpc, ProtocolVersion::V03, [text.as_bytes()])
    }

    #[test]
    fn comments_are_passed_over_and_errors_are_told() {
        let message = r#"{"jsonrpc":"2.0","id":"1","result":{"kind":"message","messageId":"m","role":"agent","parts":[{"kind":"text","text":"hi"}]}}"#;
        let error = r#"{"jsonrpc":"2.0","id":"1","error":{"code":-32004,"message":"no"}}"#;
        let events = read(&format!(
            ": ping\n\ndata: {message}\n\ndata: {error}\n\ndata: what\n\n"
        ));
        assert!(
            matches!(events[0], Ok(StreamEvent::Message(_))),
            "{events:?}"
        );
        let kind = events[1].as_ref().unwrap_err().kind();
        assert_eq!(kind, Some(ErrorKind::UnsupportedOperation));
        assert!(matches!(events[2], Err(ClientError::Malformed { .. })));
    }

    #[test]
    fn an_event_that_does_not_end_is_not_kept() {
        let chunk = vec![b'x'; 1 << 20];
        let chunks = std::iter::once(&b"data: "[..]).chain(std::iter::repeat_n(&chunk[..], 20));
        let events = read_events(Binding::HttpJson, ProtocolVersion::V1, chunks);
        let limit = MAX_EVENT_BYTES;
        assert_eq!(
            events,
            [Err(ClientError::TooLarge {
                what: "event",
                limit
            })]
        );
    }
}
