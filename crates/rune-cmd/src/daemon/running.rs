//! The engine of a daemon, started: what is deployed runs, what was interrupted is taken up, and both APIs are on it.

use std::future::ready;
use std::net::SocketAddr;
use std::sync::Arc;

use rune_cp::{ControlPlane, NodeInfo};
use rune_env::Config;
use rune_gateway::Gateway;
use rune_http::{Metrics, Readiness, Router, Server};
use rune_runtime::{ReconcileHandle, ReconcileLoop, Scheduler, SchedulerHandle};

use super::backends::{Backends, Outside};
use super::listeners::Access;
use super::node::{Node, Place};
use super::objects;
use super::process::STOP_GRACE;
use super::process_backend::ProcessBackend;
use crate::commands::daemon::Backend;
use crate::failure::{Outcome, chain};

/// What an engine is started for.
pub(super) struct Host<'a> {
    pub(super) config: &'a Config,
    pub(super) place: &'a Place,
    pub(super) backend: Backend,
    pub(super) access: &'a Access,
    /// Its name.
    pub(super) id: String,
    /// The name of the cluster of which it is a node.
    pub(super) cluster: Option<&'a str>,
    /// Where the gateway listens; nothing where it is apart from this process.
    pub(super) gateway_addr: Option<SocketAddr>,
    pub(super) control_plane_addr: SocketAddr,
    pub(super) readiness: &'a Readiness,
    pub(super) metrics: &'a Metrics,
}

/// An engine that does nothing yet, with everything that is to run on it.
pub(super) struct Assembled {
    pub(super) node: Node,
    /// The replicas that end with this process.
    pub(super) processes: Option<Arc<ProcessBackend>>,
    /// The public API, where the gateway is in this process.
    pub(super) gateway: Option<Router>,
    pub(super) control_plane: Router,
    reconcile: ReconcileLoop,
    handle: ReconcileHandle,
    scheduler: Scheduler,
}

/// An engine that runs.
pub(super) struct Running {
    pub(super) node: Node,
    pub(super) processes: Option<Arc<ProcessBackend>>,
    pub(super) gateway: Option<Router>,
    pub(super) control_plane: Router,
    /// How many requests were taken up.
    pub(super) recovered: usize,
}

impl Host<'_> {
    /// Puts everything on the engine of a node.
    pub(super) async fn assemble(&self, node: Node) -> Outcome<Assembled> {
        let Self { config, place, .. } = self;
        let Backends {
            driven: backend,
            outside,
            processes,
            packages,
        } = Backends::new(self.backend, config, place, &node, self.cluster).await?;
        let (reconcile, handle) = ReconcileLoop::new(
            node.store.clone(),
            backend,
            node.router.clone(),
            node.tasks.clone(),
            config.runtime.drain_grace,
        );
        let reconcile = reconcile.announcing(node.engine.clone()).scaling(
            config.scaling,
            self.access.admission.quota,
            Arc::clone(&node.loader),
            packages,
        );
        let (scheduler, scheduler_handle) = Scheduler::new(node.engine.clone(), node.tasks.clone());
        let (gateway, control_plane) =
            self.routers(&node, handle.clone(), scheduler_handle, outside);
        Ok(Assembled {
            node,
            processes,
            gateway,
            control_plane,
            reconcile,
            handle,
            scheduler,
        })
    }

    /// Both APIs on a node; what is only for replicas is served.
    fn routers(
        &self,
        node: &Node,
        reconcile: ReconcileHandle,
        scheduler: SchedulerHandle,
        outside: Option<Outside>,
    ) -> (Option<Router>, Router) {
        let (replicas, for_replicas) = match outside {
            Some(Outside { api, listener }) => (Some(api), listener),
            None => (None, None),
        };
        let Access {
            auth,
            mcp,
            a2a,
            admission,
        } = self.access.clone();
        let gateway = Gateway {
            engine: node.engine.clone(),
            auth: auth.clone(),
            readiness: self.readiness.clone(),
            metrics: self.metrics.clone(),
            mcp,
            a2a,
            secrets: node.loader.secrets.clone(),
        };
        let (gateway, gateways) = match self.gateway_addr {
            Some(_) => (Some(gateway.router()), None),
            None => {
                let router = gateway.router_for_gateways(Arc::clone(&node.tokens));
                (None, Some(router))
            }
        };
        let control_plane = ControlPlane {
            store: node.store.clone(),
            blobs: Arc::clone(&node.blobs),
            router: node.router.clone(),
            reconcile,
            scheduler,
            secrets: node.loader.secrets.clone(),
            admission,
            node: NodeInfo {
                id: self.id.clone(),
                gateway_addr: self.gateway_addr,
                control_plane_addr: Some(self.control_plane_addr),
                started_at: node.store.now(),
            },
            auth,
            readiness: self.readiness.clone(),
            tokens: Arc::clone(&node.tokens),
            replicas,
            gateways,
        };
        if let Some(listener) = for_replicas {
            let router = control_plane.router_for_replicas();
            let server = Server::new("replicas", listener, router, node.tasks.clone());
            let serving = server.run(node.tasks.shutdown(), STOP_GRACE);
            node.tasks.spawn("replicas", serving);
        }
        (gateway, control_plane.router())
    }
}

impl Assembled {
    /// Has it run.
    pub(super) async fn run(self, config: &Config) -> Running {
        let Self {
            node,
            processes,
            gateway,
            control_plane,
            reconcile,
            handle,
            scheduler,
        } = self;
        node.tasks.spawn("reconcile", reconcile.run());
        // What a crash interrupted is taken up before anything new can be accepted: connections wait in the backlog.
        handle.deployments_known().await;
        tracing::debug!("the deployments are known");
        let recovered = match node.engine.recover().await {
            Ok(count) => count,
            // What cannot be taken up must not keep everything else from being served.
            Err(error) => {
                tracing::error!(
                    error = chain(&error),
                    "not every interrupted request was taken up"
                );
                0
            }
        };
        node.tasks.spawn("retake", node.engine.clone().retake());
        let docker = node.docker.clone();
        node.tasks.spawn("sweep", async move {
            // Without an engine there is nothing to be removed; a call that needs one says that it is not there.
            if let Err(error) = docker.sweep().await {
                tracing::debug!(%error, "containers were not looked for");
            }
        });
        let (database, objects) = (Arc::clone(&node.database), node.objects.clone());
        let remove = move |before| {
            let (database, objects) = (Arc::clone(&database), objects.clone());
            async move { database.sweep(&objects, before, ready(true)).await }
        };
        let sweep = objects::sweep(
            Some(node.store.clone()),
            remove,
            config.storage.object_grace,
            node.tasks.shutdown(),
        );
        node.tasks.spawn("objects", sweep);
        node.tasks
            .spawn("deadlines", node.engine.clone().watch_deadlines());
        node.tasks.spawn("scheduler", scheduler.run());
        Running {
            node,
            processes,
            gateway,
            control_plane,
            recovered,
        }
    }
}
