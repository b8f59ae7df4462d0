//! The DevTools protocol over two pipes: JSON messages, each ended by a NUL byte.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::Deserialize;
use serde_json::{Map, Value};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

use crate::ToolError;

/// The longest message that is taken; a page that makes the browser send a longer one ends the browser.
const MAX_MESSAGE: usize = 64 << 20;
/// Messages that wait to be written.
const QUEUE: usize = 256;
/// How long one answer of the browser may take.
pub(super) const STEP: Duration = Duration::from_secs(15);

/// What the browser says by itself.
#[derive(Debug)]
pub(super) struct Event {
    pub(super) method: String,
    pub(super) params: Value,
    /// The page it is about; the browser itself where it is none.
    pub(super) session: Option<String>,
}

/// Why there is no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum CdpError {
    #[error("the browser has ended; browser-navigate starts it again")]
    Closed,
    #[error("the browser did not answer `{method}` within {} ms", limit.as_millis())]
    Timeout {
        method: &'static str,
        limit: Duration,
    },
    #[error("the browser refuses `{method}`: {message}")]
    Refused {
        method: &'static str,
        message: String,
    },
}

impl From<CdpError> for ToolError {
    fn from(error: CdpError) -> Self {
        let text = error.to_string();
        match error {
            CdpError::Closed => Self::unavailable(text),
            CdpError::Timeout { .. } => Self::timeout(text),
            CdpError::Refused { .. } => Self::failed(text),
        }
    }
}

#[derive(Deserialize)]
struct Incoming {
    id: Option<u64>,
    result: Option<Value>,
    error: Option<Refusal>,
    method: Option<String>,
    #[serde(default)]
    params: Value,
    #[serde(rename = "sessionId")]
    session: Option<String>,
}

#[derive(Deserialize)]
struct Refusal {
    message: String,
}

type Answer = Result<Value, String>;

/// Asks the browser. Cheap to clone.
#[derive(Clone)]
pub(super) struct Cdp {
    outgoing: mpsc::Sender<Vec<u8>>,
    shared: Arc<Shared>,
}

struct Shared {
    next: AtomicU64,
    /// Who waits for which answer; nobody any more where the connection has ended.
    waiting: Mutex<Option<HashMap<u64, oneshot::Sender<Answer>>>>,
}

/// The other half of a [`Cdp`], which moves the messages.
pub(super) struct Wire {
    outgoing: mpsc::Receiver<Vec<u8>>,
    shared: Arc<Shared>,
}

/// Both halves.
pub(super) fn connection() -> (Cdp, Wire) {
    let (sender, receiver) = mpsc::channel(QUEUE);
    let shared = Arc::new(Shared {
        next: AtomicU64::new(1),
        waiting: Mutex::new(Some(HashMap::new())),
    });
    let cdp = Cdp {
        outgoing: sender,
        shared: Arc::clone(&shared),
    };
    let wire = Wire {
        outgoing: receiver,
        shared,
    };
    (cdp, wire)
}

impl Cdp {
    /// Asks, and waits for the answer for [`STEP`] at the most.
    pub(super) async fn call(
        &self,
        session: Option<&str>,
        method: &'static str,
        params: Value,
    ) -> Result<Value, CdpError> {
        self.call_within(session, method, params, STEP).await
    }

    /// Asks, and waits for the answer so long.
    pub(super) async fn call_within(
        &self,
        session: Option<&str>,
        method: &'static str,
        params: Value,
        limit: Duration,
    ) -> Result<Value, CdpError> {
        let (id, message) = self.message(session, method, params);
        let (sender, receiver) = oneshot::channel();
        match self.shared.lock().as_mut() {
            Some(waiting) => waiting.insert(id, sender),
            None => return Err(CdpError::Closed),
        };
        let asked = async {
            self.outgoing.send(message).await.ok()?;
            receiver.await.ok()
        };
        match timeout(limit, asked).await {
            Ok(Some(Ok(result))) => Ok(result),
            Ok(Some(Err(message))) => Err(CdpError::Refused { method, message }),
            Ok(None) => Err(CdpError::Closed),
            Err(_) => {
                if let Some(waiting) = self.shared.lock().as_mut() {
                    waiting.remove(&id);
                }
                Err(CdpError::Timeout { method, limit })
            }
        }
    }

    /// Tells the browser something whose answer does not matter.
    pub(super) fn post(&self, session: Option<&str>, method: &'static str, params: Value) {
        let (_, message) = self.message(session, method, params);
        if self.outgoing.try_send(message).is_err() {
            tracing::debug!(method, "the browser is not told");
        }
    }

    fn message(&self, session: Option<&str>, method: &str, params: Value) -> (u64, Vec<u8>) {
        let id = self.shared.next.fetch_add(1, Ordering::Relaxed);
        let mut message = Map::new();
        message.insert("id".into(), id.into());
        message.insert("method".into(), method.into());
        message.insert("params".into(), params);
        if let Some(session) = session {
            message.insert("sessionId".into(), session.into());
        }
        let mut bytes = Value::Object(message).to_string().into_bytes();
        bytes.push(0);
        (id, bytes)
    }
}

impl Wire {
    /// Moves messages until a pipe breaks or the browser sends what is no message. Answers why it ended.
    pub(super) async fn run(
        mut self,
        mut from: impl AsyncRead + Unpin,
        mut to: impl AsyncWrite + Unpin,
        on_event: impl Fn(Event),
    ) -> String {
        let shared = Arc::clone(&self.shared);
        let write = async {
            while let Some(message) = self.outgoing.recv().await {
                if let Err(error) = to.write_all(&message).await {
                    return format!("it cannot be written to: {error}");
                }
            }
            "nobody uses it any more".to_owned()
        };
        let read = async {
            let mut frames = Frames::default();
            let mut buffer = vec![0; 64 * 1024];
            loop {
                let count = match from.read(&mut buffer).await {
                    Ok(0) => return "it has closed its pipe".to_owned(),
                    Ok(count) => count,
                    Err(error) => return format!("it cannot be read from: {error}"),
                };
                let taken =
                    frames.push(&buffer[..count], |message| shared.take(message, &on_event));
                if let Err(why) = taken {
                    return why;
                }
            }
        };
        tokio::select! {
            why = write => why,
            why = read => why,
        }
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        // Whoever waits is told by the end of the channel.
        *self.shared.lock() = None;
    }
}

impl Shared {
    fn take(&self, message: &[u8], on_event: impl Fn(Event)) -> Result<(), String> {
        let incoming: Incoming = serde_json::from_slice(message)
            .map_err(|error| format!("it has sent what is no message: {error}"))?;
        if let Some(id) = incoming.id {
            let waiting = self.lock().as_mut().and_then(|waiting| waiting.remove(&id));
            if let Some(waiting) = waiting {
                let answer = match incoming.error {
                    Some(refusal) => Err(refusal.message),
                    None => Ok(incoming.result.unwrap_or_default()),
                };
                // Whoever asked may have gone.
                let _ = waiting.send(answer);
            }
        } else if let Some(method) = incoming.method {
            on_event(Event {
                method,
                params: incoming.params,
                session: incoming.session,
            });
        }
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, Option<HashMap<u64, oneshot::Sender<Answer>>>> {
        // A table is one at any time.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Cuts what is read into messages.
#[derive(Default)]
struct Frames {
    rest: Vec<u8>,
}

impl Frames {
    fn push(
        &mut self,
        bytes: &[u8],
        mut take: impl FnMut(&[u8]) -> Result<(), String>,
    ) -> Result<(), String> {
        let mut parts = bytes.split(|byte| *byte == 0);
        // The last part has no end yet.
        let last = parts.next_back().unwrap_or_default();
        for part in parts {
            self.add(part)?;
            take(&self.rest)?;
            self.rest.clear();
        }
        self.add(last)
    }

    fn add(&mut self, part: &[u8]) -> Result<(), String> {
        if self.rest.len() + part.len() > MAX_MESSAGE {
            return Err(format!(
                "it has sent a message of more than {MAX_MESSAGE} bytes"
            ));
        }
        self.rest.extend_from_slice(part);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// A browser that answers each message with what the closure says.
    async fn with(
        answer: impl Fn(Value) -> Vec<Value>,
        test: impl AsyncFnOnce(Cdp),
    ) -> Vec<String> {
        let (cdp, wire) = connection();
        let (ours, theirs) = tokio::io::duplex(1024);
        let (from, to) = tokio::io::split(ours);
        let events = Mutex::new(Vec::new());
        let run = wire.run(from, to, |event| events.lock().unwrap().push(event.method));
        let browser = async {
            let (mut from, mut to) = tokio::io::split(theirs);
            let mut frames = Frames::default();
            let mut buffer = [0; 7];
            while let Ok(count @ 1..) = from.read(&mut buffer).await {
                let mut said = Vec::new();
                let pushed = frames.push(&buffer[..count], |message| {
                    said.extend(answer(serde_json::from_slice(message).unwrap()));
                    Ok(())
                });
                pushed.unwrap();
                for message in said {
                    let bytes = [message.to_string().as_bytes(), &[0]].concat();
                    to.write_all(&bytes).await.unwrap();
                }
            }
        };
        tokio::select! {
            () = test(cdp) => {}
            why = run => panic!("{why}"),
            () = browser => panic!("the browser has ended"),
        }
        events.into_inner().unwrap()
    }

    #[tokio::test]
    async fn answers_come_to_whoever_asked_whatever_their_order() {
        let held = Mutex::new(Vec::new());
        let reverse = |message: Value| {
            let mut held = held.lock().unwrap();
            held.push(json!({"id": message["id"], "result": {"of": message["method"]}}));
            let mut said = vec![json!({"method": "E", "params": {}, "sessionId": "s"})];
            if held.len() == 2 {
                said.extend(held.drain(..).rev());
            }
            said
        };
        let events = with(reverse, async |cdp| {
            let one = cdp.call(None, "One", json!({}));
            let two = cdp.call(Some("s"), "Two", json!({"long": "x".repeat(5000)}));
            let (one, two) = tokio::join!(one, two);
            assert_eq!(one.unwrap()["of"], "One");
            assert_eq!(two.unwrap()["of"], "Two");
        })
        .await;
        assert_eq!(events, ["E", "E"]);
    }

    #[tokio::test]
    async fn a_refusal_and_a_browser_that_is_gone_are_errors() {
        let refuse = |message: Value| {
            vec![json!({"id": message["id"], "error": {"code": 1, "message": "no"}})]
        };
        with(refuse, async |cdp| {
            let error = cdp.call(None, "One", json!({})).await.unwrap_err();
            let message = "no".to_owned();
            assert_eq!(
                error,
                CdpError::Refused {
                    method: "One",
                    message
                }
            );
        })
        .await;
        let (cdp, wire) = connection();
        let call = cdp.call(None, "One", json!({}));
        let (answer, ()) = tokio::join!(call, async move { drop(wire) });
        assert_eq!(answer.unwrap_err(), CdpError::Closed);
        let answer = cdp.call(None, "One", json!({})).await;
        assert_eq!(answer.unwrap_err(), CdpError::Closed);
    }

    #[test]
    fn messages_come_whole_however_they_are_cut() {
        let mut frames = Frames::default();
        let mut whole = Vec::new();
        for part in [&b"{\"a\""[..], b":1}\0{", b"}\0\0", b"[]"] {
            let taken = frames.push(part, |message| {
                whole.push(String::from_utf8(message.to_vec()).unwrap());
                Ok(())
            });
            taken.unwrap();
        }
        assert_eq!(whole, ["{\"a\":1}", "{}", ""]);
    }
}
