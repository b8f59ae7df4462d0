//! `rune daemon`

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};
use rune_env::Overrides;
use rustix::process::{Pid, Signal, kill_process};
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::time::Instant;

use crate::client::Api;
use crate::context::Context;
use crate::daemon::instance::{Address, Holder};
use crate::daemon::{launch, process};
use crate::failure::{Exit, Failure, Outcome};

/// How often a daemon that ends is looked at.
const POLL: Duration = Duration::from_millis(20);
/// Time beyond the drain in which a daemon ends.
const STOP_MARGIN: Duration = Duration::from_secs(15);

/// Start and stop the daemon.
#[derive(Debug, Subcommand)]
pub(crate) enum DaemonCommand {
    /// Start the daemon in the background and wait until it is ready
    #[command(
        after_help = "Examples:\n  rune daemon start\n  rune daemon start --foreground --gateway-addr 127.0.0.1:9080\n  RUNE_API_KEY=secret rune daemon start --gateway-addr 0.0.0.0:8080\n  rune daemon start --role control-plane\n  RUNE_CONTROL_PLANE_URL=http://127.0.0.1:8081 RUNE_INTERNAL_TOKEN=… rune daemon start --role gateway --data-dir ./gateway-1\n  RUNE_KUBERNETES_DAEMON_URL=http://rune:8082 rune daemon start --backend kubernetes --k8s-namespace agents\n  rune daemon start --node-id 1 --raft-addr 10.0.0.1:9000 --peers 1@10.0.0.1:9000,2@10.0.0.2:9000,3@10.0.0.3:9000"
    )]
    Start(Box<StartArgs>),
    /// Stop the daemon: running requests get RUNE_DRAIN_GRACE_SECS to end
    #[command(after_help = "Examples:\n  rune daemon stop\n  rune daemon stop --timeout 5")]
    Stop(StopArgs),
    /// Say whether the daemon runs
    #[command(after_help = "Examples:\n  rune daemon status\n  rune daemon status -o json")]
    Status,
    /// Stop the daemon and start it again with the options it had
    #[command(
        after_help = "Examples:\n  rune daemon restart\n  rune daemon restart --log-level debug"
    )]
    Restart(Box<RestartArgs>),
}

/// What `rune daemon start` takes.
#[derive(Debug, Args)]
pub(crate) struct StartArgs {
    /// Stay in the foreground and log to stderr
    #[arg(long)]
    pub(crate) foreground: bool,
    /// Set by the background start: report to stdout, then be a daemon
    #[arg(long, hide = true, requires = "foreground")]
    pub(crate) detached: bool,
    #[command(flatten)]
    pub(crate) options: StartOptions,
}

/// What `rune daemon restart` takes.
#[derive(Debug, Args)]
pub(crate) struct RestartArgs {
    #[command(flatten)]
    options: StartOptions,
    #[command(flatten)]
    stop: StopArgs,
}

/// What `rune daemon stop` takes.
#[derive(Debug, Args)]
pub(crate) struct StopArgs {
    /// Longest wait, in seconds [default: the drain time and 15 more]
    #[arg(long, value_name = "SECONDS")]
    timeout: Option<u64>,
}

/// How a daemon runs. What is not given comes from the environment and config.toml.
#[derive(Debug, Clone, Default, PartialEq, Eq, Args, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct StartOptions {
    /// Which parts run in this process
    #[arg(long, value_enum)]
    pub(crate) role: Option<Role>,
    /// Where replicas run
    #[arg(long, value_enum)]
    pub(crate) backend: Option<Backend>,
    /// Namespace of the pods of the backend kubernetes [default: rune]
    #[arg(long, value_name = "NAME")]
    pub(crate) k8s_namespace: Option<String>,
    /// Where the gateway listens [default: 127.0.0.1:8080]
    #[arg(long, value_name = "IP:PORT", value_parser = address)]
    pub(crate) gateway_addr: Option<SocketAddr>,
    /// Where the control plane listens [default: 127.0.0.1:8081]
    #[arg(long, value_name = "IP:PORT", value_parser = address)]
    pub(crate) control_plane_addr: Option<SocketAddr>,
    /// The database [default: rune.db in the data directory]
    #[arg(long, value_name = "sqlite:PATH")]
    pub(crate) database_url: Option<String>,
    /// Number of this node in its cluster; without one the daemon is in none
    #[arg(long, value_name = "N")]
    pub(crate) node_id: Option<u64>,
    /// Where the other nodes reach this one [default: 127.0.0.1:9000]
    #[arg(long, value_name = "IP:PORT", value_parser = address, requires = "node_id")]
    pub(crate) raft_addr: Option<SocketAddr>,
    /// The nodes that the cluster begins with
    #[arg(
        long,
        value_name = "ID@HOST:PORT,…",
        value_delimiter = ',',
        requires = "node_id"
    )]
    pub(crate) peers: Vec<Peer>,
    /// Where the process id is written [default: daemon.pid in the data directory]
    #[arg(long, value_name = "FILE")]
    pub(crate) pid_file: Option<PathBuf>,
    /// Where the log goes [default: daemon.log in the data directory, stderr with --foreground]
    #[arg(long, value_name = "FILE")]
    pub(crate) log_file: Option<PathBuf>,
    /// What is logged, as in RUST_LOG [default: info]
    #[arg(long, value_name = "FILTER")]
    pub(crate) log_level: Option<String>,
}

/// Which parts of a daemon run in a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Role {
    /// Gateway, control plane and engine.
    All,
    /// A gateway apart from its control plane, without a database.
    Gateway,
    /// Control plane and engine, for gateways apart from it.
    ControlPlane,
}

/// Where replicas run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Backend {
    /// In the daemon.
    Wasm,
    /// In processes of their own on this machine.
    Process,
    /// In containers of Docker Engine.
    Docker,
    /// In pods of a Kubernetes cluster.
    Kubernetes,
}

/// A node of a cluster and where the others reach it: `ID@HOST:PORT`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Peer {
    /// Its number.
    pub(crate) id: u64,
    /// Host and port.
    pub(crate) addr: String,
}

impl FromStr for Peer {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parsed = text.split_once('@').and_then(|(id, addr)| {
            let (host, port) = addr.rsplit_once(':')?;
            let port = port.parse::<u16>().ok().filter(|port| *port != 0);
            let is_place = !host.is_empty() && port.is_some();
            Some(Self {
                id: id.parse().ok().filter(|_| is_place)?,
                addr: addr.to_owned(),
            })
        });
        parsed.ok_or_else(|| "expected ID@HOST:PORT such as 2@10.0.0.2:9000".to_owned())
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.id, self.addr)
    }
}

impl StartOptions {
    /// These options, and those of `other` where nothing is said.
    #[must_use]
    pub(crate) fn or(self, other: Self) -> Self {
        Self {
            role: self.role.or(other.role),
            backend: self.backend.or(other.backend),
            k8s_namespace: self.k8s_namespace.or(other.k8s_namespace),
            gateway_addr: self.gateway_addr.or(other.gateway_addr),
            control_plane_addr: self.control_plane_addr.or(other.control_plane_addr),
            database_url: self.database_url.or(other.database_url),
            node_id: self.node_id.or(other.node_id),
            raft_addr: self.raft_addr.or(other.raft_addr),
            peers: match self.peers.is_empty() {
                true => other.peers,
                false => self.peers,
            },
            pid_file: self.pid_file.or(other.pid_file),
            log_file: self.log_file.or(other.log_file),
            log_level: self.log_level.or(other.log_level),
        }
    }

    /// The configuration keys they set.
    pub(crate) fn overrides(&self) -> Overrides {
        Overrides::new()
            .with(
                "gateway.addr",
                self.gateway_addr.map(|addr| addr.to_string()),
            )
            .with(
                "control_plane.addr",
                self.control_plane_addr.map(|addr| addr.to_string()),
            )
            .with("kubernetes.namespace", self.k8s_namespace.clone())
            .with("storage.database_url", self.database_url.clone())
            .with("observability.log", self.log_level.clone())
    }
}

impl DaemonCommand {
    /// The configuration keys that its flags set.
    pub(crate) fn overrides(&self) -> Overrides {
        match self {
            Self::Start(args) => args.options.overrides(),
            Self::Restart(args) => args.options.overrides(),
            Self::Stop(_) | Self::Status => Overrides::new(),
        }
    }
}

pub(crate) fn run(context: &Context, command: DaemonCommand) -> Outcome {
    match command {
        DaemonCommand::Start(args) if args.foreground => {
            process::run(context, &args.options, args.detached)
        }
        DaemonCommand::Start(args) => context.block_on(launch::run(context, &args.options)),
        DaemonCommand::Stop(args) => context.block_on(stop(context, &args)),
        DaemonCommand::Status => context.block_on(status(context)),
        DaemonCommand::Restart(args) => {
            context.block_on(restart(context, args.options, &args.stop))
        }
    }
}

/// Stops the daemon, if one runs, and starts it with the options it had, under those given now.
pub(crate) async fn restart(context: &Context, options: StartOptions, stop: &StopArgs) -> Outcome {
    let before = Address::read(context.data_dir()).map(|address| address.options);
    let options = options.or(before.unwrap_or_default());
    self::stop(context, stop).await?;
    launch::run(context, &options).await
}

impl StopArgs {
    /// The default wait.
    pub(crate) const DEFAULT: Self = Self { timeout: None };
}

async fn stop(context: &Context, args: &StopArgs) -> Outcome {
    let data_dir = context.data_dir();
    let Holder::Process(pid) = Holder::of(data_dir)? else {
        context.output.note("the daemon is not running");
        return Ok(Exit::Ok);
    };
    let raw = pid
        .and_then(|pid| i32::try_from(pid).ok())
        .and_then(Pid::from_raw);
    let Some(process) = raw else {
        let message = format!(
            "{} is in use by a process that left no id",
            data_dir.display()
        );
        return Err(Failure::new(Exit::Failed, message));
    };
    kill_process(process, Signal::TERM).map_err(|error| {
        let what = format!("cannot stop process {}", process.as_raw_nonzero());
        Failure::because(what, &std::io::Error::from(error))
    })?;
    let limit = args.timeout.map_or_else(
        || context.config.runtime.drain_grace + STOP_MARGIN,
        Duration::from_secs,
    );
    let deadline = Instant::now() + limit;
    while Holder::of(data_dir)? == Holder::Process(pid) {
        if Instant::now() >= deadline {
            let message = format!(
                "process {} still runs after {} s",
                process.as_raw_nonzero(),
                limit.as_secs()
            );
            return Err(Failure::new(Exit::Failed, message).help(format!(
                "it may still be finishing requests; `kill -9 {}` ends it at once, requests are taken up again",
                process.as_raw_nonzero()
            )));
        }
        tokio::time::sleep(POLL).await;
    }
    context.output.ok(&format!(
        "daemon stopped (pid {})",
        process.as_raw_nonzero()
    ));
    Ok(Exit::Ok)
}

async fn status(context: &Context) -> Outcome {
    let data_dir = context.data_dir();
    let Holder::Process(pid) = Holder::of(data_dir)? else {
        context
            .output
            .data(&json!({ "running": false }), |_| "not running".to_owned())?;
        return Err(Failure::silent(Exit::Unavailable));
    };
    let address = Address::read(data_dir);
    let is_ready = match &address {
        Some(address) => {
            let api = match address.gateway {
                Some(_) => Api::Gateway,
                None => Api::ControlPlane,
            };
            context.client()?.get(api, "/ready").await.is_ok()
        }
        None => false,
    };
    let data = json!({
        "running": true,
        "ready": is_ready,
        "pid": pid,
        "gateway": address.as_ref().and_then(|address| address.gateway.as_ref()),
        "control_plane": address.as_ref().map(|address| &address.control_plane),
        "version": address.as_ref().map(|address| &address.version),
        "started_at": address.as_ref().map(|address| &address.started_at),
        "data_dir": data_dir,
    });
    context.output.object(&data)?;
    Ok(Exit::Ok)
}

fn address(text: &str) -> Result<SocketAddr, String> {
    let text = text.replacen("localhost:", "127.0.0.1:", 1);
    text.parse()
        .map_err(|_| "expected IP:PORT such as 127.0.0.1:8080".to_owned())
}
