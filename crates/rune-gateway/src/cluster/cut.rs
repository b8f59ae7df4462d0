//! A body that breaks off.

use std::pin::Pin;
use std::task::{Context, Poll};

use axum::body::Body;
use bytes::Bytes;
use http_body::{Body as HttpBody, Frame, SizeHint};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

/// The body of an answer, which breaks off when a token fires: whoever reads it must not take what was said for all.
pub(super) struct Cut {
    body: Body,
    token: CancellationToken,
    ended: Pin<Box<WaitForCancellationFutureOwned>>,
}

impl Cut {
    pub(super) fn new(body: Body, token: CancellationToken) -> Self {
        Self {
            body,
            ended: Box::pin(token.clone().cancelled_owned()),
            token,
        }
    }
}

impl HttpBody for Cut {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let broken = || {
            let reason = "this node ends, or does not lead any more";
            Some(Err(axum::Error::new(std::io::Error::other(reason))))
        };
        // What is there already is sent.
        match Pin::new(&mut self.body).poll_frame(cx) {
            // It may be the engine that ends it.
            Poll::Ready(None) if self.token.is_cancelled() => Poll::Ready(broken()),
            Poll::Ready(frame) => Poll::Ready(frame),
            Poll::Pending => self.ended.as_mut().poll(cx).map(|()| broken()),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
