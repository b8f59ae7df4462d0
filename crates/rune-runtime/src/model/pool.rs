//! What the calls of all agents share.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use rune_env::ProviderLimits;
use secrecy::SecretString;

use super::{ClaudeCli, CopilotTokens, HttpClient, Prices, ProviderGuard};

/// Connections, and what belongs to a provider rather than to an agent: its pace, its
/// circuit, Copilot's tokens and the `claude` program. One per process; cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct ProviderPool {
    http: HttpClient,
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    /// By name of the provider.
    limits: BTreeMap<String, ProviderLimits>,
    /// By name and base URL: two agents may give one name to different servers.
    guards: Mutex<HashMap<(String, String), Arc<ProviderGuard>>>,
    /// Of the one GitHub account that the platform has.
    copilot: OnceLock<Arc<CopilotTokens>>,
    claude: Option<Arc<ClaudeCli>>,
    prices: Prices,
}

impl ProviderPool {
    /// A pool with these limits by name of the provider, these prices, and the `claude`
    /// program, where there is one.
    #[must_use]
    pub fn new(
        limits: BTreeMap<String, ProviderLimits>,
        prices: Prices,
        claude: Option<ClaudeCli>,
    ) -> Self {
        Self {
            http: HttpClient::new(),
            shared: Arc::new(Shared {
                limits,
                guards: Mutex::default(),
                copilot: OnceLock::new(),
                claude: claude.map(Arc::new),
                prices,
            }),
        }
    }

    /// The connections.
    #[must_use]
    pub const fn http(&self) -> &HttpClient {
        &self.http
    }

    /// What models cost.
    #[must_use]
    pub fn prices(&self) -> &Prices {
        &self.shared.prices
    }

    /// The tokens of the platform's GitHub account.
    pub(super) fn copilot(
        &self,
        github_token: Option<&SecretString>,
        github_api: &str,
    ) -> Arc<CopilotTokens> {
        let tokens = || Arc::new(CopilotTokens::new(github_token.cloned(), github_api));
        Arc::clone(self.shared.copilot.get_or_init(tokens))
    }

    /// The `claude` program.
    pub(super) fn claude(&self) -> Option<Arc<ClaudeCli>> {
        self.shared.claude.clone()
    }

    /// The guard of `provider` at `base_url`; always the same one.
    #[must_use]
    pub fn guard(&self, provider: &str, base_url: &str) -> Arc<ProviderGuard> {
        let guards = self.shared.guards.lock();
        let mut guards = guards.unwrap_or_else(PoisonError::into_inner);
        let key = (provider.to_owned(), base_url.to_owned());
        let guard = guards.entry(key).or_insert_with(|| {
            let limits = self.shared.limits.get(provider);
            let limits = limits.copied().unwrap_or_default();
            Arc::new(ProviderGuard::new(provider, &limits))
        });
        Arc::clone(guard)
    }
}
