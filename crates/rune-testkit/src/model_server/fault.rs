use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::reply::millis;

/// A fault and how often it happens.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fault {
    /// What goes wrong.
    pub fault: FaultKind,
    /// For how many requests.
    #[serde(default = "once")]
    pub times: u32,
}

fn once() -> u32 {
    1
}

/// What goes wrong. Where a fault needs an answer to spoil, that is the answer the script would have given.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum FaultKind {
    /// An HTTP error in the vendor's form.
    Status {
        /// The status code.
        code: u16,
        /// Instead of the vendor's error body; a string is sent as plain text.
        #[serde(default)]
        body: Option<Value>,
        /// Seconds in `retry-after`; `RetryInfo` in the body for Gemini.
        #[serde(default)]
        retry_after: Option<f64>,
        /// Milliseconds in `retry-after-ms`; `RetryInfo` in the body for Gemini.
        #[serde(default)]
        retry_after_ms: Option<u64>,
        /// The header `x-should-retry`.
        #[serde(default)]
        should_retry: Option<bool>,
        /// The vendor's error code: Anthropic `error.details.error_code`, OpenAI `error.code`.
        #[serde(default)]
        error_code: Option<String>,
    },
    /// 400: the prompt is larger than the model's context, in the vendor's words.
    ContextOverflow,
    /// The connection closes without an answer.
    Close,
    /// Nothing for this long, then the answer.
    SlowFirstByte {
        /// Milliseconds.
        ms: u64,
    },
    /// The answer stops after some pieces of content and stays open until the client closes.
    Stall {
        /// Pieces of content before the silence.
        after_chunks: usize,
        /// Milliseconds between the pings (Anthropic) or comments that still come.
        #[serde(default)]
        ping_ms: Option<u64>,
    },
    /// The connection breaks in the middle of the answer.
    Cut(CutAt),
    /// What comes is not the protocol.
    Garbage(Garbage),
    /// Status 200, text, then an error event.
    ErrorEvent,
    /// The stream ends properly for HTTP, but without finish reason and terminal event.
    NoTerminal,
    /// A finished answer with no content.
    Empty,
}

/// Where the connection breaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CutAt {
    /// After the text.
    AfterText,
    /// In the JSON of the last tool call (`lookup` when the answer has none).
    InToolCall,
    /// Between the bytes of one character (of a check mark when the answer is all ASCII).
    InUtf8,
}

/// What is sent instead of the protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Garbage {
    /// A `data:` line that is not JSON between the proper ones.
    DataLine,
    /// An HTML page with status 200.
    Html,
}

impl Fault {
    fn once(fault: FaultKind) -> Self {
        Self {
            fault,
            times: once(),
        }
    }

    /// An HTTP error with the vendor's body.
    #[must_use]
    pub fn status(code: u16) -> Self {
        Self::once(FaultKind::Status {
            code,
            body: None,
            retry_after: None,
            retry_after_ms: None,
            should_retry: None,
            error_code: None,
        })
    }

    /// 529: Anthropic's "overloaded".
    #[must_use]
    pub fn overloaded() -> Self {
        Self::status(529)
    }

    /// 400: the context is full.
    #[must_use]
    pub fn context_overflow() -> Self {
        Self::once(FaultKind::ContextOverflow)
    }

    /// The connection closes without an answer.
    #[must_use]
    pub fn close() -> Self {
        Self::once(FaultKind::Close)
    }

    /// Nothing for `wait`, then the answer.
    #[must_use]
    pub fn slow_first_byte(wait: Duration) -> Self {
        Self::once(FaultKind::SlowFirstByte { ms: millis(wait) })
    }

    /// Silence after some pieces of content, until the client closes.
    #[must_use]
    pub fn stall_after(chunks: usize) -> Self {
        Self::once(FaultKind::Stall {
            after_chunks: chunks,
            ping_ms: None,
        })
    }

    /// As [`Fault::stall_after`], with pings or comments in the silence.
    #[must_use]
    pub fn stall_with_pings(chunks: usize, every: Duration) -> Self {
        Self::once(FaultKind::Stall {
            after_chunks: chunks,
            ping_ms: Some(millis(every)),
        })
    }

    /// The connection breaks.
    #[must_use]
    pub fn cut(at: CutAt) -> Self {
        Self::once(FaultKind::Cut(at))
    }

    /// Not the protocol.
    #[must_use]
    pub fn garbage(garbage: Garbage) -> Self {
        Self::once(FaultKind::Garbage(garbage))
    }

    /// An error event after the text.
    #[must_use]
    pub fn error_event() -> Self {
        Self::once(FaultKind::ErrorEvent)
    }

    /// A stream without its end.
    #[must_use]
    pub fn no_terminal() -> Self {
        Self::once(FaultKind::NoTerminal)
    }

    /// A finished answer with no content.
    #[must_use]
    pub fn empty() -> Self {
        Self::once(FaultKind::Empty)
    }

    /// Happens `n` times.
    #[must_use]
    pub fn times(mut self, n: u32) -> Self {
        self.times = n;
        self
    }

    /// Happens always.
    #[must_use]
    pub fn always(self) -> Self {
        self.times(u32::MAX)
    }

    /// Says when to come back, in seconds. Only for [`Fault::status`].
    #[must_use]
    pub fn retry_after(mut self, seconds: f64) -> Self {
        if let FaultKind::Status { retry_after, .. } = &mut self.fault {
            *retry_after = Some(seconds);
        }
        self
    }

    /// Says when to come back, in milliseconds. Only for [`Fault::status`].
    #[must_use]
    pub fn retry_after_ms(mut self, ms: u64) -> Self {
        if let FaultKind::Status { retry_after_ms, .. } = &mut self.fault {
            *retry_after_ms = Some(ms);
        }
        self
    }

    /// Says whether to come back at all. Only for [`Fault::status`].
    #[must_use]
    pub fn should_retry(mut self, retry: bool) -> Self {
        if let FaultKind::Status { should_retry, .. } = &mut self.fault {
            *should_retry = Some(retry);
        }
        self
    }

    /// The vendor's error code. Only for [`Fault::status`].
    #[must_use]
    pub fn error_code(mut self, code: impl Into<String>) -> Self {
        if let FaultKind::Status { error_code, .. } = &mut self.fault {
            *error_code = Some(code.into());
        }
        self
    }

    /// The body instead of the vendor's. Only for [`Fault::status`].
    #[must_use]
    pub fn body(mut self, with: impl Into<Value>) -> Self {
        if let FaultKind::Status { body, .. } = &mut self.fault {
            *body = Some(with.into());
        }
        self
    }
}
