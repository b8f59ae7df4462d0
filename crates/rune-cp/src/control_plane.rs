//! The router of the control-plane API.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, LazyLock};

use axum::Router;
use bytes::Bytes;
use rune_http::{Auth, Edge, Readiness, api, complete, reference};
use rune_remote_store::{InternalApi, InternalTokens, StoreServer};
use rune_replica::DaemonApi;
use rune_runtime::{ReconcileHandle, ReplicaRouter, SchedulerHandle, SecretVault};
use rune_store_runtime::{BlobStore, Store, Timestamp};
use utoipa::OpenApi;

use crate::admission::Admission;
use crate::cluster::{self, ClusterRoutes};
use crate::routes::deployments::{plan as deployment_plan, rollout as deployment_rollout};
use crate::routes::{
    agent_versions, audit, budgets, deployments, nodes, replicas, schedules, secrets, status, usage,
};

/// The routes that answer without credentials.
pub const PUBLIC_ROUTES: &[&str] = &[
    "/health",
    "/ready",
    "/openapi.json",
    "/docs",
    "/docs/{file}",
];

/// What the control-plane API needs.
pub struct ControlPlane {
    /// Where everything is kept.
    pub store: Store,
    /// Where packages are kept.
    pub blobs: Arc<dyn BlobStore>,
    /// Knows the load of replicas.
    pub router: ReplicaRouter,
    /// Woken by every change.
    pub reconcile: ReconcileHandle,
    /// Woken by every change of a schedule; fires by hand.
    pub scheduler: SchedulerHandle,
    /// Encrypts the secrets of tools.
    pub secrets: SecretVault,
    /// What may be published and deployed.
    pub admission: Arc<Admission>,
    /// This node.
    pub node: NodeInfo,
    /// Who may call.
    pub auth: Auth,
    /// What `/ready` reports.
    pub readiness: Readiness,
    /// Says which replicas may use the store.
    pub tokens: Arc<InternalTokens>,
    /// What is served to replicas beside the store, where some run outside this process.
    pub replicas: Option<DaemonApi>,
    /// What is served to split gateways at [`InternalApi::FORWARDED`].
    pub gateways: Option<Router>,
}

/// A node of Rune.
#[derive(Debug, Clone)]
pub struct NodeInfo {
    /// Its id.
    pub id: String,
    /// Where its public API listens.
    pub gateway_addr: Option<SocketAddr>,
    /// Where its control plane listens.
    pub control_plane_addr: Option<SocketAddr>,
    /// When it was started.
    pub started_at: Timestamp,
}

/// What handlers share.
pub(crate) struct Shared {
    pub(crate) store: Store,
    pub(crate) blobs: Arc<dyn BlobStore>,
    pub(crate) router: ReplicaRouter,
    pub(crate) reconcile: ReconcileHandle,
    pub(crate) scheduler: SchedulerHandle,
    pub(crate) secrets: SecretVault,
    pub(crate) admission: Arc<Admission>,
    pub(crate) node: NodeInfo,
    pub(crate) readiness: Readiness,
}

#[derive(OpenApi)]
#[openapi(
    info(
        title = "Rune control plane",
        description = "Publish and deploy agents. Every error has the body `ErrorBody`. Every answer has the header `x-request-id`."
    ),
    tags(
        (name = "agent versions", description = "Packages that were published"),
        (name = "deployments", description = "What should run"),
        (name = "replicas", description = "What runs"),
        (name = "schedules", description = "Requests that are made at a time, or after an event"),
        (name = "secrets", description = "Values for tools, which only come in"),
        (name = "usage", description = "Model calls, their tokens and costs, and budgets"),
        (name = "audit", description = "Who did what"),
        (name = "nodes", description = "Processes of this Rune"),
        (name = "status", description = "The process itself"),
    )
)]
struct Document;

/// The document of the API, made when somebody asks for it first.
pub(crate) static DOCUMENT: LazyLock<Bytes> = LazyLock::new(|| {
    let mut document = document();
    document.merge(cluster::DOCUMENT.clone());
    complete(&mut document, PUBLIC_ROUTES, &[]);
    document.to_json().map(Bytes::from).unwrap_or_default()
});

impl ControlPlane {
    /// Every route of the control-plane API, protected.
    pub fn router(self) -> Router {
        let internal = match self.gateways.clone() {
            Some(gateways) => self.internal().merge(gateways),
            None => self.internal(),
        };
        // Every node of a cluster answers these itself, before they come here.
        let cluster = ClusterRoutes {
            cluster: None,
            objects: None,
            first: BTreeMap::new(),
            store: self.store.clone(),
            node: self.node.clone(),
        };
        let shared = Shared {
            store: self.store,
            blobs: self.blobs,
            router: self.router,
            reconcile: self.reconcile,
            scheduler: self.scheduler,
            secrets: self.secrets,
            admission: self.admission,
            node: self.node,
            readiness: self.readiness,
        };
        let router = routes().with_state(Arc::new(shared));
        let router = router.merge(cluster.router()).merge(internal);
        edge("control-plane", self.auth, PUBLIC_ROUTES).protect(router)
    }

    /// The routes of replicas alone, for an address that is only theirs.
    pub fn router_for_replicas(&self) -> Router {
        edge("replicas", self.auth.clone(), &[]).protect(self.internal())
    }

    /// The routes that authenticate their callers themselves.
    fn internal(&self) -> Router {
        let store = StoreServer::new(self.store.clone(), Arc::clone(&self.blobs));
        let store = match &self.replicas {
            Some(replicas) => store.guarded_by(replicas.engine.clone()),
            None => store,
        };
        let internal = InternalApi {
            store,
            tokens: Arc::clone(&self.tokens),
        };
        let internal = internal.router();
        match self.replicas.clone() {
            Some(replicas) => internal.merge(replicas.router()),
            None => internal,
        }
    }
}

/// The paths of every route but those of the cluster.
pub(crate) fn paths() -> Vec<String> {
    let guarded = [InternalApi::ROUTES, DaemonApi::ROUTES].concat();
    let guarded = guarded.into_iter().chain([InternalApi::FORWARDED]);
    let mut paths: Vec<String> = document().paths.paths.into_keys().collect();
    paths.extend(guarded.map(str::to_owned));
    paths
}

/// What stands around every route.
pub(crate) fn edge(name: &'static str, auth: Auth, public: &'static [&'static str]) -> Edge {
    Edge::new(name, auth, public)
        .guarded_within(InternalApi::ROUTES)
        .guarded_within(&[InternalApi::FORWARDED])
        .guarded_within(DaemonApi::ROUTES)
}

// The one list of routes.
api! {
    Arc<Shared>: Document:
    agent_versions::publish,
    agent_versions::list,
    agent_versions::get,
    agent_versions::package,
    deployments::apply,
    deployment_plan::plan,
    deployments::list,
    deployments::get,
    deployments::delete,
    deployments::scale,
    deployment_rollout::start,
    deployment_rollout::promote,
    deployment_rollout::rollback,
    replicas::list,
    replicas::logs,
    nodes::list,
    schedules::create,
    schedules::list,
    schedules::get,
    schedules::delete,
    schedules::pause,
    schedules::resume,
    schedules::run,
    schedules::fires,
    secrets::list,
    secrets::put,
    secrets::delete,
    audit::list,
    usage::list,
    budgets::list,
    status::health,
    status::ready,
    status::openapi,
    reference::page,
    reference::file,
}
