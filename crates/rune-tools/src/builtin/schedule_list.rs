//! `rune@schedule-list`: the schedules that the agent has made.

use async_trait::async_trait;
use serde_json::Value;

use super::schedules;
use crate::{BuiltinTool, ToolContext, ToolError};

/// Lists what schedule-create and cron-create made, with the next and the last fire.
pub(crate) struct ScheduleList;

#[async_trait]
impl BuiltinTool for ScheduleList {
    fn name(&self) -> &'static str {
        "schedule-list"
    }

    async fn call(&self, context: &ToolContext, input: Value) -> Result<Value, ToolError> {
        schedules::list(context, input, |_| true).await
    }
}
