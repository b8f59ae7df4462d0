//! The answers of hosts, without the secrets that they were sent.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, header};
use http_body::{Body, Frame};
use rune_tools::Secrets;

/// Takes secrets out of the headers of an answer. Its length is not known any more.
pub(crate) fn mask_headers(headers: &mut HeaderMap, secrets: &Secrets) {
    headers.remove(header::CONTENT_LENGTH);
    for value in headers.values_mut() {
        let Ok(text) = value.to_str() else { continue };
        let masked = secrets.redact(text.to_owned());
        if masked != text
            && let Ok(masked) = HeaderValue::try_from(masked)
        {
            *value = masked;
        }
    }
}

/// A body whose secrets are taken out as it passes.
pub(crate) struct Masked<B> {
    body: B,
    secrets: Secrets,
    /// What may be the beginning of a secret.
    held: Vec<u8>,
    /// What follows once that is out.
    trailers: Option<Frame<Bytes>>,
    ended: bool,
}

impl<B> Masked<B> {
    pub(crate) const fn new(body: B, secrets: Secrets) -> Self {
        Self {
            body,
            secrets,
            held: Vec::new(),
            trailers: None,
            ended: false,
        }
    }

    /// Takes more of the body; answers what can go on.
    fn push(&mut self, bytes: &[u8]) -> Bytes {
        let mut all = std::mem::take(&mut self.held);
        all.extend_from_slice(bytes);
        let mut masked = self.secrets.redact_bytes(all);
        let kept = self.secrets.longest().saturating_sub(1);
        self.held = masked.split_off(masked.len().saturating_sub(kept));
        masked.into()
    }
}

impl<B: Body<Data = Bytes> + Unpin> Body for Masked<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        loop {
            if self.ended {
                let held = std::mem::take(&mut self.held);
                let last = (!held.is_empty()).then(|| Frame::data(held.into()));
                return Poll::Ready(last.or_else(|| self.trailers.take()).map(Ok));
            }
            match ready!(Pin::new(&mut self.body).poll_frame(context)) {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => {
                        let masked = self.push(&data);
                        if !masked.is_empty() {
                            return Poll::Ready(Some(Ok(Frame::data(masked))));
                        }
                    }
                    Err(trailers) => {
                        let mut trailers = trailers.into_trailers().unwrap_or_default();
                        mask_headers(&mut trailers, &self.secrets);
                        self.trailers = Some(Frame::trailers(trailers));
                        self.ended = true;
                    }
                },
                Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                None => self.ended = true,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use http_body_util::{BodyExt, Full};

    use super::*;

    fn secrets() -> Secrets {
        Secrets::new(vec![("A".to_owned(), "correct-horse".to_owned().into())])
    }

    #[tokio::test]
    async fn a_secret_in_two_parts_does_not_pass() {
        let text = "you sent correct-horse and Y29ycmVjdC1ob3JzZQ== there";
        for split in 0..text.len() {
            let mut masked: Masked<Full<Bytes>> = Masked::new(Full::default(), secrets());
            let (first, second) = text.as_bytes().split_at(split);
            let mut out = masked.push(first).to_vec();
            out.extend(masked.push(second));
            let rest = masked.collect().await.map_err(|error: Infallible| error);
            out.extend(rest.unwrap().to_bytes());
            let out = String::from_utf8(out).unwrap();
            assert!(
                out.starts_with("you sent [redacted] and [redacted]"),
                "{split}: {out}"
            );
            assert!(out.ends_with(" there"), "{split}: {out}");
        }
    }

    #[test]
    fn headers_are_masked() {
        let mut headers = HeaderMap::new();
        headers.insert("x-echo", HeaderValue::from_static("Bearer correct-horse"));
        headers.insert("content-length", HeaderValue::from_static("7"));
        mask_headers(&mut headers, &secrets());
        assert_eq!(headers["x-echo"], "Bearer [redacted]");
        assert_eq!(headers.len(), 1);
    }
}
