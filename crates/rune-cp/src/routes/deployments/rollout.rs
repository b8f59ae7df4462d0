//! Rollouts of a deployment.

use std::sync::Arc;

use axum::extract::State;
use rune_http::{ApiError, Caller, ErrorBody, Json, Path, Query};
use rune_store_runtime::{
    DeploymentFilter, DeploymentId, DeploymentRow, PageRequest, PromoteRollout, RollBack,
    RolloutStrategy, StartRollout, VersionId, VersionRow,
};
use serde::Deserialize;
use utoipa::ToSchema;

use super::view::DeploymentView;
use super::{DEV, WaitQuery, check_immutable, check_label, find, newest_version, shown, write};
use crate::admission::Asked;
use crate::audit;
use crate::control_plane::Shared;

/// Percent of the new sessions that a canary gets where nobody says.
const DEFAULT_WEIGHT: u32 = 10;

/// What to roll out, `version` or `alias`, and how.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct RolloutRequest {
    /// A version of the agent: its id, its digest, or its semantic version; of several packages with that the one
    /// published last.
    version: Option<String>,
    /// The version that the agent runs in the same namespace under this alias.
    alias: Option<String>,
    /// Percent of the new sessions that a canary gets, 0 to 100, 10 by default.
    #[schema(minimum = 0, maximum = 100)]
    weight: Option<u32>,
    /// `canary` where a weight is given, `rolling` where none is.
    strategy: Option<StrategyBody>,
}

/// How a version replaces another one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum StrategyBody {
    /// Replica by replica, to the end.
    Rolling,
    /// Beside the other one, with a share of the new sessions, until it is promoted.
    Canary,
}

impl RolloutRequest {
    fn strategy(&self) -> Result<(RolloutStrategy, u32), ApiError> {
        let weight = self.weight.unwrap_or(DEFAULT_WEIGHT);
        match (self.strategy, self.weight) {
            (Some(StrategyBody::Rolling), Some(_)) => Err(ApiError::invalid(
                "`weight` is that of a canary: leave it out, or use the strategy `canary`",
            )),
            (Some(StrategyBody::Rolling), None) | (None, None) => {
                Ok((RolloutStrategy::Rolling, 100))
            }
            (Some(StrategyBody::Canary), _) | (None, Some(_)) => {
                Ok((RolloutStrategy::Canary, weight))
            }
        }
    }
}

/// Rolls out another version; for the one that is rolled out already, changes how.
///
/// Where the replicas of the new version do not start or end again and again, or many more of its requests fail than of
/// the version before, the deployment goes back by itself and says why.
#[utoipa::path(
    post, path = "/v1/deployments/{id}/rollout", tag = "deployments",
    params(("id" = String, Path, description = "The deployment", pattern = "^dep_[0-9a-f]{32}$"), WaitQuery),
    request_body(content = RolloutRequest, example = json!({"version": "0.2.0", "strategy": "canary", "weight": 10})),
    responses(
        (status = 200, body = DeploymentView, description = "The deployment as it is now"),
        (status = 403, body = ErrorBody, description = "No trusted key has signed the version, or a policy of the operator forbids it"),
        (status = 404, body = ErrorBody, description = "The deployment or the version does not exist"),
        (status = 409, body = ErrorBody, description = "The deployment is stopped, runs the version already or rolls out another one"),
        (status = 429, body = ErrorBody, description = "With the fewest replicas of the version the namespace would have more than its quota"),
    )
)]
pub(crate) async fn start(
    State(shared): State<Arc<Shared>>,
    Path(id): Path<DeploymentId>,
    Query(wait): Query<WaitQuery>,
    caller: Caller,
    Json(body): Json<RolloutRequest>,
) -> Result<Json<DeploymentView>, ApiError> {
    let wait = wait.duration()?;
    let row = find(&shared, id).await?;
    let asked = Asked {
        shared: &shared,
        caller: &caller,
        kind: "deployment.rollout",
    };
    let resource = audit::resource_of(&row);
    let started = started(&asked, &row, &body);
    let row = asked.audited(resource, started).await?;
    Ok(Json(shown(&shared, row, wait).await?))
}

/// Admits and writes a rollout.
async fn started(
    asked: &Asked<'_>,
    row: &DeploymentRow,
    body: &RolloutRequest,
) -> Result<DeploymentRow, ApiError> {
    let shared = asked.shared;
    let (strategy, weight) = body.strategy()?;
    let version = wanted(shared, row, body).await?;
    let replicas = row.wanted();
    asked.redeploy(row, &version, replicas).await?;
    if row.namespace != DEV {
        check_immutable(shared, &row.namespace, &version).await?;
    }
    let start = StartRollout {
        deployment_id: row.id,
        version_id: version.id,
        strategy,
        weight,
    };
    let how = match strategy {
        RolloutStrategy::Rolling => "rolling".to_owned(),
        RolloutStrategy::Canary => format!("canary, {weight} %"),
    };
    let reason = format!("version {} ({}), {how}", version.version, version.id);
    let resource = audit::resource_of(row);
    let audit = audit::row(asked.caller, asked.kind, resource, reason);
    write(shared, start, audit).await
}

/// Has a canary replace what the deployment runs, replica by replica.
#[utoipa::path(
    post, path = "/v1/deployments/{id}/promote", tag = "deployments",
    params(("id" = String, Path, description = "The deployment", pattern = "^dep_[0-9a-f]{32}$"), WaitQuery),
    responses(
        (status = 200, body = DeploymentView, description = "The deployment as it is now"),
        (status = 404, body = ErrorBody, description = "The deployment does not exist"),
        (status = 409, body = ErrorBody, description = "No rollout is under way, or the deployment has changed meanwhile"),
    )
)]
pub(crate) async fn promote(
    State(shared): State<Arc<Shared>>,
    Path(id): Path<DeploymentId>,
    Query(wait): Query<WaitQuery>,
    caller: Caller,
) -> Result<Json<DeploymentView>, ApiError> {
    let wait = wait.duration()?;
    let row = find(&shared, id).await?;
    let version = row.candidate().map(|it| it.version_id.to_string());
    let reason = format!("version {}", version.unwrap_or_default());
    let resource = audit::resource_of(&row);
    let asked = Asked {
        shared: &shared,
        caller: &caller,
        kind: "deployment.promote",
    };
    let audit = audit::row(&caller, asked.kind, resource.clone(), reason);
    let promote = PromoteRollout {
        deployment_id: id,
        generation: row.generation,
    };
    let promoted = async {
        let written = shared.store.write_audited(promote, audit).await;
        written.map_err(ApiError::from)
    };
    let row = asked.audited(resource, promoted).await?;
    Ok(Json(shown(&shared, row, wait).await?))
}

/// Ends a rollout that is under way without its version; where none is, goes back to the release before.
#[utoipa::path(
    post, path = "/v1/deployments/{id}/rollback", tag = "deployments",
    params(("id" = String, Path, description = "The deployment", pattern = "^dep_[0-9a-f]{32}$"), WaitQuery),
    responses(
        (status = 200, body = DeploymentView, description = "The deployment as it is now"),
        (status = 403, body = ErrorBody, description = "No trusted key has signed the release before, or a policy of the operator forbids it"),
        (status = 404, body = ErrorBody, description = "The deployment does not exist"),
        (status = 409, body = ErrorBody, description = "There is no earlier release, or the deployment has changed meanwhile"),
    )
)]
pub(crate) async fn rollback(
    State(shared): State<Arc<Shared>>,
    Path(id): Path<DeploymentId>,
    Query(wait): Query<WaitQuery>,
    caller: Caller,
) -> Result<Json<DeploymentView>, ApiError> {
    let wait = wait.duration()?;
    let row = find(&shared, id).await?;
    let asked = Asked {
        shared: &shared,
        caller: &caller,
        kind: "deployment.rollback",
    };
    let resource = audit::resource_of(&row);
    let went_back = went_back(&asked, &row);
    let row = asked.audited(resource, went_back).await?;
    Ok(Json(shown(&shared, row, wait).await?))
}

/// Admits and writes that a deployment goes back. No quota is in the way of that.
async fn went_back(asked: &Asked<'_>, row: &DeploymentRow) -> Result<DeploymentRow, ApiError> {
    let shared = asked.shared;
    let is_under_way = row.candidate().is_some();
    if let Some(release) = row.releases.first().filter(|_| !is_under_way)
        && let Some(version) = shared.store.version(release.version_id).await?
    {
        asked.redeploy(row, &version, row.wanted()).await?;
    }
    let back = RollBack {
        deployment_id: row.id,
        generation: row.generation,
        reason: format!("by {}", asked.caller.id),
    };
    let from = row.candidate().map_or(row.version_id, |it| it.version_id);
    let reason = format!("version {from}");
    let resource = audit::resource_of(row);
    let audit = audit::row(asked.caller, asked.kind, resource, reason);
    Ok(shared.store.write_audited(back, audit).await?)
}

/// The version that is to be rolled out.
async fn wanted(
    shared: &Shared,
    row: &DeploymentRow,
    body: &RolloutRequest,
) -> Result<VersionRow, ApiError> {
    let agent = &row.agent;
    let (found, name) = match (&body.version, &body.alias) {
        (Some(name), None) => {
            let found = match name.parse::<VersionId>() {
                Ok(id) => shared.store.version(id).await?,
                Err(_) if name.starts_with("sha256:") => {
                    newest_version(shared, agent, None, Some(name.clone())).await?
                }
                Err(_) => newest_version(shared, agent, Some(name), None).await?,
            };
            (found, format!("{agent} {name}"))
        }
        (None, Some(alias)) => {
            check_label("alias", alias)?;
            let filter = DeploymentFilter {
                namespace: Some(row.namespace.clone()),
                agent: Some(agent.clone()),
                alias: Some(alias.clone()),
                project: None,
            };
            let page = PageRequest::first(1);
            let found = shared.store.deployments(&filter, &page).await?;
            let name = audit::resource(&row.namespace, agent, alias);
            let other = found.items.into_iter().next();
            let other = other.ok_or_else(|| ApiError::not_found("deployment", &name))?;
            (shared.store.version(other.version_id).await?, name)
        }
        _ => {
            return Err(ApiError::invalid(
                "name what to roll out: either `version` or `alias`",
            ));
        }
    };
    found.ok_or_else(|| ApiError::not_found("version", &name))
}
