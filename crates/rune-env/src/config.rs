//! The typed configuration.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use secrecy::{ExposeSecret as _, SecretString};

use crate::a2a::A2aConfig;
use crate::budgets::BudgetsConfig;
use crate::error::ConfigError;
use crate::kubernetes::KubernetesConfig;
use crate::limits::ProviderLimits;
use crate::resolve::{ConfigEntry, Overrides, Resolved};

/// Largest configuration file, in bytes.
const MAX_FILE_BYTES: u64 = 1024 * 1024;

/// How environment variables are looked up.
pub type Environment = Arc<dyn Fn(&str) -> Option<String> + Send + Sync>;

/// Where the configuration comes from.
#[derive(Clone)]
pub struct ConfigSources {
    /// The environment.
    pub env: Environment,
    /// An explicitly named file, which must exist; `None`: `~/.rune/config.toml`, if there is one.
    pub file: Option<PathBuf>,
    /// Values given by flags.
    pub overrides: Overrides,
}

/// The configuration of one Rune process. Cheap enough to clone at start, not per request.
#[derive(Clone)]
pub struct Config {
    /// Model providers.
    pub providers: ProvidersConfig,
    /// The public API.
    pub gateway: GatewayConfig,
    /// Agents over A2A.
    pub a2a: A2aConfig,
    /// The control-plane API.
    pub control_plane: ControlPlaneConfig,
    /// Where data is.
    pub storage: StorageConfig,
    /// Logs and traces.
    pub observability: ObservabilityConfig,
    /// Running agents.
    pub runtime: RuntimeConfig,
    /// Built-in tools.
    pub tools: ToolsConfig,
    /// Replicas in pods.
    pub kubernetes: KubernetesConfig,
    /// Packages of agents.
    pub packages: PackagesConfig,
    /// Requests that a crash or a restart interrupted.
    pub recovery: RecoveryConfig,
    /// What callers may spend.
    pub budgets: BudgetsConfig,
    entries: Vec<ConfigEntry>,
    /// What somebody has set, in clear.
    set: BTreeMap<&'static str, String>,
    env: Environment,
}

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
    /// `RUNE_SECRET_KEY`; absent: [`StorageConfig::secret_key_file`].
    pub secret_key: Option<SecretString>,
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

impl Config {
    /// Reads the real environment and the configuration file.
    ///
    /// # Errors
    /// As [`Config::load`].
    pub fn from_process(file: Option<PathBuf>, overrides: Overrides) -> Result<Self, ConfigError> {
        Self::load(ConfigSources {
            env: process_environment(),
            file,
            overrides,
        })
    }

    /// Reads the real environment and no file: for a process that has a home directory and no configuration in it.
    ///
    /// # Errors
    /// As [`Config::load`].
    pub fn without_file(overrides: Overrides) -> Result<Self, ConfigError> {
        let env = process_environment();
        Self::load(ConfigSources {
            // The file would be found by it.
            env: Arc::new(move |name| (name != "HOME").then(|| env(name)).flatten()),
            file: None,
            overrides,
        })
    }

    /// The same configuration with more variables, which change nothing of what was read. They come before those that it
    /// was read with.
    #[must_use]
    pub fn with_variables(self, more: BTreeMap<String, SecretString>) -> Self {
        let env = self.env;
        Self {
            env: Arc::new(move |name| match more.get(name) {
                Some(value) => Some(value.expose_secret().to_owned()),
                None => env(name),
            }),
            ..self
        }
    }

    /// Resolves defaults < file < environment < flags.
    ///
    /// # Errors
    /// [`ConfigError`] for the first key or value that is not right, or a file that cannot be read. Only the default
    /// file may be missing.
    pub fn load(sources: ConfigSources) -> Result<Self, ConfigError> {
        let ConfigSources {
            env,
            file,
            overrides,
        } = sources;
        let home = env("HOME")
            .filter(|home| !home.is_empty())
            .map(PathBuf::from);
        let (path, text) = read(file, home.as_deref())?;
        let resolved = Resolved::new(path, text.as_deref(), &*env, &overrides)?;
        let reader = Reader { resolved, home };
        Ok(Self {
            providers: reader.providers()?,
            gateway: reader.gateway()?,
            a2a: A2aConfig::read(
                &reader.resolved,
                reader.list("a2a.push_allow_private"),
                reader.list("a2a.remote_hosts"),
                reader.path("a2a.signing_key_file")?,
            )?,
            control_plane: ControlPlaneConfig {
                addr: reader.address("control_plane.addr")?,
            },
            storage: reader.storage()?,
            observability: reader.observability()?,
            runtime: reader.runtime()?,
            tools: reader.tools()?,
            kubernetes: KubernetesConfig::read(
                &reader.resolved,
                reader.path("kubernetes.kubeconfig")?,
                reader.base_url("kubernetes.daemon_url")?,
                reader.address("kubernetes.replica_addr")?,
            )?,
            packages: PackagesConfig {
                trusted_keys: reader.paths("packages.trusted_keys")?,
            },
            recovery: reader.recovery()?,
            budgets: reader.resolved.budgets(),
            entries: reader.resolved.entries(),
            set: reader.resolved.set(),
            env,
        })
    }

    /// Every key with its value (`***` for secrets) and where it comes from, for `rune config show`.
    pub fn redacted(&self) -> &[ConfigEntry] {
        &self.entries
    }

    /// What somebody has set of the keys that begin so, in clear: for the process of a replica,
    /// which has no configuration of its own. May hold secrets.
    pub fn settings(&self, prefixes: &[&str]) -> BTreeMap<String, String> {
        let handed = self.set.iter().filter(|(key, _)| {
            let mut prefixes = prefixes.iter();
            prefixes.any(|prefix| key.starts_with(prefix))
        });
        handed
            .map(|(key, value)| ((*key).to_owned(), value.clone()))
            .collect()
    }

    /// The environment variable of this name, for `${VAR}` in the files of agents. The key of the secrets and the token
    /// of gateways are none of their affair.
    pub fn variable(&self, name: &str) -> Option<String> {
        if matches!(name, "RUNE_SECRET_KEY" | "RUNE_INTERNAL_TOKEN") {
            return None;
        }
        (self.env)(name)
    }

    /// `RUNE_MCP_{SERVER}_URL`: where the MCP server of this name is. Letters count as upper case, everything that is
    /// neither letter nor digit as `_`.
    pub fn mcp_server_url(&self, server: &str) -> Option<String> {
        self.variable(&Self::mcp_server_variable(server))
            .filter(|url| !url.trim().is_empty())
    }

    /// The variable that says where the MCP server of this name is.
    pub fn mcp_server_variable(server: &str) -> String {
        let name: String = server
            .chars()
            .map(|c| {
                if c.is_ascii_alphanumeric() {
                    c.to_ascii_uppercase()
                } else {
                    '_'
                }
            })
            .collect();
        format!("RUNE_MCP_{name}_URL")
    }
}

impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut map = f.debug_map();
        for entry in &self.entries {
            map.entry(&entry.key, &entry.value.as_deref().unwrap_or_default());
        }
        map.finish()
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "the one place that reads the environment"
)]
fn process_environment() -> Environment {
    Arc::new(|name| {
        // A name with `=` or NUL cannot be set; asking for it would panic on some platforms.
        let askable = !name.is_empty() && !name.contains(['=', '\0']);
        askable.then(|| std::env::var(name).ok()).flatten()
    })
}

/// The file's path and text. Only the default file may be missing.
fn read(
    file: Option<PathBuf>,
    home: Option<&Path>,
) -> Result<(PathBuf, Option<String>), ConfigError> {
    let (path, named) = match (file, home) {
        (Some(path), _) => (path, true),
        (None, Some(home)) => (home.join(".rune/config.toml"), false),
        (None, None) => return Ok((PathBuf::new(), None)),
    };
    let text = std::fs::metadata(&path).and_then(|meta| {
        if !meta.is_file() || meta.len() > MAX_FILE_BYTES {
            let message = format!("not a regular file of at most {MAX_FILE_BYTES} bytes");
            return Err(std::io::Error::new(
                std::io::ErrorKind::InvalidInput,
                message,
            ));
        }
        std::fs::read_to_string(&path)
    });
    match text {
        Ok(text) => Ok((path, Some(text))),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound && !named => Ok((path, None)),
        Err(source) => Err(ConfigError::Read { path, source }),
    }
}

/// Reads typed values out of the resolved ones.
struct Reader {
    resolved: Resolved,
    home: Option<PathBuf>,
}

impl Reader {
    fn providers(&self) -> Result<ProvidersConfig, ConfigError> {
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

    fn gateway(&self) -> Result<GatewayConfig, ConfigError> {
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

    fn storage(&self) -> Result<StorageConfig, ConfigError> {
        let data_dir = self.data_dir()?;
        let database_url = self
            .resolved
            .text("storage.database_url")
            .unwrap_or_else(|| format!("sqlite:{}", data_dir.join("rune.db").display()));
        Ok(StorageConfig {
            data_dir,
            database_url,
            object_store_url: self.resolved.text("storage.object_store_url"),
            secret_key: self.secret("storage.secret_key"),
        })
    }

    fn observability(&self) -> Result<ObservabilityConfig, ConfigError> {
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

    fn runtime(&self) -> Result<RuntimeConfig, ConfigError> {
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
    fn list(&self, key: &'static str) -> Vec<String> {
        let text = self.resolved.text(key).unwrap_or_default();
        let parts = text.split(',').map(str::trim);
        parts
            .filter(|part| !part.is_empty())
            .map(str::to_owned)
            .collect()
    }

    fn tools(&self) -> Result<ToolsConfig, ConfigError> {
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

    fn recovery(&self) -> Result<RecoveryConfig, ConfigError> {
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
    fn base_url(&self, key: &'static str) -> Result<Option<String>, ConfigError> {
        let url = self.url(key)?;
        Ok(url.map(|url| url.trim_end_matches('/').to_owned()))
    }

    fn address(&self, key: &'static str) -> Result<SocketAddr, ConfigError> {
        let loopback = SocketAddr::from(([127, 0, 0, 1], 0));
        let parse = |text: &str| text.replacen("localhost:", "127.0.0.1:", 1).parse().ok();
        Ok(self.resolved.parse(key, parse)?.unwrap_or(loopback))
    }

    fn path(&self, key: &'static str) -> Result<Option<PathBuf>, ConfigError> {
        let text = self.resolved.text(key);
        text.map(|text| self.below_home(key, &text)).transpose()
    }

    fn paths(&self, key: &'static str) -> Result<Vec<PathBuf>, ConfigError> {
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
