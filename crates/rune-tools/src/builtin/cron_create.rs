//! `rune@cron-create`: has an agent invoked at the times of a cron expression.

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
    cron: String,
    #[serde(default = "utc")]
    timezone: String,
    agent: Option<String>,
    input: Value,
    #[serde(default)]
    overlap: Overlap,
    #[serde(default)]
    same_session: bool,
}

fn utc() -> String {
    "UTC".to_owned()
}

/// Creates a schedule; called again with the same key it is the same one.
pub(crate) struct CronCreate;

#[async_trait]
impl BuiltinTool for CronCreate {
    fn name(&self) -> &'static str {
        "cron-create"
    }

    async fn call(&self, context: &ToolContext, input: Value) -> Result<Value, ToolError> {
        let input: Input = parse(input)?;
        let schedule = NewSchedule {
            schedule_id: ScheduleId::from_bytes(repeatable_id(&context.idempotency_key, "cron")),
            name: input.name,
            agent: input.agent,
            input: input.input,
            kind: ScheduleKind::Cron {
                expression: input.cron,
                timezone: input.timezone,
            },
            overlap: input.overlap,
            same_session: input.same_session,
        };
        let row = context.engine()?.put_schedule(schedule).await?;
        Ok(schedules::show(&row))
    }
}
