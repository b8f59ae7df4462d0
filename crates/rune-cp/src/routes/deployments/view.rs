//! A deployment as it is answered.

use rune_http::ScalingView;
use rune_runtime::{ReplicaRouter, Tally};
use rune_store_runtime::{DeploymentId, DeploymentRow, Release, Rollout, Timestamp, VersionId};
use serde::Serialize;
use utoipa::ToSchema;

use super::ProjectBody;

/// The desired replicas of an agent version, and what was observed.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct DeploymentView {
    #[schema(value_type = String)]
    pub(super) id: DeploymentId,
    namespace: String,
    agent: String,
    alias: String,
    #[schema(value_type = String)]
    version_id: VersionId,
    /// Replicas that are to run now.
    replicas: u32,
    /// Replicas that take requests.
    ready_replicas: usize,
    /// What the daemon has decided last, where the version has a range of replicas.
    #[serde(skip_serializing_if = "Option::is_none")]
    scaling: Option<ScalingView>,
    /// Names of the variables; values are never shown.
    env: Vec<String>,
    /// The project it belongs to.
    #[serde(skip_serializing_if = "Option::is_none")]
    project: Option<ProjectBody>,
    /// The rollout that began last.
    #[serde(skip_serializing_if = "Option::is_none")]
    rollout: Option<RolloutView>,
    /// What it ran before, the last first: what `rollback` goes back to.
    releases: Vec<ReleaseView>,
    /// One more with every change.
    generation: u64,
    /// `pending`, `ready`, `degraded`, `failed` or `stopped`.
    state: &'static str,
    /// Why, for a person.
    reason: String,
    #[schema(value_type = String, format = DateTime)]
    created_at: Timestamp,
    #[schema(value_type = String, format = DateTime)]
    updated_at: Timestamp,
}

/// How a version replaces another one.
#[derive(Debug, Serialize, ToSchema)]
struct RolloutView {
    /// What is rolled out.
    #[schema(value_type = String)]
    version_id: VersionId,
    /// What the deployment ran when it began.
    #[schema(value_type = String)]
    from_version_id: VersionId,
    /// `rolling` or `canary`.
    strategy: &'static str,
    /// Percent of the new sessions that a canary gets; 100 where it replaces what is there.
    weight: u32,
    /// `progressing`, `completed` or `rolled_back`.
    state: &'static str,
    /// Why it ended so, for a person.
    reason: String,
    /// Replicas of the version that is rolled out that are there.
    ready_replicas: usize,
    /// How the last requests of the version that is rolled out ended.
    requests: TallyView,
    /// How those of the version before did.
    from_requests: TallyView,
    #[schema(value_type = String, format = DateTime)]
    started_at: Timestamp,
    #[schema(value_type = Option<String>, format = DateTime)]
    ended_at: Option<Timestamp>,
}

/// How the last 100 requests of a version ended, as far as the daemon knows since it was started.
#[derive(Debug, Serialize, ToSchema)]
struct TallyView {
    /// Requests that ended.
    ended: u32,
    /// Those that failed, and not by their caller.
    failed: u32,
}

/// What a deployment ran before.
#[derive(Debug, Serialize, ToSchema)]
struct ReleaseView {
    #[schema(value_type = String)]
    version_id: VersionId,
    /// When something else took its place.
    #[schema(value_type = String, format = DateTime)]
    replaced_at: Timestamp,
}

impl DeploymentView {
    /// A deployment as stored, with what the router knows of its requests.
    pub(super) fn new(row: DeploymentRow, router: &ReplicaRouter) -> Self {
        let replicas = router.replicas(row.id);
        let ready_replicas = replicas.iter().filter(|it| !it.is_draining()).count();
        let wanted = row.wanted();
        let rollout = row.rollout.map(|it| RolloutView::new(row.id, it, router));
        Self {
            id: row.id,
            namespace: row.namespace,
            agent: row.agent,
            alias: row.alias,
            version_id: row.version_id,
            replicas: wanted,
            ready_replicas,
            scaling: row.scaling.map(ScalingView::from),
            env: row.env.into_keys().collect(),
            project: row.project.map(|project| ProjectBody {
                name: project.name,
                agent: project.agent,
            }),
            rollout,
            releases: row.releases.into_iter().map(ReleaseView::from).collect(),
            generation: row.generation,
            state: row.state.as_str(),
            reason: row.reason,
            created_at: row.created_at,
            updated_at: row.updated_at,
        }
    }
}

impl RolloutView {
    fn new(id: DeploymentId, rollout: Rollout, router: &ReplicaRouter) -> Self {
        let replicas = router.replicas(id).into_iter();
        let own = replicas.filter(|replica| replica.version_id() == rollout.version_id);
        Self {
            ready_replicas: own.count(),
            version_id: rollout.version_id,
            from_version_id: rollout.from,
            strategy: rollout.strategy.as_str(),
            weight: rollout.weight,
            state: rollout.state.as_str(),
            reason: rollout.reason,
            requests: router.tally(id, rollout.version_id).into(),
            from_requests: router.tally(id, rollout.from).into(),
            started_at: rollout.started_at,
            ended_at: rollout.ended_at,
        }
    }
}

impl From<Tally> for TallyView {
    fn from(tally: Tally) -> Self {
        Self {
            ended: tally.requests,
            failed: tally.failures,
        }
    }
}

impl From<Release> for ReleaseView {
    fn from(release: Release) -> Self {
        Self {
            version_id: release.version_id,
            replaced_at: release.replaced_at,
        }
    }
}
