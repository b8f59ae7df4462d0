//! `rune@cron-list`: the cron schedules that the agent has made.

use async_trait::async_trait;
use rune_store_runtime::ScheduleKind;
use serde_json::Value;

use super::schedules;
use crate::{BuiltinTool, ToolContext, ToolError};

/// Lists what cron-create made.
pub(crate) struct CronList;

#[async_trait]
impl BuiltinTool for CronList {
    fn name(&self) -> &'static str {
        "cron-list"
    }

    async fn call(&self, context: &ToolContext, input: Value) -> Result<Value, ToolError> {
        schedules::list(context, input, |kind| {
            matches!(kind, ScheduleKind::Cron { .. })
        })
        .await
    }
}
