//! What a backend is told to run.

use std::collections::BTreeMap;
use std::time::Duration;

use rune_store_runtime::{DeploymentId, DeploymentRow, ReplicaId, VersionId, VersionRow};

/// How long a replica may take to start where its agent does not say.
const STARTUP: Duration = Duration::from_secs(10);

/// One replica as it should be.
#[derive(Clone, PartialEq, Eq)]
pub struct ReplicaSpec {
    /// The replica.
    pub replica_id: ReplicaId,
    /// Its deployment.
    pub deployment_id: DeploymentId,
    /// The version it runs.
    pub version_id: VersionId,
    /// Namespace of the agent.
    pub namespace: String,
    /// Name of the agent.
    pub agent: String,
    /// Digest of the package in the blob store.
    pub digest: String,
    /// OCI reference of the image, for backends that run one.
    pub image: Option<String>,
    /// The deployment's variables. May hold secrets.
    pub env: BTreeMap<String, String>,
    /// Names of the networks that the agent is in.
    pub networks: Vec<String>,
    /// Whether its agent has a use for a network: what it asks of the daemon is not counted.
    pub reaches_out: bool,
    /// What the replica may use, where its platform limits that.
    pub resources: Resources,
    /// How long it may take to take requests once its process runs: what it loads and connects to is counted, what its
    /// platform does before is not.
    pub startup: Duration,
    /// What a replica outside the daemon's process has in its environment, beside what its
    /// platform adds: how it finds the daemon, and proves which one it is. Holds a secret.
    pub launch: BTreeMap<String, String>,
}

/// What a replica may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Resources {
    /// Whole processors.
    pub cpus: u32,
    /// Memory in MiB.
    pub memory_mib: u32,
}

impl Default for Resources {
    /// One processor and 512 MiB.
    fn default() -> Self {
        Self {
            cpus: 1,
            memory_mib: 512,
        }
    }
}

impl ReplicaSpec {
    /// A replica of a deployment at a version.
    #[must_use]
    pub fn new(replica_id: ReplicaId, deployment: &DeploymentRow, version: &VersionRow) -> Self {
        Self {
            replica_id,
            deployment_id: deployment.id,
            version_id: version.id,
            namespace: deployment.namespace.clone(),
            agent: deployment.agent.clone(),
            digest: version.digest.clone(),
            image: version.image.clone(),
            env: deployment.env.clone(),
            networks: Vec::new(),
            reaches_out: true,
            resources: Resources::default(),
            startup: STARTUP,
            launch: BTreeMap::new(),
        }
    }
}

impl std::fmt::Debug for ReplicaSpec {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ReplicaSpec")
            .field("replica_id", &self.replica_id)
            .field("deployment_id", &self.deployment_id)
            .field("version_id", &self.version_id)
            .field("agent", &self.agent)
            .finish_non_exhaustive()
    }
}
