//! The router of the public API.

use std::sync::{Arc, LazyLock};

use axum::Router;
use axum::routing::any;
use bytes::Bytes;
use http::HeaderValue;
use rune_http::{
    ApiError, Auth, Edge, MAX_BODY_BYTES, Metrics, Readiness, TokenScope, api, complete, reference,
};
use rune_mcp::{McpAccess, McpEndpoint};
use rune_remote_store::InternalTokens;
use rune_runtime::{Engine, SecretVault};
use utoipa::OpenApi;

use crate::a2a::A2aAccess;
use crate::a2a::push::Pushes;
use crate::engine_agents::EngineAgents;
use crate::openai;
use crate::own::{OWN_ROUTES, own_routes};
use crate::routes::{
    a2a, a2a_cards, a2a_http, ag_ui, agents, approvals, calls, canvas, chat_completions, context,
    events, fork, invoke, mcp, models, outbox, policy, published, replicas, requests, responses,
    sessions, status, tasks, wakeups,
};
use crate::split::forwarded;

/// The routes that answer without credentials.
pub const PUBLIC_ROUTES: &[&str] = &[
    "/health",
    "/ready",
    "/openapi.json",
    "/docs",
    "/docs/{file}",
    a2a_cards::ROUTES[0],
    a2a_cards::ROUTES[1],
    a2a_cards::ROUTES[2],
    a2a_cards::ROUTES[3],
    a2a_cards::ROUTES[4],
    wakeups::ROUTE,
];
/// The same where the cards of agents are not public.
const PRIVATE_CARDS: &[&str] = &[
    "/health",
    "/ready",
    "/openapi.json",
    "/docs",
    "/docs/{file}",
    wakeups::ROUTE,
];
/// Where MCP clients look for an authorization server when they get no answer without a token; they are told that there is none.
pub const NO_OAUTH: &[&str] = &[
    "/.well-known/oauth-protected-resource",
    "/.well-known/oauth-protected-resource/mcp",
    "/.well-known/oauth-authorization-server",
    "/.well-known/oauth-authorization-server/mcp",
    "/.well-known/openid-configuration",
    "/.well-known/openid-configuration/mcp",
    "/mcp/.well-known/openid-configuration",
    "/register",
];

/// What the public API needs.
pub struct Gateway {
    /// Runs the requests.
    pub engine: Engine,
    /// Who may call.
    pub auth: Auth,
    /// What `/ready` reports.
    pub readiness: Readiness,
    /// What `/metrics` shows.
    pub metrics: Metrics,
    /// Under which names `/mcp` may be asked for; and which web pages may call.
    pub mcp: McpAccess,
    /// How agents are shown to A2A clients.
    pub a2a: A2aAccess,
    /// Encrypts the webhooks of A2A tasks.
    pub secrets: SecretVault,
}

/// What handlers share.
pub(crate) struct Shared {
    pub(crate) engine: Engine,
    pub(crate) readiness: Readiness,
    pub(crate) metrics: Metrics,
    pub(crate) mcp: McpEndpoint,
    pub(crate) a2a: A2aAccess,
    /// The webhooks of A2A tasks, where they have some.
    pub(crate) pushes: Option<Arc<Pushes>>,
    /// Whether callers have to prove who they are.
    pub(crate) needs_credentials: bool,
}

#[derive(OpenApi)]
#[openapi(
    info(
        title = "Rune gateway",
        description = "Invoke agents and follow their requests. Every error has the body `ErrorBody`, those of the tag `openai` \
                       have `OpenAiErrorBody`. Every answer has the header `x-request-id`."
    ),
    tags(
        (name = "agents", description = "Agents that are deployed, and invoking them"),
        (name = "sessions", description = "Conversations and what was said"),
        (name = "requests", description = "Invocations, their journals and what they used"),
        (name = "approvals", description = "Tool calls that wait for a person"),
        (name = "openai", description = "OpenAI's API, for its clients"),
        (name = "a2a", description = "The Agent2Agent protocol, for its clients"),
        (name = "mcp", description = "The Model Context Protocol, for its clients"),
        (name = "tasks", description = "What agents leave for each other"),
        (name = "events", description = "What happened, for schedules"),
        (name = "channels", description = "Messages to people"),
        (name = "canvas", description = "What agents show"),
        (name = "replicas", description = "Running copies of agents"),
        (name = "status", description = "The process itself"),
    )
)]
struct Document;

/// The document of the API, made when somebody asks for it first.
pub(crate) static DOCUMENT: LazyLock<Bytes> = LazyLock::new(|| {
    let mut document = document();
    complete(&mut document, PUBLIC_ROUTES, openai::ROUTES);
    document.to_json().map(Bytes::from).unwrap_or_default()
});

impl Gateway {
    /// Every route of the public API, protected.
    pub fn router(self) -> Router {
        let edge = edge(self.auth.clone(), &self.mcp, self.a2a.public_cards);
        edge.protect(self.routes())
    }

    /// Every route of the public API at [`rune_remote_store::InternalApi::FORWARDED`], for split gateways with a token of
    /// these.
    pub fn router_for_gateways(self, tokens: Arc<InternalTokens>) -> Router {
        // Who calls, from where, is their affair.
        let edge = Edge::new("gateway", self.auth.clone(), &[]).knowing_callers();
        let edge = edge.speaking_openai(openai::ROUTES);
        forwarded(edge.protect(self.routes()), tokens)
    }

    fn routes(self) -> Router {
        let agents = Arc::new(EngineAgents::new(self.engine.clone()));
        let shutdown = self.engine.shutdown();
        let pushes = self.a2a.push.clone().and_then(|policy| {
            let pushes = Pushes::new(self.engine.clone(), self.secrets, policy);
            let pushes = pushes.inspect_err(|error| {
                tracing::error!(%error, "A2A tasks have no webhooks: there is no HTTP client");
            });
            pushes.ok().map(Arc::new)
        });
        if let Some(pushes) = pushes.clone() {
            let telling = pushes.run(self.engine.shutdown());
            self.engine.tasks().spawn("webhooks", telling);
        }
        let shared = Shared {
            pushes,
            mcp: McpEndpoint::new(agents, self.mcp, MAX_BODY_BYTES, shutdown),
            engine: self.engine,
            readiness: self.readiness,
            metrics: self.metrics,
            needs_credentials: !self.auth.is_anonymous(),
            a2a: self.a2a,
        };
        routes().with_state(Arc::new(shared))
    }
}

/// What a node of a cluster answers itself of the public API, whichever node leads.
pub struct NodeGateway {
    /// Who may call.
    pub auth: Auth,
    /// Which web pages may call.
    pub mcp: McpAccess,
    /// Whether the cards of agents are shown to everybody.
    pub public_cards: bool,
    /// What `/ready` reports.
    pub readiness: Readiness,
    /// What `/metrics` shows.
    pub metrics: Metrics,
}

impl NodeGateway {
    /// These routes, protected. The others are there for the edge, which says who may ask the leader for them.
    pub fn router(self) -> Router {
        let mut router = own_routes(self.readiness, self.metrics);
        for path in paths() {
            if !OWN_ROUTES.contains(&path.as_str()) {
                router = router.route(&path, any(elsewhere));
            }
        }
        edge(self.auth, &self.mcp, self.public_cards).protect(router)
    }
}

/// What a node says of a route that it does not answer itself; [`crate::ClusterFront`] has the leader answer it.
async fn elsewhere() -> ApiError {
    ApiError::unavailable("a request for the leader was not sent to it")
}

/// What stands around every route that callers reach.
pub(crate) fn edge(auth: Auth, mcp: &McpAccess, public_cards: bool) -> Edge {
    let pages = mcp.pages().iter();
    let pages = pages.filter_map(|page| HeaderValue::try_from(page).ok());
    let public = match public_cards {
        true => PUBLIC_ROUTES,
        false => PRIVATE_CARDS,
    };
    Edge::new("gateway", auth, public)
        .opened_by(
            &[TokenScope::Read, TokenScope::Invoke, TokenScope::Admin],
            &[TokenScope::Invoke, TokenScope::Admin],
        )
        .without(NO_OAUTH)
        .open_to(pages.collect())
        .speaking_openai(openai::ROUTES)
}

/// The paths of every route.
pub(crate) fn paths() -> Vec<String> {
    document().paths.paths.into_keys().collect()
}

// The one list of routes.
api! {
    Arc<Shared>: Document:
    invoke::invoke,
    ag_ui::run,
    models::list,
    models::get,
    chat_completions::create,
    responses::create,
    responses::get,
    responses::cancel,
    sessions::create,
    agents::list,
    agents::get,
    agents::mcp_servers,
    sessions::get,
    sessions::delete,
    sessions::messages,
    sessions::output,
    requests::list,
    requests::get,
    calls::calls,
    context::context,
    events::events,
    requests::cancel,
    requests::replay,
    fork::fork,
    requests::cassette,
    approvals::list,
    approvals::decide,
    policy::verdicts,
    canvas::show,
    outbox::list,
    published::list,
    published::publish,
    tasks::list,
    tasks::get,
    a2a_cards::keys,
    a2a_cards::root,
    a2a_cards::old_root,
    a2a_cards::of_agent,
    a2a_cards::short,
    a2a::call,
    a2a_http::send,
    a2a_http::stream,
    a2a_http::list,
    a2a_http::look,
    a2a_http::act,
    a2a_http::push,
    a2a_http::pushes,
    a2a_http::get_push,
    a2a_http::delete_push,
    a2a_http::extended,
    a2a_http::tenant_say,
    a2a_http::tenant_list,
    a2a_http::tenant_look,
    a2a_http::tenant_act,
    a2a_http::tenant_push,
    a2a_http::tenant_pushes,
    a2a_http::tenant_get_push,
    a2a_http::tenant_delete_push,
    wakeups::wake,
    mcp::post,
    mcp::get,
    mcp::delete,
    replicas::health,
    status::health,
    status::ready,
    status::metrics,
    status::openapi,
    reference::page,
    reference::file,
}
