//! From bytes to events.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use futures_util::stream::{self, BoxStream};
use futures_util::{FutureExt, Stream, StreamExt};
use rune_store_runtime::Message;
use serde_json::Value;
use sse_stream::SseByteStream;

use super::classify::{self, Fault};
use super::meter::Meter;
use super::{CallIds, Protocol, Reply};
use crate::model::{ModelError, ModelErrorKind, ModelEvent};

/// The end marker of OpenAI and of what copies it.
const DONE: &str = "[DONE]";

/// What a decoder has to know of the call.
#[derive(Debug, Clone)]
pub struct DecodeContext {
    provider: String,
    ids: CallIds,
    prompt_bytes: usize,
}

impl DecodeContext {
    /// A call of `provider` with this history; `prompt_bytes` is the size of the request,
    /// from which the input tokens are estimated where the provider does not count.
    #[must_use]
    pub fn new(provider: &str, messages: &[Message], prompt_bytes: usize) -> Self {
        Self {
            provider: provider.to_owned(),
            ids: CallIds::of(messages),
            prompt_bytes,
        }
    }
}

/// Whether a reply goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::model) enum Step {
    /// It does.
    More,
    /// The end marker was read.
    End,
}

/// Reads the events of one reply.
pub(in crate::model) trait Decode: Send {
    /// Takes the JSON of one event; what there is to show is added to `out`.
    fn event(&mut self, data: Value, out: &mut VecDeque<ModelEvent>) -> Result<Step, Fault>;

    /// Whether the reply may end here: at the end of the connection, or (`marked`) at
    /// `[DONE]`.
    fn complete(&self, marked: bool) -> bool;

    /// The whole reply.
    fn finish(&mut self) -> Result<Reply, Fault>;
}

/// Decodes the body of a streaming reply: deltas, then [`ModelEvent::Done`] or an error.
/// The result does not depend on how the bytes are cut. After `Done` it reads on to the
/// end of the body and shows nothing, so that the connection can be used again.
pub fn decode(
    protocol: Protocol,
    context: DecodeContext,
    chunks: BoxStream<'static, Result<Bytes, ModelError>>,
) -> impl Stream<Item = Result<ModelEvent, ModelError>> + Send {
    let meter = Arc::new(Mutex::new(Meter::new(&context.provider)));
    let counter = Arc::clone(&meter);
    let counted = chunks.map(move |chunk| {
        let chunk = chunk?;
        lock(&counter).count(&chunk)?;
        Ok(chunk)
    });
    let pump = Pump {
        sse: SseByteStream::new(counted.boxed()),
        meter,
        decoder: protocol.decoder(context.ids),
        provider: context.provider,
        prompt_bytes: context.prompt_bytes,
        ready: VecDeque::new(),
        state: State::Reading,
    };
    stream::unfold(pump, Pump::next)
}

/// [`decode`] over bytes in memory, for tests and fuzzers. Ends with `Done` or an error.
pub fn decode_chunks<'a>(
    protocol: Protocol,
    chunks: impl IntoIterator<Item = &'a [u8]>,
) -> Vec<Result<ModelEvent, ModelError>> {
    let chunks: Vec<_> = chunks
        .into_iter()
        .map(|chunk| Ok(Bytes::copy_from_slice(chunk)))
        .collect();
    let context = DecodeContext::new("test", &[], 0);
    decode(protocol, context, stream::iter(chunks).boxed())
        .collect::<Vec<_>>()
        .now_or_never()
        .unwrap_or_default()
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Reading,
    /// `Done` is out or waits in `ready`.
    Done,
    Failed,
}

struct Pump {
    sse: SseByteStream<BoxStream<'static, Result<Bytes, ModelError>>>,
    meter: Arc<Mutex<Meter>>,
    decoder: Box<dyn Decode>,
    provider: String,
    prompt_bytes: usize,
    ready: VecDeque<ModelEvent>,
    state: State,
}

impl Pump {
    async fn next(mut self) -> Option<(Result<ModelEvent, ModelError>, Self)> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                return Some((Ok(event), self));
            }
            if self.state == State::Failed {
                return None;
            }
            let item = self.sse.next().await;
            if self.state == State::Done {
                match item {
                    Some(Ok(_)) => continue,
                    Some(Err(_)) | None => return None,
                }
            }
            let step = match item {
                Some(Ok(event)) => {
                    lock(&self.meter).event();
                    self.event(event.data.as_deref().unwrap_or_default())
                }
                Some(Err(error)) => self.broken(error),
                None => self.ended(),
            };
            if let Err(error) = step {
                self.state = State::Failed;
                // Deltas of the event that failed are not shown: it is void.
                self.ready.clear();
                return Some((Err(error), self));
            }
        }
    }

    fn event(&mut self, data: &str) -> Result<(), ModelError> {
        let data = data.trim();
        if data.is_empty() {
            return Ok(());
        }
        if data == DONE {
            return if self.decoder.complete(true) {
                self.finish()
            } else {
                Err(self.truncated())
            };
        }
        let json: Value = serde_json::from_str(data)
            .map_err(|error| self.malformed(&format!("an event is not JSON ({error})")))?;
        if !json.is_object() {
            return Err(self.malformed("an event is not a JSON object"));
        }
        if classify::is_error(&json) {
            return Err(classify::body(None, data).into_error(&self.provider));
        }
        let step = self
            .decoder
            .event(json, &mut self.ready)
            .map_err(|fault| fault.into_error(&self.provider))?;
        match step {
            Step::More => Ok(()),
            Step::End => self.finish(),
        }
    }

    /// The connection is at its end.
    fn ended(&mut self) -> Result<(), ModelError> {
        if self.decoder.complete(false) {
            return self.finish();
        }
        let Some(stray) = lock(&self.meter).stray() else {
            return Err(self.truncated());
        };
        let is_error = serde_json::from_str(&stray).is_ok_and(|json| classify::is_error(&json));
        Err(if is_error {
            classify::body(None, &stray).into_error(&self.provider)
        } else {
            self.malformed("the reply is not an event stream; check the base URL")
        })
    }

    /// The bytes, or the connection, broke.
    fn broken(&mut self, error: sse_stream::Error) -> Result<(), ModelError> {
        if self.decoder.complete(false) {
            return self.finish();
        }
        Err(match error {
            sse_stream::Error::Body(source) => match source.downcast::<ModelError>() {
                Ok(error) => *error,
                Err(source) => ModelError::new(
                    ModelErrorKind::Truncated,
                    &self.provider,
                    source.to_string(),
                ),
            },
            other => self.malformed(&other.to_string()),
        })
    }

    fn finish(&mut self) -> Result<(), ModelError> {
        let reply = self
            .decoder
            .finish()
            .map_err(|fault| fault.into_error(&self.provider))?;
        if reply.usage.is_none() {
            tracing::debug!(provider = self.provider, "no usage reported: estimated");
        }
        let output = reply.into_output(self.prompt_bytes);
        self.ready.push_back(ModelEvent::Done(output));
        self.state = State::Done;
        Ok(())
    }

    fn truncated(&self) -> ModelError {
        ModelError::new(
            ModelErrorKind::Truncated,
            &self.provider,
            "the reply ended before its end marker",
        )
    }

    fn malformed(&self, what: &str) -> ModelError {
        ModelError::new(
            ModelErrorKind::Malformed,
            &self.provider,
            format!("malformed reply: {what}"),
        )
    }
}

fn lock(meter: &Mutex<Meter>) -> MutexGuard<'_, Meter> {
    meter.lock().unwrap_or_else(PoisonError::into_inner)
}
