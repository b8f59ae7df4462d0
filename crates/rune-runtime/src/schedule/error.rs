//! What can be wrong with a schedule.

use rune_store_runtime::{ErrorCode, ScheduleId, StoreError};

use super::{MAX_INTERVAL_MS, MIN_INTERVAL_MS};
use crate::engine::store_code;

/// Why a schedule was not understood or did not fire.
#[derive(Debug, thiserror::Error)]
pub enum ScheduleError {
    /// The cron expression does not have five or six fields.
    #[error(
        "cron expression `{expression}` has {found} fields, expected 5 (minute hour day-of-month \
         month day-of-week) or 6 (second first)"
    )]
    Fields {
        /// As it came.
        expression: String,
        /// How many there are.
        found: usize,
    },
    /// A field of the cron expression is not understood.
    #[error("cron expression `{expression}` is not valid: {reason}")]
    Cron {
        /// As it came.
        expression: String,
        /// What is wrong with it.
        reason: String,
    },
    /// No day has the date that the expression asks for.
    #[error("cron expression `{0}` never comes true")]
    Never(String),
    /// There is no such time zone.
    #[error("time zone `{0}` does not exist, expected an IANA name such as `Europe/Berlin`")]
    Zone(String),
    /// The interval is out of range.
    #[error("interval {0} ms is out of range, expected {MIN_INTERVAL_MS} to {MAX_INTERVAL_MS}")]
    Interval(u64),
    /// The schedule does not exist.
    #[error("schedule `{0}` does not exist")]
    NotFound(ScheduleId),
    /// The daemon is about to end.
    #[error("the daemon is shutting down")]
    ShuttingDown,
    /// The store did not do its part.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl ScheduleError {
    /// The code under which the error is answered.
    #[must_use]
    pub const fn code(&self) -> ErrorCode {
        match self {
            Self::Fields { .. }
            | Self::Cron { .. }
            | Self::Never(_)
            | Self::Zone(_)
            | Self::Interval(_) => ErrorCode::InvalidInput,
            Self::NotFound(_) => ErrorCode::NotFound,
            Self::ShuttingDown => ErrorCode::Unavailable,
            Self::Store(error) => store_code(error),
        }
    }
}
