//! Deployed agents.

use std::sync::Arc;

use axum::extract::State;
use rune_http::{
    ApiError, ErrorBody, Json, List, ListPage, PageQuery, Path, Query, ReplicaView, ScalingView,
};
use rune_runtime::{Agent, McpServerReport, ToolCost};
use rune_store_runtime::{
    DeploymentFilter, DeploymentId, DeploymentRow, ErrorCode, PageRequest, ReplicaFilter,
    Timestamp, VersionId,
};
use serde::{Deserialize, Serialize};
use serde_json::Value;
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
    /// Replicas that are to run now.
    replicas_wanted: u32,
    /// What the daemon has decided last, where the version has a range of replicas.
    #[serde(skip_serializing_if = "Option::is_none")]
    scaling: Option<ScalingView>,
    /// Replicas that are there, with their health.
    replicas: Vec<ReplicaView>,
    /// JSON Schema of its input; absent where it takes text, and while this process knows no replica of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    input_schema: Option<Value>,
    /// JSON Schema of its output; absent where it answers text, and while this process knows no replica of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    output_schema: Option<Value>,
    /// What the agent can call; absent while this process knows no replica of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    tools: Option<Vec<ToolView>>,
    /// What they take of a prompt; absent as they are.
    #[serde(skip_serializing_if = "Option::is_none")]
    tool_tokens: Option<ToolTokensView>,
    /// What its requests may use; absent as its tools are.
    #[serde(skip_serializing_if = "Option::is_none")]
    limits: Option<LimitsView>,
    #[schema(value_type = String, format = DateTime)]
    created_at: Timestamp,
    #[schema(value_type = String, format = DateTime)]
    updated_at: Timestamp,
}

/// A tool of an agent.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ToolView {
    /// The name in the package, such as `rune@file-read`.
    name: String,
    description: String,
    /// `builtin`, `process`, `wasm`, `container`, `agent`, or `mcp:SERVER`.
    source: String,
    /// Tokens of its description and schema, estimated.
    tokens: u64,
    /// Whether every prompt has it; else the model has to search for it.
    loaded: bool,
}

impl From<ToolCost> for ToolView {
    fn from(tool: ToolCost) -> Self {
        Self {
            name: tool.name,
            description: tool.description,
            source: tool.source,
            tokens: tool.tokens,
            loaded: tool.loaded,
        }
    }
}

/// What the tools of an agent take of a prompt, in estimated tokens.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ToolTokensView {
    /// Of every prompt.
    loaded: u64,
    /// Of the tools that the model has to search for.
    deferred: u64,
    total: u64,
}

impl ToolTokensView {
    fn of(tools: &[ToolView]) -> Self {
        let sum = |loaded: bool| {
            let tools = tools.iter().filter(|tool| tool.loaded == loaded);
            tools.map(|tool| tool.tokens).sum()
        };
        let (loaded, deferred): (u64, u64) = (sum(true), sum(false));
        Self {
            loaded,
            deferred,
            total: loaded + deferred,
        }
    }
}

/// What the requests of an agent may use; a limit that is absent is not set.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct LimitsView {
    /// Model turns of a request.
    max_steps: u32,
    /// Time of a request, in milliseconds.
    timeout_ms: u64,
    /// Input and output tokens of a request: the smaller of `models.token_budget` and `budget.tokens`.
    tokens: u64,
    /// Cost of a request, in US dollars.
    #[serde(skip_serializing_if = "Option::is_none")]
    cost_usd: Option<f64>,
    /// Tool calls of a request.
    #[serde(skip_serializing_if = "Option::is_none")]
    tool_calls: Option<u64>,
    /// Cost per day of the deployment, in US dollars.
    #[serde(skip_serializing_if = "Option::is_none")]
    cost_usd_per_day: Option<f64>,
    /// Tokens per day of the deployment.
    #[serde(skip_serializing_if = "Option::is_none")]
    tokens_per_day: Option<u64>,
    /// Tokens of a session.
    #[serde(skip_serializing_if = "Option::is_none")]
    session_tokens: Option<u64>,
    /// Cost of a session, in US dollars.
    #[serde(skip_serializing_if = "Option::is_none")]
    session_cost_usd: Option<f64>,
}

impl LimitsView {
    fn of(agent: &Agent) -> Self {
        let spec = agent.spec();
        let budget = &spec.budget;
        Self {
            max_steps: spec.max_steps,
            timeout_ms: u64::try_from(agent.timeout().as_millis()).unwrap_or(u64::MAX),
            tokens: agent.token_budget(),
            cost_usd: budget.cost_usd,
            tool_calls: budget.tool_calls,
            cost_usd_per_day: budget.cost_usd_per_day,
            tokens_per_day: budget.tokens_per_day,
            session_tokens: budget.session.tokens,
            session_cost_usd: budget.session.cost_usd,
        }
    }
}

/// An MCP server of an agent, as one replica sees it.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct McpServerView {
    name: String,
    /// `http` or `stdio`.
    transport: &'static str,
    /// Its URL without what may be a secret, or its program.
    target: String,
    /// `connecting`, `ready` or `unavailable`.
    state: &'static str,
    /// Whether the agent cannot start without it.
    required: bool,
    /// The version of the protocol that is spoken.
    protocol: Option<String>,
    /// What it calls itself.
    server: Option<String>,
    /// Why it cannot be called, or could not the last time.
    error: Option<String>,
    /// Failures since a connection held.
    failures: u32,
    /// When it is tried again, in milliseconds from now.
    retry_in_ms: Option<u64>,
    /// Its tools as it listed them last, by name.
    tools: Vec<McpToolView>,
    /// Tools that were left out of the list.
    skipped: Vec<SkippedToolView>,
    /// Connections of its process that were refused since it was started, each once.
    refused: Vec<String>,
}

/// A tool of an MCP server.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct McpToolView {
    /// Its name on the server.
    name: String,
    description: String,
    /// Tokens of every prompt that its description and schema take, estimated.
    tokens: u64,
    /// Whether the agent has it.
    taken: bool,
}

/// A tool that no model is told of.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct SkippedToolView {
    name: String,
    reason: String,
}

impl From<McpServerReport> for McpServerView {
    fn from(report: McpServerReport) -> Self {
        let McpServerReport { status, tools } = report;
        let tools = tools.into_iter().map(|tool| McpToolView {
            name: tool.name,
            description: tool.description,
            tokens: tool.tokens,
            taken: tool.taken,
        });
        let skipped = status.skipped.into_iter().map(|tool| SkippedToolView {
            name: tool.name,
            reason: tool.reason,
        });
        Self {
            name: status.name,
            transport: status.transport,
            target: status.target,
            state: status.state.as_str(),
            required: status.required,
            protocol: status.protocol,
            server: status.server,
            error: status.error,
            failures: status.failures,
            retry_in_ms: status.retry_in_ms,
            tools: tools.collect(),
            skipped: skipped.collect(),
            refused: status.refused,
        }
    }
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
    params(("name" = String, Path, description = "Name of the agent", example = "hello"), Target),
    responses(
        (status = 200, body = AgentView, description = "The agent"),
        (status = 404, body = ErrorBody, description = "The agent is not deployed"),
    )
)]
pub(crate) async fn get(
    State(shared): State<Arc<Shared>>,
    Path(name): Path<String>,
    Query(target): Query<Target>,
) -> Result<Json<AgentView>, ApiError> {
    let row = deployment(&shared, name, target).await?;
    view(&shared, row).await.map(Json)
}

/// The MCP servers of a deployed agent, as one replica that runs in this process sees them.
#[utoipa::path(
    get, path = "/v1/agents/{name}/mcp-servers", tag = "agents",
    params(("name" = String, Path, description = "Name of the agent", example = "hello"), Target),
    responses(
        (status = 200, body = ListPage<McpServerView>, description = "Its servers with their tools, in the order of its Runefile"),
        (status = 404, body = ErrorBody, description = "The agent is not deployed"),
    )
)]
pub(crate) async fn mcp_servers(
    State(shared): State<Arc<Shared>>,
    Path(name): Path<String>,
    Query(target): Query<Target>,
) -> Result<Json<ListPage<McpServerView>>, ApiError> {
    let row = deployment(&shared, name, target).await?;
    let replicas = shared.engine.router().replicas(row.id);
    let Some(replica) = replicas.last() else {
        let message = format!(
            "agent `{}/{}:{}` runs no replica here that could be asked",
            row.namespace, row.agent, row.alias
        );
        return Err(ApiError::new(ErrorCode::Unavailable, message));
    };
    let report = replica.agent().mcp_report();
    Ok(Json(ListPage {
        items: report.into_iter().map(Into::into).collect(),
        next: None,
    }))
}

/// The deployment of an agent.
async fn deployment(
    shared: &Shared,
    name: String,
    target: Target,
) -> Result<DeploymentRow, ApiError> {
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
    Ok(row)
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
    let replicas_wanted = row.wanted();
    let agent = router.agent(row.id).map(|agent| agent.now());
    let spec = agent.as_ref().map(|agent| agent.spec());
    let (input_schema, output_schema) = spec
        .map(|spec| (spec.input_schema.clone(), spec.output_schema.clone()))
        .unwrap_or_default();
    let tools = agent.as_ref().map(|agent| {
        let costs = agent.tool_costs().into_iter();
        costs.map(Into::into).collect::<Vec<ToolView>>()
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
        replicas_wanted,
        scaling: row.scaling.map(ScalingView::from),
        replicas: replicas
            .items
            .into_iter()
            .map(|row| ReplicaView::new(row, router))
            .collect(),
        input_schema,
        output_schema,
        tool_tokens: tools.as_deref().map(ToolTokensView::of),
        limits: agent.as_deref().map(LimitsView::of),
        tools,
        created_at: row.created_at,
        updated_at: row.updated_at,
    })
}
