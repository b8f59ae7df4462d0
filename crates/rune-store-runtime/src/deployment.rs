//! Deployments: the desired replicas of an agent version.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{DeploymentId, Release, Rollout, Scaling, Timestamp, VersionId};

/// Creates the deployment of (namespace, agent, alias), or moves the one that is
/// there to this version, replica count and environment: by a rollout where it serves requests
/// ([`DeploymentRow::deploy`]). Reply: the row.
/// Rejected with `not_found` where the version does not exist, and with `conflict` where the
/// deployment belongs to another project.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApplyDeployment {
    /// Id of the deployment where it is new; an existing one keeps its own.
    pub deployment_id: DeploymentId,
    /// Namespace, such as `dev`.
    pub namespace: String,
    /// Name of the agent.
    pub agent: String,
    /// Alias, such as `stable`.
    pub alias: String,
    /// The version to run.
    pub version_id: VersionId,
    /// Replicas wanted; 0 stops it. Where nobody says, one that runs keeps what it has, within the bounds of the version, and
    /// another one begins with [`ScaleBounds::first`](crate::ScaleBounds::first).
    #[serde(default)]
    pub replicas: Option<u32>,
    /// Variables for the agent, over the daemon's own.
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    /// The project that takes the deployment; without one it stays where it belongs.
    #[serde(default)]
    pub project: Option<ProjectRef>,
}

/// The project that made a deployment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProjectRef {
    /// Name of the project.
    pub name: String,
    /// What the project calls the agent.
    pub agent: String,
}

/// Changes how many replicas are wanted; where the daemon scales the deployment, it goes on from there. Reply: the row.
/// Rejected with `not_found`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScaleDeployment {
    /// The deployment.
    pub deployment_id: DeploymentId,
    /// Replicas wanted; 0 stops it.
    pub replicas: u32,
}

/// Records what the reconcile loop observed. Reply: unit. Rejected with `not_found`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SetDeploymentState {
    /// The deployment.
    pub deployment_id: DeploymentId,
    /// The spec generation the observation belongs to; an older one is ignored.
    pub generation: u64,
    /// What was observed.
    pub state: DeploymentState,
    /// Why, for a person.
    pub reason: String,
}

/// Deletes a deployment. Reply: unit. Rejected with `not_found`.
/// The rows of its replicas are to drain from then on, and stay until each is removed. Requests and sessions stay.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeleteDeployment {
    /// The deployment.
    pub deployment_id: DeploymentId,
}

/// What the reconcile loop observed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DeploymentState {
    /// Nothing was observed yet, or replicas are on their way.
    Pending,
    /// Every wanted replica is ready.
    Ready,
    /// Some replicas are ready, or an older version serves.
    Degraded,
    /// No replica can be started; the reason says why.
    Failed,
    /// None is wanted and none runs.
    Stopped,
}

impl DeploymentState {
    /// All states.
    pub const ALL: [Self; 5] = [
        Self::Pending,
        Self::Ready,
        Self::Degraded,
        Self::Failed,
        Self::Stopped,
    ];

    /// The stored word.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Ready => "ready",
            Self::Degraded => "degraded",
            Self::Failed => "failed",
            Self::Stopped => "stopped",
        }
    }

    /// The state with this stored word.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.as_str() == text)
    }
}

/// A deployment as stored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeploymentRow {
    /// The deployment.
    pub id: DeploymentId,
    /// Namespace.
    pub namespace: String,
    /// Name of the agent.
    pub agent: String,
    /// Alias.
    pub alias: String,
    /// The version to run; another one beside it while that is rolled out.
    pub version_id: VersionId,
    /// Replicas that were asked for; 0 stops it. How many are to run is [`DeploymentRow::wanted`].
    pub replicas: u32,
    /// What the daemon has decided, where the version that it comes to has a range of replicas.
    pub scaling: Option<Scaling>,
    /// Variables for the agent. May hold secrets: never listed, never logged.
    pub env: BTreeMap<String, String>,
    /// The rollout that began last, where nothing was deployed in another way since.
    pub rollout: Option<Rollout>,
    /// What it ran before, the last first.
    pub releases: Vec<Release>,
    /// The project it belongs to.
    pub project: Option<ProjectRef>,
    /// 1 at first, one more with every decision about version, replicas, environment or rollout.
    pub generation: u64,
    /// What was last observed.
    pub state: DeploymentState,
    /// Why, for a person.
    pub reason: String,
    /// When it was created.
    pub created_at: Timestamp,
    /// When spec or status last changed.
    pub updated_at: Timestamp,
}

impl DeploymentRow {
    /// Why a project may not take the deployment: another one has it.
    #[must_use]
    pub fn refuses(&self, project: &ProjectRef) -> Option<String> {
        let owner = self
            .project
            .as_ref()
            .filter(|own| own.name != project.name)?;
        Some(format!(
            "`{}/{}:{}` belongs to the project `{}`: remove it there, or take another alias or namespace",
            self.namespace, self.agent, self.alias, owner.name
        ))
    }
}

/// Which deployments to list, by namespace, agent, alias. Empty fields match everything.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DeploymentFilter {
    /// Only in this namespace.
    pub namespace: Option<String>,
    /// Only of this agent.
    pub agent: Option<String>,
    /// Only with this alias.
    pub alias: Option<String>,
    /// Only of this project.
    pub project: Option<String>,
}
