//! Following a request over SSE, across dropped connections.

use std::pin::Pin;
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::{BoxStream, Stream};
use reqwest::{Method, Response, header};
use serde_json::Value;
use sse_stream::{Sse, SseByteStream};

use super::{Api, Client, part};
use crate::failure::{Exit, Failure, Outcome};

/// How often in a row a dropped connection is taken up again without anything new in between.
const MAX_RECONNECTS: u32 = 8;
/// Pause before the first reconnect; doubles with every further one.
const FIRST_PAUSE: Duration = Duration::from_millis(100);

/// One event of a request.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Event {
    /// Its number in the journal; live text has none.
    pub(crate) seq: Option<u64>,
    /// Its name, such as `token`.
    pub(crate) name: String,
    /// What it says.
    pub(crate) data: Value,
}

impl Event {
    /// A text field of the data; empty where there is none.
    pub(crate) fn text(&self, field: &str) -> &str {
        self.data
            .get(field)
            .and_then(Value::as_str)
            .unwrap_or_default()
    }

    /// Whether no event follows.
    pub(crate) fn is_last(&self) -> bool {
        matches!(self.name.as_str(), "done" | "error")
    }
}

type Events = Pin<Box<dyn Stream<Item = Result<Sse, sse_stream::Error>> + Send>>;

/// The events of one request, each exactly once.
pub(crate) struct Follow {
    client: Client,
    request_id: Option<String>,
    events: Option<Events>,
    last_seq: u64,
    replay: Replay,
    failures: u32,
    ended: bool,
}

impl Follow {
    /// Follows what a streaming invoke answers.
    pub(crate) fn response(client: Client, response: Response) -> Self {
        let mut follow = Self::request(client, None, 0);
        follow.events = Some(events(response));
        follow
    }

    /// Follows a request behind the journal entry `after`. Connects with the first [`Follow::next`].
    pub(crate) fn request(client: Client, request_id: Option<String>, after: u64) -> Self {
        Self {
            client,
            request_id,
            events: None,
            last_seq: after,
            replay: Replay::default(),
            failures: 0,
            ended: false,
        }
    }

    /// The request, once it is known.
    pub(crate) fn request_id(&self) -> Option<&str> {
        self.request_id.as_deref()
    }

    /// The next event; `None` after the last one. Safe to drop and call again.
    pub(crate) async fn next(&mut self) -> Outcome<Option<Event>> {
        while !self.ended {
            let Some(events) = &mut self.events else {
                self.connect().await?;
                continue;
            };
            let problem = match events.next().await {
                Some(Ok(sse)) => match event(sse) {
                    None => continue,
                    Some(event) => {
                        if let Some(event) = self.accept(event) {
                            return Ok(Some(event));
                        }
                        continue;
                    }
                },
                Some(Err(error)) => error.to_string(),
                None => "the connection ended".to_owned(),
            };
            self.events = None;
            self.failures += 1;
            if self.failures > MAX_RECONNECTS || self.request_id.is_none() {
                let message = format!("the event stream broke before the request ended: {problem}");
                return Err(self.lost(message));
            }
            self.replay.restart();
        }
        Ok(None)
    }

    async fn connect(&mut self) -> Outcome<()> {
        let Some(id) = self.request_id.clone() else {
            return Err(self.lost("there is no request to follow".to_owned()));
        };
        if self.failures > 0 {
            tokio::time::sleep(FIRST_PAUSE * 2_u32.pow(self.failures - 1)).await;
        }
        let path = format!("/v1/requests/{}/events", part(&id));
        let request = self
            .client
            .request(Api::Gateway, Method::GET, &path)
            .header(header::ACCEPT, "text/event-stream")
            .header("last-event-id", self.last_seq.to_string());
        match self.client.send(Api::Gateway, request).await {
            Ok(response) => self.events = Some(events(response)),
            Err(failure) if failure.exit == Exit::Unavailable && self.failures > 0 => {
                self.failures += 1;
                if self.failures > MAX_RECONNECTS {
                    return Err(self.lost(failure.message().to_owned()));
                }
            }
            Err(failure) => return Err(failure),
        }
        Ok(())
    }

    /// Takes note of an event; `None` where it was seen before.
    fn accept(&mut self, mut event: Event) -> Option<Event> {
        if let Some(seq) = event.seq {
            // One whose run was lost may end with fewer entries than were told of it.
            if seq <= self.last_seq && !event.is_last() {
                return None;
            }
            self.last_seq = seq;
            self.failures = 0;
        }
        if event.name == "accepted" {
            self.request_id = Some(event.text("request_id").to_owned());
        }
        self.ended = event.is_last();
        self.replay.pass(&mut event).then_some(event)
    }

    fn lost(&self, message: String) -> Failure {
        let failure = Failure::new(Exit::Unavailable, message);
        match &self.request_id {
            Some(id) => failure.help(format!(
                "the request may go on: `rune requests events {id} -f`"
            )),
            None => failure.help("`rune requests ls` shows whether the request was accepted"),
        }
    }
}

/// Leaves out live text that comes again after a reconnect: the server starts behind the last entry, and what the
/// model said since then was printed already.
#[derive(Debug, Default)]
struct Replay {
    text: Seen,
    reasoning: Seen,
}

#[derive(Debug, Default)]
struct Seen {
    bytes: usize,
    skip: usize,
}

impl Replay {
    fn restart(&mut self) {
        for seen in [&mut self.text, &mut self.reasoning] {
            seen.skip = std::mem::take(&mut seen.bytes);
        }
    }

    /// Shortens the event to what is new; `false` where nothing is.
    fn pass(&mut self, event: &mut Event) -> bool {
        let seen = match event.name.as_str() {
            "token" => &mut self.text,
            "reasoning" => &mut self.reasoning,
            _ => {
                if event.seq.is_some() {
                    *self = Self::default();
                }
                return true;
            }
        };
        let text = event.text("text").to_owned();
        seen.bytes += text.len();
        let skipped = seen.skip.min(text.len());
        seen.skip -= skipped;
        match text.get(skipped..) {
            _ if skipped == 0 => true,
            Some(rest) if !rest.is_empty() => {
                event.data["text"] = Value::from(rest);
                true
            }
            _ => false,
        }
    }
}

fn events(response: Response) -> Events {
    let bytes: BoxStream<'static, reqwest::Result<Bytes>> = response.bytes_stream().boxed();
    Box::pin(SseByteStream::new(bytes))
}

/// The event of a frame; keep-alives have none.
fn event(sse: Sse) -> Option<Event> {
    let data = serde_json::from_str(&sse.data?).ok()?;
    Some(Event {
        seq: sse.id.and_then(|id| id.parse().ok()),
        name: sse.event?,
        data,
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn token(text: &str) -> Event {
        Event {
            seq: None,
            name: "token".to_owned(),
            data: json!({ "text": text }),
        }
    }

    #[test]
    fn text_that_comes_again_after_a_reconnect_is_left_out() {
        let mut replay = Replay::default();
        assert!(replay.pass(&mut token("hel")));
        replay.restart();
        let mut again = token("hello");
        assert!(replay.pass(&mut again));
        assert_eq!(again.text("text"), "lo");
        let mut more = token(" you");
        assert!(replay.pass(&mut more));
        assert_eq!(more.text("text"), " you");
    }

    #[test]
    fn an_entry_ends_what_can_come_again() {
        let mut replay = Replay::default();
        assert!(replay.pass(&mut token("one")));
        let mut usage = Event {
            seq: Some(3),
            name: "usage".to_owned(),
            data: json!({}),
        };
        assert!(replay.pass(&mut usage));
        replay.restart();
        assert!(replay.pass(&mut token("one")));
    }
}
