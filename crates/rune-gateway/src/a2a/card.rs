//! The card of an agent: what it is, where and how it is called.

use std::collections::BTreeMap;

use rune_a2a::{
    A2aError, AgentCapabilities, AgentCard, AgentInterface, AgentSkill, Binding, ErrorKind,
    ProtocolVersion, SecurityScheme, chain_extension,
};
use rune_http::ApiError;
use rune_runtime::Agent;
use rune_spec::CheckpointPolicy;

use super::answer::failure;
use super::parts::{IMAGES, JSON, TEXT};
use super::target::A2aTarget;
use crate::gateway::Shared;

/// Where the keys are that signatures are checked with.
pub(crate) const KEYS: &str = "/.well-known/jwks.json";

/// The card that everybody sees, not signed.
pub(crate) fn card(target: &A2aTarget, agent: &Agent, shared: &Shared, base: &str) -> AgentCard {
    let needs_credentials = shared.needs_credentials;
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
            push_notifications: shared.pushes.is_some(),
            extended_agent_card: needs_credentials,
            // Without a journal no key is known again.
            extensions: match spec.runtime.checkpoint_policy {
                CheckpointPolicy::EachStep | CheckpointPolicy::OnFinish => vec![chain_extension()],
                CheckpointPolicy::Never => Vec::new(),
            },
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

/// The card for clients with credentials: it tells of the agent's tools, too.
///
/// # Errors
/// `UnsupportedOperation` where nobody has credentials.
pub(crate) async fn extended(
    target: &A2aTarget,
    shared: &Shared,
    base: &str,
) -> Result<AgentCard, A2aError> {
    if !shared.needs_credentials {
        return Err(A2aError::new(
            ErrorKind::UnsupportedOperation,
            "there is no extended card where callers need no credentials",
        ));
    }
    let agent = target.agent(&shared.engine).await;
    let (_, agent) = agent.map_err(|error| failure(&error))?;
    let mut card = card(target, &agent, shared, base);
    let tools = agent.definitions().iter().map(|tool| AgentSkill {
        id: format!("{}/{}", card.name, tool.name),
        name: tool.name.clone(),
        description: tool.description.clone(),
        tags: vec!["tool".to_owned()],
        examples: Vec::new(),
    });
    let tools: Vec<AgentSkill> = tools.collect();
    card.skills.extend(tools);
    let signed = sign(&mut card, shared, base);
    signed.map_err(|error| failure(&error))?;
    Ok(card)
}

/// Signs a card, where the operator has a key for it.
pub(crate) fn sign(card: &mut AgentCard, shared: &Shared, base: &str) -> Result<(), ApiError> {
    match &shared.a2a.signer {
        Some(signer) => signer
            .sign(card, &format!("{base}{KEYS}"))
            .map_err(|error| ApiError::internal(error.to_string())),
        None => Ok(()),
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
