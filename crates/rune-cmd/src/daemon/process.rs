//! The daemon process: parse → telemetry → config → bind → build → spawn → ready → drain → exit code.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rune_cluster::Member;
use rune_env::Config;
use rune_http::{Metrics, Readiness, Router, Server};
use rune_runtime::Tasks;
use rune_storage::{DataDirLock, StorageError, create_private_dir};
use rune_store_runtime::{Clock, SystemClock};
use tokio::net::TcpListener;

use super::cluster;
use super::instance::{Address, InstanceFiles};
use super::launch::{self, Reporter};
use super::listeners::{Listeners, already_running};
use super::log::RotatingLog;
use super::node::{Node, Place};
use super::process_backend::ProcessBackend;
use super::running::{Host, Running};
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
    if options.node_id.is_some() {
        let serving = cluster::serve(context, options, reporter, metrics, beside);
        return Box::pin(serving).await;
    }
    let mut interrupt = Interrupt::listen()?;
    let listeners = Listeners::bind(config, role).await?;
    let place = Place::configured(config)?;
    let lock = lock_data_dir(config, Some(&place))?;
    refuse_node(&place)?;
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
    let host = Host {
        config,
        place: &place,
        backend: options.backend.unwrap_or(Backend::Wasm),
        access: &listeners.access,
        id: NODE_ID.to_owned(),
        cluster: None,
        gateway_addr: listeners.gateway.as_ref().map(local_addr).transpose()?,
        control_plane_addr: local_addr(&listeners.control_plane)?,
        readiness: &readiness,
        metrics: &metrics,
    };
    let Running {
        node,
        processes,
        recovered,
        gateway,
        control_plane,
    } = Box::pin(host.assemble(node)).await?.run(config).await;
    let Listeners {
        gateway: public,
        control_plane: internal,
        ..
    } = listeners;
    for (name, listener, router) in [
        ("gateway", public, gateway),
        ("control-plane", Some(internal), Some(control_plane)),
    ] {
        if let (Some(listener), Some(router)) = (listener, router) {
            serve_http(&node.tasks, name, listener, router, STOP_GRACE);
        }
    }
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

/// What a node of a cluster has written is nothing that one daemon may go on with.
fn refuse_node(place: &Place) -> Outcome<()> {
    let log = place.database.with_file_name(Member::LOG_FILE);
    if !log.exists() {
        return Ok(());
    }
    let message = format!(
        "{} is the database of a node of a cluster",
        place.database.display()
    );
    Err(Failure::new(Exit::Failed, message).help(
        "start it with the `--node-id` that it had, or choose another data directory with --data-dir",
    ))
}

/// Puts an API on its socket. At the end answers get so long.
pub(super) fn serve_http(
    tasks: &Tasks,
    name: &'static str,
    listener: TcpListener,
    router: Router,
    grace: Duration,
) {
    let server = Server::new(name, listener, router, tasks.clone());
    tasks.spawn(name, server.run(tasks.shutdown(), grace));
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

pub(super) fn address(listeners: &Listeners, options: &StartOptions) -> Outcome<Address> {
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
    local_addr(listener).map(url_of)
}

/// Where a listener is.
pub(super) fn local_addr(listener: &TcpListener) -> Outcome<SocketAddr> {
    let addr = listener.local_addr();
    addr.map_err(|error| Failure::because("cannot read the own address", &error))
}

pub(super) fn pid_file(config: &Config, options: &StartOptions) -> PathBuf {
    let default = || config.storage.data_dir.join("daemon.pid");
    options.pid_file.clone().unwrap_or_else(default)
}
