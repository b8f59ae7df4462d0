//! `rune replica`: the agent loop of one deployment, in a process of its own.
//!
//! It is started by a backend of the daemon, has what it needs to know from its environment and
//! from the daemon, and keeps nothing: what lasts goes through the daemon's store.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use rune_env::{Config, ConfigSources, Overrides, ReplicaAddr, ReplicaConfig, SandboxMode};
use rune_http::{Auth, Listener, Server};
use rune_remote_store::{RemoteStore, RemoteStoreConfig};
use rune_replica::{DaemonLink, ReplicaApi, ReplicaBoot};
use rune_runtime::model::Prices;
use rune_runtime::{
    Agent, AgentLoader, Engine, EngineLink, PackageCache, Replica, ReplicaRouter, SecretVault,
    Tasks, ToolRunner,
};
use rune_storage::Variables;
use rune_storage::{Durability, create_private_dir};
use rune_store_runtime::{BlobStore, DeploymentId, ReplicaId, Store, StoreError, SystemClock};
use rune_tools::SandboxSupport;
use serde_json::json;
use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;

use crate::context::url_of;
use crate::daemon::log::RotatingLog;
use crate::daemon::node::{Place, agent_loader, own_launcher};
use crate::daemon::telemetry;
use crate::failure::{Exit, Failure, Outcome, chain};

/// Pause before the token is renewed that could not be.
const RENEWAL_PAUSE: Duration = Duration::from_secs(2);
/// How long requests may go on that the daemon has waited for already.
const DRAINED_GRACE: Duration = Duration::from_secs(2);
/// How long tasks get to end after the requests have.
const STOP_GRACE: Duration = Duration::from_secs(5);
/// Built-in tools that start processes.
const PROCESS_TOOLS: [&str; 2] = ["shell-exec", "process-start"];
/// Longest silence in what is told of a run.
const MAX_QUIET: Duration = Duration::from_secs(5);

/// Run requests of one deployment for a daemon, which starts this by itself.
#[derive(Debug, Args)]
#[command(
    after_help = "It is told by RUNE_REPLICA_… variables where the daemon is and which replica it is; docs/replicas.md has them."
)]
pub(crate) struct ReplicaArgs {}

pub(crate) fn run() -> Outcome {
    let config = ReplicaConfig::from_process().map_err(|error| {
        Failure::usage(format!("this is no replica of a daemon: {}", chain(&error)))
            .help("replicas are started by the daemon: `rune daemon start --backend process`")
    })?;
    // Only where nobody says: a replica that is killed leaves it.
    let temporary;
    let data_dir = match &config.data_dir {
        Some(dir) => dir.clone(),
        None => {
            let made = tempfile::Builder::new().prefix("rune-replica-").tempdir();
            temporary = made
                .map_err(|error| Failure::because("cannot make a temporary directory", &error))?;
            temporary.path().to_owned()
        }
    };
    let own = Overrides::new().with("storage.data_dir", data_dir.to_str());
    let own = Config::without_file(own).map_err(|error| {
        Failure::usage(format!("the configuration is not valid: {}", chain(&error)))
    })?;
    let log = config.log.as_deref();
    let log = log.map(|path| RotatingLog::open(path, true)).transpose()?;
    telemetry::start(&own.observability, log)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .thread_name("rune-worker")
        .enable_all()
        .build()
        .map_err(|error| Failure::because("cannot start the runtime", &error))?;
    let result = runtime.block_on(serve(&config, &data_dir));
    runtime.shutdown_background();
    result
}

async fn serve(config: &ReplicaConfig, data_dir: &Path) -> Outcome {
    let mut signals = Signals::listen()?;
    create_private_dir(data_dir)
        .map_err(|error| Failure::because(format!("cannot make {}", data_dir.display()), &error))?;
    let replica_id = id::<ReplicaId>("RUNE_REPLICA_ID", &config.replica_id)?;
    let deployment_id = id::<DeploymentId>("RUNE_REPLICA_DEPLOYMENT", &config.deployment_id)?;
    let tasks = Tasks::new();
    let access = RemoteStoreConfig::new(&config.control_plane, config.token.clone());
    let remote = RemoteStore::new(&access, tasks.clone())
        .map_err(|error| Failure::because("cannot reach the daemon", &error))?;
    let link = DaemonLink::new(remote.clone());
    let load = async {
        let boot = link.boot(&config.fingerprint).await.map_err(|error| {
            let message = format!("cannot learn what to run: {}", chain(&error));
            Failure::new(Exit::Unavailable, message)
        })?;
        let parts = Parts::open(config, &boot, data_dir, remote, &tasks)?;
        let agent = parts.agent(config, &boot, data_dir).await?;
        Ok::<_, Failure>((boot, parts, agent))
    };
    let Some((boot, parts, agent)) = signals.unless_any(load).await? else {
        return Ok(Exit::Ok);
    };
    let connect = async { agent.connect().await.map_err(|error| cannot_run(&error)) };
    if signals.unless_any(connect).await?.is_none() {
        agent.disconnect().await;
        return Ok(Exit::Ok);
    }
    let drain_grace = parts.settings.runtime.drain_grace;
    let quiet = (agent.spec().runtime.request_timeout / 3).min(MAX_QUIET);
    let router = ReplicaRouter::new();
    let mut deployment = boot.deployment.clone();
    // Whatever is scaled or rolled out meanwhile, this one runs what it is given.
    deployment.replicas = deployment.replicas.max(1);
    deployment.scaling = None;
    deployment.version_id = boot.version.id;
    deployment.rollout = None;
    router.set_deployment(deployment);
    router.add_replica(Replica::local(
        replica_id,
        deployment_id,
        boot.version.id,
        Arc::clone(&agent),
    ));
    let engine = Engine::new(parts.store.clone(), router, tasks.clone())
        .with_blobs(Arc::clone(&parts.blobs))
        .linked(Arc::new(link.clone()));
    let draining = CancellationToken::new();
    let auth = Auth::new(Some(&config.key), None, None)
        .map_err(|error| Failure::because("cannot check who asks", &error))?;
    let api = ReplicaApi {
        engine: engine.clone(),
        replica_id,
        deployment_id,
        fingerprint: config.fingerprint.clone(),
        quiet,
        auth,
        draining: draining.clone(),
    };
    let (listener, url) = bind(&config.addr).await?;
    let server = Server::new("replica", listener, api.router(), tasks.clone());
    tasks.spawn("replica", server.run(tasks.shutdown(), STOP_GRACE));
    say_where(&url)?;
    tracing::info!(replica = %replica_id, agent = agent.name(), url, "ready");

    let grace = tokio::select! {
        _ = signals.terminate.recv() => if draining.is_cancelled() { DRAINED_GRACE } else { drain_grace },
        _ = signals.interrupt.recv() => Duration::ZERO,
        () = orphaned(&parts.remote, config.orphan_after) => Duration::ZERO,
    };
    tracing::info!(active = engine.active(), "shutting down");
    draining.cancel();
    let ended = tokio::select! {
        ended = engine.drain(grace) => ended,
        _ = signals.interrupt.recv() => engine.drain(Duration::ZERO).await,
    };
    if !ended {
        tracing::warn!("requests did not end in time and go on with another replica");
    }
    agent.disconnect().await;
    tasks.stop(STOP_GRACE).await;
    tracing::info!("stopped");
    Ok(Exit::Ok)
}

/// What ends a replica.
struct Signals {
    /// Once what it runs has ended.
    terminate: Signal,
    /// At once.
    interrupt: Signal,
}

impl Signals {
    /// From now on the signals do not end the process by themselves.
    fn listen() -> Outcome<Self> {
        let listen = |kind| {
            signal(kind).map_err(|error| Failure::because("cannot listen for signals", &error))
        };
        Ok(Self {
            terminate: listen(SignalKind::terminate())?,
            interrupt: listen(SignalKind::interrupt())?,
        })
    }

    /// What comes of a part of the start; nothing where a signal ends the replica before it runs anything.
    async fn unless_any<T>(
        &mut self,
        part: impl Future<Output = Outcome<T>>,
    ) -> Outcome<Option<T>> {
        tokio::select! {
            done = part => done.map(Some),
            _ = self.terminate.recv() => Ok(None),
            _ = self.interrupt.recv() => Ok(None),
        }
    }
}

fn id<T: std::str::FromStr>(name: &str, text: &str) -> Outcome<T> {
    text.parse()
        .map_err(|_| Failure::usage(format!("`{name}` is not an id")))
}

/// Listens, and answers where it is reached.
async fn bind(addr: &ReplicaAddr) -> Outcome<(Listener, String)> {
    let bound = async {
        Ok(match addr {
            ReplicaAddr::Tcp(addr) => {
                let listener = TcpListener::bind(addr).await?;
                let url = url_of(listener.local_addr()?);
                (Listener::from(listener), url)
            }
            // Nobody but the user that it runs as.
            ReplicaAddr::Unix(path) => (Listener::unix(path, 0o600)?, addr.to_string()),
        })
    };
    bound.await.map_err(|error: std::io::Error| {
        Failure::because(format!("cannot listen on {addr}"), &error)
    })
}

/// Tells whoever started it where it listens.
fn say_where(url: &str) -> Outcome<()> {
    let line = json!({ "listening": url });
    let mut stdout = std::io::stdout().lock();
    let said = writeln!(stdout, "{line}").and_then(|()| stdout.flush());
    said.map_err(|error| Failure::because("cannot say where the replica listens", &error))
}

/// Keeps its token valid. Returns once the daemon has not taken the replica for too long, in a row.
async fn orphaned(remote: &RemoteStore, longest: Duration) {
    let mut alone: Option<Instant> = None;
    loop {
        let since = alone.unwrap_or_else(Instant::now);
        let renewed = timeout_at(since + longest, remote.renew_token()).await;
        let renewed =
            renewed.unwrap_or_else(|_| Err(StoreError::Unavailable("no answer".to_owned())));
        let error = match renewed {
            Ok(next) => {
                alone = None;
                tokio::time::sleep(next).await;
                continue;
            }
            Err(error) => error,
        };
        if since.elapsed() >= longest {
            tracing::warn!(%error, "the daemon was gone for too long");
            return;
        }
        tracing::debug!(%error, "the token was not renewed");
        alone = Some(since);
        tokio::time::sleep(RENEWAL_PAUSE).await;
    }
}

/// What a replica is put together from.
struct Parts {
    settings: Config,
    remote: RemoteStore,
    store: Store,
    blobs: Arc<dyn BlobStore>,
    loader: Arc<AgentLoader>,
}

impl Parts {
    fn open(
        config: &ReplicaConfig,
        boot: &ReplicaBoot,
        data_dir: &Path,
        remote: RemoteStore,
        tasks: &Tasks,
    ) -> Outcome<Self> {
        let settings = settings(config, boot, data_dir)?;
        let mut prices = Prices::default();
        if let Some(text) = &boot.settings.prices {
            prices
                .add("prices.toml", text)
                .map_err(|error| Failure::because("cannot read the prices of models", &error))?;
        }
        let link: Arc<dyn EngineLink> = Arc::new(DaemonLink::new(remote.clone()));
        // Nothing is stored here: these are what tools must not see.
        let place = Place {
            database: data_dir.join("rune.db"),
            object_url: None,
            object_variables: Variables::new(),
            objects: data_dir.join("objects"),
            durability: Durability::Normal,
            secrets: None,
            hidden: config.hidden.clone(),
        };
        let secrets = SecretVault::linked(link);
        let (loader, _) = agent_loader(&settings, &place, secrets, prices, tasks)?;
        Ok(Self {
            settings,
            store: Store::new(Arc::new(remote.clone()), Arc::new(SystemClock)),
            blobs: Arc::new(remote.clone()),
            remote,
            loader: Arc::new(loader),
        })
    }

    /// The agent, with what it needs from outside but its MCP servers. Images of its tools are the daemon's to look for,
    /// which runs these.
    async fn agent(
        &self,
        config: &ReplicaConfig,
        boot: &ReplicaBoot,
        data_dir: &Path,
    ) -> Outcome<Arc<Agent>> {
        let dir = match &config.package_dir {
            Some(dir) => dir.clone(),
            None => {
                let packages =
                    PackageCache::new(Arc::clone(&self.blobs), data_dir.join("packages"));
                let dir = packages.get(&boot.version.digest).await;
                dir.map_err(|error| cannot_run(&error))?
            }
        };
        let loader = Arc::clone(&self.loader);
        let (namespace, env) = (
            boot.deployment.namespace.clone(),
            boot.deployment.env.clone(),
        );
        let loaded = tokio::task::spawn_blocking(move || loader.load(&dir, &namespace, &env)).await;
        let loaded = loaded.map_err(|error| cannot_run(&error))?;
        let agent = loaded.map_err(|error| cannot_run(&error))?;
        if self.settings.tools.sandbox == SandboxMode::Require {
            confines(&agent).await?;
        }
        create_private_dir(agent.workspace()).map_err(|error| cannot_run(&error))?;
        Ok(Arc::new(agent))
    }
}

fn cannot_run(error: &dyn std::error::Error) -> Failure {
    let message = format!("the agent cannot run: {}", chain(error));
    Failure::new(Exit::Failed, message)
}

/// Refuses an agent with tools that are processes where these cannot be confined: every call would be, too.
async fn confines(agent: &Agent) -> Outcome<()> {
    let mut tools = agent.tools().map(|(_, tool)| tool);
    let process = tools.find(|tool| match &tool.runner {
        ToolRunner::Process(_) => true,
        ToolRunner::Builtin(builtin) => PROCESS_TOOLS.contains(&builtin.name()),
        ToolRunner::Wasm(_)
        | ToolRunner::Container(_)
        | ToolRunner::Mcp(_)
        | ToolRunner::Agent(_) => false,
    });
    let Some(tool) = process else { return Ok(()) };
    let (program, args) = own_launcher()?;
    let tried = tokio::task::spawn_blocking(move || SandboxSupport::require(&program, &args)).await;
    let tried = tried.unwrap_or_else(|error| Err(error.to_string()));
    tried.map_err(|why| {
        let message = format!(
            "the tool `{}` is a process, which cannot be confined where this replica runs: {why}; a pod needs \
             `kubernetes.seccomp_profile`, and `tools.sandbox = \"best-effort\"` runs tools with what there is \
             (docs/replicas.md)",
            tool.name
        );
        Failure::new(Exit::Failed, message)
    })
}

/// The configuration that the daemon hands on.
fn settings(config: &ReplicaConfig, boot: &ReplicaBoot, data_dir: &Path) -> Outcome<Config> {
    let handed = boot.settings.keys.iter();
    let overrides = handed.fold(Overrides::new(), |overrides, (key, value)| {
        overrides.with(key, Some(value.clone()))
    });
    let workspaces: Option<&PathBuf> = config.workspace_dir.as_ref();
    let overrides = overrides.with("storage.data_dir", data_dir.to_str()).with(
        "runtime.workspace_dir",
        workspaces.and_then(|dir| dir.to_str()),
    );
    let variables = boot.settings.variables.clone();
    let loaded = Config::load(ConfigSources {
        env: Arc::new(move |name| variables.get(name).cloned()),
        file: None,
        overrides,
    });
    let mut settings = loaded.map_err(|error| {
        let message = format!(
            "the daemon's settings are not valid here: {}",
            chain(&error)
        );
        Failure::new(Exit::Failed, message)
    })?;
    settings.providers.limits = boot.settings.limits.clone();
    Ok(settings.with_variables(config.machine.clone()))
}
