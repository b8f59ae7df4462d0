//! What the tools about agents share.

use serde_json::{Value, json};

use crate::KnownAgent;

/// An agent as a model sees it.
pub(super) fn show(agent: &KnownAgent) -> Value {
    let tools: Vec<&str> = agent.skills.iter().map(|(name, _)| name.as_str()).collect();
    json!({
        "agent": agent.address,
        "version": agent.version,
        "description": agent.description,
        "tools": tools,
    })
}
