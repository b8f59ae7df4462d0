//! The parts of the configuration.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use secrecy::SecretString;

use crate::limits::ProviderLimits;

/// Keys and base URLs of model providers. Base URLs have no trailing slash.
#[derive(Debug, Clone)]
pub struct ProvidersConfig {
    /// `ANTHROPIC_API_KEY`
    pub anthropic_api_key: Option<SecretString>,
    /// `ANTHROPIC_BASE_URL`, without `/v1`.
    pub anthropic_base_url: String,
    /// `CLAUDE_API_KEY`
    pub claude_api_key: Option<SecretString>,
    /// `GEMINI_API_KEY`
    pub gemini_api_key: Option<SecretString>,
    /// `GEMINI_BASE_URL`, without a version.
    pub gemini_base_url: String,
    /// `GEMINI_MODEL`
    pub gemini_model: Option<String>,
    /// `COPILOT_TOKEN`, else `GITHUB_TOKEN`.
    pub copilot_token: Option<SecretString>,
    /// `COPILOT_BASE_URL`; absent: what the token exchange says.
    pub copilot_base_url: Option<String>,
    /// `GITHUB_API_BASE_URL`
    pub github_api_base_url: String,
    /// `OPENAI_API_KEY`
    pub openai_api_key: Option<SecretString>,
    /// `OPENAI_BASE_URL`, ending in `/v1`.
    pub openai_base_url: String,
    /// `OPENAI_MODEL`
    pub openai_model: Option<String>,
    /// `[providers.NAME]` of the file: how a provider may be called, by its name in a
    /// Runefile.
    pub limits: BTreeMap<String, ProviderLimits>,
}

/// The public API.
#[derive(Debug, Clone)]
pub struct GatewayConfig {
    /// Where it listens.
    pub addr: SocketAddr,
    /// `RUNE_GATEWAY_BASE_URL`: its public URL.
    pub base_url: Option<String>,
    /// `RUNE_API_KEY`
    pub api_key: Option<SecretString>,
    /// `RUNE_JWT_SECRET`
    pub jwt_secret: Option<SecretString>,
    /// `RUNE_JWKS_URL`
    pub jwks_url: Option<String>,
    /// `RUNE_JWT_AUDIENCE`
    pub jwt_audience: Option<String>,
    /// `RUNE_RATE_LIMIT_RPS` and `RUNE_RATE_LIMIT_BURST`; absent: no limit.
    pub rate_limit: Option<RateLimit>,
    /// `RUNE_ALLOWED_HOSTS`: hosts under which `/mcp` may be asked for; empty: all.
    pub allowed_hosts: Vec<String>,
    /// `RUNE_ALLOWED_ORIGINS`: origins of web pages that may call the gateway.
    pub allowed_origins: Vec<String>,
    /// `RUNE_WEBHOOK_SECRET`
    pub webhook_secret: Option<SecretString>,
    /// `RUNE_CONTROL_PLANE_URL`: where the control plane is of a gateway that runs apart from it.
    pub control_plane_url: Option<String>,
    /// `RUNE_INTERNAL_TOKEN`: what it knows such a gateway by.
    pub internal_token: Option<SecretString>,
}

impl GatewayConfig {
    /// Whether callers must prove who they are.
    pub fn has_auth(&self) -> bool {
        self.api_key.is_some() || self.jwt_secret.is_some() || self.jwks_url.is_some()
    }
}

/// A token bucket per caller.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RateLimit {
    /// Requests per second.
    pub rps: f64,
    /// Requests at once.
    pub burst: u32,
}

/// The control-plane API.
#[derive(Debug, Clone)]
pub struct ControlPlaneConfig {
    /// Where it listens.
    pub addr: SocketAddr,
}

/// Where data is.
#[derive(Debug, Clone)]
pub struct StorageConfig {
    /// `RUNE_DATA_DIR`
    pub data_dir: PathBuf,
    /// `DATABASE_URL`; by default `sqlite:` and `rune.db` in the data directory.
    pub database_url: String,
    /// `RUNE_OBJECT_STORE_URL`; absent: [`StorageConfig::object_dir`].
    pub object_store_url: Option<String>,
    /// `RUNE_OBJECT_GRACE_SECS`: how long an object that nothing refers to is kept; `None`: for ever.
    pub object_grace: Option<Duration>,
    /// `RUNE_SECRET_KEY`; absent: [`StorageConfig::secret_key_file`].
    pub secret_key: Option<SecretString>,
    /// `RUNE_CLUSTER_SECRET`; absent: [`StorageConfig::cluster_secret_file`].
    pub cluster_secret: Option<SecretString>,
    /// `RUNE_CLUSTER_SECRET_FILE`: by default `cluster.secret` in the data directory.
    pub cluster_secret_file: PathBuf,
}

impl StorageConfig {
    /// The file of the key of secrets without `RUNE_SECRET_KEY`: `secret.key` in the data directory.
    pub fn secret_key_file(&self) -> PathBuf {
        self.data_dir.join("secret.key")
    }

    /// The file of the key of internal tokens without `RUNE_SECRET_KEY`: `internal.key` in the data directory.
    pub fn internal_key_file(&self) -> PathBuf {
        self.data_dir.join("internal.key")
    }

    /// The object store without a URL: `objects` in the data directory.
    pub fn object_dir(&self) -> PathBuf {
        self.data_dir.join("objects")
    }
}

/// Logs and traces.
#[derive(Debug, Clone)]
pub struct ObservabilityConfig {
    /// `RUST_LOG`
    pub log: String,
    /// `RUNE_LOG_FORMAT`
    pub log_format: LogFormat,
    /// `OTEL_ENDPOINT`, else `OTEL_EXPORTER_OTLP_ENDPOINT`.
    pub otel_endpoint: Option<String>,
}

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Pretty,
    /// For machines.
    Json,
}

/// Running agents.
#[derive(Debug, Clone)]
pub struct RuntimeConfig {
    /// `RUNE_WORKSPACE_DIR`; by default `workspaces` in the data directory.
    pub workspace_dir: PathBuf,
    /// `RUNE_DRAIN_GRACE_SECS`
    pub drain_grace: Duration,
    /// `RUNE_REPLICA_IMAGE`
    pub replica_image: String,
    /// `RUNE_CHROME_PATH`
    pub chrome_path: Option<PathBuf>,
    /// `RUNE_CHROME_SANDBOX`
    pub chrome_sandbox: bool,
}

/// Built-in tools.
#[derive(Debug, Clone)]
pub struct ToolsConfig {
    /// `RUNE_LOCATION`
    pub location: Option<String>,
    /// `RUNE_LOCATION_LOOKUP`
    pub location_lookup: Option<String>,
    /// `RUNE_WEB_SEARCH`
    pub web_search: WebSearch,
    /// `RUNE_WEB_SEARCH_URL`
    pub web_search_url: Option<String>,
    /// `RUNE_WEB_SEARCH_KEY`
    pub web_search_key: Option<SecretString>,
    /// `RUNE_SANDBOX`
    pub sandbox: SandboxMode,
    /// `RUNE_ALLOW_PRIVATE`: destinations that tools may connect to although they are not public.
    pub allow_private: Vec<String>,
    /// `DOCKER_HOST`
    pub docker_host: String,
    /// `RUNE_DOCKER_EXEC_CONTAINERS`
    pub docker_exec_containers: Vec<String>,
}

/// Packages of agents.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PackagesConfig {
    /// `RUNE_TRUSTED_KEYS`: files with the public keys of those who may sign; empty: packages need no signature.
    pub trusted_keys: Vec<PathBuf>,
}

/// How processes of tools are confined.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum SandboxMode {
    /// As far as there is anything to confine; where that cannot be done, they are not started.
    #[default]
    Require,
    /// By what this machine can do.
    BestEffort,
    /// Not at all.
    Off,
}

/// Who searches the web.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum WebSearch {
    /// The page of DuckDuckGo; needs no key.
    #[default]
    DuckDuckGo,
    /// A SearXNG instance.
    SearXng,
    /// The Brave Search API.
    Brave,
    /// The Tavily API.
    Tavily,
}

/// How requests are taken up again that a crash or a restart interrupted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RecoveryConfig {
    /// `recovery.max_attempts`: after how many crashes a request is given up.
    pub max_attempts: u32,
    /// `recovery.parallelism`: how many are taken up at the same time.
    pub parallelism: usize,
    /// `recovery.backoff_ms`: the pause for a request that crashed twice.
    pub backoff: Duration,
    /// `recovery.max_backoff_ms`: the longest pause.
    pub max_backoff: Duration,
}

impl Default for RecoveryConfig {
    fn default() -> Self {
        Self {
            max_attempts: 5,
            parallelism: 100,
            backoff: Duration::from_secs(1),
            max_backoff: Duration::from_mins(1),
        }
    }
}
