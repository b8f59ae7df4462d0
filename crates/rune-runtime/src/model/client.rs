//! The provider seam.

use std::pin::Pin;
use std::time::Duration;

use async_trait::async_trait;
use futures_util::Stream;
use rune_store_runtime::{Block, StopReason, Usage};

use super::ModelRequest;

/// What a model says, as it says it.
#[derive(Debug, Clone, PartialEq)]
pub enum ModelEvent {
    /// More of the answer.
    Text(String),
    /// More of the reasoning.
    Reasoning(String),
    /// The whole reply. Always the last event, exactly once.
    Done(ModelOutput),
}

/// A whole reply.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelOutput {
    /// Text, reasoning and tool calls, in order. The ids of the calls are unique
    /// and not empty.
    pub blocks: Vec<Block>,
    /// Why the model stopped. `ToolUse` exactly where `blocks` holds a call.
    pub stop: StopReason,
    /// Tokens of the call, as the provider counted them.
    pub usage: Usage,
}

/// The reply of a model as it arrives. Dropping it ends the call: the connection is
/// closed. It ends with [`ModelEvent::Done`] or an error.
pub type ModelStream = Pin<Box<dyn Stream<Item = Result<ModelEvent, ModelError>> + Send>>;

/// A provider. Cheap to share; connections are reused between calls.
#[async_trait]
pub trait LlmClient: Send + Sync {
    /// The provider's name in the Runefile.
    fn provider(&self) -> &str;

    /// Asks the model once; answers when the first event is there. Whether to ask again
    /// is for [`GuardedClient`](super::GuardedClient) to say.
    ///
    /// # Errors
    /// A [`ModelError`]; the stream yields one where the reply breaks off.
    async fn stream(&self, request: &ModelRequest) -> Result<ModelStream, ModelError>;
}

/// Why a model call failed; decides what the engine does next.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ModelErrorKind {
    /// No or a refused key. Not retried; the next provider may do.
    Unauthenticated,
    /// The account has no money or quota left. Not retried.
    QuotaExhausted,
    /// The model does not exist or may not be used. Not retried.
    ModelNotFound,
    /// The provider refuses the request as it is. Not retried.
    InvalidRequest,
    /// The conversation does not fit the model's window. Not retried.
    ContextOverflow,
    /// Too many calls. Retried after the time the provider names.
    RateLimited,
    /// The provider has no capacity or an internal fault. Retried.
    Overloaded,
    /// The provider cannot be reached, or the connection broke. Retried.
    Transport,
    /// The provider was silent for too long. Retried.
    Timeout,
    /// The reply ended before its end marker. Retried unless something was shown.
    Truncated,
    /// The reply is not what the protocol says. Retried once.
    Malformed,
    /// The provider failed so often that it is left alone for a while. Not retried; the
    /// next provider may do.
    CircuitOpen,
}

impl ModelErrorKind {
    /// The name in metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Unauthenticated => "unauthenticated",
            Self::QuotaExhausted => "quota_exhausted",
            Self::ModelNotFound => "model_not_found",
            Self::InvalidRequest => "invalid_request",
            Self::ContextOverflow => "context_overflow",
            Self::RateLimited => "rate_limited",
            Self::Overloaded => "overloaded",
            Self::Transport => "transport",
            Self::Timeout => "timeout",
            Self::Truncated => "truncated",
            Self::Malformed => "malformed",
            Self::CircuitOpen => "circuit_open",
        }
    }
}

/// A failed model call. The message names the provider and what to do and holds no
/// secret.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{provider}: {message}")]
pub struct ModelError {
    /// Decides what happens next.
    pub kind: ModelErrorKind,
    /// The provider's name in the Runefile.
    pub provider: String,
    /// For the caller.
    pub message: String,
    /// How long the provider asks to wait.
    pub retry_after: Option<Duration>,
    /// The HTTP status of a response that failed, or the one that an error in the body of another names.
    pub status: Option<u16>,
    /// What the provider says about trying again (`x-should-retry`).
    pub should_retry: Option<bool>,
    /// Whether the provider has certainly not got the call.
    pub unsent: bool,
}

impl ModelError {
    /// A failure of `provider`.
    pub fn new(kind: ModelErrorKind, provider: &str, message: impl Into<String>) -> Self {
        Self {
            kind,
            provider: provider.to_owned(),
            message: message.into(),
            retry_after: None,
            status: None,
            should_retry: None,
            unsent: false,
        }
    }

    /// Whether the same call may succeed when sent again: as the provider says, else as
    /// the status says, else as the kind does.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        if self.kind == ModelErrorKind::QuotaExhausted {
            return false;
        }
        let by_status = self.status.map(|it| matches!(it, 408 | 409 | 429 | 500..));
        self.should_retry.or(by_status).unwrap_or_else(|| {
            self.kind == ModelErrorKind::RateLimited || self.is_fault_of_provider()
        })
    }

    /// Whether the call may have been done, and be charged, although nothing of a reply was there: the answer did not come, or
    /// came from somebody in between who does not know. A provider that says why it did not do it does not charge for it.
    #[must_use]
    pub const fn outcome_is_unknown(&self) -> bool {
        if self.unsent {
            return false;
        }
        match self.status {
            Some(408) => true,
            Some(400..=499 | 500 | 503 | 529) => false,
            Some(500..=599) => true,
            _ => matches!(
                self.kind,
                ModelErrorKind::Transport
                    | ModelErrorKind::Timeout
                    | ModelErrorKind::Truncated
                    | ModelErrorKind::Malformed
            ),
        }
    }

    /// Whether it says that the provider does not work, not that it refuses the call.
    #[must_use]
    pub const fn is_fault_of_provider(&self) -> bool {
        matches!(
            self.kind,
            ModelErrorKind::Overloaded
                | ModelErrorKind::Transport
                | ModelErrorKind::Timeout
                | ModelErrorKind::Truncated
                | ModelErrorKind::Malformed
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_somebody_in_between_says_is_no_outcome() {
        let failed = |status| {
            let mut error = ModelError::new(ModelErrorKind::Overloaded, "p", "m");
            error.status = status;
            error.outcome_is_unknown()
        };
        for status in [408, 501, 502, 504, 520, 522, 524, 599] {
            assert!(failed(Some(status)), "{status}");
        }
        for status in [400, 401, 404, 409, 429, 500, 503, 529] {
            assert!(!failed(Some(status)), "{status}");
        }
        assert!(!failed(None));
        let mut cut = ModelError::new(ModelErrorKind::Truncated, "p", "m");
        assert!(cut.outcome_is_unknown());
        cut.unsent = true;
        assert!(!cut.outcome_is_unknown());
    }
}
