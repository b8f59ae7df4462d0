//! Replicas: running copies of a deployment.

use serde::{Deserialize, Serialize};

use crate::{DeploymentId, ReplicaId, Timestamp, VersionId};

/// Writes a replica's row: creates it or moves it to another state. Reply: unit.
/// Rejected with `not_found` where the deployment does not exist.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PutReplica {
    /// The replica.
    pub replica_id: ReplicaId,
    /// Its deployment.
    pub deployment_id: DeploymentId,
    /// The version it runs.
    pub version_id: VersionId,
    /// Where it is in its life.
    pub state: ReplicaState,
    /// Why, for a person.
    pub reason: String,
    /// Name of the backend, such as `wasm`.
    pub backend: String,
    /// Base URL, where it is reached over HTTP.
    pub endpoint: Option<String>,
}

/// Removes a replica's row. Reply: unit. Removing one that is gone is no error.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RemoveReplica {
    /// The replica.
    pub replica_id: ReplicaId,
}

/// Where a replica is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ReplicaState {
    /// Being started.
    Starting,
    /// Takes requests.
    Ready,
    /// Finishes what it has and takes nothing new.
    Draining,
    /// Does not answer its probe, or could not be started.
    Unhealthy,
}

impl ReplicaState {
    /// All states.
    pub const ALL: [Self; 4] = [Self::Starting, Self::Ready, Self::Draining, Self::Unhealthy];

    /// The stored word.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Ready => "ready",
            Self::Draining => "draining",
            Self::Unhealthy => "unhealthy",
        }
    }

    /// The state with this stored word.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.as_str() == text)
    }
}

/// A replica as stored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReplicaRow {
    /// The replica.
    pub id: ReplicaId,
    /// Its deployment.
    pub deployment_id: DeploymentId,
    /// The version it runs.
    pub version_id: VersionId,
    /// Where it is in its life.
    pub state: ReplicaState,
    /// Why, for a person.
    pub reason: String,
    /// Name of the backend.
    pub backend: String,
    /// Base URL, where it is reached over HTTP.
    pub endpoint: Option<String>,
    /// When it was created.
    pub created_at: Timestamp,
    /// When the row last changed.
    pub updated_at: Timestamp,
}

/// Which replicas to list, oldest first. Empty fields match everything.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ReplicaFilter {
    /// Only of this deployment.
    pub deployment_id: Option<DeploymentId>,
}
