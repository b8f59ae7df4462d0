//! Daemons that are one cluster on this machine.

use std::collections::{HashMap, HashSet};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::Path;
use std::sync::atomic::{AtomicU16, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rune_testkit::{TestDaemon, TestDaemonBuilder};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::home::{RUNE, Served};
use crate::wire::{Api, LIMIT, POLL, Tool, answer, spawn};

pub(crate) const SECRET: &str = "a secret of a cluster in a test, long enough";

/// How often clients have begun to ask.
static ROUNDS: AtomicU64 = AtomicU64::new(0);

/// A cluster of daemons.
pub(crate) struct Cluster {
    pub(crate) nodes: Vec<Served>,
    client: reqwest::Client,
}

impl Cluster {
    /// One that has begun, and every node of which is ready.
    pub(crate) async fn start(size: u64) -> Self {
        Self::start_with(size, |builder| builder).await
    }

    /// The same with more settings of every node.
    pub(crate) async fn start_with(
        size: u64,
        settings: impl Fn(TestDaemonBuilder) -> TestDaemonBuilder,
    ) -> Self {
        let addrs: Vec<(u64, SocketAddr)> = (1..=size).map(|id| (id, free_addr())).collect();
        let mut nodes = Vec::new();
        for (id, addr) in &addrs {
            let builder = settings(daemon(*id, *addr, &addrs));
            nodes.push(Served(builder.start().await.unwrap()));
        }
        let cluster = Self {
            nodes,
            client: reqwest::Client::new(),
        };
        let url = format!("{}/v1/cluster/init", cluster.nodes[0].0.control_plane());
        let begun = cluster.client.post(url).json(&json!({})).send().await;
        let begun = begun.unwrap();
        assert!(begun.status().is_success(), "{begun:?}");
        cluster.ready().await;
        cluster
    }

    /// Waits until every node that runs is ready.
    pub(crate) async fn ready(&self) {
        let all = async {
            for node in self.nodes.iter().filter(|node| node.0.pid().is_some()) {
                let url = format!("{}/ready", node.0.gateway());
                loop {
                    let answer = self.client.get(&url).timeout(LIMIT).send().await;
                    if answer.is_ok_and(|answer| answer.status() == 200) {
                        break;
                    }
                    tokio::time::sleep(POLL).await;
                }
            }
        };
        tokio::time::timeout(LIMIT, all).await.unwrap();
    }

    /// Restarts one node after the other, while clients ask the others.
    pub(crate) async fn restart_all(&mut self, clients: &Clients) {
        for node in 0..self.nodes.len() {
            clients.away(node);
            // What was asked there has its answer before the node ends.
            self.nodes[node].0.restart().await.unwrap();
            self.ready().await;
            clients.back(node, &self.nodes[node].0);
        }
    }

    /// The place of the node that leads.
    pub(crate) async fn leader(&self) -> usize {
        self.leader_but(usize::MAX).await
    }

    /// The same, as a node other than this one says.
    pub(crate) async fn leader_but(&self, gone: usize) -> usize {
        let mut nodes = self.nodes.iter().enumerate();
        let (_, asked) = nodes
            .find(|(place, node)| *place != gone && node.0.pid().is_some())
            .unwrap();
        let url = format!("{}/v1/nodes", asked.0.control_plane());
        let found = async {
            loop {
                let answer = self.client.get(&url).timeout(LIMIT).send().await.unwrap();
                let body: Value = answer.json().await.unwrap();
                // It is the leader that answers.
                if let Some(id) = body["items"][0]["id"].as_str() {
                    return id.parse::<usize>().unwrap() - 1;
                }
                tokio::time::sleep(POLL).await;
            }
        };
        tokio::time::timeout(LIMIT, found).await.unwrap()
    }
}

/// A daemon that is this node.
pub(crate) fn daemon(
    id: u64,
    addr: SocketAddr,
    members: &[(u64, SocketAddr)],
) -> TestDaemonBuilder {
    let members = members.iter();
    let members: Vec<String> = members.map(|(id, addr)| format!("{id}@{addr}")).collect();
    let mut builder = TestDaemon::builder(RUNE)
        .env("RUNE_CLUSTER_SECRET", SECRET)
        .arg("--node-id")
        .arg(id.to_string())
        .arg("--raft-addr")
        .arg(addr.to_string())
        .started_when_alive();
    if !members.is_empty() {
        builder = builder.arg("--peers").arg(members.join(","));
    }
    builder
}

/// A place where nobody listens now, and none of those that connections to elsewhere are given: before a node listens there,
/// it could be.
pub(crate) fn free_addr() -> SocketAddr {
    static TAKEN: AtomicU16 = AtomicU16::new(0);
    // Each test is a process.
    let first = 10_000 + u16::try_from(std::process::id() % 700).unwrap() * 30;
    loop {
        let port = first + TAKEN.fetch_add(1, Ordering::Relaxed);
        let addr = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        if TcpListener::bind(addr).is_ok() {
            return addr;
        }
    }
}

/// A tool that leaves a line where every node can, when it begins and when it ends.
pub(crate) struct Effect {
    name: &'static str,
    script: String,
    yaml: String,
}

impl Effect {
    /// A tool with this script, which may write below a directory.
    pub(crate) fn new(name: &'static str, script: String, yaml: &str, dir: &Path) -> Self {
        let granted = format!("capabilities: [\"filesystem:rw:{}\"]\n", dir.display());
        Self {
            name,
            script,
            yaml: format!("{yaml}{granted}timeout_ms: 60000\n"),
        }
    }

    pub(crate) fn tool(&self) -> Tool<'_> {
        Tool {
            name: self.name,
            script: &self.script,
            yaml: &self.yaml,
        }
    }
}

/// `again`, which may be repeated under its key, and `once`, which may not: both take a while.
pub(crate) fn with_effects() -> ([Effect; 2], TempDir) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().display();
    let effect = |name, yaml| {
        let line = "echo \"$RUNE_REQUEST_ID $RUNE_IDEMPOTENCY_KEY\"";
        let script =
            format!("{line} >> {path}/begun\nsleep 2\n{line} >> {path}/ended\necho '{{}}'\n");
        Effect::new(name, script, yaml, dir.path())
    };
    let tools = [effect("again", "idempotent: true\n"), effect("once", "")];
    (tools, dir)
}

/// The lines of a file that tools left.
pub(crate) fn read_effects(dir: &Path, file: &str) -> Vec<String> {
    let text = std::fs::read_to_string(dir.join(file)).unwrap_or_default();
    text.lines().map(str::to_owned).collect()
}

/// `again`, which may be repeated under its key, and `once`, which may not, each leaving a line with its request and its key.
pub(crate) fn quick_effects(dir: &Path) -> [Effect; 2] {
    let effect = |name, yaml| {
        let line = format!(
            "echo \"$RUNE_REQUEST_ID $RUNE_IDEMPOTENCY_KEY\" >> {}/{name}",
            dir.display()
        );
        Effect::new(name, format!("{line}\necho '{{}}'\n"), yaml, dir)
    };
    [effect("once", ""), effect("again", "idempotent: true\n")]
}

/// No call of [`quick_effects`] had its effect twice, unless it may, under one key.
pub(crate) fn assert_effects(dir: &Path) {
    let mut seen = HashSet::new();
    for line in read_effects(dir, "once") {
        assert!(seen.insert(line.clone()), "twice: {line}");
    }
    let mut keys = HashMap::new();
    for line in read_effects(dir, "again") {
        let (request, key) = line.split_once(' ').unwrap();
        let first = keys
            .entry(request.to_owned())
            .or_insert_with(|| key.to_owned());
        assert_eq!(first, key, "another key: {line}");
    }
}

/// Waits until something holds.
pub(crate) async fn until(what: &str, holds: impl AsyncFn() -> bool) {
    let waited = async {
        while !holds().await {
            tokio::time::sleep(POLL).await;
        }
    };
    let waited = tokio::time::timeout(LIMIT, waited).await;
    assert!(waited.is_ok(), "not within {LIMIT:?}: {what}");
}

/// The status and the JSON of what is there.
pub(crate) async fn get(url: &str) -> (u16, Value) {
    let response = reqwest::get(url).await.unwrap();
    let status = response.status().as_u16();
    (status, response.json().await.unwrap_or_default())
}

/// Waits until nothing is unfinished.
pub(crate) async fn settled(api: &Api) {
    let wait = async {
        loop {
            let path = "/v1/requests?status=accepted,running&limit=1";
            let (code, body) = answer(api.get(path)).await.unwrap();
            let items = body["items"].as_array().filter(|_| code == 200);
            if items.is_some_and(Vec::is_empty) {
                break;
            }
            tokio::time::sleep(POLL).await;
        }
    };
    tokio::time::timeout(LIMIT, wait).await.unwrap();
}

/// Clients that ask an agent that echoes, one request after the other, each under a key of its own. None of them may fail.
pub(crate) struct Clients {
    end: CancellationToken,
    /// Each client asks nodes that are there, as a balancer would have it do.
    there: Arc<Mutex<Vec<Option<Api>>>>,
    running: Vec<JoinHandle<Vec<Instant>>>,
}

impl Clients {
    pub(crate) fn start(cluster: &Cluster, count: usize, agent: &'static str) -> Self {
        let apis = cluster.nodes.iter().map(|node| Some(Api::of(&node.0)));
        let there = Arc::new(Mutex::new(apis.collect::<Vec<_>>()));
        let end = CancellationToken::new();
        let begun = Instant::now();
        // Of those that ask at the same agent, too, at another time.
        let round = ROUNDS.fetch_add(1, Ordering::Relaxed);
        let running = (0..count).map(|client| {
            let (end, there) = (end.clone(), Arc::clone(&there));
            spawn(async move {
                let mut answered = vec![begun];
                while !end.is_cancelled() {
                    let turn = answered.len();
                    let apis: Vec<Api> = there.lock().unwrap().iter().flatten().cloned().collect();
                    let api = &apis[(client + turn) % apis.len()];
                    let input = format!("{client}-{turn}");
                    let request = api.invoke(agent, &json!({"input": input}));
                    let key = format!("{round}-{input}");
                    // A node that has just gone is not asked; another one is.
                    let Ok((status, body)) = answer(request.header("idempotency-key", key)).await
                    else {
                        continue;
                    };
                    assert_eq!(
                        (status, &body["output"]),
                        (200, &json!(format!("Echo: {input}"))),
                        "{body}"
                    );
                    answered.push(Instant::now());
                }
                answered
            })
        });
        Self {
            running: running.collect(),
            end,
            there,
        }
    }

    /// From now on nobody asks this node, before it is [back](Self::back).
    pub(crate) fn away(&self, node: usize) {
        self.there.lock().unwrap()[node] = None;
    }

    pub(crate) fn back(&self, node: usize, daemon: &TestDaemon) {
        self.there.lock().unwrap()[node] = Some(Api::of(daemon));
    }

    /// How many requests were answered, and the longest time in which none was.
    pub(crate) async fn end(self) -> (usize, Duration) {
        self.end.cancel();
        let clients = self.running.len();
        let mut answered = Vec::new();
        for client in self.running {
            answered.extend(client.await.unwrap());
        }
        answered.sort();
        let pauses = answered.windows(2).map(|two| two[1] - two[0]);
        let longest = pauses.max().unwrap_or_default();
        (answered.len() - clients, longest)
    }
}
