//! What a write to a cluster costs: `cargo bench -p rune-cluster --bench writes`.
//!
//! The two commands of a plain request are written over and over by so many clients at once: to a store that is in no cluster,
//! to a cluster of one node and to one of three, in turns, all at full fsync. Every store and every node is a process of its
//! own, and the clients are in that of the store, or of the node that leads. Prints medians, their ratios, and the processor
//! time of each process; asserts no time.
//!
//! On a machine whose processors are all busy, the ratio is that of the processor time of all nodes to that of one store, with
//! what one thread of it can do as the limit. Where each node has processors of its own it is that of the leader alone.
#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a benchmark is a program for the terminal"
)]

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rune_cluster::{ClusterSecret, Member, MemberConfig};
use rune_raft::NodeConfig;
use rune_storage::{ObjectStore, SqliteStore, StorageConfig};
use rune_store_runtime::{
    AcceptRequest, AppendEntries, Block, CheckpointPolicy, DeploymentId, EntryBody, ModelReply,
    PromptParts, ReplicaId, RequestId, RequestStatus, SessionId, StopReason, Store, SystemClock,
    Usage, VersionId,
};
use serde_json::json;
use tokio::net::TcpListener;
use tokio::task::JoinSet;

const CLIENTS: [usize; 3] = [1, 16, 256];
const ROUNDS: usize = 3;
const TIME: Duration = Duration::from_secs(3);
const SECRET: &str = "the secret of a cluster that is measured, long enough";

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    match args.as_slice() {
        ["store", dir, clients] => runtime.block_on(store(Path::new(dir), clients)),
        ["node", dir, id, addr] => {
            let member = runtime.block_on(open(Path::new(dir), id, addr));
            println!("listening");
            // Until it is killed.
            runtime.block_on(std::future::pending::<()>());
            drop(member);
        }
        ["leader", dir, clients, addrs @ ..] => {
            runtime.block_on(leader(Path::new(dir), clients, addrs));
        }
        // `cargo bench` says so. Whoever builds every target and lists its tests finds none here.
        args if args.contains(&"--bench") => measure(),
        _ => {}
    }
}

/// What a process that was written to says.
struct Written {
    per_second: f64,
    p50_us: f64,
    cpu_us: f64,
    other_cpu_us: f64,
}

fn measure() {
    println!("clients  where        writes/s      p50 us   CPU us/write   of each other node");
    for clients in CLIENTS {
        let mut all: BTreeMap<usize, Vec<Written>> = BTreeMap::new();
        for _ in 0..ROUNDS {
            for nodes in [0, 1, 3] {
                let dir = tempfile::tempdir().unwrap();
                all.entry(nodes)
                    .or_default()
                    .push(run(dir.path(), nodes, clients));
            }
        }
        let median = |nodes: usize, of: fn(&Written) -> f64| {
            let mut values: Vec<f64> = all[&nodes].iter().map(of).collect();
            values.sort_by(f64::total_cmp);
            values[values.len() / 2]
        };
        for (nodes, name) in [(0, "a store"), (1, "1 node"), (3, "3 nodes")] {
            println!(
                "{clients:>7}  {name:<8} {:>12.0} {:>11.0} {:>14.1} {:>20.1}",
                median(nodes, |it| it.per_second),
                median(nodes, |it| it.p50_us),
                median(nodes, |it| it.cpu_us),
                median(nodes, |it| it.other_cpu_us),
            );
        }
        for (nodes, of) in [(0, "a store"), (1, "1 node")] {
            println!(
                "{clients:>7}  3 nodes over {of}: writes {:.2}, p50 {:.2}",
                median(3, |it| it.per_second) / median(nodes, |it| it.per_second),
                median(3, |it| it.p50_us) / median(nodes, |it| it.p50_us),
            );
        }
    }
}

/// Writes for a while, to as many nodes, or to a store where there are none.
fn run(dir: &Path, nodes: usize, clients: usize) -> Written {
    let clients = clients.to_string();
    if nodes == 0 {
        return said(&["store", &dir.display().to_string(), &clients], &[]);
    }
    let addrs: Vec<String> = (0..nodes).map(|_| free_addr().to_string()).collect();
    let others = addrs.iter().enumerate().skip(1);
    let mut others: Vec<Child> = others
        .map(|(place, addr)| {
            let id = (place + 1).to_string();
            let own = dir.join(&id).display().to_string();
            let mut child = start(&["node", &own, &id, addr]);
            assert_eq!(line(&mut child), "listening");
            child
        })
        .collect();
    let own = dir.join("1").display().to_string();
    let mut args = vec!["leader", &own, &clients];
    args.extend(addrs.iter().map(String::as_str));
    let pids: Vec<u32> = others.iter().map(Child::id).collect();
    let written = said(&args, &pids);
    for other in &mut others {
        other.kill().unwrap();
        other.wait().unwrap();
    }
    written
}

fn start(args: &[&str]) -> Child {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(args).stdout(Stdio::piped()).spawn().unwrap()
}

fn line(child: &mut Child) -> String {
    let mut line = String::new();
    let mut stdout = BufReader::new(child.stdout.as_mut().unwrap());
    stdout.read_line(&mut line).unwrap();
    line.trim().to_owned()
}

/// What a process says that writes, and what other processes used meanwhile.
fn said(args: &[&str], others: &[u32]) -> Written {
    let mut child = start(args);
    let said = line(&mut child);
    let used: Vec<f64> = others.iter().map(|pid| cpu_us(&pid.to_string())).collect();
    child.kill().unwrap();
    child.wait().unwrap();
    let said: Vec<f64> = said.split(' ').map(|it| it.parse().unwrap()).collect();
    let &[writes, seconds, p50_us, cpu] = said.as_slice() else {
        unreachable!("{said:?}");
    };
    Written {
        per_second: writes / seconds,
        p50_us,
        cpu_us: cpu / writes,
        other_cpu_us: used.iter().sum::<f64>() / used.len().max(1) as f64 / writes,
    }
}

/// Processor time of a process, in microseconds.
fn cpu_us(pid: &str) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let (_, rest) = stat.rsplit_once(')').unwrap();
    let ticks = rest.split_whitespace().skip(11).take(2);
    ticks
        .map(|ticks| ticks.parse::<f64>().unwrap())
        .sum::<f64>()
        * 10_000.0
}

async fn store(dir: &Path, clients: &str) {
    let store = SqliteStore::open(StorageConfig::new(dir.join("rune.db"))).unwrap();
    write(Store::new(Arc::new(store), Arc::new(SystemClock)), clients).await;
}

async fn open(dir: &Path, id: &str, addr: &str) -> Member {
    std::fs::create_dir_all(dir).unwrap();
    let config = MemberConfig {
        secret: ClusterSecret::parse(&SECRET.to_owned().into()).unwrap(),
        node: id.parse().unwrap(),
        listener: TcpListener::bind(addr).await.unwrap(),
        database: dir.join("rune.db"),
        objects: ObjectStore::open_directory(&dir.join("objects")).unwrap(),
        protocol: NodeConfig::default(),
    };
    Member::open(config).await.unwrap()
}

async fn leader(dir: &Path, clients: &str, addrs: &[&str]) {
    let member = open(dir, "1", addrs[0]).await;
    let members = (1..).zip(addrs.iter().map(|&addr| addr.to_owned()));
    member.cluster().init(&members.collect()).await.unwrap();
    write(Store::new(member.store(), Arc::new(SystemClock)), clients).await;
}

/// Writes for a while, and says how many, in which time, how long half of them took and what they cost.
async fn write(store: Store, clients: &str) {
    let clients: usize = clients.parse().unwrap();
    // Everything is written once before it counts.
    for client in 0..clients.min(16) {
        pair(&store, client).await;
    }
    let (started, before) = (Instant::now(), cpu_us("self"));
    let mut running = JoinSet::new();
    for client in 0..clients {
        let store = store.clone();
        running.spawn(async move {
            let mut took = Vec::new();
            while started.elapsed() < TIME {
                took.extend(pair(&store, client).await);
            }
            took
        });
    }
    let mut took = running.join_all().await.concat();
    let (seconds, used) = (started.elapsed().as_secs_f64(), cpu_us("self") - before);
    took.sort_unstable();
    let p50 = took[took.len() / 2].as_micros();
    println!("{} {seconds} {p50} {used}", took.len());
    std::future::pending::<()>().await;
}

/// The two commands of a request that is answered without a tool.
async fn pair(store: &Store, client: usize) -> [Duration; 2] {
    let request_id = RequestId::generate();
    let (deployment_id, version_id) = (DeploymentId::generate(), VersionId::generate());
    let session: SessionId = format!("client-{client}-{request_id}").parse().unwrap();
    let accept = AcceptRequest {
        request_id,
        session_id: session,
        namespace: "default".to_owned(),
        agent: "bench".to_owned(),
        deployment_id,
        version_id,
        input: json!("ping"),
        metadata: BTreeMap::new(),
        caller: "anonymous".to_owned(),
        checkpoint: CheckpointPolicy::EachStep,
        idempotency: None,
        follows: None,
        parent: None,
        fork: None,
        budgets: Vec::new(),
    };
    let usage = Usage {
        input_tokens: 1,
        output_tokens: 3,
        ..Usage::default()
    };
    let text = "Echo: ping".to_owned();
    let reply = EntryBody::ModelReply(ModelReply {
        step: 1,
        provider: "offline".to_owned(),
        model: "offline".to_owned(),
        blocks: vec![Block::Text {
            text: text.clone(),
            native: None,
        }],
        stop: StopReason::EndTurn,
        usage,
        prompt: PromptParts::default(),
        cost_micro_usd: Some(0),
        duration_ms: 0,
    });
    let entries = vec![
        EntryBody::Started {
            replica_id: ReplicaId::generate(),
            deployment_id,
            attempt: 1,
        },
        reply,
        EntryBody::Finished {
            status: RequestStatus::Completed,
            output: Some(json!(text)),
            failure: None,
            usage,
            cost: rune_store_runtime::Cost::default(),
        },
    ];
    let begun = Instant::now();
    store.write(accept).await.unwrap();
    let accepted = begun.elapsed();
    let append = AppendEntries {
        request_id,
        entries,
    };
    store.write(append).await.unwrap();
    [accepted, begun.elapsed() - accepted]
}

/// A place where nobody listens now.
fn free_addr() -> SocketAddr {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap()
}
