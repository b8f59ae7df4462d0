//! `rune@agent-list`: the agents that can be called.

use async_trait::async_trait;
use serde::Deserialize;
use serde_json::{Value, json};

use super::answer::fitting;
use super::{agents, parse};
use crate::{BuiltinTool, ToolContext, ToolError};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Input {
    namespace: Option<String>,
}

/// Lists the agents that run and that the agent may call.
pub(crate) struct AgentList;

#[async_trait]
impl BuiltinTool for AgentList {
    fn name(&self) -> &'static str {
        "agent-list"
    }

    async fn call(&self, context: &ToolContext, input: Value) -> Result<Value, ToolError> {
        let input: Input = parse(input)?;
        let mut known = context.engine()?.agents().await?;
        if let Some(namespace) = input.namespace {
            known.retain(|agent| agent.address.split('/').next() == Some(namespace.as_str()));
        }
        let (shown, cut) = fitting(&known, context.answer_budget(), agents::show);
        Ok(json!({ "agents": shown, "truncated": cut }))
    }
}
