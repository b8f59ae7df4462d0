//! What the providers of an agent are built from.

use std::collections::BTreeMap;
use std::sync::Arc;

use rune_env::Provider;
use rune_spec::Script;
use secrecy::{ExposeSecret, SecretString};

use crate::model::OFFLINE_PROVIDER;
use crate::model::wire::{ClientConfig, Protocol, Timeouts};

/// Everything about models that an agent's Runefile and the platform's configuration say.
/// It stands between their formats and this module; whoever reads them fills it.
#[derive(Debug, Clone, Default)]
pub struct ProvidersConfig {
    /// `models.providers`. Where it is empty: the first built-in provider with a key,
    /// else `offline`.
    pub providers: Vec<String>,
    /// `models.endpoints`, by name. A name may hide a built-in provider.
    pub endpoints: BTreeMap<String, Endpoint>,
    /// What the platform knows of the built-in providers, by name.
    pub accounts: BTreeMap<String, Account>,
    /// Where `copilot` exchanges its token.
    pub github_api_base_url: String,
    /// `default_model`: an alias of `model_mapping`, or a model id.
    pub default_model: String,
    /// `models.model_mapping`.
    pub model_mapping: BTreeMap<String, ModelIds>,
    /// `models.fallback_policy`.
    pub fallback: FallbackPolicy,
    /// What the `offline` model plays.
    pub script: Option<Arc<Script>>,
    /// How long a provider may take.
    pub timeouts: Timeouts,
}

/// A provider that the Runefile defines.
#[derive(Debug, Clone)]
pub struct Endpoint {
    /// How it is spoken to.
    pub protocol: Protocol,
    /// Where, in the form the vendor's SDK takes.
    pub base_url: String,
    /// The key, where it wants one.
    pub api_key: Option<SecretString>,
}

/// What the platform knows of a built-in provider.
#[derive(Debug, Clone, Default)]
pub struct Account {
    /// The key.
    pub api_key: Option<SecretString>,
    /// Instead of the vendor's own address.
    pub base_url: Option<String>,
    /// The model to ask where `model_mapping` has none for this provider
    /// (`OPENAI_MODEL`, `GEMINI_MODEL`).
    pub model: Option<String>,
}

/// What an alias means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ModelIds {
    /// The same id with every provider.
    Same(String),
    /// The id by provider.
    ByProvider(BTreeMap<String, String>),
}

/// What happens when a provider fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum FallbackPolicy {
    /// The next one is asked.
    #[default]
    NextProvider,
    /// The call fails.
    Fail,
}

/// The providers of an agent cannot be set up.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProvidersError {
    /// A name that is neither built in nor an endpoint.
    #[error("unknown model provider {name:?}; there are {}", known.join(", "))]
    UnknownProvider {
        /// The name.
        name: String,
        /// The names that exist.
        known: Vec<String>,
    },
    /// No provider has the model.
    #[error(
        "no provider has the model {alias:?}; map it in models.model_mapping for a provider listed in models.providers"
    )]
    NoModel {
        /// `default_model`.
        alias: String,
    },
}

impl ProvidersConfig {
    /// The same with another default model: an alias, a model id, or `provider:model`, which asks only
    /// that provider.
    pub(crate) fn asking(&self, model: &str) -> Self {
        let mut config = self.clone();
        let mut name = model;
        if let Some((provider, rest)) = model.split_once(':')
            && self.knows(provider)
        {
            config.providers = vec![provider.to_owned()];
            name = rest;
        }
        name.clone_into(&mut config.default_model);
        let same = || ModelIds::Same(name.to_owned());
        // A name that is no alias is meant as it is, whatever the platform would ask instead.
        config
            .model_mapping
            .entry(name.to_owned())
            .or_insert_with(same);
        config
    }

    fn knows(&self, provider: &str) -> bool {
        let built_in = Provider::ALL.map(Provider::as_str);
        built_in.contains(&provider) || self.endpoints.contains_key(provider)
    }

    /// Whether conversations are with the built-in model alone, which nothing has to be connected to for.
    pub(crate) fn is_offline(&self) -> bool {
        let mut order = self.order().into_iter();
        order.all(|name| name == OFFLINE_PROVIDER && !self.endpoints.contains_key(name))
    }

    /// The providers in order.
    pub(super) fn order(&self) -> Vec<&str> {
        if !self.providers.is_empty() {
            return self.providers.iter().map(String::as_str).collect();
        }
        let first = self.with_key().next();
        vec![first.unwrap_or(OFFLINE_PROVIDER)]
    }

    /// The providers that are asked for something that not each of them can do, in order: without
    /// `models.providers` all that have a key.
    pub(in crate::model) fn order_for_media(&self) -> Vec<&str> {
        let with_key: Vec<&str> = self.with_key().collect();
        if self.providers.is_empty() && !with_key.is_empty() {
            with_key
        } else {
            self.order()
        }
    }

    /// The built-in providers that have a key, in order.
    fn with_key(&self) -> impl Iterator<Item = &'static str> {
        let has_key = |name: &&str| {
            let account = self.accounts.get(*name);
            let key = account.and_then(|account| account.api_key.as_ref());
            key.is_some_and(|key| !key.expose_secret().is_empty())
        };
        let all = Provider::ALL.map(Provider::as_str).into_iter();
        all.filter(has_key)
    }

    /// The id of the default model with `provider`; `None` where it has none.
    pub(in crate::model) fn model_for(&self, provider: &str) -> Option<String> {
        let own = || self.accounts.get(provider)?.model.clone();
        match self.model_mapping.get(&self.default_model) {
            Some(ModelIds::Same(id)) => Some(id.clone()),
            Some(ModelIds::ByProvider(ids)) => {
                let id = ids.get(provider).cloned().or_else(own);
                // The offline model is none: every name will do.
                let offline = provider == OFFLINE_PROVIDER;
                id.or_else(|| offline.then(|| self.default_model.clone()))
            }
            None => own().or_else(|| Some(self.default_model.clone())),
        }
    }

    /// How a provider is spoken to that is reached over HTTP with its own key; nothing for the others.
    pub(in crate::model) fn wire(&self, name: &str) -> Option<(Protocol, ClientConfig)> {
        let mut client = ClientConfig::new(name);
        client.timeouts = self.timeouts;
        if let Some(endpoint) = self.endpoints.get(name) {
            client.base_url = Some(endpoint.base_url.clone());
            client.api_key.clone_from(&endpoint.api_key);
            return Some((endpoint.protocol, client));
        }
        let protocol = match name {
            "anthropic" => Protocol::Anthropic,
            "openai" => Protocol::OpenAi,
            "gemini" => Protocol::Gemini,
            _ => return None,
        };
        if let Some(account) = self.accounts.get(name) {
            client.base_url.clone_from(&account.base_url);
            client.api_key.clone_from(&account.api_key);
        }
        Some((protocol, client))
    }

    /// What the platform knows of `provider`.
    pub(super) fn account(&self, provider: &str) -> Account {
        self.accounts.get(provider).cloned().unwrap_or_default()
    }

    /// Where the provider is, as far as somebody said so.
    pub(in crate::model) fn base_url(&self, provider: &str) -> &str {
        let endpoint = self.endpoints.get(provider).map(|it| it.base_url.as_str());
        let account = || self.accounts.get(provider)?.base_url.as_deref();
        endpoint.or_else(account).unwrap_or_default()
    }

    pub(super) fn unknown(&self, name: &str) -> ProvidersError {
        let built_in = Provider::ALL.map(Provider::as_str).into_iter();
        let endpoints = self.endpoints.keys().map(String::as_str);
        ProvidersError::UnknownProvider {
            name: name.to_owned(),
            known: built_in.chain(endpoints).map(str::to_owned).collect(),
        }
    }
}
