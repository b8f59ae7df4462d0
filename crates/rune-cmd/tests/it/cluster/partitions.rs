//! Nodes that do not reach each other, by the rules of a firewall between machines.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rune_storage::DatabaseDigest;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::network::{Network, addr};
use super::rig::{Effect, assert_effects, daemon, get, quick_effects, settled, until};
use crate::home::Served;
use crate::wire::{Api, LIMIT, POLL, assert_no_panic, deploy};

/// Where a node is reached by the others, on its machine.
const PORT: u16 = 9000;
/// Pause of a client between two requests.
const PAUSE: Duration = Duration::from_millis(50);

/// Three nodes, each on a machine of its own, and a client at each that asks all the time.
struct Rig {
    network: Network,
    nodes: Vec<Served>,
    effects: TempDir,
    clients: Vec<Client>,
    stop: CancellationToken,
}

struct Client {
    seen: Arc<Seen>,
    asking: JoinHandle<Vec<Told>>,
}

/// What a client has seen so far.
#[derive(Default)]
struct Seen {
    answered: AtomicU64,
    /// How often it was told to come back, and how long that took at the longest.
    refused: AtomicU64,
    refused_after_ms: AtomicU64,
    /// Connections that ended without an answer.
    broken: AtomicU64,
}

/// What a client was told.
struct Told {
    id: String,
    input: String,
    output: Value,
}

impl Rig {
    /// Nothing where there cannot be such machines.
    async fn start() -> Option<Self> {
        let network = Network::find(3)?;
        let addrs = (0..3).map(|at| SocketAddr::from((addr(at), PORT)));
        let addrs: Vec<(u64, SocketAddr)> = (1..).zip(addrs).collect();
        let mut nodes = Vec::new();
        for (at, (id, addr)) in addrs.iter().enumerate() {
            let builder = daemon(*id, *addr, &addrs).env("RUST_LOG", "warn");
            let started = network.on(at, async { Served(builder.start().await.unwrap()) });
            nodes.push(started.await);
        }
        let effects = tempfile::tempdir().unwrap();
        let tools = quick_effects(effects.path());
        let first = nodes.remove(0);
        let begun = network.on(0, async move {
            first.rune(&["cluster", "init"]).ok();
            let ready = format!("{}/ready", first.0.gateway());
            let is_ready = async {
                while get(&ready).await.0 != 200 {
                    tokio::time::sleep(POLL).await;
                }
            };
            tokio::time::timeout(LIMIT, is_ready).await.unwrap();
            deploy(
                &first,
                "agent",
                &[],
                &tools.each_ref().map(Effect::tool),
                "",
            );
            first
        });
        nodes.insert(0, begun.await);
        let stop = CancellationToken::new();
        let client = |(at, node): (usize, &Served)| {
            let seen = Arc::<Seen>::default();
            let asking = ask(at, Api::of(&node.0), Arc::clone(&seen), stop.clone());
            let asking = network.spawn(at, asking);
            Client { seen, asking }
        };
        let rig = Self {
            clients: nodes.iter().enumerate().map(client).collect(),
            network,
            nodes,
            effects,
            stop,
        };
        rig.goes_on(&[0, 1, 2]).await;
        Some(rig)
    }

    async fn get(&self, at: usize, url: String) -> (u16, Value) {
        self.network.on(at, async move { get(&url).await }).await
    }

    /// How the cluster is, as a node sees it.
    async fn status(&self, at: usize) -> Value {
        let base = self.nodes[at].0.control_plane();
        self.get(at, format!("{base}/v1/cluster/status")).await.1
    }

    /// Who leads, as a node sees it.
    async fn leader(&self, at: usize) -> Option<usize> {
        let leader = self.status(at).await["leader"].as_u64()?;
        Some(usize::try_from(leader).unwrap() - 1)
    }

    /// Waits until somebody leads these nodes, and says who.
    async fn led(&self, nodes: &[usize]) -> usize {
        let led = async || {
            let leader = self.leader(nodes[0]).await;
            leader.filter(|leader| nodes.contains(leader))
        };
        until("one of them leads", async || led().await.is_some()).await;
        led().await.unwrap()
    }

    /// Waits until the clients of these nodes were answered what they have asked since.
    async fn goes_on(&self, nodes: &[usize]) {
        for at in nodes {
            let answered = || self.clients[*at].seen.answered.load(Ordering::Relaxed);
            // The first one may have been under way before.
            let enough = answered() + 3;
            until("requests are answered", async || answered() >= enough).await;
        }
    }

    /// Waits until a node is not ready, for this reason, and its client was told to come back.
    async fn refuses(&self, at: usize, reason: &str) {
        let ready = format!("{}/ready", self.nodes[at].0.gateway());
        until(reason, async || {
            let (code, said) = self.get(at, ready.clone()).await;
            code == 503 && said.to_string().contains(reason)
        })
        .await;
        let refused = || self.clients[at].seen.refused.load(Ordering::Relaxed);
        let before = refused();
        until("a request is refused", async || refused() > before).await;
    }

    /// Everybody reaches everybody again, and every node answers.
    async fn heal(&self) {
        self.network.heal();
        for (at, node) in self.nodes.iter().enumerate() {
            let ready = format!("{}/ready", node.0.gateway());
            until("it is ready again", async || {
                self.get(at, ready.clone()).await.0 == 200
            })
            .await;
        }
        self.goes_on(&[0, 1, 2]).await;
    }

    /// What was answered is so, everywhere, and nothing was done twice.
    #[expect(clippy::print_stdout, reason = "what was answered is said")]
    async fn end(self) {
        self.stop.cancel();
        let mut all = Vec::new();
        for (at, client) in self.clients.into_iter().enumerate() {
            let told = client.asking.await.unwrap();
            let seen = client.seen;
            println!(
                "node {}: {} requests answered, {} refused after {} ms at the longest, {} connections broken",
                at + 1,
                told.len(),
                seen.refused.load(Ordering::Relaxed),
                seen.refused_after_ms.load(Ordering::Relaxed),
                seen.broken.load(Ordering::Relaxed),
            );
            all.extend(told);
        }
        let all = Arc::new(all);
        for (at, node) in self.nodes.iter().enumerate() {
            let (api, all) = (Api::of(&node.0), Arc::clone(&all));
            let compared = async move {
                settled(&api).await;
                for told in all.iter() {
                    let row = api.request(&told.id).await;
                    assert_eq!(row["status"], "completed", "{row}");
                    assert_eq!(row["input"], json!(told.input), "{row}");
                    assert_eq!(row["output"], told.output, "{row}");
                }
            };
            self.network.on(at, compared).await;
            assert_no_panic(node);
        }
        let rows = || {
            let databases = self
                .nodes
                .iter()
                .map(|node| node.0.data_dir().join("rune.db"));
            let digests = databases.map(|database| DatabaseDigest::of(&database).unwrap());
            digests.collect::<Vec<_>>()
        };
        until("all nodes have the same rows", async || {
            let rows = rows();
            rows.iter().all(|other| *other == rows[0])
        })
        .await;
        assert_effects(self.effects.path());
    }
}

/// Asks one node until it is to stop, each time under a key, and again under the same one until it is answered.
async fn ask(at: usize, api: Api, seen: Arc<Seen>, stop: CancellationToken) -> Vec<Told> {
    let mut told = Vec::new();
    while !stop.is_cancelled() {
        let key = format!("{at}-{}", told.len());
        let input = match told.len() % 3 {
            0 => format!("plain {key}"),
            1 => "/tool once".to_owned(),
            _ => "/tool again".to_owned(),
        };
        let body = loop {
            let asked = Instant::now();
            let request = api.invoke("agent", &json!({"input": input}));
            let Ok(response) = request.header("idempotency-key", &key).send().await else {
                seen.broken.fetch_add(1, Ordering::Relaxed);
                continue;
            };
            let (status, headers) = (response.status(), response.headers().clone());
            let Ok(body) = response.json::<Value>().await else {
                seen.broken.fetch_add(1, Ordering::Relaxed);
                continue;
            };
            if status == 200 {
                break body;
            }
            assert_eq!(status, 503, "{body}");
            assert_eq!(body["error"]["code"], "unavailable", "{body}");
            assert!(headers.contains_key("retry-after"), "{headers:?}");
            let after = u64::try_from(asked.elapsed().as_millis()).unwrap();
            seen.refused_after_ms.fetch_max(after, Ordering::Relaxed);
            seen.refused.fetch_add(1, Ordering::Relaxed);
            tokio::time::sleep(POLL).await;
        };
        seen.answered.fetch_add(1, Ordering::Relaxed);
        told.push(Told {
            id: body["request_id"].as_str().unwrap().to_owned(),
            input,
            output: body["output"].clone(),
        });
        tokio::time::sleep(PAUSE).await;
    }
    told
}

/// Two nodes other than this one.
fn others(at: usize) -> [usize; 2] {
    [(at + 1) % 3, (at + 2) % 3]
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_is_cut_off_refuses_and_the_others_go_on() {
    let Some(rig) = Rig::start().await else {
        return;
    };
    // The leader: another one leads.
    let leader = rig.led(&[0, 1, 2]).await;
    rig.network.cut_off(leader);
    rig.led(&others(leader)).await;
    rig.goes_on(&others(leader)).await;
    rig.refuses(leader, "1 of 3 voters answer").await;
    rig.heal().await;

    // One that follows: it stands for no election that it cannot win, and makes none necessary when it is back.
    let leader = rig.led(&[0, 1, 2]).await;
    let [follower, _] = others(leader);
    rig.network.cut_off(follower);
    rig.refuses(follower, "1 of 3 voters answer").await;
    let term = rig.status(follower).await["term"].clone();
    rig.goes_on(&others(follower)).await;
    rig.refuses(follower, "1 of 3 voters answer").await;
    assert_eq!(rig.status(follower).await["term"], term);
    rig.heal().await;
    rig.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_is_heard_and_does_not_hear_leads_no_more() {
    let Some(rig) = Rig::start().await else {
        return;
    };
    let leader = rig.led(&[0, 1, 2]).await;
    for other in others(leader) {
        rig.network.cut(other, leader);
    }
    rig.led(&others(leader)).await;
    rig.goes_on(&others(leader)).await;
    rig.refuses(leader, "1 of 3 voters answer").await;
    rig.heal().await;
    rig.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_hears_and_is_not_heard_disturbs_nobody() {
    let Some(rig) = Rig::start().await else {
        return;
    };
    let leader = rig.led(&[0, 1, 2]).await;
    let [mute, other] = others(leader);
    rig.network.cut(mute, leader);
    rig.network.cut(mute, other);
    rig.goes_on(&[leader, other]).await;
    rig.refuses(mute, "1 of 3 voters answer").await;
    rig.heal().await;
    rig.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_nodes_that_do_not_reach_each_other_leave_the_third_in_peace() {
    let Some(rig) = Rig::start().await else {
        return;
    };
    for is_heard in [false, true] {
        let leader = rig.led(&[0, 1, 2]).await;
        let [apart, third] = others(leader);
        match is_heard {
            true => rig.network.cut(leader, apart),
            false => rig.network.cut(apart, leader),
        }
        rig.goes_on(&[leader, third]).await;
        let reason = format!(
            "node {} leads, as the others say, and does not answer this node",
            leader + 1
        );
        rig.refuses(apart, &reason).await;
        rig.heal().await;
    }
    rig.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn lines_that_lose_much_and_are_slow_lose_no_request() {
    let Some(rig) = Rig::start().await else {
        return;
    };
    for at in 0..3 {
        for other in others(at) {
            rig.network.lose(other, at, 0.1);
        }
        rig.network.throttle(at, 2_000);
    }
    rig.goes_on(&[0, 1, 2]).await;
    rig.heal().await;
    for at in 0..3 {
        if !rig.network.delay(at, 20) {
            eprintln!("skipped: this kernel has no netem to delay packets with");
            break;
        }
    }
    rig.goes_on(&[0, 1, 2]).await;
    rig.heal().await;
    rig.end().await;
}
