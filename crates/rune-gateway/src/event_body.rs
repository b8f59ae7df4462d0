//! The events of a request as the body of an answer (`text/event-stream`).

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::{Body, HttpBody};
use axum::response::Response;
use bytes::{BufMut as _, Bytes, BytesMut};
use http::header::{CACHE_CONTROL, CONTENT_TYPE};
use http::{HeaderName, HeaderValue};
use hyper::body::Frame;
use rune_http::ApiError;
use rune_runtime::{Followed, RequestEvents, SequencedEvent};
use rune_store_runtime::{ErrorCode, RequestId, StoreError};
use serde::Serialize;
use tokio::time::{Instant, Sleep};
use tokio_util::sync::{CancellationToken, ReusableBoxFuture, WaitForCancellationFutureOwned};

/// A comment is sent after this long without an event, so that nobody in between closes
/// the connection.
const KEEP_ALIVE: Duration = Duration::from_secs(15);
/// Events are written together up to about this many bytes.
const CHUNK_BYTES: usize = 16 * 1024;

/// The daemon ends before a request does, which is taken up again.
pub(crate) fn interrupted(id: RequestId) -> ApiError {
    let message = format!(
        "the daemon ends before the request does; the next start takes it up again, and \
         `/v1/requests/{id}` shows what comes of it"
    );
    ApiError::new(ErrorCode::Unavailable, message).of_request(id)
}

/// How the events of a request are written for one kind of client.
pub(crate) trait Encode: Send + Unpin + 'static {
    /// Whether the answer ends when the request waits for a person; else it waits with it.
    const ENDS_PARKED: bool;

    /// Writes what the event is to the client; nothing where it is nothing.
    fn event(&mut self, event: &SequencedEvent, out: &mut BytesMut);

    /// Writes that the request waits for a person. Answers whether the answer ends with that, where [`Self::ENDS_PARKED`];
    /// else it goes on with what happens next.
    fn parked(&mut self, _out: &mut BytesMut) -> bool {
        true
    }

    /// Writes that the answer ends before the request does.
    fn cut_off(&mut self, _out: &mut BytesMut) {}
}

/// Answers the events, each as soon as it is there. Ends after the last one, or when the
/// daemon ends; the client returns with `Last-Event-ID` then.
pub(crate) fn event_stream(events: RequestEvents, shutdown: CancellationToken) -> Response {
    encoded_stream(events, shutdown, Native)
}

/// The same for another kind of client.
pub(crate) fn encoded_stream<E: Encode>(
    events: RequestEvents,
    shutdown: CancellationToken,
    encoder: E,
) -> Response {
    let body = EventBody {
        next: ReusableBoxFuture::new(next(events, E::ENDS_PARKED)),
        encoder,
        ended: false,
        buffer: BytesMut::new(),
        keep_alive: Box::pin(tokio::time::sleep(KEEP_ALIVE)),
        shutdown: Box::pin(shutdown.cancelled_owned()),
    };
    let mut response = Response::new(Body::new(body));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    let buffering = HeaderName::from_static("x-accel-buffering");
    headers.insert(buffering, HeaderValue::from_static("no"));
    response
}

type Next = (RequestEvents, Result<Followed, StoreError>);

async fn next(mut events: RequestEvents, ends_parked: bool) -> Next {
    let followed = if ends_parked {
        events.step().await
    } else {
        let event = events.next().await;
        event.map(|event| event.map_or(Followed::End, Followed::Event))
    };
    (events, followed)
}

struct EventBody<E> {
    next: ReusableBoxFuture<'static, Next>,
    encoder: E,
    ended: bool,
    buffer: BytesMut,
    keep_alive: Pin<Box<Sleep>>,
    shutdown: Pin<Box<WaitForCancellationFutureOwned>>,
}

impl<E: Encode> EventBody<E> {
    /// Writes the events that are there into the buffer.
    fn fill(&mut self, cx: &mut Context<'_>) {
        while !self.ended && self.buffer.len() < CHUNK_BYTES {
            let Poll::Ready((events, followed)) = self.next.poll(cx) else {
                return;
            };
            match followed {
                Ok(Followed::Event(event)) => {
                    self.encoder.event(&event, &mut self.buffer);
                    self.ended = event.event.is_last();
                    self.next.set(next(events, E::ENDS_PARKED));
                }
                Ok(Followed::Parked) => {
                    self.ended = self.encoder.parked(&mut self.buffer);
                    if !self.ended {
                        self.next.set(next(events, false));
                    }
                }
                Ok(Followed::End) => self.cut_off(),
                Err(error) => {
                    tracing::error!(%error, "event stream was cut off");
                    self.cut_off();
                }
            }
        }
    }

    fn cut_off(&mut self) {
        self.encoder.cut_off(&mut self.buffer);
        self.ended = true;
    }
}

impl<E: Encode> HttpBody for EventBody<E> {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let this = &mut *self;
        this.fill(cx);
        if this.buffer.is_empty() && !this.ended && this.shutdown.as_mut().poll(cx).is_ready() {
            this.cut_off();
        }
        if !this.buffer.is_empty() {
            this.keep_alive.as_mut().reset(Instant::now() + KEEP_ALIVE);
            let chunk = this.buffer.split().freeze();
            return Poll::Ready(Some(Ok(Frame::data(chunk))));
        }
        if this.ended {
            return Poll::Ready(None);
        }
        if this.keep_alive.as_mut().poll(cx).is_ready() {
            this.keep_alive.as_mut().reset(Instant::now() + KEEP_ALIVE);
            // Polled once more, so that the new deadline wakes this task.
            let _ = this.keep_alive.as_mut().poll(cx);
            let comment = Bytes::from_static(b": keep-alive\n\n");
            return Poll::Ready(Some(Ok(Frame::data(comment))));
        }
        Poll::Pending
    }
}

/// The events as this API names them.
struct Native;

impl Encode for Native {
    const ENDS_PARKED: bool = false;

    fn event(&mut self, event: &SequencedEvent, out: &mut BytesMut) {
        write(out, event);
    }
}

/// One event in the format of the HTML standard; JSON has no line ends of its own.
fn write(buffer: &mut BytesMut, event: &SequencedEvent) {
    buffer.put_slice(b"event: ");
    buffer.put_slice(event.event.name().as_bytes());
    if let Some(seq) = event.seq {
        buffer.put_slice(b"\nid: ");
        buffer.put_slice(seq.to_string().as_bytes());
    }
    buffer.put_u8(b'\n');
    write_data(buffer, &event.event);
}

/// An event without a name of its own.
pub(crate) fn write_data(buffer: &mut BytesMut, data: &impl Serialize) {
    buffer.put_slice(b"data: ");
    if let Err(error) = serde_json::to_writer(buffer.writer(), data) {
        tracing::error!(%error, "event cannot be written");
    }
    buffer.put_slice(b"\n\n");
}

#[cfg(test)]
mod tests {
    use rune_runtime::RequestEvent;

    use super::*;

    #[test]
    fn an_event_is_one_block_whatever_its_text() {
        let mut buffer = BytesMut::new();
        let event = RequestEvent::Token {
            text: "a\n\ndata: b\r\u{2028}".to_owned(),
        };
        let mut written = |seq, event| {
            let at = None;
            write(&mut buffer, &SequencedEvent { seq, at, event });
        };
        written(None, event);
        written(Some(2), RequestEvent::Started { attempt: 1 });
        let expected = concat!(
            "event: token\ndata: {\"text\":\"a\\n\\ndata: b\\r\u{2028}\"}\n\n",
            "event: started\nid: 2\ndata: {\"attempt\":1}\n\n"
        );
        assert_eq!(buffer, expected.as_bytes());
    }
}
