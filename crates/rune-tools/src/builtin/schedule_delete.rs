//! `rune@schedule-delete`: ends a schedule that the agent has made.

use async_trait::async_trait;
use serde_json::Value;

use super::schedules;
use crate::{BuiltinTool, ToolContext, ToolError};

/// Deletes a schedule; requests it made go on.
pub(crate) struct ScheduleDelete;

#[async_trait]
impl BuiltinTool for ScheduleDelete {
    fn name(&self) -> &'static str {
        "schedule-delete"
    }

    async fn call(&self, context: &ToolContext, input: Value) -> Result<Value, ToolError> {
        schedules::delete(context, input, |_| true).await
    }
}
