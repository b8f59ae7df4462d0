//! How a tool call fails.

use rune_store_runtime::{ErrorCode, Reject, StoreError};
use serde::{Deserialize, Serialize};

/// The kinds of failure that the engine treats differently.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
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
    /// The call used up something else that is limited: memory, instructions.
    LimitExceeded,
    /// The tool ran and reported a failure.
    Failed,
    /// What the tool depends on cannot be reached now.
    Unavailable,
    /// The tool was cut off from whoever waits for it: it may have had its effect, and is not
    /// run again.
    UnknownOutcome,
}

/// A failed tool call. The message is shown to the model and stored in the
/// journal, so it holds no secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
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
            ToolErrorKind::LimitExceeded => ErrorCode::LimitExceeded,
            ToolErrorKind::Failed => ErrorCode::Internal,
            ToolErrorKind::Unavailable | ToolErrorKind::UnknownOutcome => ErrorCode::Unavailable,
        }
    }

    pub(crate) fn invalid(message: impl Into<String>) -> Self {
        Self::new(ToolErrorKind::InvalidInput, message)
    }

    pub(crate) fn denied(message: impl Into<String>) -> Self {
        Self::new(ToolErrorKind::Denied, message)
    }

    pub(crate) fn not_found(message: impl Into<String>) -> Self {
        Self::new(ToolErrorKind::NotFound, message)
    }

    pub(crate) fn timeout(message: impl Into<String>) -> Self {
        Self::new(ToolErrorKind::Timeout, message)
    }

    pub(crate) fn cancelled() -> Self {
        Self::new(
            ToolErrorKind::Cancelled,
            "the request was cancelled; the tool was stopped",
        )
    }

    pub(crate) fn too_large(message: impl Into<String>) -> Self {
        Self::new(ToolErrorKind::OutputTooLarge, message)
    }

    pub(crate) fn failed(message: impl Into<String>) -> Self {
        Self::new(ToolErrorKind::Failed, message)
    }

    pub(crate) fn unavailable(message: impl Into<String>) -> Self {
        Self::new(ToolErrorKind::Unavailable, message)
    }
}

impl From<StoreError> for ToolError {
    fn from(error: StoreError) -> Self {
        let kind = match &error {
            StoreError::Rejected(Reject::NotFound { .. }) => ToolErrorKind::NotFound,
            StoreError::Rejected(Reject::Invalid { .. }) | StoreError::Cursor(_) => {
                ToolErrorKind::InvalidInput
            }
            StoreError::Rejected(Reject::Fenced { .. }) | StoreError::Unavailable(_) => {
                ToolErrorKind::Unavailable
            }
            StoreError::Denied(_) => ToolErrorKind::Denied,
            StoreError::Rejected(
                Reject::Conflict { .. }
                | Reject::Superseded { .. }
                | Reject::RequestEnded { .. }
                | Reject::BudgetExceeded(_)
                | Reject::QuotaExceeded { .. },
            )
            | StoreError::Corrupt { .. }
            | StoreError::Protocol { .. } => ToolErrorKind::Failed,
        };
        Self::new(kind, error.to_string())
    }
}
