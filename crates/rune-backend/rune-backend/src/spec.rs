//! What a backend is told to run.

use std::collections::BTreeMap;

use rune_store_runtime::{DeploymentId, DeploymentRow, ReplicaId, VersionId, VersionRow};

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
