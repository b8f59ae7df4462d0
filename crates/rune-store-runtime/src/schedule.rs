//! Schedules and their fires.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{RequestId, ScheduleId, Timestamp};

/// When a schedule fires.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum ScheduleKind {
    /// A cron expression in a time zone.
    Cron {
        /// Five or six fields.
        expression: String,
        /// IANA name, such as `Europe/Berlin`.
        timezone: String,
    },
    /// Every so many milliseconds.
    Interval {
        /// At least 1 000.
        every_ms: u64,
    },
}

/// Creates or replaces a schedule. Reply: unit. Rejected with `conflict` where
/// another schedule of the namespace has the name.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PutSchedule {
    /// The schedule.
    pub schedule_id: ScheduleId,
    /// Namespace of the agent.
    pub namespace: String,
    /// Unique within the namespace.
    pub name: String,
    /// The agent it invokes.
    pub agent: String,
    /// What the agent is sent.
    pub input: Value,
    /// When.
    pub kind: ScheduleKind,
    /// Whether it fires at all.
    pub paused: bool,
    /// The next time it fires.
    pub next_fire_at: Option<Timestamp>,
}

/// Records that a schedule fires for one planned time and moves it to the next.
/// Reply: whether this command is the first for (schedule, time); only the first
/// may invoke the agent. Rejected with `not_found`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FireSchedule {
    /// The schedule.
    pub schedule_id: ScheduleId,
    /// The planned time.
    pub planned_at: Timestamp,
    /// The request that the fire makes.
    pub request_id: RequestId,
    /// The next planned time.
    pub next_fire_at: Option<Timestamp>,
}

/// Deletes a schedule and its fires. Reply: unit. Rejected with `not_found`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeleteSchedule {
    /// The schedule.
    pub schedule_id: ScheduleId,
}

/// A schedule as stored.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ScheduleRow {
    /// The schedule.
    pub id: ScheduleId,
    /// Namespace of the agent.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// The agent it invokes.
    pub agent: String,
    /// What the agent is sent.
    pub input: Value,
    /// When.
    pub kind: ScheduleKind,
    /// Whether it fires at all.
    pub paused: bool,
    /// The next time it fires.
    pub next_fire_at: Option<Timestamp>,
    /// When it was created.
    pub created_at: Timestamp,
    /// When it last changed or fired.
    pub updated_at: Timestamp,
}

/// One fire of a schedule.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScheduleFireRow {
    /// The schedule.
    pub schedule_id: ScheduleId,
    /// The planned time.
    pub planned_at: Timestamp,
    /// When it was recorded.
    pub fired_at: Timestamp,
    /// The request it made.
    pub request_id: RequestId,
}

/// Which schedules to list, by name. Empty fields match everything.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ScheduleFilter {
    /// Only in this namespace.
    pub namespace: Option<String>,
    /// Only of this agent.
    pub agent: Option<String>,
    /// Only those not paused whose next fire is at or before this time.
    pub due_by: Option<Timestamp>,
}
