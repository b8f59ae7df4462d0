//! What can go wrong with a store.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

use crate::{BudgetShortage, Leadership};

/// A command that is well formed but not allowed in the present state. It is an
/// answer, not a fault: every node gives the same one and goes on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum Reject {
    /// What the command names does not exist.
    #[error("{kind} `{id}` does not exist")]
    NotFound {
        /// Such as `session`.
        kind: String,
        /// The id or name that was looked for.
        id: String,
    },
    /// The command contradicts what is there.
    #[error("{message}")]
    Conflict {
        /// What stands in the way, for the caller to read.
        message: String,
    },
    /// A request was to follow one that others of its session follow already.
    #[error("the session went on behind request `{id}`")]
    Superseded {
        /// The request that was to be followed.
        id: String,
    },
    /// The request has ended, nothing can be added to its journal.
    #[error("request `{id}` has ended")]
    RequestEnded {
        /// The request.
        id: String,
    },
    /// The command counted only as long as a node led, which it does no more.
    #[error(
        "the command was for as long as {made} leads, and another one has led since; what is next to be done is decided there"
    )]
    Fenced {
        /// The leadership that it was made under.
        made: Leadership,
    },
    /// A budget does not allow a model call.
    #[error("{0}")]
    BudgetExceeded(Box<BudgetShortage>),
    /// A namespace would have more than its [`Quota`](crate::Quota) allows.
    #[error("{message}")]
    QuotaExceeded {
        /// The number, the limit and the setting that it is from, for the caller to read.
        message: String,
    },
    /// The command breaks a rule that every command must keep.
    #[error("{message}")]
    Invalid {
        /// The rule, for the caller to read.
        message: String,
    },
}

impl Reject {
    /// A [`Reject::NotFound`].
    pub fn not_found(kind: &str, id: &impl ToString) -> Self {
        Self::NotFound {
            kind: kind.to_owned(),
            id: id.to_string(),
        }
    }

    /// A [`Reject::Conflict`].
    pub fn conflict(message: impl Into<String>) -> Self {
        Self::Conflict {
            message: message.into(),
        }
    }

    /// A [`Reject::Invalid`].
    pub fn invalid(message: impl Into<String>) -> Self {
        Self::Invalid {
            message: message.into(),
        }
    }
}

/// A store operation that did not succeed. It is the same whether the store is here or reached
/// over the network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(rename_all = "snake_case")]
pub enum StoreError {
    /// The command was refused; see [`Reject`].
    #[error(transparent)]
    Rejected(#[from] Reject),
    /// The store cannot answer now; the same command may be sent again.
    #[error("store is unavailable: {0}")]
    Unavailable(String),
    /// Whoever asks may not touch this: a store answers it only to those that it trusts with a part
    /// of it.
    #[error("{0}")]
    Denied(String),
    /// A stored row cannot be read back.
    #[error("stored {what} cannot be read: {reason}")]
    Corrupt {
        /// Which row.
        what: String,
        /// Why.
        reason: String,
    },
    /// The page cursor is not one this store made.
    #[error("page cursor `{0}` is not valid")]
    Cursor(String),
    /// The store answered with a reply of another command.
    #[error("store answered {found} to a command that expects {expected}")]
    Protocol {
        /// The reply that the command has.
        expected: Cow<'static, str>,
        /// The reply that came.
        found: Cow<'static, str>,
    },
}
