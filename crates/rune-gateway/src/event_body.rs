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
use rune_runtime::{RequestEvents, SequencedEvent};
use rune_store_runtime::StoreError;
use tokio::time::{Instant, Sleep};
use tokio_util::sync::{CancellationToken, ReusableBoxFuture, WaitForCancellationFutureOwned};

/// A comment is sent after this long without an event, so that nobody in between closes
/// the connection.
const KEEP_ALIVE: Duration = Duration::from_secs(15);
/// Events are written together up to about this many bytes.
const CHUNK_BYTES: usize = 16 * 1024;

/// Answers the events, each as soon as it is there. Ends after the last one, or when the
/// daemon ends; the client returns with `Last-Event-ID` then.
pub(crate) fn event_stream(events: RequestEvents, shutdown: CancellationToken) -> Response {
    let body = EventBody {
        next: ReusableBoxFuture::new(next(events)),
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

type Next = (RequestEvents, Result<Option<SequencedEvent>, StoreError>);

async fn next(mut events: RequestEvents) -> Next {
    let event = events.next().await;
    (events, event)
}

struct EventBody {
    next: ReusableBoxFuture<'static, Next>,
    ended: bool,
    buffer: BytesMut,
    keep_alive: Pin<Box<Sleep>>,
    shutdown: Pin<Box<WaitForCancellationFutureOwned>>,
}

impl EventBody {
    /// Writes the events that are there into the buffer.
    fn fill(&mut self, cx: &mut Context<'_>) {
        while !self.ended && self.buffer.len() < CHUNK_BYTES {
            let Poll::Ready((events, event)) = self.next.poll(cx) else {
                return;
            };
            match event {
                Ok(Some(event)) => {
                    write(&mut self.buffer, &event);
                    self.ended = event.event.is_last();
                    self.next.set(next(events));
                }
                Ok(None) => self.ended = true,
                Err(error) => {
                    tracing::error!(%error, "event stream was cut off");
                    self.ended = true;
                }
            }
        }
    }
}

impl HttpBody for EventBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let this = &mut *self;
        this.fill(cx);
        if !this.buffer.is_empty() {
            this.keep_alive.as_mut().reset(Instant::now() + KEEP_ALIVE);
            let chunk = this.buffer.split().freeze();
            return Poll::Ready(Some(Ok(Frame::data(chunk))));
        }
        if this.ended || this.shutdown.as_mut().poll(cx).is_ready() {
            this.ended = true;
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

/// One event in the format of the HTML standard; JSON has no line ends of its own.
fn write(buffer: &mut BytesMut, event: &SequencedEvent) {
    buffer.put_slice(b"event: ");
    buffer.put_slice(event.event.name().as_bytes());
    if let Some(seq) = event.seq {
        buffer.put_slice(b"\nid: ");
        buffer.put_slice(seq.to_string().as_bytes());
    }
    buffer.put_slice(b"\ndata: ");
    if let Err(error) = serde_json::to_writer(buffer.writer(), &event.event) {
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
        write(&mut buffer, &SequencedEvent { seq: None, event });
        let event = RequestEvent::Started { attempt: 1 };
        write(
            &mut buffer,
            &SequencedEvent {
                seq: Some(2),
                event,
            },
        );
        let expected = concat!(
            "event: token\ndata: {\"text\":\"a\\n\\ndata: b\\r\u{2028}\"}\n\n",
            "event: started\nid: 2\ndata: {\"attempt\":1}\n\n"
        );
        assert_eq!(buffer, expected.as_bytes());
    }
}
