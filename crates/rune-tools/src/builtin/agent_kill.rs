//! `rune@agent-kill`: cancels a request that the conversation has spawned.

use async_trait::async_trait;
use rune_store_runtime::RequestId;
use serde::Deserialize;
use serde_json::{Value, json};

use super::parse;
use crate::{BuiltinTool, ToolContext, ToolError};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Input {
    request_id: RequestId,
}

/// Cancels a request; one that has ended stays as it is.
pub(crate) struct AgentKill;

#[async_trait]
impl BuiltinTool for AgentKill {
    fn name(&self) -> &'static str {
        "agent-kill"
    }

    async fn call(&self, context: &ToolContext, input: Value) -> Result<Value, ToolError> {
        let Input { request_id } = parse(input)?;
        let status = context.engine()?.cancel_spawned(request_id).await?;
        Ok(json!({ "request_id": request_id, "status": status.as_str() }))
    }
}
