//! How a tool call fails.

use rune_store_runtime::ErrorCode;

/// The kinds of failure that the engine treats differently.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ToolErrorKind {
    /// The input is wrong in a way the schema does not show.
    InvalidInput,
    /// The call wants more than it was granted.
    Denied,
    /// What the call names does not exist.
    NotFound,
    /// The call did not end in its time.
    Timeout,
    /// The request was cancelled; the tool has stopped.
    Cancelled,
    /// The output is larger than the limit.
    OutputTooLarge,
    /// The tool ran and reported a failure.
    Failed,
    /// What the tool depends on cannot be reached now.
    Unavailable,
}

/// A failed tool call. The message is shown to the model and stored in the
/// journal, so it holds no secret.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct ToolError {
    /// For the engine.
    pub kind: ToolErrorKind,
    /// For the model and the reader of the journal: what failed and what to do.
    pub message: String,
}

impl ToolError {
    /// A failure of this kind.
    pub fn new(kind: ToolErrorKind, message: impl Into<String>) -> Self {
        Self {
            kind,
            message: message.into(),
        }
    }

    /// Whether running the same call again may help.
    #[must_use]
    pub const fn is_retryable(&self) -> bool {
        matches!(
            self.kind,
            ToolErrorKind::Timeout | ToolErrorKind::Failed | ToolErrorKind::Unavailable
        )
    }

    /// The code under which the failure is stored.
    #[must_use]
    pub const fn code(&self) -> ErrorCode {
        match self.kind {
            ToolErrorKind::InvalidInput => ErrorCode::InvalidInput,
            ToolErrorKind::Denied => ErrorCode::Denied,
            ToolErrorKind::NotFound => ErrorCode::NotFound,
            ToolErrorKind::Timeout => ErrorCode::Timeout,
            ToolErrorKind::Cancelled => ErrorCode::Cancelled,
            ToolErrorKind::OutputTooLarge => ErrorCode::TooLarge,
            ToolErrorKind::Failed => ErrorCode::Internal,
            ToolErrorKind::Unavailable => ErrorCode::Unavailable,
        }
    }
}
