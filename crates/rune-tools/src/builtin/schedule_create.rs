//! `rune@schedule-create`: has an agent invoked at intervals or by events.

use std::time::Duration;

use async_trait::async_trait;
use rune_store_runtime::{Overlap, ScheduleId, ScheduleKind};
use serde::Deserialize;
use serde_json::Value;

use super::{parse, schedules};
use crate::identity::repeatable_id;
use crate::{BuiltinTool, NewSchedule, ToolContext, ToolError};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Input {
    name: String,
    agent: Option<String>,
    #[serde(default)]
    input: Value,
    every_ms: Option<u64>,
    on_event: Option<String>,
    overlap: Option<Overlap>,
    #[serde(default)]
    same_session: bool,
}

/// Creates a schedule; called again with the same key it is the same one.
pub(crate) struct ScheduleCreate;

#[async_trait]
impl BuiltinTool for ScheduleCreate {
    fn name(&self) -> &'static str {
        "schedule-create"
    }

    async fn call(&self, context: &ToolContext, input: Value) -> Result<Value, ToolError> {
        let input: Input = parse(input)?;
        let (kind, overlap) = match (input.every_ms, input.on_event) {
            (Some(every_ms), None) => {
                let first = Duration::from_millis(every_ms);
                let anchor = context.store.now().plus(first);
                (ScheduleKind::Interval { every_ms, anchor }, Overlap::Skip)
            }
            (None, Some(topic)) => (ScheduleKind::Event { topic }, Overlap::Allow),
            _ => {
                return Err(ToolError::invalid(
                    "say when: either `every_ms` or `on_event`; cron-create takes a cron expression",
                ));
            }
        };
        if input.input.is_null() && kind.topic().is_none() {
            return Err(ToolError::invalid("`input` says what the agent is sent"));
        }
        let schedule = NewSchedule {
            schedule_id: ScheduleId::from_bytes(repeatable_id(
                &context.idempotency_key,
                "schedule",
            )),
            name: input.name,
            agent: input.agent,
            input: input.input,
            kind,
            overlap: input.overlap.unwrap_or(overlap),
            same_session: input.same_session,
        };
        let row = context.engine()?.put_schedule(schedule).await?;
        Ok(schedules::show(&row))
    }
}
