//! Streams of events that go on at the next leader.
//!
//! The events of a request are its journal, so that whoever leads next tells what is behind the last one that a client was
//! told. The front does for a client what this one would do itself: it asks again with `Last-Event-ID`. Where nothing more
//! comes of that for as long as requests are held, the stream ends as it does at a daemon that is alone.

use std::time::Duration;

use axum::body::Body;
use bytes::{Bytes, BytesMut};
use futures_util::{FutureExt as _, stream};
use http::header::{ACCEPT, CONTENT_LENGTH, CONTENT_TYPE};
use http::{HeaderName, HeaderValue, Method, Uri};
use http_body_util::BodyExt as _;
use tokio::time::Instant;

use super::front::{Api, ClusterFront};

const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");
const EVENT_STREAM: &str = "text/event-stream";
/// What ends an event.
const END: &[u8] = b"\n\n";
/// Pause after a stream that ended before the request did: whoever leads may have stopped it, as where its disk is full.
const ENDED_PAUSE: Duration = Duration::from_millis(200);
/// The largest event that is waited for; of a larger one the parts are passed on as they come.
const MAX_EVENT_BYTES: usize = 64 << 20;

/// A stream that is followed.
pub(super) struct Following {
    front: ClusterFront,
    /// As the client asked, for whom it is asked again.
    head: http::request::Parts,
    /// The request whose events they are, once that is known.
    request: Option<String>,
    /// The last event that the client was told.
    last: Option<u64>,
    buffer: BytesMut,
    body: Body,
    /// When it began, and after which event.
    since: (Instant, Option<u64>),
    /// How long it is asked for again while nothing comes of it.
    until: Instant,
    has_ended: bool,
}

impl Following {
    /// The stream that answers a request, where it is one of those that go on.
    pub(super) fn of(
        front: &ClusterFront,
        api: Api,
        asked: &http::Request<Bytes>,
        answer: http::Response<Body>,
    ) -> http::Response<Body> {
        let content_type = answer.headers().get(CONTENT_TYPE);
        let is_stream = content_type.is_some_and(|value| value == EVENT_STREAM);
        let path = asked.uri().path();
        let request = path
            .strip_prefix("/v1/requests/")
            .and_then(|rest| rest.strip_suffix("/events"));
        let is_invoke = path.starts_with("/v1/agents/") && path.ends_with("/invoke");
        if api != Api::Gateway || !is_stream || (request.is_none() && !is_invoke) {
            return answer;
        }
        let request = request.map(str::to_owned);
        let (head, ()) = asked.clone().map(drop).into_parts();
        answer.map(|body| {
            let following = Self {
                front: front.clone(),
                head,
                request,
                last: None,
                buffer: BytesMut::new(),
                body,
                since: (Instant::now(), None),
                until: Instant::now() + front.hold(),
                has_ended: false,
            };
            Body::from_stream(stream::unfold(following, Self::step))
        })
    }

    /// The next part, which ends with an event.
    async fn step(mut self) -> Option<(Result<Bytes, axum::Error>, Self)> {
        loop {
            match self.body.frame().await {
                Some(Ok(frame)) => {
                    let Ok(data) = frame.into_data() else {
                        continue;
                    };
                    self.buffer.extend_from_slice(&data);
                    let told = self.told();
                    if !told.is_empty() {
                        return Some((Ok(told), self));
                    }
                }
                _ if self.has_ended => return None,
                broken => {
                    // What was not whole is told again.
                    self.buffer.clear();
                    let error = broken.and_then(Result::err);
                    let Some(body) = self.go_on(error.is_none()).await else {
                        self.has_ended = true;
                        return Some((Err(error?), self));
                    };
                    self.body = body;
                    self.since = (Instant::now(), self.last);
                }
            }
        }
    }

    /// The events that are there.
    fn told(&mut self) -> Bytes {
        let is_large = self.buffer.len() > MAX_EVENT_BYTES;
        let end = self.buffer.windows(END.len()).rposition(|two| two == END);
        let end = match end {
            Some(end) => end + END.len(),
            None if is_large => self.buffer.len(),
            None => return Bytes::new(),
        };
        let told = self.buffer.split_to(end).freeze();
        for line in told.split(|byte| *byte == b'\n') {
            self.note(line);
        }
        told
    }

    fn note(&mut self, line: &[u8]) {
        let Ok(line) = std::str::from_utf8(line) else {
            return;
        };
        if let Some(id) = line.strip_prefix("id: ") {
            self.last = id.parse().ok().or(self.last);
        } else if matches!(line, "event: done" | "event: error") {
            self.has_ended = true;
        } else if self.request.is_none()
            && let Some(data) = line.strip_prefix("data: ")
        {
            // The first event says which request it is.
            let data: Option<serde_json::Value> = serde_json::from_str(data).ok();
            let id = data.and_then(|data| Some(data.get("request_id")?.as_str()?.to_owned()));
            self.request = id;
        }
    }

    /// The stream behind the last event, from whoever leads now; nothing where nothing has come of asking for it.
    async fn go_on(&mut self, is_whole: bool) -> Option<Body> {
        let (began, last) = self.since;
        let (now, hold) = (Instant::now(), self.front.hold());
        if self.last != last || now - began >= hold {
            self.until = now + hold;
        }
        let ending = self.front.shutdown();
        if now >= self.until || ending.is_cancelled() {
            return None;
        }
        if is_whole {
            let pause = tokio::time::sleep(ENDED_PAUSE);
            ending.run_until_cancelled(pause).await?;
        }
        let id = self.request.as_ref()?;
        let mut asked = http::Request::new(Bytes::new());
        *asked.method_mut() = Method::GET;
        *asked.uri_mut() = match self.last {
            Some(_) => format!("/v1/requests/{id}/events").parse().ok()?,
            // Nothing was told, and the client may have said where to begin.
            None if self.head.method == Method::GET => self.head.uri.clone(),
            None => Uri::try_from(format!("/v1/requests/{id}/events")).ok()?,
        };
        let headers = asked.headers_mut();
        headers.clone_from(&self.head.headers);
        headers.remove(CONTENT_LENGTH);
        headers.remove(CONTENT_TYPE);
        headers.insert(ACCEPT, HeaderValue::from_static(EVENT_STREAM));
        if let Some(last) = self.last {
            headers.insert(LAST_EVENT_ID, HeaderValue::from(last));
        }
        let answer = self.front.have_answered(Api::Gateway, &asked).boxed().await;
        let answer = answer.inspect_err(|error| {
            let why = error.message();
            tracing::warn!(request = id, why, "a stream of events does not go on");
        });
        let answer = answer.ok()?;
        tracing::debug!(request = id, status = %answer.status(), "a stream of events goes on");
        let content_type = answer.headers().get(CONTENT_TYPE);
        let is_stream = content_type.is_some_and(|value| value == EVENT_STREAM);
        is_stream.then(|| answer.into_body())
    }
}
