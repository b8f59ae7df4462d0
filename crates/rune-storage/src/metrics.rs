//! What the store counts.

use std::time::Duration;

use metrics::{counter, gauge, histogram};
use rune_store_runtime::{Reply, StoreError};

/// How a command ended, as a label.
#[derive(Clone, Copy)]
pub(crate) enum Outcome {
    Applied,
    Rejected,
    Unavailable,
}

impl Outcome {
    pub(crate) const fn of(result: &Result<Reply, StoreError>) -> Self {
        match result {
            Ok(_) => Self::Applied,
            Err(StoreError::Rejected(_)) => Self::Rejected,
            Err(_) => Self::Unavailable,
        }
    }

    const fn label(self) -> &'static str {
        match self {
            Self::Applied => "applied",
            Self::Rejected => "rejected",
            Self::Unavailable => "unavailable",
        }
    }
}

/// A command was answered.
pub(crate) fn command(op: &'static str, outcome: Outcome) {
    counter!("rune_store_commands_total", "op" => op, "outcome" => outcome.label()).increment(1);
}

/// A batch was committed.
#[expect(clippy::cast_precision_loss, reason = "a batch is small")]
pub(crate) fn batch(commands: usize) {
    histogram!("rune_store_batch_commands").record(commands as f64);
}

/// A commit, with its fsync, took this long.
pub(crate) fn commit(duration: Duration) {
    histogram!("rune_store_commit_seconds").record(duration.as_secs_f64());
}

/// Commands that wait for the writer.
#[expect(clippy::cast_precision_loss, reason = "the queue is bounded")]
pub(crate) fn queue_depth(waiting: usize) {
    gauge!("rune_store_queue_commands").set(waiting as f64);
}

/// A checkpoint took this long.
pub(crate) fn checkpoint(duration: Duration) {
    histogram!("rune_store_checkpoint_seconds").record(duration.as_secs_f64());
}
