//! The token of an account: exchanged once, kept while it lasts, shared by every request.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};

use secrecy::{ExposeSecret, SecretString};
use tokio::sync::Mutex;
use tokio::time::Instant;

use super::exchange;
use crate::model::{HttpClient, ModelError};

/// A token for the API.
#[derive(Clone)]
pub(super) struct ApiToken {
    pub(super) secret: SecretString,
    /// Where GitHub says that the account's API is.
    pub(super) base_url: Option<String>,
    /// From then on it is not used any more.
    pub(super) stale_at: Instant,
}

impl ApiToken {
    /// Whether it is the same.
    pub(super) fn is(&self, other: &Self) -> bool {
        self.secret.expose_secret() == other.secret.expose_secret()
    }
}

impl fmt::Debug for ApiToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ApiToken")
            .field("base_url", &self.base_url)
            .finish_non_exhaustive()
    }
}

/// The tokens of one GitHub account.
#[derive(Debug)]
pub struct CopilotTokens {
    github_token: Option<SecretString>,
    github_api: String,
    /// Held during an exchange: whoever comes meanwhile gets its outcome.
    current: Mutex<Option<Result<ApiToken, ModelError>>>,
    /// Exchanges that have ended.
    exchanges: AtomicU64,
}

impl CopilotTokens {
    /// The tokens that `github_token` is exchanged for at `github_api`
    /// (`https://api.github.com`).
    #[must_use]
    pub fn new(github_token: Option<SecretString>, github_api: &str) -> Self {
        Self {
            github_token,
            github_api: github_api.trim_end_matches('/').to_owned(),
            current: Mutex::new(None),
            exchanges: AtomicU64::new(0),
        }
    }

    /// A token that is good for a while yet.
    pub(super) async fn get(&self, http: &HttpClient) -> Result<ApiToken, ModelError> {
        self.get_but(None, http).await
    }

    /// A token other than `refused`.
    pub(super) async fn replace(
        &self,
        refused: &ApiToken,
        http: &HttpClient,
    ) -> Result<ApiToken, ModelError> {
        self.get_but(Some(refused), http).await
    }

    async fn get_but(
        &self,
        refused: Option<&ApiToken>,
        http: &HttpClient,
    ) -> Result<ApiToken, ModelError> {
        let before = self.exchanges.load(Ordering::Acquire);
        let mut current = self.current.lock().await;
        match &*current {
            Some(Ok(token))
                if Instant::now() < token.stale_at
                    && !refused.is_some_and(|refused| refused.is(token)) =>
            {
                return Ok(token.clone());
            }
            // An exchange that ended while this call waited for it was made for it too.
            Some(Err(error)) if self.exchanges.load(Ordering::Acquire) != before => {
                return Err(error.clone());
            }
            _ => {}
        }
        let github_token = self.github_token.as_ref();
        let exchanged = exchange::exchange(&self.github_api, github_token, http).await;
        *current = Some(exchanged.clone());
        self.exchanges.fetch_add(1, Ordering::Release);
        exchanged
    }
}
