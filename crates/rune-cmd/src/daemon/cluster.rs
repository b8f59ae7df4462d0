//! The daemon as a node of a cluster. Every node has both APIs and a copy of the database; the engine runs on the one that
//! leads, and a request that reached another one is answered there.
//!
//! [`term`] is the time for which this node leads: an engine of its own, begun and ended with it.

mod term;

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use rune_cluster::{ClusterSecret, Member, MemberConfig, MemberError};
use rune_cp::{ClusterApi, NodeInfo};
use rune_env::Config;
use rune_gateway::{Api, ClusterFront, NodeGateway};
use rune_http::{Metrics, Readiness};
use rune_raft::{NodeConfig, NodeId};
use rune_runtime::Tasks;
use rune_storage::{DataDirLock, StorageError};
use rune_store_runtime::{Clock as _, SystemClock};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::backends::for_replicas;
use super::instance::{Address, InstanceFiles};
use super::launch::Reporter;
use super::listeners::{Listeners, already_running};
use super::node::Place;
use super::objects;
use super::pods;
use super::process::{STOP_GRACE, address, local_addr, lock_data_dir, pid_file, serve_http};
use crate::commands::daemon::{Backend, Role, StartOptions};
use crate::context::Context;
use crate::failure::{Exit, Failure, Outcome, chain};
use crate::interrupt::Interrupt;
use crate::keys;
use term::Leader;

/// Where the other nodes reach this one, unless it is said.
const RAFT_ADDR: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 9000);
/// How long an engine may take to begin before requests that wait for it are told to come back.
const ENGINE_START: Duration = Duration::from_secs(2);

/// Runs until it is asked to end, or until what is done beside it has ended.
pub(super) async fn serve(
    context: &Context,
    options: &StartOptions,
    reporter: &mut Reporter,
    metrics: Metrics,
    beside: impl AsyncFnOnce(&Address) -> Outcome,
) -> Outcome {
    if options.role.is_some_and(|role| role != Role::All) {
        let message = "a node of a cluster has gateway, control plane and engine: `--role` and `--node-id` exclude each other";
        return Err(Failure::usage(message));
    }
    let secret = secret(&context.config)?;
    let config = of_cluster(&context.config, &secret);
    let mut interrupt = Interrupt::listen()?;
    let listeners = Listeners::bind(&config, Role::All).await?;
    let place = Place::configured(&config)?;
    let lock = lock_data_dir(&config, Some(&place))?;
    let protocol = NodeConfig::default();
    // A leader that is lost, another one that may be elected at the second try, and its engine.
    let hold = protocol.election * 4 + ENGINE_START;
    let (member, first) = open(options, &place, secret, protocol).await?;
    let address = address(&listeners, options)?;
    let files = InstanceFiles::write(context.data_dir(), &pid_file(&config, options), &address)?;

    let tasks = Tasks::new();
    if let Some(grace) = context.config.storage.object_grace {
        let objects = member.objects().clone();
        let remove = move |before| {
            let objects = objects.clone();
            async move { objects.sweep(before).await }
        };
        let sweep = objects::sweep(None, remove, Some(grace), tasks.shutdown());
        tasks.spawn("objects", sweep);
    }
    let readiness = Readiness::default();
    // Whether a majority answers, and whether somebody answers callers: the one goes before the other.
    let (quorum, ready) = (readiness.part("cluster"), readiness.part("leader"));
    let front = ClusterFront::new(Arc::clone(&member), hold, tasks.shutdown());
    let gateway_addr = listeners.gateway.as_ref().map(local_addr).transpose()?;
    let leader = Leader {
        member: Arc::clone(&member),
        front: front.clone(),
        backend: options.backend.unwrap_or(Backend::Wasm),
        access: listeners.access.clone(),
        gateway_addr,
        control_plane_addr: local_addr(&listeners.control_plane)?,
        readiness: readiness.clone(),
        metrics: metrics.clone(),
        tasks: tasks.clone(),
        place,
        config,
    };
    // What is wrong with the configuration is said now, and not by the first term.
    let replicas = match leader.backend {
        Backend::Kubernetes => {
            pods::daemon_url(&leader.config)?;
            Some(for_replicas(&leader.config).await?)
        }
        Backend::Wasm | Backend::Process | Backend::Docker => None,
    };
    let standby = leader.stand_by().await?;
    let own_gateway = NodeGateway {
        auth: listeners.access.auth.clone(),
        mcp: listeners.access.mcp.clone(),
        public_cards: listeners.access.a2a.public_cards,
        readiness: readiness.clone(),
        metrics,
    };
    let own_control_plane = ClusterApi {
        member: Arc::clone(&member),
        first,
        node: NodeInfo {
            id: member.identity().node().to_string(),
            gateway_addr,
            control_plane_addr: Some(leader.control_plane_addr),
            started_at: SystemClock.now(),
        },
        auth: listeners.access.auth,
        readiness,
    };
    let grace = leader.config.runtime.drain_grace;
    if let Some(listener) = listeners.gateway {
        let router = front.router(Api::Gateway, own_gateway.router());
        serve_http(&tasks, "gateway", listener, router, grace);
    }
    let own = own_control_plane.router();
    let router = front.router(Api::ControlPlane, own.clone());
    let listener = listeners.control_plane;
    serve_http(&tasks, "control-plane", listener, router, grace);
    if let Some(listener) = replicas {
        let router = front.router_for_replicas(own);
        serve_http(&tasks, "replicas", listener, router, grace);
    }
    let watching = tasks.shutdown().run_until_cancelled_owned({
        let front = front.clone();
        async move { front.watch(|is_answered| ready.set(is_answered)).await }
    });
    tasks.spawn("cluster-ready", async move {
        watching.await;
    });
    let cluster = member.cluster();
    let watching = cluster.watch(move |state| quorum.tell(state));
    let watching = tasks.shutdown().run_until_cancelled_owned(watching);
    tasks.spawn("cluster-watch", async move {
        watching.await;
    });
    tracing::info!(
        version = address.version,
        node = member.identity().node(),
        gateway = address.gateway,
        control_plane = address.control_plane,
        data_dir = %context.data_dir().display(),
        "listening"
    );
    reporter.ready();

    let stop = CancellationToken::new();
    let leading = leader.lead_in_turn(standby, stop.clone());
    tokio::pin!(leading);
    let ended = tokio::select! {
        () = &mut leading => Ok(Exit::Ok),
        () = interrupt.next() => Ok(Exit::Ok),
        ended = beside(&address) => ended,
    };
    tracing::info!("shutting down");
    stop.cancel();
    let shut_down = async {
        leading.await;
        shut_down(&tasks, &member, files, lock, grace).await;
    };
    tokio::select! {
        () = shut_down => ended,
        () = interrupt.next() => {
            tracing::warn!("second signal: ending now");
            Err(Failure::silent(Exit::Interrupted))
        }
    }
}

/// Lets answers of other nodes end, then takes no part any more.
async fn shut_down(
    tasks: &Tasks,
    member: &Member,
    files: InstanceFiles,
    lock: Option<DataDirLock>,
    grace: Duration,
) {
    if !tasks.stop(grace + STOP_GRACE).await {
        tracing::warn!(tasks = tasks.len(), "tasks did not end in time");
    }
    // While the data directory is still ours.
    drop(files);
    if let Err(error) = member.close().await {
        tracing::error!(error = chain(&error), "the store did not close well");
    }
    drop(lock);
    tracing::info!("stopped");
}

/// The node, and the nodes that its cluster begins with.
async fn open(
    options: &StartOptions,
    place: &Place,
    secret: ClusterSecret,
    protocol: NodeConfig,
) -> Outcome<(Arc<Member>, BTreeMap<NodeId, String>)> {
    let node = options.node_id.unwrap_or_default();
    let addr = options.raft_addr.unwrap_or(RAFT_ADDR);
    let listener = TcpListener::bind(addr).await.map_err(|error| {
        let message = format!("cannot listen for other nodes on {addr}: {error}");
        Failure::new(Exit::Failed, message).help("choose another address with --raft-addr")
    })?;
    let addr = local_addr(&listener)?;
    let peers = options.peers.iter();
    let mut first: BTreeMap<_, _> = peers.map(|peer| (peer.id, peer.addr.clone())).collect();
    first.entry(node).or_insert_with(|| addr.to_string());
    let opened = Member::open(MemberConfig {
        secret,
        node,
        listener,
        database: place.database.clone(),
        objects: place.open_objects()?,
        protocol,
    });
    let member = opened.await.map_err(|error| match error {
        MemberError::Storage(StorageError::Locked { path, pid }) => already_running(&path, pid),
        error @ MemberError::Storage(StorageError::Owner { .. }) => {
            Failure::because("cannot open the node", &error).help(
                "start it with the `--node-id` and the RUNE_CLUSTER_SECRET that it had, or with an empty data directory",
            )
        }
        error => Failure::because("cannot open the node", &error),
    })?;
    Ok((Arc::new(member), first))
}

/// The configuration of a node: what nodes must have in common follows from the secret that they have.
pub(crate) fn of_cluster(config: &Config, secret: &ClusterSecret) -> Config {
    let mut config = config.clone();
    config
        .storage
        .secret_key
        .get_or_insert_with(|| secret.key("secrets of tools"));
    // The node removes objects by itself, whether it leads or not.
    config.storage.object_grace = None;
    config
}

/// What this node and the others have in common.
pub(crate) fn secret(config: &Config) -> Outcome<ClusterSecret> {
    const MAKE: &str = "`openssl rand -hex 32` makes one; all nodes of a cluster have the same";
    let storage = &config.storage;
    let path = &storage.cluster_secret_file;
    let (text, origin) = match &storage.cluster_secret {
        Some(text) => (text.clone(), "RUNE_CLUSTER_SECRET".to_owned()),
        None if !path.exists() => {
            let message = format!(
                "a node of a cluster needs RUNE_CLUSTER_SECRET, or a file {}",
                path.display()
            );
            return Err(Failure::usage(message).help(MAKE));
        }
        None => {
            let text = keys::private_text(path).map_err(|why| {
                let path = path.display();
                Failure::usage(format!(
                    "the secret of the cluster, {path}, cannot be used: {why}"
                ))
            })?;
            (text.into(), path.display().to_string())
        }
    };
    ClusterSecret::parse(&text)
        .map_err(|error| Failure::usage(format!("{origin}: {error}")).help(MAKE))
}
