//! The shared HTTP client.

use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

/// Until a connection stands.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long an unused connection is kept.
const POOL_IDLE: Duration = Duration::from_secs(90);
/// Unused connections kept per provider.
const POOL_PER_HOST: usize = 32;
/// How often a quiet HTTP/2 connection is checked.
const KEEP_ALIVE: Duration = Duration::from_secs(30);
const USER_AGENT: &str = concat!("rune/", env!("CARGO_PKG_VERSION"));

/// Connections to model providers, shared by every client. Cheap to create and to clone:
/// TLS and the system's certificates are loaded by the first call that needs them, so
/// that a process that only uses the offline model or a local server never does.
#[derive(Debug, Clone, Default)]
pub struct HttpClient {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    /// Whether no proxy is asked.
    is_direct: bool,
    /// For `http://`: no certificates.
    plain: OnceLock<Result<reqwest::Client, String>>,
    /// For everything else: the system's certificates.
    tls: OnceLock<Result<reqwest::Client, String>>,
}

impl HttpClient {
    /// A client without connections.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// A client that asks no proxy: for addresses of this deployment, whose keys are for nobody in between.
    #[must_use]
    pub(crate) fn direct() -> Self {
        Self {
            shared: Arc::new(Shared {
                is_direct: true,
                ..Shared::default()
            }),
        }
    }

    /// A client whose every connection goes to one Unix socket.
    pub(crate) fn over_socket(socket: &Path) -> Result<reqwest::Client, String> {
        let client = builder().no_proxy().tls_certs_only([]);
        build(client.unix_socket(socket))
    }

    /// The client for `url`, or why it cannot be had.
    pub(crate) fn for_url(&self, url: &str) -> Result<&reqwest::Client, String> {
        let client = if url.starts_with("http://") {
            self.shared
                .plain
                .get_or_init(|| build(self.builder().tls_certs_only([])))
        } else {
            self.shared.tls.get_or_init(|| build(self.builder()))
        };
        client.as_ref().map_err(Clone::clone)
    }

    fn builder(&self) -> reqwest::ClientBuilder {
        match self.shared.is_direct {
            true => builder().no_proxy(),
            false => builder(),
        }
    }
}

fn builder() -> reqwest::ClientBuilder {
    reqwest::Client::builder()
        .user_agent(USER_AGENT)
        .tcp_nodelay(true)
        .connect_timeout(CONNECT_TIMEOUT)
        .pool_idle_timeout(POOL_IDLE)
        .pool_max_idle_per_host(POOL_PER_HOST)
        .http2_keep_alive_interval(KEEP_ALIVE)
        // A provider does not redirect; a redirect would carry the key elsewhere.
        .redirect(reqwest::redirect::Policy::none())
        // Retries are counted in one place only, `retry`.
        .retry(reqwest::retry::never())
}

fn build(builder: reqwest::ClientBuilder) -> Result<reqwest::Client, String> {
    builder
        .build()
        .map_err(|error| format!("the HTTP client cannot be set up: {error}"))
}
