//! Schedules and fires as a caller sees them.

use rune_store_runtime::{
    EventId, RequestId, ScheduleFireRow, ScheduleId, ScheduleKind, ScheduleRow, SessionId,
    Timestamp,
};
use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

/// A schedule, in the words it was created with.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ScheduleView {
    #[schema(value_type = String)]
    id: ScheduleId,
    namespace: String,
    name: String,
    agent: String,
    alias: String,
    input: Value,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    session_id: Option<SessionId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cron: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    timezone: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    every_ms: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    start_at: Option<Timestamp>,
    /// The topic of the events that fire it; `*` in it stands for any text.
    #[serde(skip_serializing_if = "Option::is_none")]
    on_event: Option<String>,
    /// `skip`, `one` or `all`.
    catch_up: &'static str,
    /// `allow`, `skip` or `queue`.
    overlap: &'static str,
    jitter_ms: u64,
    /// The agent that made it; absent where a person did.
    #[serde(skip_serializing_if = "Option::is_none")]
    created_by: Option<String>,
    paused: bool,
    /// The next planned time; absent where it is paused.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    next_fire_at: Option<Timestamp>,
    /// The planned times ahead; of one schedule only.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schema(value_type = Vec<String>, required = false)]
    upcoming: Vec<Timestamp>,
    /// The fire recorded last.
    #[serde(skip_serializing_if = "Option::is_none")]
    last_fire: Option<FireView>,
    #[schema(value_type = String, format = DateTime)]
    created_at: Timestamp,
    #[schema(value_type = String, format = DateTime)]
    updated_at: Timestamp,
}

impl From<ScheduleRow> for ScheduleView {
    fn from(row: ScheduleRow) -> Self {
        let on_event = row.spec.kind.topic().map(str::to_owned);
        let (cron, timezone, every_ms, start_at) = match row.spec.kind {
            ScheduleKind::Event { .. } => (None, None, None, None),
            ScheduleKind::Cron {
                expression,
                timezone,
            } => (Some(expression), Some(timezone), None, None),
            ScheduleKind::Interval { every_ms, anchor } => {
                (None, None, Some(every_ms), Some(anchor))
            }
        };
        Self {
            id: row.id,
            namespace: row.spec.namespace,
            name: row.spec.name,
            agent: row.spec.agent,
            alias: row.spec.alias,
            input: row.spec.input,
            session_id: row.spec.session_id,
            cron,
            timezone,
            every_ms,
            start_at,
            on_event,
            catch_up: row.spec.catch_up.as_str(),
            overlap: row.spec.overlap.as_str(),
            jitter_ms: row.spec.jitter_ms,
            created_by: row.spec.created_by,
            paused: row.paused,
            next_fire_at: row.next_fire_at,
            upcoming: Vec::new(),
            last_fire: row.last_fire.map(FireView::from),
            created_at: row.created_at,
            updated_at: row.updated_at,
        }
    }
}

impl ScheduleView {
    pub(super) fn with_upcoming(mut self, upcoming: Vec<Timestamp>) -> Self {
        self.upcoming = upcoming;
        self
    }
}

/// What came of one planned time.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct FireView {
    #[schema(value_type = String, format = DateTime)]
    planned_at: Timestamp,
    /// When it was recorded.
    #[schema(value_type = String, format = DateTime)]
    fired_at: Timestamp,
    /// Whether somebody asked for it.
    manual: bool,
    /// The event that made it, where one did.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    event_id: Option<EventId>,
    /// `pending`, `fired`, `skipped` or `failed`.
    state: &'static str,
    /// Why, where it did not fire.
    reason: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    request_id: Option<RequestId>,
}

impl From<ScheduleFireRow> for FireView {
    fn from(row: ScheduleFireRow) -> Self {
        Self {
            planned_at: row.planned_at,
            fired_at: row.fired_at,
            manual: row.manual,
            event_id: row.event_id,
            state: row.state.as_str(),
            reason: row.reason,
            request_id: row.request_id,
        }
    }
}
