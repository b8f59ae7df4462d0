//! Deployed agents.

use std::sync::Arc;

use axum::extract::State;
use rune_http::{ApiError, ErrorBody, Json, List, ListPage, PageQuery, Path, Query, ReplicaView};
use rune_store_runtime::{
    DeploymentFilter, DeploymentId, DeploymentRow, ErrorCode, PageRequest, ReplicaFilter,
    Timestamp, VersionId,
};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::Target;
use crate::gateway::Shared;

/// A deployed agent.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct AgentView {
    name: String,
    namespace: String,
    alias: String,
    #[schema(value_type = String)]
    deployment_id: DeploymentId,
    #[schema(value_type = String)]
    version_id: VersionId,
    /// Semantic version of the package.
    version: String,
    description: String,
    /// `pending`, `ready`, `degraded`, `failed` or `stopped`.
    state: &'static str,
    /// Why, for a person.
    reason: String,
    /// Replicas wanted.
    replicas_wanted: u32,
    /// Replicas that are there, with their health.
    replicas: Vec<ReplicaView>,
    /// What the agent can call; absent while this process runs no replica of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    tools: Option<Vec<ToolView>>,
    #[schema(value_type = String)]
    created_at: Timestamp,
    #[schema(value_type = String)]
    updated_at: Timestamp,
}

/// A tool of an agent.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ToolView {
    /// The name in the package, such as `rune@file-read`.
    name: String,
    description: String,
}

/// Which agents to list.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(crate) struct ListQuery {
    /// Only in this namespace; all where absent.
    ns: Option<String>,
    /// Only with this alias.
    alias: Option<String>,
}

/// Deployed agents, by namespace, name, alias.
#[utoipa::path(
    get, path = "/v1/agents", tag = "agents", params(ListQuery, PageQuery),
    responses(
        (status = 200, body = ListPage<AgentView>, description = "A part of the list"),
        (status = "default", body = ErrorBody, description = "An error"),
    )
)]
pub(crate) async fn list(
    State(shared): State<Arc<Shared>>,
    List {
        filter: query,
        page,
    }: List<ListQuery>,
) -> Result<Json<ListPage<AgentView>>, ApiError> {
    let filter = DeploymentFilter {
        namespace: query.ns,
        agent: None,
        alias: query.alias,
        project: None,
    };
    let found = shared.engine.store().deployments(&filter, &page).await?;
    let mut items = Vec::with_capacity(found.items.len());
    for row in found.items {
        items.push(view(&shared, row).await?);
    }
    Ok(Json(ListPage {
        items,
        next: found.next,
    }))
}

/// One deployed agent with the health of its replicas.
#[utoipa::path(
    get, path = "/v1/agents/{name}", tag = "agents",
    params(("name" = String, Path, description = "Name of the agent"), Target),
    responses(
        (status = 200, body = AgentView, description = "The agent"),
        (status = "default", body = ErrorBody, description = "An error"),
    )
)]
pub(crate) async fn get(
    State(shared): State<Arc<Shared>>,
    Path(name): Path<String>,
    Query(target): Query<Target>,
) -> Result<Json<AgentView>, ApiError> {
    let filter = DeploymentFilter {
        namespace: Some(target.ns),
        agent: Some(name),
        alias: Some(target.alias),
        project: None,
    };
    let found = shared
        .engine
        .store()
        .deployments(&filter, &PageRequest::first(1))
        .await?;
    let Some(row) = found.items.into_iter().next() else {
        let text = |part: &Option<String>| part.clone().unwrap_or_default();
        let (ns, name, alias) = (
            text(&filter.namespace),
            text(&filter.agent),
            text(&filter.alias),
        );
        let message = format!("agent `{ns}/{name}:{alias}` is not deployed");
        return Err(ApiError::new(ErrorCode::NotFound, message));
    };
    view(&shared, row).await.map(Json)
}

async fn view(shared: &Shared, row: DeploymentRow) -> Result<AgentView, ApiError> {
    let (store, router) = (shared.engine.store(), shared.engine.router());
    let version = store.version(row.version_id).await?;
    let (version, description) = version
        .map(|version| (version.version, version.description))
        .unwrap_or_default();
    let filter = ReplicaFilter {
        deployment_id: Some(row.id),
    };
    let replicas = store
        .replicas(&filter, &PageRequest::first(PageRequest::MAX_LIMIT))
        .await?;
    let tools = router.replicas(row.id).last().map(|replica| {
        let tools = replica.agent().package().tools.iter();
        let view = |tool: &rune_spec::PackageTool| ToolView {
            name: tool.reference.to_string(),
            description: tool.descriptor.description.clone(),
        };
        tools.map(view).collect()
    });
    Ok(AgentView {
        name: row.agent,
        namespace: row.namespace,
        alias: row.alias,
        deployment_id: row.id,
        version_id: row.version_id,
        version,
        description,
        state: row.state.as_str(),
        reason: row.reason,
        replicas_wanted: row.replicas,
        replicas: replicas
            .items
            .into_iter()
            .map(|row| ReplicaView::new(row, router))
            .collect(),
        tools,
        created_at: row.created_at,
        updated_at: row.updated_at,
    })
}
