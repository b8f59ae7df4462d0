//! Schedules and their fires.
//!
//! A schedule is moved on and its fires are recorded in one commit, before any request
//! is made; a fire that is recorded and not settled is finished by whoever finds it. So
//! one planned time makes one request, whatever ends in between.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{EventId, RequestId, ScheduleId, SessionId, Timestamp};

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
    /// Every so many milliseconds, counted from a fixed moment, so that neither a late
    /// fire nor a restart moves the later ones.
    Interval {
        /// At least 1 000.
        every_ms: u64,
        /// The first planned time.
        anchor: Timestamp,
    },
    /// By every event of its namespace about a topic; there are no times to plan.
    Event {
        /// The topic; `*` in it stands for any text.
        topic: String,
    },
}

impl ScheduleKind {
    /// The topic of the events that fire it, where events do.
    #[must_use]
    pub fn topic(&self) -> Option<&str> {
        match self {
            Self::Event { topic } => Some(topic),
            Self::Cron { .. } | Self::Interval { .. } => None,
        }
    }
}

/// What happens to planned times that passed while nothing could fire.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CatchUp {
    /// None of them fires.
    Skip,
    /// One fire makes up for all of them.
    #[default]
    One,
    /// Each of them fires, up to a bound.
    All,
}

impl CatchUp {
    /// All policies.
    pub const ALL: [Self; 3] = [Self::Skip, Self::One, Self::All];

    /// The word for it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Skip => "skip",
            Self::One => "one",
            Self::All => "all",
        }
    }
}

/// What happens to a fire while a request of an earlier one has not ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Overlap {
    /// It runs beside it.
    Allow,
    /// It is skipped.
    #[default]
    Skip,
    /// It waits for its turn.
    Queue,
}

impl Overlap {
    /// All policies.
    pub const ALL: [Self; 3] = [Self::Allow, Self::Skip, Self::Queue];

    /// The word for it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Allow => "allow",
            Self::Skip => "skip",
            Self::Queue => "queue",
        }
    }
}

/// What a schedule does and when.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ScheduleSpec {
    /// Namespace of the schedule and of the agent.
    pub namespace: String,
    /// Unique within the namespace.
    pub name: String,
    /// The agent it invokes.
    pub agent: String,
    /// Alias of the agent's deployment.
    pub alias: String,
    /// What the agent is sent.
    pub input: Value,
    /// The session of every request it makes; each has one of its own where absent.
    pub session_id: Option<SessionId>,
    /// When.
    pub kind: ScheduleKind,
    /// What happens to missed planned times.
    pub catch_up: CatchUp,
    /// What happens to a fire while an earlier one runs.
    pub overlap: Overlap,
    /// A fire is at most this much later than planned, by an amount that the schedule
    /// and the planned time determine.
    pub jitter_ms: u64,
    /// The agent that made it, `NAMESPACE/NAME`; none where a person did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created_by: Option<String>,
}

/// Creates or replaces a schedule. Reply: unit. Rejected with `conflict` where
/// another schedule of the namespace has the name.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PutSchedule {
    /// The schedule.
    pub schedule_id: ScheduleId,
    /// What it does and when.
    pub spec: ScheduleSpec,
    /// Whether it is held.
    pub paused: bool,
    /// The next planned time; none where it is paused or has no further one.
    pub next_fire_at: Option<Timestamp>,
}

/// Holds a schedule or lets it go on. Reply: unit. Rejected with `not_found`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PauseSchedule {
    /// The schedule.
    pub schedule_id: ScheduleId,
    /// Whether it is held.
    pub paused: bool,
    /// The next planned time; none where it is paused or has no further one.
    pub next_fire_at: Option<Timestamp>,
}

/// Records fires of a schedule and moves it on, in one commit.
///
/// Reply: whether it was done. With `from` it is not where the schedule's next planned
/// time is another one, because somebody else was first or the schedule was changed;
/// without it, where a fire of the same planned time is there. Nothing is written then. A
/// fire that is recorded already stays as it is and does not keep the others from being
/// recorded. Rejected with `not_found`, and with `invalid` where there are more fires
/// than [`MAX_SCHEDULE_FIRES`](crate::limits::MAX_SCHEDULE_FIRES).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FireSchedule {
    /// The schedule.
    pub schedule_id: ScheduleId,
    /// From which planned time to which next one; absent where somebody asked for a
    /// fire and the schedule stays where it is.
    pub advance: Option<Advance>,
    /// The fires.
    pub fires: Vec<NewFire>,
}

/// How a schedule is moved on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Advance {
    /// Where it must stand.
    pub from: Timestamp,
    /// Where it stands then; none where no planned time is left.
    pub to: Option<Timestamp>,
}

/// A fire to record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NewFire {
    /// The planned time.
    pub planned_at: Timestamp,
    /// What comes of it.
    pub plan: FirePlan,
}

/// What comes of a planned time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "plan", rename_all = "snake_case")]
pub enum FirePlan {
    /// A request under this id.
    Invoke {
        /// The request that the fire will make.
        request_id: RequestId,
    },
    /// No request.
    Skip {
        /// Why, for a person.
        reason: String,
    },
}

/// Says what came of a pending fire. Reply: whether it was pending. Rejected with
/// `not_found`, and with `invalid` where the state is `pending`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SettleFire {
    /// The schedule.
    pub schedule_id: ScheduleId,
    /// The planned time.
    pub planned_at: Timestamp,
    /// Whether somebody asked for it.
    pub manual: bool,
    /// What came of it.
    pub state: FireState,
    /// Why, for a person; empty where it fired.
    pub reason: String,
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
    /// What it does and when.
    pub spec: ScheduleSpec,
    /// Whether it is held.
    pub paused: bool,
    /// The next planned time.
    pub next_fire_at: Option<Timestamp>,
    /// The fire recorded last.
    pub last_fire: Option<ScheduleFireRow>,
    /// When it was created.
    pub created_at: Timestamp,
    /// When it last changed or fired.
    pub updated_at: Timestamp,
}

/// What came of a fire.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FireState {
    /// Recorded; its request is about to be accepted, or waits for its turn.
    Pending,
    /// Its request was accepted.
    Fired,
    /// No request was made, as a policy says.
    Skipped,
    /// No request could be made.
    Failed,
}

impl FireState {
    /// All states.
    pub const ALL: [Self; 4] = [Self::Pending, Self::Fired, Self::Skipped, Self::Failed];

    /// The stored word.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Fired => "fired",
            Self::Skipped => "skipped",
            Self::Failed => "failed",
        }
    }

    /// The state with this stored word.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.as_str() == text)
    }
}

/// One fire of a schedule. There is one per (schedule, planned time), beside those that
/// somebody asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScheduleFireRow {
    /// The schedule.
    pub schedule_id: ScheduleId,
    /// The planned time.
    pub planned_at: Timestamp,
    /// Whether somebody asked for it, instead of the schedule's times.
    pub manual: bool,
    /// The event that made it, where one did; the planned time is about when that was published.
    pub event_id: Option<EventId>,
    /// What came of it.
    pub state: FireState,
    /// Why, where it did not fire.
    pub reason: String,
    /// The request it makes or made; none where it was skipped from the beginning.
    pub request_id: Option<RequestId>,
    /// When it was recorded.
    pub fired_at: Timestamp,
}

/// Which schedules to list, by name. Empty fields match everything.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ScheduleFilter {
    /// Only in this namespace.
    pub namespace: Option<String>,
    /// Only with this name.
    pub name: Option<String>,
    /// Only of this agent.
    pub agent: Option<String>,
    /// Only those not paused whose next fire is at or before this time.
    pub due_by: Option<Timestamp>,
    /// Only those that events fire.
    pub on_event: bool,
    /// Only those that this agent made.
    pub created_by: Option<String>,
}

/// Which fires to list, newest planned time first. Empty fields match everything.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct FireFilter {
    /// Only of this schedule.
    pub schedule_id: Option<ScheduleId>,
    /// Only in this state.
    pub state: Option<FireState>,
}
