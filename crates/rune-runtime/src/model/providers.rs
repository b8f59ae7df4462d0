//! The providers of an agent, in order.

mod config;

use std::sync::Arc;

use super::wire::{ClientConfig, Protocol};
use super::{
    AnthropicClient, CLAUDE_CODE_PROVIDER, COPILOT_PROVIDER, ClaudeCodeClient, ClaudeCodeConfig,
    CopilotClient, GeminiClient, GuardedClient, LlmClient, ModelError, ModelErrorKind,
    OFFLINE_PROVIDER, OfflineClient, OpenAiClient, Price, ProviderPool, ResponsesClient, responses,
};

pub use config::{Account, Endpoint, FallbackPolicy, ModelIds, ProvidersConfig, ProvidersError};

/// A provider and the model to ask there.
#[derive(Clone)]
pub struct Candidate {
    /// The provider.
    pub client: GuardedClient,
    /// The provider's id of the model.
    pub model: String,
    /// What it costs; absent where nobody has said.
    pub price: Option<Price>,
}

impl Candidate {
    /// Whether it is the `offline` model, of which the user is told
    /// ([`OFFLINE_NOTICE`](super::OFFLINE_NOTICE)).
    #[must_use]
    pub fn is_offline(&self) -> bool {
        self.client.provider() == OFFLINE_PROVIDER
    }
}

impl std::fmt::Debug for Candidate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Candidate")
            .field("provider", &self.client.provider())
            .field("model", &self.model)
            .finish()
    }
}

/// The providers of an agent in order of preference; never empty.
#[derive(Debug, Clone)]
pub struct Providers {
    first: Candidate,
    rest: Vec<Candidate>,
    policy: FallbackPolicy,
}

impl Providers {
    /// What `config` says.
    ///
    /// # Errors
    /// An unknown provider, or a model that no provider has.
    pub fn new(config: &ProvidersConfig, pool: &ProviderPool) -> Result<Self, ProvidersError> {
        let mut candidates = Vec::new();
        for name in config.order() {
            let model = config.model_for(name);
            let client = client(config, name, model.as_deref().unwrap_or_default(), pool)?;
            // A provider without a model under this alias is left out.
            if let Some(model) = model {
                let client = if name == OFFLINE_PROVIDER {
                    GuardedClient::bare(client)
                } else {
                    GuardedClient::new(client, pool.guard(name, config.base_url(name)))
                };
                let price = if name == OFFLINE_PROVIDER {
                    Some(Price::FREE)
                } else {
                    pool.prices().price(name, &model)
                };
                candidates.push(Candidate {
                    client,
                    model,
                    price,
                });
            }
        }
        Self::from_candidates(candidates, config.fallback).ok_or_else(|| ProvidersError::NoModel {
            alias: config.default_model.clone(),
        })
    }

    /// These candidates; `None` where there is none.
    #[must_use]
    pub fn from_candidates(candidates: Vec<Candidate>, policy: FallbackPolicy) -> Option<Self> {
        let mut candidates = candidates.into_iter();
        Some(Self {
            first: candidates.next()?,
            rest: candidates.collect(),
            policy,
        })
    }

    /// In order of preference.
    pub fn candidates(&self) -> impl Iterator<Item = &Candidate> {
        std::iter::once(&self.first).chain(&self.rest)
    }

    /// The same candidates behind other clients.
    #[must_use]
    pub(crate) fn behind(&self, client: impl Fn(&Candidate) -> GuardedClient) -> Self {
        let swap = |candidate: &Candidate| Candidate {
            client: client(candidate),
            model: candidate.model.clone(),
            price: candidate.price,
        };
        Self {
            first: swap(&self.first),
            rest: self.rest.iter().map(swap).collect(),
            policy: self.policy,
        }
    }

    /// These candidates under the same policy; `None` where there is none.
    #[must_use]
    pub(crate) fn instead(&self, candidates: Vec<Candidate>) -> Option<Self> {
        Self::from_candidates(candidates, self.policy)
    }

    /// Whether another provider may take the place of one.
    #[must_use]
    pub fn falls_back(&self) -> bool {
        self.policy == FallbackPolicy::NextProvider
    }

    /// Whether the next provider is asked after this failure, where there is one.
    ///
    /// It is after every failure but two, which another provider would only hide: a
    /// request that is refused as it is (`InvalidRequest`) is a fault of the agent or of
    /// this program, and a conversation that does not fit (`ContextOverflow`) has to be
    /// made shorter.
    #[must_use]
    pub fn goes_on(&self, error: &ModelError) -> bool {
        self.falls_back()
            && !matches!(
                error.kind,
                ModelErrorKind::InvalidRequest | ModelErrorKind::ContextOverflow
            )
    }
}

/// The client of a provider for conversations, and for what is asked like one.
pub(super) fn client(
    config: &ProvidersConfig,
    name: &str,
    model: &str,
    pool: &ProviderPool,
) -> Result<Arc<dyn LlmClient>, ProvidersError> {
    if let Some((mut protocol, client)) = config.wire(name) {
        let is_own = !config.endpoints.contains_key(name);
        let base_url = client.base_url.as_deref();
        if is_own && protocol == Protocol::OpenAi && responses::preferred(base_url, model) {
            protocol = Protocol::Responses;
        }
        return Ok(wire_client(protocol, client, pool));
    }
    match name {
        OFFLINE_PROVIDER => Ok(Arc::new(OfflineClient::new(config.script.clone()))),
        COPILOT_PROVIDER => Ok(Arc::new(copilot(config, pool))),
        CLAUDE_CODE_PROVIDER => Ok(Arc::new(claude_code(config, pool))),
        _ => Err(config.unknown(name)),
    }
}

fn copilot(config: &ProvidersConfig, pool: &ProviderPool) -> CopilotClient {
    let account = config.account(COPILOT_PROVIDER);
    let tokens = pool.copilot(account.api_key.as_ref(), &config.github_api_base_url);
    let http = pool.http().clone();
    CopilotClient::new(tokens, account.base_url, config.timeouts, http)
}

fn claude_code(config: &ProvidersConfig, pool: &ProviderPool) -> ClaudeCodeClient {
    let own = config.account(CLAUDE_CODE_PROVIDER);
    let setup = ClaudeCodeConfig {
        cli: pool.claude(),
        api_key: own.api_key,
        fallback_key: config.account("anthropic").api_key,
        base_url: own.base_url,
        timeouts: config.timeouts,
    };
    ClaudeCodeClient::new(setup, pool.http().clone())
}

fn wire_client(
    protocol: Protocol,
    config: ClientConfig,
    pool: &ProviderPool,
) -> Arc<dyn LlmClient> {
    let http = pool.http().clone();
    match protocol {
        Protocol::Anthropic => Arc::new(AnthropicClient::new(config, http)),
        Protocol::OpenAi => Arc::new(OpenAiClient::new(config, http)),
        Protocol::Responses => Arc::new(ResponsesClient::new(config, http)),
        Protocol::Gemini => Arc::new(GeminiClient::new(config, http)),
    }
}
