//! Limits on what a provider may send, and a look at what is no event at all.

use crate::model::{ModelError, ModelErrorKind};

/// One event at the most: an answer can carry an image.
const MAX_EVENT_BYTES: usize = 32 * 1024 * 1024;
/// A whole reply at the most.
const MAX_REPLY_BYTES: usize = 128 * 1024 * 1024;
/// What is kept of a body that is not an event stream.
const MAX_STRAY_BYTES: usize = 64 * 1024;

/// Watches the bytes on their way to the SSE decoder, which has no limits of its own and
/// drops lines that are no field. Such lines matter: Gemini and several proxies report an
/// error as bare JSON in the stream, and a gateway may answer 200 with a page.
#[derive(Debug)]
pub(super) struct Meter {
    provider: String,
    since_event: usize,
    total: usize,
    at_line_start: bool,
    stray: Option<Vec<u8>>,
}

impl Meter {
    pub(super) fn new(provider: &str) -> Self {
        Self {
            provider: provider.to_owned(),
            since_event: 0,
            total: 0,
            at_line_start: true,
            stray: None,
        }
    }

    /// Counts a chunk.
    pub(super) fn count(&mut self, chunk: &[u8]) -> Result<(), ModelError> {
        self.since_event = self.since_event.saturating_add(chunk.len());
        self.total = self.total.saturating_add(chunk.len());
        self.look_for_stray(chunk);
        let limit = if self.since_event > MAX_EVENT_BYTES {
            ("an event", MAX_EVENT_BYTES)
        } else if self.total > MAX_REPLY_BYTES {
            ("the reply", MAX_REPLY_BYTES)
        } else {
            return Ok(());
        };
        Err(ModelError::new(
            ModelErrorKind::Malformed,
            &self.provider,
            format!("{} is larger than {} bytes", limit.0, limit.1),
        ))
    }

    /// An event has been read.
    pub(super) fn event(&mut self) {
        self.since_event = 0;
    }

    /// The text from the first line on that looks like JSON or a page, if there was one.
    pub(super) fn stray(&self) -> Option<String> {
        self.stray
            .as_deref()
            .map(|bytes| String::from_utf8_lossy(bytes).into_owned())
    }

    fn look_for_stray(&mut self, chunk: &[u8]) {
        let mut rest = chunk;
        while self.stray.is_none() {
            let Some((&first, tail)) = rest.split_first() else {
                return;
            };
            if self.at_line_start && matches!(first, b'{' | b'[' | b'<') {
                self.stray = Some(Vec::new());
            } else {
                self.at_line_start = matches!(first, b'\n' | b'\r');
                rest = if self.at_line_start {
                    tail
                } else {
                    let end = rest.iter().position(|byte| matches!(byte, b'\n' | b'\r'));
                    &rest[end.unwrap_or(rest.len())..]
                };
            }
        }
        if let Some(stray) = &mut self.stray {
            let room = MAX_STRAY_BYTES.saturating_sub(stray.len());
            stray.extend_from_slice(&rest[..rest.len().min(room)]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_bare_json_between_events_in_any_chunking() {
        let body = b"data: {}\r\n\r\n{\"error\":{}}\n";
        for size in 1..body.len() {
            let mut meter = Meter::new("p");
            for chunk in body.chunks(size) {
                meter.count(chunk).unwrap();
            }
            assert_eq!(meter.stray().as_deref(), Some("{\"error\":{}}\n"));
        }
    }

    #[test]
    fn an_endless_event_is_an_error() {
        let mut meter = Meter::new("p");
        let chunk = vec![b'x'; MAX_EVENT_BYTES];
        meter.count(&chunk).unwrap();
        assert_eq!(
            meter.count(b"x").unwrap_err().kind,
            ModelErrorKind::Malformed
        );
        meter.event();
        meter.count(b"x").unwrap();
    }
}
