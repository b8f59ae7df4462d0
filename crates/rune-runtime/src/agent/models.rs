//! From the Runefile and the platform's configuration to the providers of an agent.

use std::collections::BTreeMap;
use std::sync::Arc;

use rune_env::Provider;
use rune_spec::{
    AgentPackage, FallbackPolicy as SpecFallback, ModelName, Protocol as SpecProtocol,
};
use secrecy::SecretString;

use super::AgentError;
use super::loader::resolve;
use crate::model::{
    Account, Endpoint, FallbackPolicy, ModelIds, Protocol, ProvidersConfig, Timeouts,
};

/// What the providers of the package are made of.
pub(super) fn config(
    package: &AgentPackage,
    platform: &rune_env::ProvidersConfig,
    timeouts: Timeouts,
    lookup: &dyn Fn(&str) -> Option<String>,
) -> Result<ProvidersConfig, AgentError> {
    let spec = &package.runefile.models;
    let mut endpoints = BTreeMap::new();
    for (name, endpoint) in &spec.endpoints {
        if !spec.providers.contains(name) {
            continue;
        }
        let place = format!("models.endpoints.{name}");
        let key = endpoint.api_key.as_ref();
        let key = key
            .map(|key| resolve(key, &format!("{place}.api_key"), lookup))
            .transpose()?;
        let ready = Endpoint {
            protocol: match endpoint.protocol {
                SpecProtocol::Anthropic => Protocol::Anthropic,
                SpecProtocol::Openai => Protocol::OpenAi,
                SpecProtocol::Responses => Protocol::Responses,
                SpecProtocol::Gemini => Protocol::Gemini,
            },
            base_url: resolve(&endpoint.base_url, &format!("{place}.base_url"), lookup)?,
            api_key: key.map(SecretString::from),
        };
        endpoints.insert(name.clone(), ready);
    }
    let mapping = spec.model_mapping.iter().map(|(alias, name)| {
        let ids = match name {
            ModelName::Any(id) => ModelIds::Same(id.clone()),
            ModelName::PerProvider(ids) => ModelIds::ByProvider(ids.clone()),
        };
        (alias.clone(), ids)
    });
    Ok(ProvidersConfig {
        providers: spec.providers.clone(),
        endpoints,
        accounts: accounts(platform),
        github_api_base_url: platform.github_api_base_url.clone(),
        default_model: package.runefile.default_model.clone(),
        model_mapping: mapping.collect(),
        fallback: match spec.fallback_policy {
            SpecFallback::NextProvider => FallbackPolicy::NextProvider,
            SpecFallback::Fail => FallbackPolicy::Fail,
        },
        script: package.script.clone().map(Arc::new),
        timeouts,
    })
}

/// What the platform knows of the built-in providers.
fn accounts(platform: &rune_env::ProvidersConfig) -> BTreeMap<String, Account> {
    let account = |key: &Option<SecretString>, url: &str, model: &Option<String>| Account {
        api_key: key.clone(),
        base_url: Some(url.to_owned()),
        model: model.clone(),
    };
    let anthropic_url = &platform.anthropic_base_url;
    let known = [
        (
            Provider::Anthropic,
            account(&platform.anthropic_api_key, anthropic_url, &None),
        ),
        (
            Provider::ClaudeCode,
            account(&platform.claude_api_key, anthropic_url, &None),
        ),
        (
            Provider::Gemini,
            account(
                &platform.gemini_api_key,
                &platform.gemini_base_url,
                &platform.gemini_model,
            ),
        ),
        (
            Provider::Copilot,
            Account {
                api_key: platform.copilot_token.clone(),
                base_url: platform.copilot_base_url.clone(),
                model: None,
            },
        ),
        (
            Provider::Openai,
            account(
                &platform.openai_api_key,
                &platform.openai_base_url,
                &platform.openai_model,
            ),
        ),
    ];
    known
        .map(|(provider, account)| (provider.as_str().to_owned(), account))
        .into()
}
