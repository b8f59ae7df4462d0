//! The daemon process: parse → telemetry → config → bind → build → spawn → ready → drain → exit code.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rune_cp::{ControlPlane, NodeInfo};
use rune_env::Config;
use rune_gateway::Gateway;
use rune_http::{Metrics, Readiness, Server};
use rune_runtime::{ReconcileHandle, ReconcileLoop, Scheduler, SchedulerHandle};
use rune_storage::{DataDirLock, StorageError, create_private_dir};
use rune_store_runtime::{Clock, SystemClock};
use tokio::net::TcpListener;

use super::backends::{Backends, Outside};
use super::instance::{Address, InstanceFiles};
use super::launch::{self, Reporter};
use super::listeners::{Listeners, already_running};
use super::log::RotatingLog;
use super::node::{Node, Place};
use super::objects;
use super::process_backend::ProcessBackend;
use super::split_gateway;
use super::telemetry;
use super::unused;
use crate::commands::daemon::{Backend, Role, StartOptions};
use crate::context::{Context, url_of};
use crate::failure::{Exit, Failure, Outcome, chain};
use crate::interrupt::Interrupt;

/// Threads that run tasks at the most; the work is I/O.
const MAX_WORKERS: usize = 8;
/// How long tasks get to end after the requests have.
pub(super) const STOP_GRACE: Duration = Duration::from_secs(5);
/// Name of the only node.
const NODE_ID: &str = "local";

/// Runs until it is asked to end.
pub(crate) fn run(context: &Context, options: &StartOptions, detached: bool) -> Outcome {
    run_with(context, options, detached, async |_| {
        std::future::pending().await
    })
}

/// Runs until it is asked to end, or until what is done beside it has ended.
pub(crate) fn run_with(
    context: &Context,
    options: &StartOptions,
    detached: bool,
    beside: impl AsyncFnOnce(&Address) -> Outcome,
) -> Outcome {
    let mut reporter = Reporter::new(detached)?;
    let result = start(context, options, detached, &mut reporter, beside);
    if let Err(failure) = &result {
        reporter.failed(failure);
    }
    result
}

fn start(
    context: &Context,
    options: &StartOptions,
    detached: bool,
    reporter: &mut Reporter,
    beside: impl AsyncFnOnce(&Address) -> Outcome,
) -> Outcome {
    let log = if detached {
        // Stderr is the log already.
        let path = launch::log_file(context.data_dir(), options);
        Some(RotatingLog::open(&path, true)?)
    } else {
        let path = options.log_file.as_deref();
        path.map(|path| RotatingLog::open(path, false))
            .transpose()?
    };
    telemetry::start(&context.config.observability, log)?;
    let metrics = Metrics::default();
    metrics
        .install()
        .map_err(|error| Failure::because("cannot collect metrics", &error))?;
    let workers = std::thread::available_parallelism()
        .map_or(2, usize::from)
        .clamp(2, MAX_WORKERS);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(workers)
        .thread_name("rune-worker")
        .enable_all()
        .build()
        .map_err(|error| Failure::because("cannot start the runtime", &error))?;
    let result = runtime.block_on(serve(context, options, reporter, metrics, beside));
    runtime.shutdown_background();
    result
}

async fn serve(
    context: &Context,
    options: &StartOptions,
    reporter: &mut Reporter,
    metrics: Metrics,
    beside: impl AsyncFnOnce(&Address) -> Outcome,
) -> Outcome {
    let config = &context.config;
    for setting in unused::without_effect(config) {
        tracing::warn!(setting, "this version of Rune does not act on the setting");
    }
    let role = options.role.unwrap_or(Role::All);
    if role == Role::Gateway {
        return split_gateway::serve(context, options, reporter, metrics).await;
    }
    let mut interrupt = Interrupt::listen()?;
    let listeners = Listeners::bind(config, role).await?;
    let place = Place::configured(config)?;
    let lock = lock_data_dir(config, Some(&place))?;
    let node = Node::open(config, &place)?;
    if role == Role::ControlPlane {
        // The tokens of its gateways are signed by commands, which make no key.
        let made = node.tokens.prepare().await;
        made.map_err(|error| Failure::because("cannot know gateways by their tokens", &error))?;
    }
    let address = address(&listeners, options)?;
    // The lock on the data directory is ours from here on, so these files are, too. Written beside what follows.
    let writing = {
        let (data_dir, address) = (context.data_dir().to_owned(), address.clone());
        let pid_file = pid_file(config, options);
        tokio::task::spawn_blocking(move || InstanceFiles::write(&data_dir, &pid_file, &address))
    };

    let readiness = Readiness::default();
    let ready = readiness.part("engine");
    let backend = options.backend.unwrap_or(Backend::Wasm);
    let Backends {
        driven: backend,
        outside,
        processes,
        packages,
    } = Backends::new(backend, config, &place, &node, &listeners).await?;
    let (reconcile, reconcile_handle) = ReconcileLoop::new(
        node.store.clone(),
        backend,
        node.router.clone(),
        node.tasks.clone(),
        config.runtime.drain_grace,
    );
    let reconcile = reconcile.announcing(node.engine.clone()).scaling(
        config.scaling,
        Arc::clone(&node.loader),
        packages,
    );
    node.tasks.spawn("reconcile", reconcile.run());
    // What a crash interrupted is taken up before anything new can be accepted: connections wait in the backlog.
    reconcile_handle.deployments_known().await;
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
    if let Some(grace) = config.storage.object_grace {
        let (database, objects) = (Arc::clone(&node.database), node.objects.clone());
        let sweep = objects::sweep(database, objects, grace, node.tasks.shutdown());
        node.tasks.spawn("objects", sweep);
    }
    node.tasks
        .spawn("deadlines", node.engine.clone().watch_deadlines());
    let (scheduler, scheduler_handle) = Scheduler::new(node.engine.clone(), node.tasks.clone());
    node.tasks.spawn("scheduler", scheduler.run());
    serve_http(
        &node,
        listeners,
        readiness,
        reconcile_handle,
        scheduler_handle,
        metrics,
        outside,
    );
    let files = writing
        .await
        .map_err(|error| Failure::because("cannot write daemon.json", &error))??;
    ready.set(true);
    tracing::info!(
        version = address.version,
        gateway = address.gateway,
        control_plane = address.control_plane,
        data_dir = %context.data_dir().display(),
        recovered,
        "ready"
    );
    reporter.ready();

    let ended = tokio::select! {
        () = interrupt.next() => Ok(Exit::Ok),
        ended = beside(&address) => ended,
    };
    tracing::info!("shutting down");
    ready.set(false);
    tokio::select! {
        () = shut_down(node, processes, files, lock, config.runtime.drain_grace) => ended,
        () = interrupt.next() => {
            tracing::warn!("second signal: ending now");
            Err(Failure::silent(Exit::Interrupted))
        }
    }
}

/// Puts both APIs on their sockets.
fn serve_http(
    node: &Node,
    listeners: Listeners,
    readiness: Readiness,
    reconcile: ReconcileHandle,
    scheduler: SchedulerHandle,
    metrics: Metrics,
    outside: Option<Outside>,
) {
    let (replicas, for_replicas) = match outside {
        Some(Outside { api, listener }) => (Some(api), listener),
        None => (None, None),
    };
    let info = NodeInfo {
        id: NODE_ID.to_owned(),
        gateway_addr: listeners
            .gateway
            .as_ref()
            .and_then(|listener| listener.local_addr().ok()),
        control_plane_addr: listeners.control_plane.local_addr().ok(),
        started_at: node.store.now(),
    };
    let gateway = Gateway {
        engine: node.engine.clone(),
        auth: listeners.auth.clone(),
        readiness: readiness.clone(),
        metrics,
        mcp: listeners.mcp,
        a2a: listeners.a2a,
        secrets: node.loader.secrets.clone(),
    };
    let (gateway, gateways) = match listeners.gateway {
        Some(listener) => (Some(("gateway", listener, gateway.router())), None),
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
        trusted_keys: listeners.trusted_keys,
        node: info,
        auth: listeners.auth,
        readiness,
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
    let control_plane = (
        "control-plane",
        listeners.control_plane,
        control_plane.router(),
    );
    for (name, listener, router) in gateway.into_iter().chain([control_plane]) {
        let server = Server::new(name, listener, router, node.tasks.clone());
        let serving = server.run(node.tasks.shutdown(), STOP_GRACE);
        node.tasks.spawn(name, serving);
    }
}

/// Lets requests end, then tasks, then the store. What does not end in time is in the journal and is taken up by the
/// next start.
async fn shut_down(
    node: Node,
    processes: Option<Arc<ProcessBackend>>,
    files: InstanceFiles,
    lock: Option<DataDirLock>,
    grace: Duration,
) {
    if !node.engine.drain(grace).await {
        tracing::warn!(
            active = node.engine.active(),
            "requests did not end in time and go on with the next start"
        );
    }
    if let Some(processes) = processes {
        // While they can still say what was interrupted.
        processes.close().await;
    }
    if !node.tasks.stop(STOP_GRACE).await {
        tracing::warn!(tasks = node.tasks.len(), "tasks did not end in time");
    }
    // While the data directory is still ours.
    drop(files);
    if let Err(error) = node.database.close().await {
        tracing::error!(error = chain(&error), "the store did not close well");
    }
    drop(lock);
    tracing::info!("stopped");
}

/// The store locks the directory of the database. Where that is not the data directory, the data directory is locked
/// as well: it is by this lock that a running daemon is found. So it is where there is no database.
pub(super) fn lock_data_dir(
    config: &Config,
    place: Option<&Place>,
) -> Outcome<Option<DataDirLock>> {
    let data_dir = &config.storage.data_dir;
    create_private_dir(data_dir)
        .map_err(|error| Failure::because(format!("cannot make {}", data_dir.display()), &error))?;
    let is_same = |dir: &Path| match (dir.canonicalize(), data_dir.canonicalize()) {
        (Ok(dir), Ok(data_dir)) => dir == data_dir,
        _ => false,
    };
    let parent = place.and_then(|place| place.database.parent()).map(|dir| {
        if dir.as_os_str().is_empty() {
            Path::new(".")
        } else {
            dir
        }
    });
    if parent.is_some_and(is_same) {
        return Ok(None);
    }
    match DataDirLock::acquire(data_dir) {
        Ok(lock) => Ok(Some(lock)),
        Err(StorageError::Locked { path, pid }) => Err(already_running(&path, pid)),
        Err(error) => Err(Failure::because("cannot lock the data directory", &error)),
    }
}

fn address(listeners: &Listeners, options: &StartOptions) -> Outcome<Address> {
    Ok(Address {
        pid: std::process::id(),
        gateway: listeners.gateway.as_ref().map(local_url).transpose()?,
        control_plane: local_url(&listeners.control_plane)?,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        started_at: SystemClock.now().to_string(),
        options: options.clone(),
    })
}

/// How a listener is reached from this machine.
pub(super) fn local_url(listener: &TcpListener) -> Outcome<String> {
    let addr = listener.local_addr();
    addr.map(url_of)
        .map_err(|error| Failure::because("cannot read the own address", &error))
}

pub(super) fn pid_file(config: &Config, options: &StartOptions) -> PathBuf {
    let default = || config.storage.data_dir.join("daemon.pid");
    options.pid_file.clone().unwrap_or_else(default)
}
