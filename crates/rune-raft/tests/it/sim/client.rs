//! Clients: each does one thing after another, at any node, and remembers what it saw.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use openraft::AsyncRuntime as _;
use openraft_rt_sim::SimRuntime;
use rune_store_runtime::{Command, CommandId, Op, Reject, RequestId, Timestamp};

use super::cluster::Cluster;
use super::history::{Action, Operation};
use super::net::Station;
use crate::state::mark;
use crate::support::{put, reader};

/// The registers.
const KEYS: [&str; 3] = ["a", "b", "c"];

/// What is known of a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    Unanswered,
    Applied,
    /// It was of a leadership that is over.
    Fenced,
}

pub(crate) struct Clients {
    pub(crate) request: RequestId,
    pub(crate) registers: Mutex<BTreeMap<&'static str, Vec<Operation>>>,
    /// Words that were appended, and what was answered.
    pub(crate) marks: Mutex<BTreeMap<String, Fate>>,
    pub(crate) stopped: AtomicBool,
    /// Nodes that became members, and that ceased to be.
    pub(crate) joined: AtomicU64,
    pub(crate) removed: AtomicU64,
    numbers: AtomicU64,
}

impl Clients {
    pub(crate) fn new(request: RequestId) -> Self {
        Self {
            request,
            registers: Mutex::default(),
            marks: Mutex::default(),
            stopped: AtomicBool::new(false),
            joined: AtomicU64::new(0),
            removed: AtomicU64::new(0),
            numbers: AtomicU64::new(1),
        }
    }

    pub(crate) fn number(&self) -> u64 {
        self.numbers.fetch_add(1, Ordering::Relaxed)
    }

    /// One client, until it is told to stop.
    pub(crate) async fn work(self: Arc<Self>, cluster: Arc<Cluster>) {
        while !self.stopped.load(Ordering::Relaxed) {
            SimRuntime::sleep(cluster.dice.micros(5_000, 120_000)).await;
            let nodes = cluster.running();
            let Some((id, station)) = cluster.dice.pick(&nodes) else {
                continue;
            };
            let key = KEYS[usize::try_from(cluster.dice.below(3)).unwrap()];
            match cluster.dice.below(10) {
                0..4 => self.write(&cluster, id, &station, key).await,
                4..7 => self.read(&cluster, id, &station, key).await,
                7 => self.append_as_leader(&cluster).await,
                _ => self.append(&cluster, id, &station).await,
            }
        }
    }

    async fn write(&self, cluster: &Cluster, id: u64, station: &Station, key: &'static str) {
        let value = self.number();
        let begun = cluster.moment();
        let at = {
            let mut registers = self.registers.lock().unwrap();
            let history = registers.entry(key).or_default();
            history.push(Operation {
                begun,
                ended: None,
                action: Action::Write(value),
            });
            history.len() - 1
        };
        let written = station.node.write(&put(value, key, value)).await;
        cluster.note(&format!("{id} write {key}={value}: {}", written.is_ok()));
        if let Ok(written) = written {
            written.outcome.unwrap();
            self.answered(key, at, cluster.moment());
            // Who waits for what was written reads it, or something newer, on the same node.
            if station.node.applied(written.index).await.is_ok()
                && station.alive.load(Ordering::Relaxed)
            {
                let read = value_of(cluster, id, key);
                let action = Action::ReadAfter(read, value);
                self.remember(key, begun, cluster.moment(), action);
            }
        }
    }

    fn answered(&self, key: &'static str, at: usize, moment: u64) {
        let mut registers = self.registers.lock().unwrap();
        registers.entry(key).or_default()[at].ended = Some(moment);
    }

    async fn read(&self, cluster: &Cluster, id: u64, station: &Station, key: &'static str) {
        let begun = cluster.moment();
        if let Err(error) = station.node.linearizable().await {
            cluster.note(&format!("{id} read {key}: {error}"));
            return;
        }
        // What is on the disk now is of another life.
        if !station.alive.load(Ordering::Relaxed) {
            return;
        }
        let read = value_of(cluster, id, key);
        cluster.note(&format!("{id} read {key}={read}"));
        self.remember(key, begun, cluster.moment(), Action::Read(read));
    }

    /// Reads every register on a node that has applied everything.
    pub(crate) fn read_all(&self, cluster: &Cluster, id: u64) {
        for key in KEYS {
            let begun = cluster.moment();
            let read = value_of(cluster, id, key);
            self.remember(key, begun, cluster.moment(), Action::Read(read));
        }
    }

    fn remember(&self, key: &'static str, begun: u64, ended: u64, action: Action) {
        let operation = Operation {
            begun,
            ended: Some(ended),
            action,
        };
        let mut registers = self.registers.lock().unwrap();
        registers.entry(key).or_default().push(operation);
    }

    async fn append(&self, cluster: &Cluster, id: u64, station: &Station) {
        let number = self.number();
        let word = format!("m{number}");
        let command = numbered(number, mark(self.request, &word));
        self.write_mark(cluster, id, station, word, command).await;
    }

    /// Writes what only a leader is to write, as one that takes its time may: it may have ceased
    /// to lead by then.
    async fn append_as_leader(&self, cluster: &Cluster) {
        let Some((id, _)) = cluster.leader() else {
            return;
        };
        let station = cluster.running().into_iter().find(|(one, _)| *one == id);
        let Some((_, station)) = station else { return };
        let Some(led) = station.node.status().leads else {
            return;
        };
        SimRuntime::sleep(cluster.dice.micros(0, 1_500_000)).await;
        let number = self.number();
        let word = format!("led {} {} {number}", led.term, led.node);
        let command = numbered(number, mark(self.request, &word)).fenced(led);
        self.write_mark(cluster, id, &station, word, command).await;
    }

    async fn write_mark(
        &self,
        cluster: &Cluster,
        id: u64,
        station: &Station,
        word: String,
        command: Command,
    ) {
        let fate = |fate| self.marks.lock().unwrap().insert(word.clone(), fate);
        fate(Fate::Unanswered);
        let written = station.node.write(&command).await;
        let answer = written.as_ref().map(|written| &written.outcome);
        cluster.note(&format!("{id} append {word}: {answer:?}"));
        match written.map(|written| written.outcome) {
            Ok(Ok(_)) => fate(Fate::Applied),
            Ok(Err(Reject::Fenced { .. })) => fate(Fate::Fenced),
            Ok(Err(reject)) => unreachable!("{word}: {reject}"),
            Err(_) => None,
        };
    }
}

pub(crate) fn numbered(number: u64, op: impl Into<Op>) -> Command {
    let mut id = [8; 16];
    id[8..].copy_from_slice(&number.to_be_bytes());
    Command {
        id: CommandId::from_bytes(id),
        ..Command::new(Timestamp::from_millis(1_795_000_000_000), op)
    }
}

/// The value of a register on a node, 0 where there is none.
fn value_of(cluster: &Cluster, id: u64, key: &str) -> u64 {
    let db = reader(&cluster.database(id));
    let mut select = db
        .prepare("SELECT value FROM cache WHERE key = ?1")
        .unwrap();
    let mut rows = select.query([key]).unwrap();
    let value = rows
        .next()
        .unwrap()
        .map(|row| row.get::<_, String>(0).unwrap());
    value.map_or(0, |value| value.parse().unwrap())
}
