//! `rune@agent-spawn`: starts a request of another agent that goes on by itself.

use async_trait::async_trait;
use rune_store_runtime::RequestId;
use serde::Deserialize;
use serde_json::{Value, json};

use super::parse;
use crate::identity::repeatable_id;
use crate::{BuiltinTool, NewSpawn, ToolContext, ToolError};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Input {
    agent: String,
    message: Value,
}

/// Starts a request and answers its id; called again with the same key it is the same request.
pub(crate) struct AgentSpawn;

#[async_trait]
impl BuiltinTool for AgentSpawn {
    fn name(&self) -> &'static str {
        "agent-spawn"
    }

    async fn call(&self, context: &ToolContext, input: Value) -> Result<Value, ToolError> {
        let input: Input = parse(input)?;
        let key = &context.idempotency_key;
        let own = format!("{}-", context.request_id);
        let spawn = NewSpawn {
            request_id: RequestId::from_bytes(repeatable_id(key, "spawn")),
            call_id: key.strip_prefix(&own).unwrap_or(key).to_owned(),
            agent: input.agent,
            input: input.message,
        };
        let spawned = context.engine()?.spawn(spawn).await?;
        Ok(json!({
            "request_id": spawned.request_id,
            "session_id": spawned.session_id,
        }))
    }
}
