//! Reading the parts of the configuration out of its keys.

use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::time::Duration;

use secrecy::SecretString;

use super::sections::{
    GatewayConfig, LogFormat, ObservabilityConfig, ProvidersConfig, RateLimit, RecoveryConfig,
    RuntimeConfig, SandboxMode, StorageConfig, ToolsConfig, WebSearch,
};
use crate::error::ConfigError;
use crate::resolve::Resolved;

/// Reads typed values out of the resolved ones.
pub(super) struct Reader {
    pub(super) resolved: Resolved,
    pub(super) home: Option<PathBuf>,
}

/// How long an object that nothing refers to is kept where nobody says it: longer than a row can be on its way.
const OBJECT_GRACE: Duration = Duration::from_secs(24 * 60 * 60);

impl Reader {
    pub(super) fn providers(&self) -> Result<ProvidersConfig, ConfigError> {
        Ok(ProvidersConfig {
            anthropic_api_key: self.secret("providers.anthropic_api_key"),
            anthropic_base_url: self
                .base_url("providers.anthropic_base_url")?
                .unwrap_or_default(),
            claude_api_key: self.secret("providers.claude_api_key"),
            gemini_api_key: self.secret("providers.gemini_api_key"),
            gemini_base_url: self
                .base_url("providers.gemini_base_url")?
                .unwrap_or_default(),
            gemini_model: self.resolved.text("providers.gemini_model"),
            copilot_token: self.secret("providers.copilot_token"),
            copilot_base_url: self.base_url("providers.copilot_base_url")?,
            github_api_base_url: self
                .base_url("providers.github_api_base_url")?
                .unwrap_or_default(),
            openai_api_key: self.secret("providers.openai_api_key"),
            openai_base_url: self
                .base_url("providers.openai_base_url")?
                .unwrap_or_default(),
            openai_model: self.resolved.text("providers.openai_model"),
            limits: self.resolved.limits(),
        })
    }

    pub(super) fn gateway(&self) -> Result<GatewayConfig, ConfigError> {
        let positive = |text: &str| {
            text.parse::<f64>()
                .ok()
                .filter(|rate| rate.is_finite() && *rate > 0.0)
        };
        let rps = self.resolved.parse("gateway.rate_limit_rps", positive)?;
        let burst = self
            .resolved
            .parse("gateway.rate_limit_burst", |text| text.parse::<u32>().ok())?;
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "float casts saturate"
        )]
        let rate_limit = rps.map(|rps| RateLimit {
            rps,
            burst: burst.unwrap_or(rps.ceil() as u32).max(1),
        });
        Ok(GatewayConfig {
            addr: self.address("gateway.addr")?,
            base_url: self.base_url("gateway.base_url")?,
            api_key: self.secret("gateway.api_key"),
            jwt_secret: self.secret("gateway.jwt_secret"),
            jwks_url: self.base_url("gateway.jwks_url")?,
            jwt_audience: self.resolved.text("gateway.jwt_audience"),
            rate_limit,
            allowed_hosts: self.list("gateway.allowed_hosts"),
            allowed_origins: self.list("gateway.allowed_origins"),
            webhook_secret: self.secret("gateway.webhook_secret"),
            control_plane_url: self.base_url("gateway.control_plane_url")?,
            internal_token: self.secret("gateway.internal_token"),
        })
    }

    pub(super) fn storage(&self) -> Result<StorageConfig, ConfigError> {
        let data_dir = self.data_dir()?;
        let database_url = self.resolved.text("storage.database_url");
        let object_store_url = self.resolved.text("storage.object_store_url");
        let grace = self
            .resolved
            .parse("storage.object_grace_secs", |text| text.parse::<u32>().ok())?;
        // What is elsewhere, or not of the database beside it, may be somebody else's, too.
        let is_own = object_store_url.is_none() && database_url.is_none();
        let grace = grace.map(|seconds| Duration::from_secs(seconds.into()));
        let object_grace = grace.or(is_own.then_some(OBJECT_GRACE));
        let beside = || format!("sqlite:{}", data_dir.join("rune.db").display());
        let secret_file = self.path("storage.cluster_secret_file")?;
        Ok(StorageConfig {
            database_url: database_url.unwrap_or_else(beside),
            cluster_secret: self.secret("storage.cluster_secret"),
            cluster_secret_file: secret_file.unwrap_or_else(|| data_dir.join("cluster.secret")),
            data_dir,
            object_store_url,
            object_grace,
            secret_key: self.secret("storage.secret_key"),
        })
    }

    pub(super) fn observability(&self) -> Result<ObservabilityConfig, ConfigError> {
        let format = |text: &str| match text {
            "pretty" => Some(LogFormat::Pretty),
            "json" => Some(LogFormat::Json),
            _ => None,
        };
        Ok(ObservabilityConfig {
            log: self.resolved.text("observability.log").unwrap_or_default(),
            log_format: self
                .resolved
                .parse("observability.log_format", format)?
                .unwrap_or(LogFormat::Pretty),
            otel_endpoint: self.base_url("observability.otel_endpoint")?,
        })
    }

    pub(super) fn runtime(&self) -> Result<RuntimeConfig, ConfigError> {
        let workspace_dir = match self.path("runtime.workspace_dir")? {
            Some(path) => path,
            None => self.data_dir()?.join("workspaces"),
        };
        let seconds = self
            .resolved
            .parse("runtime.drain_grace_secs", |text| text.parse::<u32>().ok())?;
        Ok(RuntimeConfig {
            workspace_dir,
            drain_grace: Duration::from_secs(seconds.unwrap_or_default().into()),
            replica_image: self
                .resolved
                .text("runtime.replica_image")
                .unwrap_or_default(),
            chrome_path: self.path("runtime.chrome_path")?,
            chrome_sandbox: self
                .resolved
                .parse("runtime.chrome_sandbox", |text| match text {
                    "on" => Some(true),
                    "off" => Some(false),
                    _ => None,
                })?
                .unwrap_or(true),
        })
    }

    /// A text with commas between its parts.
    pub(super) fn list(&self, key: &'static str) -> Vec<String> {
        let text = self.resolved.text(key).unwrap_or_default();
        let parts = text.split(',').map(str::trim);
        parts
            .filter(|part| !part.is_empty())
            .map(str::to_owned)
            .collect()
    }

    pub(super) fn tools(&self) -> Result<ToolsConfig, ConfigError> {
        let backend = |text: &str| match text {
            "duckduckgo" => Some(WebSearch::DuckDuckGo),
            "searxng" => Some(WebSearch::SearXng),
            "brave" => Some(WebSearch::Brave),
            "tavily" => Some(WebSearch::Tavily),
            _ => None,
        };
        let sandbox = |text: &str| match text {
            "require" => Some(SandboxMode::Require),
            "best-effort" => Some(SandboxMode::BestEffort),
            "off" => Some(SandboxMode::Off),
            _ => None,
        };
        Ok(ToolsConfig {
            location: self.resolved.text("tools.location"),
            location_lookup: self.url("tools.location_lookup")?,
            web_search: self
                .resolved
                .parse("tools.web_search", backend)?
                .unwrap_or_default(),
            web_search_url: self.base_url("tools.web_search_url")?,
            web_search_key: self.secret("tools.web_search_key"),
            sandbox: self
                .resolved
                .parse("tools.sandbox", sandbox)?
                .unwrap_or_default(),
            allow_private: self.list("tools.allow_private"),
            docker_host: self.resolved.text("tools.docker_host").unwrap_or_default(),
            docker_exec_containers: self.list("tools.docker_exec_containers"),
        })
    }

    pub(super) fn recovery(&self) -> Result<RecoveryConfig, ConfigError> {
        let default = RecoveryConfig::default();
        let number = |key| self.resolved.parse(key, |text| text.parse::<u32>().ok());
        let positive = |key| {
            let parse = |text: &str| text.parse::<NonZeroU32>().ok().map(NonZeroU32::get);
            self.resolved.parse(key, parse)
        };
        let millis = |number: u32| Duration::from_millis(number.into());
        let parallelism = positive("recovery.parallelism")?;
        Ok(RecoveryConfig {
            max_attempts: positive("recovery.max_attempts")?.unwrap_or(default.max_attempts),
            parallelism: parallelism
                .and_then(|number| usize::try_from(number).ok())
                .unwrap_or(default.parallelism),
            backoff: number("recovery.backoff_ms")?.map_or(default.backoff, millis),
            max_backoff: number("recovery.max_backoff_ms")?.map_or(default.max_backoff, millis),
        })
    }

    fn data_dir(&self) -> Result<PathBuf, ConfigError> {
        Ok(self.path("storage.data_dir")?.unwrap_or_default())
    }

    fn secret(&self, key: &'static str) -> Option<SecretString> {
        // A line end is easily picked up from a file and never part of a key.
        self.resolved
            .text(key)
            .map(|text| SecretString::from(text.trim().to_owned()))
    }

    /// An address that is asked as it is.
    fn url(&self, key: &'static str) -> Result<Option<String>, ConfigError> {
        self.resolved.parse(key, |text| {
            let text = text.trim();
            let rest = text
                .strip_prefix("https://")
                .or_else(|| text.strip_prefix("http://"))?;
            let host = rest.trim_start_matches('/');
            (!host.is_empty() && !rest.contains(char::is_whitespace)).then(|| text.to_owned())
        })
    }

    /// An address behind which paths are put.
    pub(super) fn base_url(&self, key: &'static str) -> Result<Option<String>, ConfigError> {
        let url = self.url(key)?;
        Ok(url.map(|url| url.trim_end_matches('/').to_owned()))
    }

    pub(super) fn address(&self, key: &'static str) -> Result<SocketAddr, ConfigError> {
        let loopback = SocketAddr::from(([127, 0, 0, 1], 0));
        let parse = |text: &str| text.replacen("localhost:", "127.0.0.1:", 1).parse().ok();
        Ok(self.resolved.parse(key, parse)?.unwrap_or(loopback))
    }

    pub(super) fn path(&self, key: &'static str) -> Result<Option<PathBuf>, ConfigError> {
        let text = self.resolved.text(key);
        text.map(|text| self.below_home(key, &text)).transpose()
    }

    pub(super) fn paths(&self, key: &'static str) -> Result<Vec<PathBuf>, ConfigError> {
        let names = self.list(key).into_iter();
        names.map(|name| self.below_home(key, &name)).collect()
    }

    /// The path with the home directory in place of a leading `~`.
    fn below_home(&self, key: &'static str, text: &str) -> Result<PathBuf, ConfigError> {
        let below_home = text
            .strip_prefix('~')
            .filter(|rest| rest.is_empty() || rest.starts_with('/'));
        match (below_home, &self.home) {
            (None, _) => Ok(PathBuf::from(text)),
            (Some(rest), Some(home)) => Ok(home.join(rest.trim_start_matches('/'))),
            (Some(_), None) => Err(ConfigError::NoHome { key }),
        }
    }
}
