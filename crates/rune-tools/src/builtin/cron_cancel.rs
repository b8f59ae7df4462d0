//! `rune@cron-cancel`: ends a cron schedule that the agent has made.

use async_trait::async_trait;
use rune_store_runtime::ScheduleKind;
use serde_json::Value;

use super::schedules;
use crate::{BuiltinTool, ToolContext, ToolError};

/// Deletes a schedule that cron-create made; requests it made go on.
pub(crate) struct CronCancel;

#[async_trait]
impl BuiltinTool for CronCancel {
    fn name(&self) -> &'static str {
        "cron-cancel"
    }

    async fn call(&self, context: &ToolContext, input: Value) -> Result<Value, ToolError> {
        schedules::delete(context, input, |kind| {
            matches!(kind, ScheduleKind::Cron { .. })
        })
        .await
    }
}
