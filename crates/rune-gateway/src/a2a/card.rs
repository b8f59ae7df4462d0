//! The card of an agent: what it is, where and how it is called.

use std::collections::BTreeMap;

use rune_a2a::{
    AgentCapabilities, AgentCard, AgentInterface, AgentSkill, Binding, ProtocolVersion,
    SecurityScheme,
};
use rune_runtime::Agent;

use super::parts::{IMAGES, JSON, TEXT};
use super::target::A2aTarget;

/// The card that everybody sees.
pub(crate) fn card(
    target: &A2aTarget,
    agent: &Agent,
    base: &str,
    needs_credentials: bool,
) -> AgentCard {
    let spec = agent.spec();
    let name = agent.name().to_owned();
    let description = spec.description.clone();
    let description = description.unwrap_or_else(|| format!("The agent `{name}`."));
    AgentCard {
        interfaces: interfaces(target, base),
        provider: None,
        version: spec.version.to_string(),
        documentation_url: None,
        capabilities: AgentCapabilities {
            streaming: true,
            ..AgentCapabilities::default()
        },
        security: security(needs_credentials),
        input_modes: match spec.input_schema {
            Some(_) => vec![JSON.to_owned()],
            None => [TEXT, JSON]
                .into_iter()
                .chain(IMAGES)
                .map(str::to_owned)
                .collect(),
        },
        output_modes: match spec.output_schema {
            Some(_) => vec![JSON.to_owned()],
            None => vec![TEXT.to_owned()],
        },
        skills: vec![AgentSkill {
            id: name.clone(),
            name: name.clone(),
            description: description.clone(),
            tags: vec!["agent".to_owned()],
            examples: Vec::new(),
        }],
        signatures: Vec::new(),
        name,
        description,
    }
}

/// Those of 1.0 first: some clients look at the first one only.
fn interfaces(target: &A2aTarget, base: &str) -> Vec<AgentInterface> {
    let url = format!("{base}/a2a/{}", target.name());
    let spoken = [
        (Binding::JsonRpc, ProtocolVersion::V1),
        (Binding::HttpJson, ProtocolVersion::V1),
        (Binding::JsonRpc, ProtocolVersion::V03),
    ];
    let interface = |(binding, version)| AgentInterface {
        url: url.clone(),
        binding,
        version,
        tenant: target.tenant().map(str::to_owned),
    };
    spoken.into_iter().map(interface).collect()
}

fn security(needs_credentials: bool) -> BTreeMap<String, SecurityScheme> {
    if !needs_credentials {
        return BTreeMap::new();
    }
    let bearer = SecurityScheme::Bearer {
        description: "An API key of the gateway, or a token that it accepts.".to_owned(),
    };
    let api_key = SecurityScheme::ApiKey {
        header: "X-API-Key".to_owned(),
        description: "An API key of the gateway.".to_owned(),
    };
    [("bearer", bearer), ("api_key", api_key)]
        .into_iter()
        .map(|(name, scheme)| (name.to_owned(), scheme))
        .collect()
}
