//! A body that breaks off.

use std::pin::Pin;
use std::task::{Context, Poll};

use axum::body::Body;
use bytes::Bytes;
use futures_util::future::BoxFuture;
use http_body::{Body as HttpBody, Frame, SizeHint};

/// The body of an answer, which breaks off with the engine that gives it: whoever reads it must not take what was said for
/// all.
pub(super) struct Cut {
    body: Body,
    /// Until then it goes on.
    ended: BoxFuture<'static, ()>,
}

impl Cut {
    pub(super) fn new(body: Body, ended: impl Future<Output = ()> + Send + 'static) -> Self {
        Self {
            body,
            ended: Box::pin(ended),
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
        // What is there already is sent.
        let frame = Pin::new(&mut self.body).poll_frame(cx);
        if let Poll::Ready(Some(_)) = frame {
            return frame;
        }
        // Its end may be that of the engine.
        match self.ended.as_mut().poll(cx) {
            Poll::Ready(()) => {
                let reason = "this node ends, or does not lead any more";
                let error = axum::Error::new(std::io::Error::other(reason));
                Poll::Ready(Some(Err(error)))
            }
            Poll::Pending => frame,
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
