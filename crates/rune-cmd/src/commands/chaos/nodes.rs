//! The daemons of the cluster, each a process of this binary.

use std::fs::OpenOptions;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use reqwest::Method;
use rune_env::Config;
use rune_runtime::Tasks;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tokio::process::{Child, Command};
use tokio::time::Instant;
use uuid::Uuid;

use super::links::Links;
use crate::client::{Api, Client};
use crate::failure::{Exit, Failure, Outcome};

/// How long a daemon may take to answer after its start, and the cluster to be ready.
pub(super) const LIMIT: Duration = Duration::from_secs(60);
/// How often what changes by itself is looked at.
const LOOK: Duration = Duration::from_millis(20);
/// How long a node may take to say how the cluster is.
const STATUS_LIMIT: Duration = Duration::from_secs(3);
/// Where a daemon finds what it runs.
const PATH: &str = "/usr/local/bin:/usr/bin:/bin";

/// Daemons that are one cluster. They end with this value.
pub(super) struct Nodes {
    rune: PathBuf,
    dir: PathBuf,
    secret: String,
    pub(super) links: Links,
    list: Vec<Node>,
}

/// One of them.
pub(super) struct Node {
    /// Where it keeps its data.
    pub(super) data_dir: PathBuf,
    /// What asks it.
    pub(super) client: Client,
    raft: SocketAddr,
    gateway: SocketAddr,
    control_plane: SocketAddr,
    child: Option<Child>,
}

impl Nodes {
    /// A cluster that has begun, with everything of it in `dir`.
    pub(super) async fn begin(
        size: usize,
        dir: &Path,
        config: &Config,
        tasks: &Tasks,
    ) -> Outcome<Self> {
        let rune = std::env::current_exe();
        let rune = rune.map_err(|error| Failure::because("cannot find this program", &error))?;
        let mut free = free_addrs(3 * size)?.into_iter();
        let mut list = Vec::new();
        while let (Some(raft), Some(gateway), Some(control_plane)) =
            (free.next(), free.next(), free.next())
        {
            let (own, other) = (
                format!("http://{gateway}"),
                format!("http://{control_plane}"),
            );
            list.push(Node {
                data_dir: dir.join(format!("node-{}", list.len() + 1)),
                client: Client::new(own, other, config)?,
                raft,
                gateway,
                control_plane,
                child: None,
            });
        }
        let targets: Vec<SocketAddr> = list.iter().map(|node| node.raft).collect();
        let mut nodes = Self {
            rune,
            dir: dir.to_owned(),
            secret: format!("{}{}", Uuid::new_v4().simple(), Uuid::new_v4().simple()),
            links: Links::open(&targets, tasks).await?,
            list,
        };
        for at in 0..size {
            nodes.start(at).await?;
        }
        // The others know each other by the proxies before them.
        let members = (0..size).map(|at| {
            let addr = nodes.links.addr(at).to_string();
            json!({"node": at + 1, "addr": addr})
        });
        let body = json!({ "members": members.collect::<Vec<_>>() });
        let first = &nodes.list[0].client;
        let begun = first.post(Api::ControlPlane, "/v1/cluster/init", &body);
        begun.await?;
        nodes.ready().await?;
        Ok(nodes)
    }

    /// How many they are.
    pub(super) const fn len(&self) -> usize {
        self.list.len()
    }

    /// All of them, in their order.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Node> {
        self.list.iter()
    }

    /// What asks each of them.
    pub(super) fn clients(&self) -> Vec<Client> {
        self.list.iter().map(|node| node.client.clone()).collect()
    }

    /// A command line of this binary at the first of them.
    pub(super) async fn rune(&self, args: &[&str]) -> Outcome<()> {
        let mut command = self.command();
        command.args(args).arg("--data-dir");
        command.arg(&self.list[0].data_dir).stdin(Stdio::null());
        let what = format!("rune {}", args.join(" "));
        let output = command.output().await;
        let output = output.map_err(|error| Failure::because(&what, &error))?;
        if output.status.success() {
            return Ok(());
        }
        let said = String::from_utf8_lossy(&output.stderr);
        Err(Failure::new(
            Exit::Failed,
            format!("`{what}`: {}", said.trim()),
        ))
    }

    /// Starts a node, and waits until it lives. One that runs is left as it is.
    pub(super) async fn start(&mut self, at: usize) -> Outcome<()> {
        if self.list[at].child.is_some() {
            return Ok(());
        }
        let mut command = self.command();
        let node = &mut self.list[at];
        let log = self.dir.join(format!("node-{}.log", at + 1));
        let failed = |error: std::io::Error| {
            Failure::because(format!("cannot start node {}", at + 1), &error)
        };
        let log = OpenOptions::new().create(true).append(true).open(log);
        let log = log.map_err(failed)?;
        command
            .args(["daemon", "start", "--foreground", "--data-dir"])
            .arg(&node.data_dir)
            .args(["--node-id", &(at + 1).to_string()])
            .args(["--raft-addr", &node.raft.to_string()])
            .args(["--gateway-addr", &node.gateway.to_string()])
            .args(["--control-plane-addr", &node.control_plane.to_string()])
            .env("RUNE_CLUSTER_SECRET", &self.secret)
            .stdin(Stdio::null())
            .stdout(log.try_clone().map_err(failed)?)
            .stderr(log)
            // Ctrl-C is for this command, which ends them in order.
            .process_group(0)
            .kill_on_drop(true);
        let child = command.spawn().map_err(failed)?;
        self.links.is_process(at, child.id().unwrap_or_default());
        node.child = Some(child);
        let begun = Instant::now();
        while node.get("/health").await.is_err() {
            let ended = node.child.as_mut().and_then(|child| child.try_wait().ok());
            if let Some(Some(status)) = ended {
                node.child = None;
                return Err(self.stuck(at, &format!("ended ({status})")));
            }
            if begun.elapsed() > LIMIT {
                return Err(self.stuck(at, "does not answer"));
            }
            tokio::time::sleep(LOOK).await;
        }
        Ok(())
    }

    /// Kills a node, as a crash would.
    pub(super) async fn kill(&mut self, at: usize) -> Outcome<()> {
        self.ends(at, Signal::KILL).await.map(drop)
    }

    /// Asks a node to end, and waits until it has.
    pub(super) async fn terminate(&mut self, at: usize) -> Outcome<()> {
        let Some(status) = self.ends(at, Signal::TERM).await? else {
            return Ok(());
        };
        match status.success() {
            true => Ok(()),
            false => Err(self.stuck(at, &format!("did not end well ({status})"))),
        }
    }

    /// Has a node stand still; it does not notice itself.
    pub(super) fn pause(&self, at: usize) -> Outcome<()> {
        self.signal(at, Signal::STOP)
    }

    /// Has it go on.
    pub(super) fn resume(&self, at: usize) -> Outcome<()> {
        self.signal(at, Signal::CONT)
    }

    /// Has every node run and reach the others.
    pub(super) async fn heal(&mut self) -> Outcome<()> {
        self.links.heal();
        for at in 0..self.list.len() {
            self.resume(at)?;
            self.start(at).await?;
        }
        Ok(())
    }

    /// Waits until every node is ready, and says which one is not.
    pub(super) async fn ready(&self) -> Outcome<()> {
        let begun = Instant::now();
        for (at, node) in self.list.iter().enumerate() {
            while let Err(failure) = node.get("/ready").await {
                if begun.elapsed() > LIMIT {
                    let why = format!("is not ready: {}", failure.message());
                    return Err(self.stuck(at, &why));
                }
                tokio::time::sleep(LOOK).await;
            }
        }
        Ok(())
    }

    /// Which one leads, as one of them says that has a majority.
    pub(super) async fn leader(&self) -> Option<usize> {
        let asked = self.list.iter().map(|node| async move {
            let path = "/v1/cluster/status";
            let status = node.client.get(Api::ControlPlane, path);
            let status = tokio::time::timeout(STATUS_LIMIT, status)
                .await
                .ok()?
                .ok()?;
            let leader = status["leader"]
                .as_u64()
                .filter(|_| status["quorum"] == true)?;
            Some((status["term"].as_u64(), usize::try_from(leader).ok()? - 1))
        });
        let said = futures_util::future::join_all(asked).await;
        said.into_iter().flatten().max().map(|(_, leader)| leader)
    }

    /// The lines in the logs that say that something went wrong inside.
    pub(super) fn panics(&self) -> Vec<String> {
        let logs = (1..=self.list.len()).map(|id| (id, self.dir.join(format!("node-{id}.log"))));
        logs.flat_map(|(id, log)| {
            let text = std::fs::read(log).unwrap_or_default();
            let text = String::from_utf8_lossy(&text).into_owned();
            let lines = text.lines().filter(|line| line.contains("panicked"));
            let lines = lines.map(|line| format!("node {id}: {line}"));
            lines.collect::<Vec<_>>()
        })
        .collect()
    }

    fn command(&self) -> Command {
        let mut command = Command::new(&self.rune);
        command
            .env_clear()
            .env("PATH", PATH)
            .env("HOME", &self.dir)
            .env("TMPDIR", std::env::temp_dir());
        command
    }

    fn signal(&self, at: usize, signal: Signal) -> Outcome<()> {
        let pid = self.list[at].child.as_ref().and_then(Child::id);
        let pid = pid.and_then(|pid| Pid::from_raw(pid.cast_signed()));
        let sent = pid.map_or(Ok(()), |pid| kill_process(pid, signal));
        sent.map_err(|error| {
            let what = format!("cannot signal node {}", at + 1);
            Failure::because(what, &std::io::Error::from(error))
        })
    }

    /// Ends a node with a signal; nothing where it does not run.
    async fn ends(&mut self, at: usize, signal: Signal) -> Outcome<Option<ExitStatus>> {
        self.signal(at, signal)?;
        let Some(mut child) = self.list[at].child.take() else {
            return Ok(None);
        };
        match tokio::time::timeout(LIMIT, child.wait()).await {
            Ok(Ok(status)) => Ok(Some(status)),
            Ok(Err(error)) => Err(Failure::because("cannot wait for a node", &error)),
            Err(_) => Err(self.stuck(at, "does not end")),
        }
    }

    fn stuck(&self, at: usize, what: &str) -> Failure {
        let id = at + 1;
        let log = self.dir.join(format!("node-{id}.log"));
        Failure::new(Exit::Failed, format!("node {id} {what}"))
            .help(format!("its log is {}", log.display()))
    }
}

impl Node {
    async fn get(&self, path: &str) -> Outcome<Value> {
        let request = self.client.request(Api::Gateway, Method::GET, path);
        let request = request.timeout(STATUS_LIMIT);
        self.client.json(Api::Gateway, request).await
    }
}

/// Places where nobody listens now, none of them one of those that connections to elsewhere are given: between this and
/// a node's start it could be.
fn free_addrs(count: usize) -> Outcome<Vec<SocketAddr>> {
    let first = 10_000 + u16::try_from(std::process::id() % 700).unwrap_or_default() * 30;
    let addrs = (first..32_700).map(|port| SocketAddr::from((Ipv4Addr::LOCALHOST, port)));
    let free = addrs.filter(|addr| TcpListener::bind(addr).is_ok());
    let free: Vec<SocketAddr> = free.take(count).collect();
    if free.len() < count {
        return Err(Failure::new(Exit::Failed, "cannot find free ports"));
    }
    Ok(free)
}
