//! One run: a cluster at work while things happen to it, then rest, then what must be true.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use openraft::{AsyncRuntime as _, BasicNode, Instant as _};
use openraft_rt_sim::{SimInstant, SimRuntime};
use rune_raft::{Change, NodeId};
use rune_store_runtime::{Leadership, RequestId};
use tempfile::TempDir;

use super::client::{Clients, Fate, numbered};
use super::cluster::{Cluster, quick};
use super::dice::Dice;
use super::history::{Action, is_linearizable};
use super::net::Weather;
use super::platter::Fault;
use crate::state::{accept, marks};
use crate::support::{digest, place, put, reader, simulate};

/// How long things happen in one run of four, and in the others.
const STORM: Duration = Duration::from_secs(6);
const SHORT_STORM: Duration = Duration::from_millis(1500);

/// How long a cluster may take to be one again when nothing happens any more.
const HEALING: Duration = Duration::from_secs(30);

const CLIENTS: usize = 4;

/// What the files of a run may take at the most.
const ROOM: u64 = 1 << 30;

/// What happened in runs, so that a test that tests nothing is noticed.
#[derive(Debug, Default)]
pub(crate) struct Coverage {
    answered: u64,
    unanswered: u64,
    reads: u64,
    terms: u64,
    crashes: u64,
    power_losses: u64,
    chunks: u64,
    purged: u64,
    repeated: u64,
    joined: u64,
    removed: u64,
    led: u64,
    fenced: u64,
    faults: u64,
}

impl Coverage {
    pub(crate) fn add(&mut self, other: &Self) {
        self.answered += other.answered;
        self.unanswered += other.unanswered;
        self.reads += other.reads;
        self.terms += other.terms;
        self.crashes += other.crashes;
        self.power_losses += other.power_losses;
        self.chunks += other.chunks;
        self.purged += other.purged;
        self.repeated += other.repeated;
        self.joined += other.joined;
        self.removed += other.removed;
        self.led += other.led;
        self.fenced += other.fenced;
        self.faults += other.faults;
    }

    /// Whether so many runs had some of everything.
    pub(crate) fn is_enough(&self, runs: u64) {
        let Self {
            answered,
            unanswered,
            reads,
            terms,
            crashes,
            power_losses,
            chunks,
            purged,
            repeated,
            joined,
            removed,
            led,
            fenced,
            faults,
        } = self;
        for (name, count) in [
            ("answered writes", answered),
            ("unanswered writes", unanswered),
            ("reads", reads),
            ("terms", terms),
            ("crashes", crashes),
            ("power losses", power_losses),
            ("parts of snapshots", chunks),
            ("purged entries", purged),
            ("repeated messages", repeated),
            ("nodes that joined", joined),
            ("nodes that were removed", removed),
            ("writes of leaders", led),
            ("writes of former leaders", fenced),
            ("faults of disks", faults),
        ] {
            assert!(
                *count >= runs / 20,
                "{count} {name} are too few for {runs} runs"
            );
        }
    }
}

/// What happened in a run, for whoever holds it, also where the run failed.
#[derive(Debug, Clone, Default)]
pub(crate) struct Trace(Arc<Mutex<Vec<String>>>);

impl Trace {
    pub(crate) fn add(&self, event: String) {
        self.0.lock().unwrap().push(event);
    }

    pub(crate) fn events(&self) -> Vec<String> {
        self.0.lock().unwrap().clone()
    }
}

pub(crate) struct Run {
    pub(crate) coverage: Coverage,
}

/// A directory in memory, where there is one with room for a run.
fn directory() -> TempDir {
    let memory = Path::new("/dev/shm");
    let free = rustix::fs::statvfs(memory).map(|found| found.f_bavail * found.f_frsize);
    match free {
        Ok(free) if free >= ROOM => tempfile::tempdir_in(memory).unwrap(),
        _ => tempfile::tempdir().unwrap(),
    }
}

impl Run {
    pub(crate) fn of(seed: u64, trace: &Trace) -> Self {
        let root = directory();
        simulate(seed, async {
            let cluster = Cluster::new(Dice::new(seed), root.path(), quick(), trace.clone());
            let cluster = Arc::new(cluster);
            Story::begin(cluster).await.tell().await
        })
    }
}

struct Story {
    cluster: Arc<Cluster>,
    clients: Arc<Clients>,
    coverage: Coverage,
}

impl Story {
    async fn begin(cluster: Arc<Cluster>) -> Self {
        let count = if cluster.dice.per_mille(700) { 3 } else { 5 };
        for id in 1..=count {
            cluster.add(id).await;
        }
        let members: BTreeMap<NodeId, BasicNode> =
            (1..=count).map(|id| (id, BasicNode::new(id))).collect();
        let (_, first) = cluster.running().remove(0);
        first.node.initialize(members).await.unwrap();
        let request = RequestId::from_bytes([9; 16]);
        let clients = Arc::new(Clients::new(request));
        let accepted = numbered(clients.number(), accept(request));
        first.node.write(&accepted).await.unwrap().outcome.unwrap();
        Self {
            cluster,
            clients,
            coverage: Coverage::default(),
        }
    }

    async fn tell(mut self) -> Run {
        let workers: Vec<_> = (0..CLIENTS)
            .map(|_| {
                let work = Arc::clone(&self.clients).work(Arc::clone(&self.cluster));
                SimRuntime::spawn(work)
            })
            .collect();
        let begun = SimInstant::now();
        let (storm, pause) = match self.cluster.dice.below(4) {
            0 => (STORM, 400_000),
            _ => (SHORT_STORM, 200_000),
        };
        while begun.elapsed() < storm {
            SimRuntime::sleep(self.cluster.dice.micros(20_000, pause)).await;
            self.happen().await;
        }
        self.rest().await;
        self.clients.stopped.store(true, Ordering::Relaxed);
        for worker in workers {
            worker.await.unwrap();
        }
        self.agree().await;
        self.check();
        Run {
            coverage: self.coverage,
        }
    }

    async fn happen(&mut self) {
        let cluster = Arc::clone(&self.cluster);
        let dice = &cluster.dice;
        let ids = cluster.ids();
        let Some(one) = dice.pick(&ids) else { return };
        for id in cluster.broken() {
            if dice.per_mille(300) {
                self.coverage.power_losses += 1;
                cluster.crash(id, true);
            }
        }
        match dice.below(18) {
            0 => {
                let side: BTreeSet<_> = ids
                    .iter()
                    .copied()
                    .filter(|_| dice.per_mille(500))
                    .collect();
                cluster.note(&format!("split {side:?}"));
                for (from, to) in pairs(&ids) {
                    if side.contains(&from) != side.contains(&to) {
                        cluster.net.cut.lock().unwrap().insert((from, to));
                    }
                }
            }
            1 => {
                cluster.note(&format!("nobody hears {one}"));
                let mut cut = cluster.net.cut.lock().unwrap();
                cut.extend(pairs(&ids).filter(|(from, _)| *from == one));
            }
            2 => {
                cluster.note(&format!("{one} hears nobody"));
                let mut cut = cluster.net.cut.lock().unwrap();
                cut.extend(pairs(&ids).filter(|(_, to)| *to == one));
            }
            3 => {
                if let Some((leader, _)) = cluster.leader() {
                    cluster.note(&format!("isolate {leader}"));
                    let mut cut = cluster.net.cut.lock().unwrap();
                    cut.extend(pairs(&ids).filter(|(from, to)| *from == leader || *to == leader));
                }
            }
            4 | 5 => {
                cluster.note("join");
                cluster.net.cut.lock().unwrap().clear();
            }
            6 | 7 => {
                let most = (ids.len() - 1) / 2;
                if cluster.down().len() < most.max(1) && !cluster.down().contains(&one) {
                    let power = dice.per_mille(500);
                    cluster.crash(one, power);
                    self.coverage.crashes += u64::from(!power);
                    self.coverage.power_losses += u64::from(power);
                }
            }
            8 | 9 => {
                if let Some(down) = dice.pick(&cluster.down()) {
                    cluster.start(down).await;
                }
            }
            10 => {
                let weather = Weather {
                    lost: dice.below(150),
                    repeated: dice.below(200),
                    delay: 1_000 + dice.below(60_000),
                    kibibyte: 0,
                };
                cluster.note(&format!("{weather:?}"));
                *cluster.net.weather.lock().unwrap() = weather;
            }
            11 => {
                if let Some((id, station)) = dice.pick(&cluster.running()) {
                    cluster.note(&format!("snapshot of {id}"));
                    // One that has stopped takes none.
                    let _ = station.node.take_snapshot().await;
                }
            }
            12 => {
                if let Some((_, leader)) = cluster.leader() {
                    cluster.note(&format!("hand over to {one}"));
                    let handed = leader.change(Change::HandOver(one));
                    drop(SimRuntime::timeout(Duration::from_millis(200), handed).await);
                }
            }
            13 => cluster.slow_down(one, dice.per_mille(500)),
            15 => {
                let fault = match dice.below(4) {
                    0 => Fault::Full,
                    1 => Fault::Sync(1 + dice.below(12)),
                    _ => Fault::Power(1 + dice.below(12)),
                };
                // A machine without power has it again when it is started, and not before.
                if !cluster.broken().contains(&one) {
                    self.coverage.faults += 1;
                    cluster.fail(one, Some(fault));
                }
            }
            16 => {
                if !cluster.broken().contains(&one) {
                    cluster.fail(one, None);
                }
            }
            14 => self.grow().await,
            _ => self.shrink(one),
        }
    }

    /// A new machine joins.
    async fn grow(&mut self) {
        let cluster = Arc::clone(&self.cluster);
        if cluster.ids().len() >= 6 {
            return;
        }
        let Some((_, leader)) = cluster.leader() else {
            return;
        };
        let number = SimRuntime::timeout(Duration::from_secs(1), leader.new_number()).await;
        let Ok(Ok(id)) = number else { return };
        cluster.add(id).await;
        cluster.note(&format!("{id} joins"));
        let (dice, clients) = (cluster.dice.clone(), Arc::clone(&self.clients));
        drop(SimRuntime::spawn(async move {
            while !clients.stopped.load(Ordering::Relaxed) {
                if let Some((_, leader)) = cluster.leader()
                    && cluster.ids().contains(&id)
                {
                    let join = async {
                        let addr = id.to_string();
                        leader.change(Change::AddLearner { node: id, addr }).await?;
                        let members = leader.status().members;
                        let voters = members.membership().voter_ids().chain([id]);
                        leader.change(Change::SetVoters(voters.collect())).await
                    };
                    if let Ok(Ok(())) = SimRuntime::timeout(Duration::from_secs(4), join).await {
                        cluster.note(&format!("{id} has joined"));
                        clients.joined.fetch_add(1, Ordering::Relaxed);
                        return;
                    }
                }
                SimRuntime::sleep(dice.micros(100_000, 300_000)).await;
            }
        }));
    }

    /// A machine leaves for good, as far as three are left.
    fn shrink(&mut self, id: NodeId) {
        let cluster = Arc::clone(&self.cluster);
        let Some((_, leader)) = cluster.leader() else {
            return;
        };
        let members = leader.status().members;
        let voters: BTreeSet<NodeId> = members.membership().voter_ids().collect();
        if !voters.contains(&id) || voters.len() < 4 {
            return;
        }
        cluster.note(&format!("{id} leaves"));
        let clients = Arc::clone(&self.clients);
        drop(SimRuntime::spawn(async move {
            let removed = leader.change(Change::Remove(id));
            let removed = SimRuntime::timeout(Duration::from_secs(3), removed).await;
            let removed = removed.is_ok_and(|done| done.is_ok());
            cluster.note(&format!("{id} has left: {removed}"));
            clients
                .removed
                .fetch_add(u64::from(removed), Ordering::Relaxed);
        }));
    }

    /// Nothing happens any more.
    async fn rest(&mut self) {
        let cluster = &self.cluster;
        cluster.note("rest");
        cluster.net.cut.lock().unwrap().clear();
        *cluster.net.weather.lock().unwrap() = Weather::FINE;
        // What a disk did wrong may show a moment later.
        for _ in 0..2 {
            for id in cluster.broken() {
                cluster.crash(id, true);
            }
            for id in cluster.ids() {
                cluster.slow_down(id, false);
                cluster.fail(id, None);
            }
            for id in cluster.down() {
                cluster.start(id).await;
            }
            SimRuntime::sleep(Duration::from_secs(1)).await;
        }
    }

    /// The cluster takes a write again, and every member gets to the same place.
    async fn agree(&mut self) {
        let cluster = &self.cluster;
        let healing = async {
            let last = put(self.clients.number(), "last", 1);
            loop {
                SimRuntime::sleep(Duration::from_millis(100)).await;
                let Some((_, leader)) = cluster.leader() else {
                    continue;
                };
                if let Ok(written) = leader.write(&last).await {
                    written.outcome.unwrap();
                    break;
                }
            }
            loop {
                SimRuntime::sleep(Duration::from_millis(100)).await;
                let Some((_, leader)) = cluster.leader() else {
                    continue;
                };
                let status = leader.status();
                let members = status.members.membership().nodes().map(|(id, _)| *id);
                let stations: BTreeMap<_, _> = cluster.running().into_iter().collect();
                let applied =
                    members.map(|id| stations.get(&id).and_then(|one| one.node.status().applied));
                let applied: BTreeSet<_> = applied.collect();
                if applied.len() == 1
                    && applied
                        .first()
                        .is_some_and(|id| id.map(|id| id.index) == status.last)
                {
                    break;
                }
            }
        };
        let healed = SimRuntime::timeout(HEALING, healing).await;
        let nodes = || {
            let running = cluster.running().into_iter();
            running
                .map(|(_, station)| format!("{:?}", station.node.status()))
                .collect::<Vec<_>>()
        };
        assert!(
            healed.is_ok(),
            "the cluster is not one again after {HEALING:?}:\n{}",
            nodes().join("\n")
        );
    }

    fn check(&mut self) {
        let cluster = &self.cluster;
        for (id, station) in cluster.running() {
            assert_eq!(station.node.status().failure, None, "node {id} has stopped");
        }
        let (_, leader) = cluster.leader().unwrap();
        let status = leader.status();
        let members: Vec<NodeId> = status
            .members
            .membership()
            .nodes()
            .map(|(id, _)| *id)
            .collect();
        // What is applied is said a moment after it is.
        let rows: BTreeMap<NodeId, _> = members
            .iter()
            .map(|id| {
                (
                    *id,
                    (
                        digest(&cluster.database(*id)),
                        place(&cluster.database(*id)),
                    ),
                )
            })
            .collect();
        let first = rows.values().next();
        assert!(
            rows.values().all(|other| Some(other) == first),
            "the nodes hold different rows: {rows:#?}"
        );
        cluster.note(&format!("{rows:?}"));
        let found = marks(&reader(&cluster.database(members[0])));
        let marks = self.clients.marks.lock().unwrap();
        for (word, fate) in marks.iter() {
            let count = found.iter().filter(|found| *found == word).count();
            assert!(count <= 1, "{word} was appended {count} times");
            match fate {
                Fate::Unanswered => self.coverage.unanswered += 1,
                Fate::Applied => {
                    assert!(count == 1, "{word} was answered and is lost");
                    self.coverage.answered += 1;
                }
                Fate::Fenced => {
                    assert!(count == 0, "{word} was refused and is there");
                    self.coverage.fenced += 1;
                }
            }
        }
        // What a leader wrote stands before everything of those that led after it.
        let led: Vec<Leadership> = found.iter().filter_map(|word| leadership(word)).collect();
        assert!(led.is_sorted(), "a former leader wrote: {led:?}");
        self.coverage.led += led.len() as u64;
        for id in &members {
            self.clients.read_all(cluster, *id);
        }
        for (key, history) in self.clients.registers.lock().unwrap().iter() {
            assert!(is_linearizable(history), "register {key}: {history:#?}");
            let reads = history.iter();
            let reads = reads.filter(|one| matches!(one.action, Action::Read(_)));
            self.coverage.reads += reads.count() as u64;
        }
        self.coverage.joined += self.clients.joined.load(Ordering::Relaxed);
        self.coverage.removed += self.clients.removed.load(Ordering::Relaxed);
        self.coverage.terms += status.term;
        self.coverage.purged += status.purged.map_or(0, |id| id.index);
        self.coverage.chunks += cluster.net.chunks.load(Ordering::Relaxed);
        self.coverage.repeated += cluster.net.repeated.load(Ordering::Relaxed);
    }
}

/// Whose word it is, where it is a leader's.
fn leadership(word: &str) -> Option<Leadership> {
    let mut numbers = word.strip_prefix("led ")?.split(' ');
    let mut next = || numbers.next().unwrap().parse().unwrap();
    let (term, node) = (next(), next());
    Some(Leadership { term, node })
}

fn pairs(ids: &[NodeId]) -> impl Iterator<Item = (NodeId, NodeId)> {
    let all = ids
        .iter()
        .flat_map(|from| ids.iter().map(|to| (*from, *to)));
    all.filter(|(from, to)| from != to)
}
