//! What applying a deployment would change.

use std::sync::Arc;

use axum::extract::State;
use rune_http::{ApiError, ErrorBody, Json};
use rune_store_runtime::{
    DeploymentFilter, DeploymentRow, ErrorCode, PageRequest, ProjectRef, VersionRow,
};
use serde::Serialize;
use utoipa::ToSchema;

use super::view::DeploymentView;
use super::{ApplyRequest, search_version};
use crate::control_plane::Shared;

/// What applying a deployment would change.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct PlanView {
    action: Action,
    /// Which parts differ, where a deployment is there.
    changes: Vec<Change>,
    /// The deployment as it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    deployment: Option<DeploymentView>,
}

/// What would happen.
#[derive(Debug, Clone, Copy, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Action {
    /// There is no such deployment yet.
    Create,
    /// The deployment would be another.
    Change,
    /// Nothing.
    Unchanged,
}

/// A part of a deployment.
#[derive(Debug, Clone, Copy, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Change {
    /// The package.
    Version,
    /// How many replicas are wanted.
    Replicas,
    /// The variables; a value that differs counts.
    Env,
    /// The project it belongs to.
    Project,
}

/// Says what `POST /v1/deployments` with this body would change, and changes nothing. A package that is named by its
/// digest need not be published yet.
#[utoipa::path(
    post, path = "/v1/deployments/plan", tag = "deployments",
    request_body(content = ApplyRequest, example = json!({"agent": "hello", "version": "0.1.0", "replicas": 3})),
    responses(
        (status = 200, body = PlanView, description = "What would change"),
        (status = 404, body = ErrorBody, description = "The version does not exist"),
        (status = 409, body = ErrorBody, description = "Another project has the deployment"),
    )
)]
pub(crate) async fn plan(
    State(shared): State<Arc<Shared>>,
    Json(body): Json<ApplyRequest>,
) -> Result<Json<PlanView>, ApiError> {
    body.check()?;
    let version = search_version(&shared, &body).await?;
    let agent = version.as_ref().map(|version| version.agent.clone());
    let filter = DeploymentFilter {
        namespace: Some(body.namespace.clone()),
        agent: agent.or_else(|| body.agent.clone()),
        alias: Some(body.alias.clone()),
        project: None,
    };
    let page = PageRequest::first(1);
    let found = shared.store.deployments(&filter, &page).await?;
    let Some(row) = found.items.into_iter().next() else {
        return Ok(Json(PlanView {
            action: Action::Create,
            changes: Vec::new(),
            deployment: None,
        }));
    };
    let changes = differences(&row, version.as_ref(), body)?;
    let action = if changes.is_empty() {
        Action::Unchanged
    } else {
        Action::Change
    };
    Ok(Json(PlanView {
        action,
        changes,
        deployment: Some(DeploymentView::new(row, &shared.router)),
    }))
}

fn differences(
    row: &DeploymentRow,
    version: Option<&VersionRow>,
    mut body: ApplyRequest,
) -> Result<Vec<Change>, ApiError> {
    let project = body.project.take().map(ProjectRef::from);
    if let Some(reason) = project.as_ref().and_then(|project| row.refuses(project)) {
        return Err(ApiError::new(ErrorCode::Conflict, reason));
    }
    body.check_replicas(version)?;
    // One that is not published yet is taken to allow what the one before does.
    let before = row.scaling.as_ref().map(|scaling| scaling.bounds);
    let bounds = version.map(|version| version.scaling).or(before);
    let replicas = row.differs(body.replicas, bounds.unwrap_or_default());
    let (target, env) = row.target();
    let parts = [
        (
            Change::Version,
            version.is_none_or(|version| version.id != target),
        ),
        (Change::Replicas, replicas.is_some()),
        (Change::Env, body.env != *env),
        (Change::Project, project.is_some() && project != row.project),
    ];
    let differing = parts.into_iter().filter(|(_, differs)| *differs);
    Ok(differing.map(|(change, _)| change).collect())
}
