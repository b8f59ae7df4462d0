//! Deployments.

pub(crate) mod plan;
pub(crate) mod rollout;
mod view;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use http::StatusCode;
use rune_http::{ApiError, Caller, ErrorBody, Json, List, ListPage, PageQuery, Path, Query};
use rune_runtime::AdmittedDeployment;
use rune_spec::AgentName;
use rune_store_runtime::{
    ApplyDeployment, DeleteDeployment, DeploymentFilter, DeploymentId, DeploymentRow,
    DeploymentState, ErrorCode, Operation, PageRequest, ProjectRef, RecordAudit, ScaleBounds,
    ScaleDeployment, VersionFilter, VersionId, VersionRow,
};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use utoipa::{IntoParams, ToSchema};

use crate::admission::Asked;
use crate::audit;
use crate::control_plane::Shared;

use view::DeploymentView;

/// Replicas of a deployment at the most.
const MAX_REPLICAS: u32 = 100;
/// Variables of a deployment at the most.
const MAX_ENV_VARIABLES: usize = 256;
/// Names and values of a deployment's variables together, in bytes.
const MAX_ENV_BYTES: usize = 64 * 1024;
/// How long `?wait=ready` waits where no time is given, in milliseconds.
const DEFAULT_WAIT_MS: u64 = 30_000;
/// How long the loop is waited for to look at a change, where less is to be waited for its outcome.
const LOOK_LIMIT: Duration = Duration::from_secs(30);
/// How long `?wait=ready` waits at the most, in milliseconds.
const MAX_WAIT_MS: u64 = 300_000;
/// The namespace where a version may change its content.
const DEV: &str = "dev";

/// What to deploy: `agent_version`, or `agent` with `version` or `digest`.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ApplyRequest {
    /// Id of the version.
    #[schema(value_type = Option<String>)]
    agent_version: Option<VersionId>,
    /// Name of the agent.
    agent: Option<String>,
    /// Its semantic version; the one published last where several packages carry it.
    version: Option<String>,
    /// Its digest.
    digest: Option<String>,
    /// Namespace, `dev` by default.
    #[serde(default = "dev")]
    #[schema(required = false)]
    namespace: String,
    /// Alias, `stable` by default.
    #[serde(default = "stable")]
    #[schema(required = false)]
    alias: String,
    /// Replicas, 0 to 100; 0 stops the deployment. Where the version has a range of replicas (`min_replicas`,
    /// `max_replicas`), one of it, from which the daemon goes on. By default one that runs keeps as many as it has, within what
    /// the version allows, and another one begins with the `min_replicas` of the version, at least 1.
    #[schema(minimum = 0, maximum = 100)]
    replicas: Option<u32>,
    /// Variables for the agent, over the daemon's own.
    #[serde(default)]
    env: BTreeMap<String, String>,
    /// The project that takes the deployment; one that another project has is refused.
    project: Option<ProjectBody>,
}

/// The project that made a deployment.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ProjectBody {
    /// Name of the project.
    name: String,
    /// What the project calls the agent.
    agent: String,
}

fn dev() -> String {
    DEV.to_owned()
}

fn stable() -> String {
    "stable".to_owned()
}

/// How many replicas are wanted.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ScaleRequest {
    /// 0 to 100; 0 stops the deployment. Where the version has a range of replicas, one of it, from which the daemon goes on.
    #[schema(minimum = 0, maximum = 100)]
    replicas: u32,
}

impl ApplyRequest {
    /// The deployment, as the audit trail names it.
    fn resource(&self, version: Option<&VersionRow>) -> String {
        let agent = version.map(|version| version.agent.as_str());
        let agent = agent.or(self.agent.as_deref()).unwrap_or_default();
        audit::resource(&self.namespace, agent, &self.alias)
    }

    /// The rules that need no store.
    fn check(&self) -> Result<(), ApiError> {
        check_label("namespace", &self.namespace)?;
        check_label("alias", &self.alias)?;
        if let Some(project) = &self.project {
            check_label("project.name", &project.name)?;
            check_label("project.agent", &project.agent)?;
        }
        check_env(&self.env)
    }

    /// Whether the version runs with as many replicas as are asked for.
    fn check_replicas(&self, version: Option<&VersionRow>) -> Result<(), ApiError> {
        let bounds = version.map(|version| version.scaling).unwrap_or_default();
        check_replicas(self.replicas.unwrap_or_default(), bounds)
    }
}

impl From<ProjectBody> for ProjectRef {
    fn from(body: ProjectBody) -> Self {
        Self {
            name: body.name,
            agent: body.agent,
        }
    }
}

/// Which deployments to list.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(crate) struct ListQuery {
    /// Only in this namespace.
    ns: Option<String>,
    /// Only of this agent.
    agent: Option<String>,
    /// Only with this alias.
    alias: Option<String>,
    /// Only of this project.
    project: Option<String>,
}

/// Whether to wait for the outcome.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(crate) struct WaitQuery {
    /// `ready`: answer once the deployment is ready, stopped or failed, or the time is over.
    wait: Option<Wait>,
    /// How long to wait: 30000 by default, 300000 at the most.
    timeout_ms: Option<u64>,
}

/// What to wait for.
#[derive(Debug, Clone, Copy, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Wait {
    /// Until the outcome is known.
    Ready,
}

impl WaitQuery {
    fn duration(&self) -> Result<Option<Duration>, ApiError> {
        let millis = self.timeout_ms.unwrap_or(DEFAULT_WAIT_MS);
        if millis > MAX_WAIT_MS {
            return Err(ApiError::invalid(format!(
                "`timeout_ms` must be 0 to {MAX_WAIT_MS}"
            )));
        }
        Ok(self.wait.map(|Wait::Ready| Duration::from_millis(millis)))
    }
}

/// Creates the deployment of (namespace, agent, alias), or moves the one that is there: replica by replica where it serves
/// requests, and back by itself where the new version is bad.
#[utoipa::path(
    post, path = "/v1/deployments", tag = "deployments", params(WaitQuery),
    request_body(content = ApplyRequest, example = json!({"agent": "hello", "version": "0.1.0"})),
    responses(
        (status = 201, body = DeploymentView, description = "Created"),
        (status = 200, body = DeploymentView, description = "Changed, or as it was"),
        (status = 403, body = ErrorBody, description = "No trusted key has signed the version, or a policy of the operator forbids it"),
        (status = 404, body = ErrorBody, description = "The version does not exist"),
        (status = 409, body = ErrorBody, description = "Another project has the deployment, or the version is deployed outside `dev` with another content"),
        (status = 429, body = ErrorBody, description = "The namespace would have more deployments or replicas than its quota"),
    )
)]
pub(crate) async fn apply(
    State(shared): State<Arc<Shared>>,
    Query(wait): Query<WaitQuery>,
    caller: Caller,
    Json(body): Json<ApplyRequest>,
) -> Result<(StatusCode, Json<DeploymentView>), ApiError> {
    let wait = wait.duration()?;
    let asked = Asked {
        shared: &shared,
        caller: &caller,
        kind: "deployment.apply",
    };
    let version = search_version(&shared, &body).await?;
    let resource = body.resource(version.as_ref());
    let applied = applied(&asked, body, version);
    let (row, is_new) = asked.audited(resource, applied).await?;
    let status = match is_new {
        true => StatusCode::CREATED,
        false => StatusCode::OK,
    };
    Ok((status, Json(shown(&shared, row, wait).await?)))
}

/// Admits and writes a deployment; answers whether it was not there before.
async fn applied(
    asked: &Asked<'_>,
    body: ApplyRequest,
    version: Option<VersionRow>,
) -> Result<(DeploymentRow, bool), ApiError> {
    let shared = asked.shared;
    body.check()?;
    let version = version.ok_or_else(|| unknown_version(&body))?;
    body.check_replicas(Some(&version))?;
    let place = AdmittedDeployment {
        namespace: &body.namespace,
        alias: &body.alias,
        replicas: wanted(shared, &body, &version).await?,
    };
    asked.deploy(&version, place).await?;
    if body.namespace != DEV {
        check_immutable(shared, &body.namespace, &version).await?;
    }
    let apply = ApplyDeployment {
        deployment_id: DeploymentId::generate(),
        namespace: body.namespace,
        agent: version.agent,
        alias: body.alias,
        version_id: version.id,
        replicas: body.replicas,
        env: body.env,
        project: body.project.map(ProjectRef::from),
    };
    let new_id = apply.deployment_id;
    let mut reason = format!("version {} ({})", version.version, version.id);
    if let Some(count) = apply.replicas {
        reason = format!("{reason}, {}", replicas(count));
    }
    let resource = audit::resource(&apply.namespace, &apply.agent, &apply.alias);
    let audit = audit::row(asked.caller, asked.kind, resource, reason);
    let row = write(shared, apply, audit).await?;
    let is_new = row.id == new_id;
    Ok((row, is_new))
}

/// How many replicas a deployment is to have once this was applied.
async fn wanted(
    shared: &Shared,
    body: &ApplyRequest,
    version: &VersionRow,
) -> Result<u32, ApiError> {
    if let Some(replicas) = body.replicas {
        return Ok(replicas);
    }
    let filter = DeploymentFilter {
        namespace: Some(body.namespace.clone()),
        agent: Some(version.agent.clone()),
        alias: Some(body.alias.clone()),
        project: None,
    };
    let found = shared
        .store
        .deployments(&filter, &PageRequest::first(1))
        .await?;
    let differs = found.items.first().map(|row| {
        row.differs(None, version.scaling)
            .unwrap_or_else(|| row.wanted())
    });
    Ok(differs.unwrap_or_else(|| version.scaling.first()))
}

/// Changes how many replicas are wanted; 0 stops the deployment, and no request starts it again.
///
/// Where the version has a range of replicas (`min_replicas`, `max_replicas`), the number has to be one of it, and the daemon
/// goes on from there by what there is to do.
#[utoipa::path(
    post, path = "/v1/deployments/{id}/scale", tag = "deployments",
    params(("id" = String, Path, description = "The deployment", pattern = "^dep_[0-9a-f]{32}$"), WaitQuery),
    request_body(content = ScaleRequest, example = json!({"replicas": 2})),
    responses(
        (status = 200, body = DeploymentView, description = "The deployment as it is now"),
        (status = 403, body = ErrorBody, description = "A policy of the operator forbids it"),
        (status = 404, body = ErrorBody, description = "The deployment does not exist"),
        (status = 429, body = ErrorBody, description = "The namespace would have more replicas than its quota"),
    )
)]
pub(crate) async fn scale(
    State(shared): State<Arc<Shared>>,
    Path(id): Path<DeploymentId>,
    Query(wait): Query<WaitQuery>,
    caller: Caller,
    Json(body): Json<ScaleRequest>,
) -> Result<Json<DeploymentView>, ApiError> {
    let wait = wait.duration()?;
    let row = find(&shared, id).await?;
    let asked = Asked {
        shared: &shared,
        caller: &caller,
        kind: "deployment.scale",
    };
    let resource = audit::resource_of(&row);
    let scaled = scaled(&asked, &row, body.replicas);
    let row = asked.audited(resource, scaled).await?;
    Ok(Json(shown(&shared, row, wait).await?))
}

/// Admits and writes another number of replicas.
async fn scaled(
    asked: &Asked<'_>,
    row: &DeploymentRow,
    count: u32,
) -> Result<DeploymentRow, ApiError> {
    let shared = asked.shared;
    let version = shared.store.version(row.target().0).await?;
    let bounds = version.as_ref().map(|it| it.scaling).unwrap_or_default();
    check_replicas(count, bounds)?;
    // Whatever the policies say by now, what runs can be made less.
    if let Some(version) = version.filter(|_| count > row.wanted()) {
        asked.redeploy(row, &version, count).await?;
    }
    let scale = ScaleDeployment {
        deployment_id: row.id,
        replicas: count,
    };
    let resource = audit::resource_of(row);
    let audit = audit::row(asked.caller, asked.kind, resource, replicas(count));
    write(shared, scale, audit).await
}

/// Deployments by namespace, agent, alias.
#[utoipa::path(
    get, path = "/v1/deployments", tag = "deployments", params(ListQuery, PageQuery),
    responses(
        (status = 200, body = ListPage<DeploymentView>, description = "A part of the list"),
    )
)]
pub(crate) async fn list(
    State(shared): State<Arc<Shared>>,
    List {
        filter: query,
        page,
    }: List<ListQuery>,
) -> Result<Json<ListPage<DeploymentView>>, ApiError> {
    let filter = DeploymentFilter {
        namespace: query.ns,
        agent: query.agent,
        alias: query.alias,
        project: query.project,
    };
    let found = shared
        .store
        .deployments(&filter, &page)
        .await?
        .map(|row| DeploymentView::new(row, &shared.router));
    Ok(Json(found.into()))
}

/// One deployment.
#[utoipa::path(
    get, path = "/v1/deployments/{id}", tag = "deployments",
    params(("id" = String, Path, description = "The deployment", pattern = "^dep_[0-9a-f]{32}$")),
    responses(
        (status = 200, body = DeploymentView, description = "The deployment"),
        (status = 404, body = ErrorBody, description = "The deployment does not exist"),
    )
)]
pub(crate) async fn get(
    State(shared): State<Arc<Shared>>,
    Path(id): Path<DeploymentId>,
) -> Result<Json<DeploymentView>, ApiError> {
    let row = find(&shared, id).await?;
    Ok(Json(DeploymentView::new(row, &shared.router)))
}

/// Deletes a deployment; its replicas finish what they have. Requests and sessions stay.
#[utoipa::path(
    delete, path = "/v1/deployments/{id}", tag = "deployments",
    params(("id" = String, Path, description = "The deployment", pattern = "^dep_[0-9a-f]{32}$")),
    responses(
        (status = 204, description = "Deleted"),
        (status = 404, body = ErrorBody, description = "The deployment does not exist"),
    )
)]
pub(crate) async fn delete(
    State(shared): State<Arc<Shared>>,
    Path(id): Path<DeploymentId>,
    caller: Caller,
) -> Result<StatusCode, ApiError> {
    let row = find(&shared, id).await?;
    let resource = audit::resource_of(&row);
    let audit = audit::row(&caller, "deployment.delete", resource, id.to_string());
    let delete = DeleteDeployment { deployment_id: id };
    shared.store.write_audited(delete, audit).await?;
    shared.reconcile.wake();
    // No request that follows is accepted; where the loop is held up that long, later.
    let _ = tokio::time::timeout(LOOK_LIMIT, unrouted(&shared, id)).await;
    Ok(StatusCode::NO_CONTENT)
}

async fn find(shared: &Shared, id: DeploymentId) -> Result<DeploymentRow, ApiError> {
    let row = shared.store.deployment(id).await?;
    row.ok_or_else(|| ApiError::not_found("deployment", &id))
}

/// Changes a deployment within the quota of its namespace, and leaves its trace.
async fn write<O>(
    shared: &Shared,
    operation: O,
    audit: Vec<RecordAudit>,
) -> Result<DeploymentRow, ApiError>
where
    O: Operation<Reply = DeploymentRow>,
{
    let quota = shared.admission.quota;
    let written = shared.store.write_within(quota, operation, audit);
    Ok(written.await?)
}

/// A deployment that was changed: the loop looks, and the caller waits if it likes before it is shown.
async fn shown(
    shared: &Shared,
    row: DeploymentRow,
    wait: Option<Duration>,
) -> Result<DeploymentView, ApiError> {
    let id = row.id;
    shared.reconcile.wake();
    let Some(wait) = wait else {
        // What is answered holds for the next request; where the loop is held up that long, later.
        let _ = tokio::time::timeout(LOOK_LIMIT, routed(shared, &row)).await;
        return Ok(DeploymentView::new(row, &shared.router));
    };
    // However short the wait is: a state from before the change says nothing of it.
    let looked = tokio::time::timeout(wait.max(LOOK_LIMIT), looked(shared)).await;
    let row = match looked {
        Ok(()) => tokio::time::timeout(wait, settled(shared, id)).await,
        Err(late) => Err(late),
    };
    let row = match row {
        Ok(row) => row?,
        Err(_) => find(shared, id).await?,
    };
    Ok(DeploymentView::new(row, &shared.router))
}

/// Returns once requests find a deployment as it was written, or as it became since; and where it was deleted meanwhile, or
/// nobody looks any more.
async fn routed(shared: &Shared, row: &DeploymentRow) {
    let mut changes = shared.router.changes();
    let is_known = |seen: Arc<DeploymentRow>| seen.generation >= row.generation;
    loop {
        let pass = shared.reconcile.next_pass();
        if shared.router.deployment(row.id).is_some_and(is_known) {
            return;
        }
        let is_deleted = matches!(shared.store.deployment(row.id).await, Ok(None));
        if is_deleted || !moved(&mut changes, pass).await {
            return;
        }
    }
}

/// Returns once no request finds a deployment that was deleted, or nobody looks any more.
async fn unrouted(shared: &Shared, id: DeploymentId) {
    let mut changes = shared.router.changes();
    loop {
        let pass = shared.reconcile.next_pass();
        if shared.router.deployment(id).is_none() || !moved(&mut changes, pass).await {
            return;
        }
    }
}

/// Returns once the loop has told the router something or has looked; `false` where it has ended.
async fn moved(changes: &mut watch::Receiver<()>, pass: impl Future<Output = bool>) -> bool {
    tokio::select! {
        changed = changes.changed() => changed.is_ok(),
        looked = pass => looked,
    }
}

/// Returns once the loop has looked at a change. The pass under way may not have seen it; the one after it has.
async fn looked(shared: &Shared) {
    for _ in 0..2 {
        let pass = shared.reconcile.next_pass();
        shared.reconcile.wake();
        pass.await;
    }
}

/// The deployment once its outcome is known.
async fn settled(shared: &Shared, id: DeploymentId) -> Result<DeploymentRow, ApiError> {
    loop {
        let pass = shared.reconcile.next_pass();
        let row = find(shared, id).await?;
        match row.state {
            // It is ready all the while that its canary starts.
            DeploymentState::Ready if starts_canary(shared, &row) => {}
            DeploymentState::Ready | DeploymentState::Stopped | DeploymentState::Failed => {
                return Ok(row);
            }
            DeploymentState::Pending | DeploymentState::Degraded => {}
        }
        if !pass.await {
            return Ok(row);
        }
    }
}

/// Whether a version is rolled out that has no replica yet.
fn starts_canary(shared: &Shared, row: &DeploymentRow) -> bool {
    let is_there = |version| {
        let replicas = shared.router.replicas(row.id);
        replicas.iter().any(|it| it.version_id() == version)
    };
    row.candidate()
        .is_some_and(|rollout| !is_there(rollout.version_id))
}

fn unknown_version(body: &ApplyRequest) -> ApiError {
    let wanted = body.version.as_ref().or(body.digest.as_ref());
    let agent = body.agent.as_deref().unwrap_or_default();
    let name = format!("{agent} {}", wanted.map_or("", String::as_str));
    ApiError::not_found("version", &name)
}

/// The version that is named; `None` where the agent has none like it.
async fn search_version(
    shared: &Shared,
    body: &ApplyRequest,
) -> Result<Option<VersionRow>, ApiError> {
    let choice = "name what to deploy: `agent_version`, or `agent` with `version` or `digest`";
    if let Some(id) = body.agent_version {
        if body.agent.is_some() || body.version.is_some() || body.digest.is_some() {
            return Err(ApiError::invalid(choice));
        }
        let row = shared.store.version(id).await?;
        return row
            .map(Some)
            .ok_or_else(|| ApiError::not_found("version", &id));
    }
    let (Some(agent), true) = (&body.agent, body.version.is_some() != body.digest.is_some()) else {
        return Err(ApiError::invalid(choice));
    };
    newest_version(shared, agent, body.version.as_deref(), body.digest.clone()).await
}

/// The version of an agent that was published last, of those with this semantic version and digest.
async fn newest_version(
    shared: &Shared,
    agent: &str,
    version: Option<&str>,
    digest: Option<String>,
) -> Result<Option<VersionRow>, ApiError> {
    let filter = VersionFilter {
        agent: Some(agent.to_owned()),
        digest,
    };
    let mut page = PageRequest::first(PageRequest::MAX_LIMIT);
    loop {
        let found = shared.store.versions(&filter, &page).await?;
        let wanted = |row: &VersionRow| version.is_none_or(|version| version == row.version);
        let row = found.items.into_iter().find(wanted);
        page.cursor = found.next;
        if row.is_some() || page.cursor.is_none() {
            return Ok(row);
        }
    }
}

/// Outside `dev` a semantic version means one package: another one needs a new version.
async fn check_immutable(
    shared: &Shared,
    namespace: &str,
    version: &VersionRow,
) -> Result<(), ApiError> {
    let filter = DeploymentFilter {
        namespace: Some(namespace.to_owned()),
        agent: Some(version.agent.clone()),
        alias: None,
        project: None,
    };
    let page = PageRequest::first(PageRequest::MAX_LIMIT);
    let rows = shared.store.deployments(&filter, &page).await?.items;
    let ids = rows.iter().flat_map(|row| {
        let candidate = row.candidate().map(|rollout| rollout.version_id);
        std::iter::once(row.version_id).chain(candidate)
    });
    for id in ids {
        let deployed = shared.store.version(id).await?;
        let other =
            |row: &VersionRow| row.version == version.version && row.digest != version.digest;
        if let Some(row) = deployed.filter(other) {
            return Err(ApiError::new(
                ErrorCode::Conflict,
                format!(
                    "`{}` {} is deployed in `{namespace}` with another content ({}); give the \
                     changed package a new version",
                    row.agent, row.version, row.digest
                ),
            ));
        }
    }
    Ok(())
}

pub(super) fn check_label(what: &str, text: &str) -> Result<(), ApiError> {
    match text.parse::<AgentName>() {
        Ok(_) => Ok(()),
        Err(error) => Err(ApiError::invalid(format!("`{what}`: {error}"))),
    }
}

/// So many replicas, for a person.
fn replicas(count: u32) -> String {
    match count {
        1 => "1 replica".to_owned(),
        _ => format!("{count} replicas"),
    }
}

fn check_replicas(replicas: u32, bounds: ScaleBounds) -> Result<(), ApiError> {
    if replicas > MAX_REPLICAS {
        let message = format!("`replicas` must be 0 to {MAX_REPLICAS}, not {replicas}");
        return Err(ApiError::invalid(message));
    }
    if replicas > 0 && bounds.is_range() && bounds.nearest(replicas) != replicas {
        let ScaleBounds { min, max } = bounds;
        return Err(ApiError::invalid(format!(
            "`replicas` must be {} to {max} (`min_replicas` and `max_replicas` of the Runefile), or 0 to stop the \
             deployment, not {replicas}",
            min.max(1)
        )));
    }
    Ok(())
}

fn check_env(env: &BTreeMap<String, String>) -> Result<(), ApiError> {
    let bytes: usize = env
        .iter()
        .map(|(name, value)| name.len() + value.len())
        .sum();
    if env.len() > MAX_ENV_VARIABLES || bytes > MAX_ENV_BYTES {
        return Err(ApiError::new(
            ErrorCode::TooLarge,
            format!("`env` has more than {MAX_ENV_VARIABLES} variables or {MAX_ENV_BYTES} bytes"),
        ));
    }
    let start = |c: char| c.is_ascii_alphabetic() || c == '_';
    let name = |c: char| c.is_ascii_alphanumeric() || c == '_';
    for (key, value) in env {
        if !key.starts_with(start) || !key.chars().all(name) {
            return Err(ApiError::invalid(format!(
                "`env`: {key:?} is not a variable's name"
            )));
        }
        if value.contains('\0') {
            return Err(ApiError::invalid(format!(
                "`env`: the value of `{key}` has a NUL"
            )));
        }
    }
    Ok(())
}
