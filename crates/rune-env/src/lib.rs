//! Platform configuration: defaults, file, environment and flags, read once into typed structs.
//!
//! This is the only crate that reads the environment. Precedence: defaults < `~/.rune/config.toml` < environment <
//! flags. An unknown key, an unreadable file or a value of the wrong shape is fatal and says where it stands. A
//! variable that is set but empty counts as not set.
//!
//! What this crate is not: it opens nothing, connects to nothing, and does not know the files of agents. `${VAR}` in
//! those is resolved with [`Config::variable`].
//!
//! Entry points: [`Config::from_process`] (the real environment), [`Config::load`] (any environment; tests),
//! [`Config::redacted`] (`rune config show`), [`schema`].
//!
//! Invariants:
//! * Every key exists exactly once, in the key table; file, environment, flags, schema and `config show` are views of it.
//!   Only the limits of a provider, `[providers.NAME]`, and the budgets of callers, `[budgets]`, are keyed by a name that
//!   the user chooses; they are file only.
//! * A secret never appears in `Debug`, `Display` or [`Config::redacted`].

mod a2a;
mod admission;
mod budgets;
mod config;
mod error;
mod file;
mod keys;
mod kubernetes;
mod limits;
mod provider;
mod replica;
mod resolve;
mod scaling;
mod schema;

pub use a2a::{A2aConfig, RemoteCredentialConfig};
pub use admission::AdmissionConfig;
pub use budgets::{BudgetsConfig, CallerBudget};
pub use config::{
    Config, ConfigSources, ControlPlaneConfig, Environment, GatewayConfig, LogFormat,
    ObservabilityConfig, PackagesConfig, ProvidersConfig, RateLimit, RecoveryConfig, RuntimeConfig,
    SandboxMode, StorageConfig, ToolsConfig, WebSearch,
};
pub use error::ConfigError;
pub use kubernetes::{KubernetesConfig, NetworkPeer, Toleration};
pub use limits::ProviderLimits;
pub use provider::Provider;
pub use replica::{
    MACHINE_VARIABLES, REPLICA_ADDR, REPLICA_CONTROL_PLANE, REPLICA_DATA_DIR, REPLICA_DEPLOYMENT,
    REPLICA_FINGERPRINT, REPLICA_HIDDEN, REPLICA_ID, REPLICA_KEY, REPLICA_LOG, REPLICA_ORPHAN_SECS,
    REPLICA_PACKAGE_DIR, REPLICA_TOKEN, REPLICA_WORKSPACE_DIR, ReplicaAddr, ReplicaConfig,
};
pub use resolve::{ConfigEntry, Origin, Overrides};
pub use scaling::ScalingConfig;
pub use schema::schema;
