//! Tools that the daemon runs for a request in a replica outside it: those that work with
//! containers of Docker Engine, which a replica does not reach.
//!
//! Only the running is here. The replica's planner decides whether a tool runs, commits the
//! intent before and the result after it, tries again and keeps the time. It names each run, so
//! that one that is asked for again is the same one, and the start of the daemon that it asks:
//! the next one does not know what has become of it, and says so.
//!
//! A run ends with its request, with the replica that has it, when its call has a result, and when nobody asks for it any more.

mod daemon;
mod registry;
mod replica;

use std::time::Duration;

use rune_tools::ToolError;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use uuid::Uuid;

pub(super) use registry::ToolRuns;
pub(crate) use replica::LinkedTools;

/// Two clocks that were started by the same call are as far apart at the most.
const SAME_TIME: Duration = Duration::from_millis(50);

/// Something that is done about the run of a tool.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "tool_op", rename_all = "snake_case")]
pub enum ToolOp {
    /// Asks which start of the daemon this is.
    BootId,
    /// Begins a run, or goes on waiting for one; [`ToolAnswer::Pending`] where it has not ended yet.
    Run(ToolRun),
    /// Stops a run, also one that has not begun.
    Stop {
        /// The run.
        run_id: Uuid,
        /// The call of the model.
        call_id: String,
    },
}

/// One run of a tool.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ToolRun {
    /// Its own; every attempt of a call is another run.
    run_id: Uuid,
    /// The start of the daemon that was asked to begin it.
    boot_id: Uuid,
    /// The call of the model.
    call_id: String,
    /// The same for every run of the call.
    idempotency_key: String,
    /// The tool, by its name in the package.
    tool: String,
    input: Value,
}

/// What came of a [`ToolOp`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "tool_answer", content = "ended", rename_all = "snake_case")]
pub enum ToolAnswer {
    /// Which start of the daemon this is.
    BootId(Uuid),
    /// The run has not ended yet.
    Pending,
    /// What the tool has answered.
    Ended(Result<Value, ToolError>),
    /// It may have begun, and how it ended is not known.
    Unknown,
    /// It is stopped.
    Stopped,
}

#[cfg(test)]
mod tests;
