//! What a replica starts from.

use std::collections::{BTreeMap, BTreeSet};

use async_trait::async_trait;
use rune_env::ProviderLimits;
use rune_store_runtime::{DeploymentRow, VersionRow};
use serde::{Deserialize, Serialize};

/// What a replica starts from, as its daemon tells it. Holds secrets: variables of the deployment
/// and keys of model providers.
#[derive(Clone, Serialize, Deserialize)]
pub struct ReplicaBoot {
    /// Its deployment.
    pub deployment: DeploymentRow,
    /// The version it runs.
    pub version: VersionRow,
    /// The daemon's settings, as far as the agent needs them.
    pub settings: ReplicaSettings,
}

/// Settings of a daemon that its replicas share.
#[derive(Clone, Default, Serialize, Deserialize)]
pub struct ReplicaSettings {
    /// By key, as in `config.toml`.
    pub keys: BTreeMap<String, String>,
    /// Variables that the agent's files refer to.
    pub variables: BTreeMap<String, String>,
    /// How fast providers may be called, by name.
    pub limits: BTreeMap<String, ProviderLimits>,
    /// Prices of models that add to the built-in ones, as TOML.
    pub prices: Option<String>,
}

/// Says what a replica of a deployment needs.
#[async_trait]
pub trait BootSource: Send + Sync {
    /// The settings for a version of a deployment.
    ///
    /// # Errors
    /// What is in the way, for the log.
    async fn settings(
        &self,
        deployment: &DeploymentRow,
        version: &VersionRow,
    ) -> Result<ReplicaSettings, String>;

    /// The names of the secrets that an agent of this version is granted.
    ///
    /// # Errors
    /// What is in the way, for the log.
    async fn granted(&self, version: &VersionRow) -> Result<BTreeSet<String>, String>;
}
