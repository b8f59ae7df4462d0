//! The typed configuration.

mod reader;
mod sections;

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use secrecy::{ExposeSecret as _, SecretString};

use crate::a2a::A2aConfig;
use crate::admission::AdmissionConfig;
use crate::budgets::BudgetsConfig;
use crate::error::ConfigError;
use crate::keys::is_own_secret;
use crate::kubernetes::KubernetesConfig;
use crate::resolve::{ConfigEntry, Overrides, Resolved};
use crate::scaling::ScalingConfig;

use reader::Reader;
pub use sections::{
    ControlPlaneConfig, GatewayConfig, LogFormat, ObservabilityConfig, PackagesConfig,
    ProvidersConfig, RateLimit, RecoveryConfig, RuntimeConfig, SandboxMode, StorageConfig,
    ToolsConfig, WebSearch,
};

/// Largest configuration file, in bytes.
const MAX_FILE_BYTES: u64 = 1024 * 1024;

/// How environment variables are looked up.
pub type Environment = Arc<dyn Fn(&str) -> Option<String> + Send + Sync>;

/// What says who asks for objects in a bucket, and where that is: of S3, of Google Cloud Storage, of Azure.
const OBJECT_STORE_VARIABLES: &[&str] = &[
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "AWS_REGION",
    "AWS_DEFAULT_REGION",
    "AWS_ENDPOINT_URL",
    "AWS_ENDPOINT_URL_S3",
    "AWS_ENDPOINT_URL_STS",
    "AWS_VIRTUAL_HOSTED_STYLE_REQUEST",
    "AWS_SERVER_SIDE_ENCRYPTION",
    "AWS_SSE_KMS_KEY_ID",
    "AWS_ROLE_ARN",
    "AWS_ROLE_SESSION_NAME",
    "AWS_WEB_IDENTITY_TOKEN_FILE",
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI",
    "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE",
    "GOOGLE_APPLICATION_CREDENTIALS",
    "GOOGLE_SERVICE_ACCOUNT",
    "GOOGLE_SERVICE_ACCOUNT_KEY",
    "AZURE_STORAGE_ACCOUNT_NAME",
    "AZURE_STORAGE_ACCOUNT_KEY",
    "AZURE_STORAGE_SAS_TOKEN",
    "AZURE_STORAGE_ENDPOINT",
    "AZURE_CLIENT_ID",
    "AZURE_CLIENT_SECRET",
    "AZURE_TENANT_ID",
    "AZURE_AUTHORITY_HOST",
    "AZURE_FEDERATED_TOKEN_FILE",
];

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
    /// What may be published and deployed.
    pub admission: AdmissionConfig,
    /// Packages of agents.
    pub packages: PackagesConfig,
    /// Requests that a crash or a restart interrupted.
    pub recovery: RecoveryConfig,
    /// How many replicas run.
    pub scaling: ScalingConfig,
    /// What callers may spend.
    pub budgets: BudgetsConfig,
    entries: Vec<ConfigEntry>,
    /// What somebody has set, in clear.
    set: BTreeMap<&'static str, String>,
    env: Environment,
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
            admission: AdmissionConfig::read(
                &reader.resolved,
                reader.paths("admission.policies")?,
            )?,
            packages: PackagesConfig {
                trusted_keys: reader.paths("packages.trusted_keys")?,
            },
            recovery: reader.recovery()?,
            scaling: ScalingConfig::read(&reader.resolved)?,
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

    /// The environment variable of this name, for `${VAR}` in the files of agents. Rune's own secrets (keys, what signs tokens,
    /// what it shows to others) are none of their affair: whoever wrote a package could have them sent anywhere.
    pub fn variable(&self, name: &str) -> Option<String> {
        match is_own_secret(name) {
            true => None,
            false => (self.env)(name),
        }
    }

    /// The variables that say who asks for objects in a bucket, and where that is, under the names that their vendors gave
    /// them.
    pub fn object_store_variables(&self) -> BTreeMap<&'static str, String> {
        let set =
            |name: &&'static str| Some((*name, (self.env)(name).filter(|it| !it.is_empty())?));
        OBJECT_STORE_VARIABLES.iter().filter_map(set).collect()
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
