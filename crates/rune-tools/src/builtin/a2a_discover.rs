//! `rune@a2a-discover`: what an agent of another installation says of itself.

use async_trait::async_trait;
use rune_a2a::AgentSkill;
use rune_a2a::client::CardInterface;
use serde::Deserialize;
use serde_json::{Value, json};

use super::a2a_send::{failed, timed};
use super::answer::fitting;
use super::parse;
use crate::{BuiltinTool, EngineAccess, RemoteAgents, ToolContext, ToolError};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Input {
    url: String,
}

/// Fetches the card of an agent and answers what of it matters to a caller.
pub(crate) struct A2aDiscover(pub(crate) RemoteAgents);

#[async_trait]
impl BuiltinTool for A2aDiscover {
    fn name(&self) -> &'static str {
        "a2a-discover"
    }

    async fn call(&self, context: &ToolContext, input: Value) -> Result<Value, ToolError> {
        let input: Input = parse(input)?;
        let chain = context.engine().and_then(EngineAccess::call_chain);
        let trace = chain.ok().map(|chain| chain.trace);
        let client = self.0.client(context.egress.clone(), trace);
        let card = timed(context, client.card(&input.url)).await?;
        let card = card.map_err(|error| failed(&error))?;
        let chosen = card.interface();
        let (skills, truncated) = fitting(&card.skills, context.answer_budget() / 2, skill);
        let (interfaces, _) = fitting(&card.interfaces, context.answer_budget() / 4, interface);
        Ok(json!({
            "url": input.url,
            "name": card.name,
            "description": card.description,
            "version": card.version,
            "protocol_version": chosen.as_ref().ok().map(|one| one.version.as_str()),
            "callable": chosen.is_ok(),
            "streaming": card.streaming,
            "interfaces": interfaces,
            "skills": skills,
            "truncated": truncated,
        }))
    }
}

fn skill(skill: &AgentSkill) -> Value {
    json!({
        "id": skill.id,
        "name": skill.name,
        "description": skill.description,
        "tags": skill.tags,
        "examples": skill.examples,
    })
}

fn interface(one: &CardInterface) -> Value {
    json!({"url": one.url, "binding": one.binding, "version": one.version})
}
