//! Three daemons that are one cluster, on this machine: what a write costs beside one daemon that is none, and how soon the next
//! write is accepted when the leader is lost, or hands over.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use hyper::Method;
use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::client::Connection;
use crate::daemon::Daemon;
use crate::error::BenchError;
use crate::load::Load;
use crate::measure::{cpu_us, median, percentile};
use crate::report::Report;
use crate::suite::{BenchConfig, OFFLINE_AGENT, PING, agent, deploy, invoke_load, temp};

const NODES: usize = 3;
/// What the nodes have in common.
const SECRET: &str = "the secret of a cluster that is measured, long enough";
/// How long a cluster may rest before something happens to it.
const SETTLE: Duration = Duration::from_secs(3);
/// Clients of the throughput runs.
const CLIENTS: [usize; 2] = [1, 256];
/// What is accepted with one commit, and answered before it runs.
const BACKGROUND: &[u8] = br#"{"input":"ping","background":true}"#;
const INVOKE: &str = "/v1/agents/bench/invoke";
/// How long one writes before and after a transfer, and the pause between two writes.
const BESIDE: Duration = Duration::from_millis(500);
const WRITE_PAUSE: Duration = Duration::from_millis(2);
/// Where nodes reach each other.
const PORTS: Range<u16> = 20_000..32_700;

struct Nodes(Vec<Daemon>);

impl Nodes {
    /// A new cluster in a directory.
    async fn start(rune: &Path, dir: &Path) -> Result<Self, BenchError> {
        // None of those that connections to elsewhere are given: before a node listens there, it could be.
        let free = PORTS.map(|port| SocketAddr::from((Ipv4Addr::LOCALHOST, port)));
        let free = free.filter(|addr| TcpListener::bind(addr).is_ok());
        let addrs: Vec<SocketAddr> = free.take(NODES).collect();
        let members = (1..).zip(&addrs);
        let members: Vec<String> = members.map(|(id, addr)| format!("{id}@{addr}")).collect();
        let mut nodes = Vec::with_capacity(NODES);
        for (id, addr) in (1..).zip(&addrs) {
            let args = [
                format!("--node-id={id}"),
                format!("--raft-addr={addr}"),
                format!("--peers={}", members.join(",")),
            ];
            let secret = ("RUNE_CLUSTER_SECRET".to_owned(), SECRET.to_owned());
            let data_dir = dir.join(format!("node-{id}"));
            let node = Daemon::launch(rune.to_owned(), data_dir, vec![secret], args.to_vec())?;
            nodes.push(node);
        }
        post(&nodes[0].control_plane, "/v1/cluster/init", &json!({})).await?;
        let nodes = Self(nodes);
        nodes.ready().await?;
        Ok(nodes)
    }

    async fn ready(&self) -> Result<(), BenchError> {
        for node in &self.0 {
            node.ready().await?;
        }
        Ok(())
    }

    /// The place of the node that leads, once all are ready and at rest.
    async fn settled(&self) -> Result<usize, BenchError> {
        self.ready().await?;
        tokio::time::sleep(SETTLE).await;
        let base = &self.0[0].control_plane;
        let mut connection = Connection::open(base).await?;
        let path = "/v1/cluster/status";
        let status = connection.expect(Method::GET, path, Bytes::new(), 200);
        let status: Value = serde_json::from_slice(&status.await?)
            .map_err(|error| BenchError::request(base, &error))?;
        let leader = status["leader"]
            .as_u64()
            .and_then(|id| usize::try_from(id).ok());
        let leader = leader.filter(|id| (1..=NODES).contains(id));
        leader
            .map(|id| id - 1)
            .ok_or_else(|| BenchError::request(base, "no node leads"))
    }

    /// Kills the leader, and answers how long it took until a write through a node that stayed was accepted.
    async fn kill(&mut self, leader: usize, key: &str) -> Result<Duration, BenchError> {
        let through = &self.0[(leader + 1) % NODES].gateway;
        let mut connection = Connection::open(through).await?;
        let started = Instant::now();
        self.0[leader].kill();
        loop {
            let body = Bytes::from_static(BACKGROUND);
            let answer = connection.post(INVOKE, body, key).await?;
            match answer.status {
                202 => break,
                // It is told to come back.
                503 => {}
                status => {
                    let reason = format!("status {status} after the leader was killed");
                    return Err(BenchError::request("a node that stayed", &reason));
                }
            }
        }
        let took = started.elapsed();
        self.0[leader].relaunch()?;
        Ok(took)
    }

    /// Has another node lead while writes go on through the third one. Answers how long it took from the call to the first
    /// write behind the longest pause, and the median of a write before.
    async fn hand_over(&self, leader: usize, key: &str) -> Result<(Duration, f64), BenchError> {
        let to = (leader + 1) % NODES;
        let mut connection = Connection::open(&self.0[(leader + 2) % NODES].gateway).await?;
        let stop = Arc::new(AtomicBool::new(false));
        let (stopped, key) = (Arc::clone(&stop), key.to_owned());
        let mut writer = JoinSet::new();
        writer.spawn(async move {
            let mut accepted = Vec::new();
            while !stopped.load(Ordering::Relaxed) {
                let key = format!("{key}-{}", accepted.len());
                let body = Bytes::from_static(BACKGROUND);
                let answer = connection.post(INVOKE, body, &key).await?;
                if answer.status == 202 {
                    accepted.push((Instant::now(), answer.total));
                }
                tokio::time::sleep(WRITE_PAUSE).await;
            }
            Ok::<_, BenchError>(accepted)
        });
        tokio::time::sleep(BESIDE).await;
        let asked = Instant::now();
        let body = json!({"node": to + 1});
        let control_plane = &self.0[leader].control_plane;
        post(control_plane, "/v1/cluster/transfer-leader", &body).await?;
        tokio::time::sleep(BESIDE).await;
        stop.store(true, Ordering::Relaxed);
        let failed = |error: &dyn std::fmt::Display| BenchError::request(control_plane, error);
        let accepted = writer.join_next().await;
        let accepted = accepted.ok_or_else(|| failed(&"nothing was written"))?;
        let accepted = accepted.map_err(|error| failed(&error))??;
        let before = accepted.iter().filter(|(at, _)| *at < asked);
        let before: Vec<f64> = before.map(|(_, took)| millis(*took)).collect();
        let after = accepted.windows(2).filter(|two| two[1].0 >= asked);
        let longest = after.max_by_key(|two| two[1].0 - two[0].0);
        let resumed = longest.map(|two| two[1].0 - asked);
        let resumed = resumed.ok_or_else(|| failed(&"nothing was accepted after a transfer"))?;
        Ok((resumed, median(&before)))
    }
}

/// How soon the next write is accepted, of nodes that are killed and of those that hand over, in turns.
pub(crate) async fn failover(
    config: &BenchConfig,
    report: &mut Report,
    progress: &mut (dyn FnMut(&str) + Send),
) -> Result<(), BenchError> {
    let dir = temp(&config.dir)?;
    let mut nodes = Nodes::start(&config.rune, dir.path()).await?;
    let package = agent(dir.path(), OFFLINE_AGENT)?;
    deploy(&config.rune, &nodes.0[0], &package)?;
    let (mut kills, mut transfers, mut commits) = (Vec::new(), Vec::new(), Vec::new());
    for round in 1..=config.rounds {
        progress(&format!("failover, round {round}"));
        let leader = nodes.settled().await?;
        let key = format!("transfer-{round}");
        let (transfer, commit) = nodes.hand_over(leader, &key).await?;
        transfers.push(millis(transfer));
        commits.push(commit);
        let leader = nodes.settled().await?;
        let kill = nodes.kill(leader, &format!("kill-{round}")).await?;
        kills.push(millis(kill));
    }
    let longest = |times: &[f64]| times.iter().copied().fold(0.0, f64::max);
    report.compare(
        format!(
            "kill -9 of the leader to the next write, median of {}",
            kills.len()
        ),
        (median(&kills), millis(config.election_timeout)),
        "ms",
        "<= 1.75, and <= 550 ms",
    );
    report.figure("the same, longest", longest(&kills), "ms", "");
    report.compare(
        "transfer of the leader to the next write, over a write",
        (median(&transfers), median(&commits)),
        "ms",
        "<= 20",
    );
    report.figure("the same, longest", longest(&transfers), "ms", "");
    Ok(())
}

/// What was measured under one load.
#[derive(Default)]
struct Under {
    per_second: Vec<f64>,
    p50: Vec<f64>,
    /// Processor time per request, of one daemon or the leader, and of another node.
    cpu: Vec<f64>,
    other_cpu: Vec<f64>,
}

impl Under {
    /// Measures daemons, the first of which is asked.
    async fn run(
        &mut self,
        load: &Load,
        clients: usize,
        duration: Duration,
        pids: &[u32],
    ) -> Result<(), BenchError> {
        let used = || {
            pids.iter()
                .map(|pid| cpu_us(*pid))
                .collect::<Result<Vec<_>, _>>()
        };
        let before = used()?;
        let outcome = load.run(clients, duration).await?;
        let requests = outcome.total_us.len().max(1) as f64;
        let used: Vec<f64> = used()?
            .iter()
            .zip(before)
            .map(|(now, then)| now - then)
            .collect();
        self.per_second.push(outcome.per_second);
        self.p50.push(percentile(&outcome.total_us, 50));
        self.cpu.push(used[0] / requests);
        self.other_cpu
            .extend(used[1..].iter().map(|used| used / requests));
        Ok(())
    }
}

/// Durable invokes of three nodes, asked at the one that leads, over those of one daemon, in turns.
pub(crate) async fn cluster(
    config: &BenchConfig,
    report: &mut Report,
    progress: &mut (dyn FnMut(&str) + Send),
) -> Result<(), BenchError> {
    let mut results = CLIENTS.map(|_| (Under::default(), Under::default()));
    for round in 1..=config.rounds {
        for (clients, (one, three)) in CLIENTS.into_iter().zip(&mut results) {
            progress(&format!(
                "a cluster of three, {clients} clients, round {round}"
            ));
            let dir = temp(&config.dir)?;
            let package = agent(dir.path(), OFFLINE_AGENT)?;
            let daemon = Daemon::start(&config.rune, &dir.path().join("rune"), &[]).await?;
            deploy(&config.rune, &daemon, &package)?;
            let load = invoke_load(&daemon, PING);
            one.run(&load, clients, config.duration, &[daemon.pid()])
                .await?;
            drop(daemon);

            let nodes = Nodes::start(&config.rune, dir.path()).await?;
            deploy(&config.rune, &nodes.0[0], &package)?;
            let leader = nodes.settled().await?;
            let load = invoke_load(&nodes.0[leader], PING);
            let places = (0..NODES).map(|place| (leader + place) % NODES);
            let pids: Vec<u32> = places.map(|place| nodes.0[place].pid()).collect();
            three.run(&load, clients, config.duration, &pids).await?;
        }
    }
    for (clients, (one, three)) in CLIENTS.into_iter().zip(&results) {
        let name = |what: &str| format!("{clients} clients: {what}");
        let pair = |of: fn(&Under) -> &[f64]| (median(of(three)), median(of(one)));
        let goal = |goal: &'static str| if clients == 256 { goal } else { "" };
        report.compare(
            name("durable invokes/s, 3 nodes over one"),
            pair(|under| &under.per_second),
            "1/s",
            goal(">= 0.7 (stretch 0.75)"),
        );
        report.compare(
            name("latency p50, 3 nodes over one"),
            pair(|under| &under.p50),
            "us",
            "<= 2.5",
        );
        report.compare(
            name("processor time per invoke, leader over one"),
            pair(|under| &under.cpu),
            "us",
            "",
        );
        report.figure(
            name("processor time per invoke, each other node"),
            median(&three.other_cpu),
            "us",
            "",
        );
    }
    Ok(())
}

async fn post(base: &str, path: &str, body: &Value) -> Result<(), BenchError> {
    let mut connection = Connection::open(base).await?;
    let body = Bytes::from(body.to_string());
    let answer = connection.expect(Method::POST, path, body, 200).await;
    answer.map(drop)
}

fn millis(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}
