//! The nodes of a run, and what can happen to them.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use openraft::{AsyncRuntime as _, Instant as _};
use openraft_rt_sim::{SimInstant, SimRuntime};
use rune_raft::{LogStore, Node, NodeConfig, NodeId, SnapshotDir, StateMachine};
use rune_storage::Replica;

use super::SimDisk;
use super::dice::Dice;
use super::net::{Net, SimNode, Station, Wire};
use super::platter::{Fault, Platter};
use super::run::Trace;
use crate::support::owner;

/// The longest that a write takes, in microseconds, on a disk that is well.
const DISK: u64 = 3_000;

pub(crate) struct Cluster {
    pub(crate) dice: Dice,
    pub(crate) net: Arc<Net>,
    root: PathBuf,
    config: NodeConfig,
    machines: Mutex<BTreeMap<NodeId, Machine>>,
    trace: Trace,
    begun: SimInstant,
    moments: AtomicU64,
    lives: AtomicU64,
}

/// A machine: what is on its disk, and whether it is on.
#[derive(Clone)]
struct Machine {
    directory: PathBuf,
    disk: SimDisk,
    station: Option<Station>,
}

/// One whose snapshots and elections come soon.
pub(crate) fn quick() -> NodeConfig {
    NodeConfig {
        heartbeat: Duration::from_millis(60),
        election: Duration::from_millis(200),
        snapshot_entries: 40,
        snapshot_percent: 0,
        keep_entries: 5,
        keep_bytes: 16 << 10,
        keep_percent: 0,
        chunk_bytes: 64 << 10,
        patience: Duration::from_secs(3),
        ..NodeConfig::default()
    }
}

impl Cluster {
    pub(crate) fn new(dice: Dice, root: &Path, config: NodeConfig, trace: Trace) -> Self {
        Self {
            net: Arc::new(Net::new(dice.clone())),
            dice,
            root: root.to_owned(),
            config,
            machines: Mutex::default(),
            trace,
            begun: SimInstant::now(),
            moments: AtomicU64::new(0),
            lives: AtomicU64::new(0),
        }
    }

    /// A number that is greater than every one before.
    pub(crate) fn moment(&self) -> u64 {
        self.moments.fetch_add(1, Ordering::Relaxed)
    }

    pub(crate) fn note(&self, event: &str) {
        let at = self.begun.elapsed().as_micros();
        self.trace.add(format!("{at} {event}"));
    }

    pub(crate) fn ids(&self) -> Vec<NodeId> {
        self.machines.lock().unwrap().keys().copied().collect()
    }

    /// The nodes that run.
    pub(crate) fn running(&self) -> Vec<(NodeId, Station)> {
        let stations = self.net.stations.lock().unwrap();
        let stations = stations.iter();
        stations
            .map(|(id, station)| (*id, station.clone()))
            .collect()
    }

    /// The one that says of itself that it leads, in the greatest term.
    pub(crate) fn leader(&self) -> Option<(NodeId, SimNode)> {
        let running = self.running().into_iter();
        let nodes = running.map(|(id, station)| (id, station.node));
        nodes
            .filter(|(id, node)| node.status().leader == Some(*id))
            .max_by_key(|(_, node)| node.status().term)
    }

    /// The database of a node, in its present life.
    pub(crate) fn database(&self, id: NodeId) -> PathBuf {
        self.machines.lock().unwrap()[&id].directory.join("rune.db")
    }

    fn new_directory(&self, id: NodeId) -> PathBuf {
        let life = self.lives.fetch_add(1, Ordering::Relaxed);
        let directory = self.root.join(format!("{id}-{life}"));
        fs::create_dir_all(&directory).unwrap();
        directory
    }

    /// Adds a machine with an empty disk and starts it.
    pub(crate) async fn add(&self, id: NodeId) {
        let machine = Machine {
            directory: self.new_directory(id),
            disk: SimDisk::new(self.dice.clone(), Platter::new(self.dice.clone()), DISK),
            station: None,
        };
        self.machines.lock().unwrap().insert(id, machine);
        self.start(id).await;
    }

    pub(crate) async fn start(&self, id: NodeId) {
        let (directory, disk) = {
            let machine = &self.machines.lock().unwrap()[&id];
            (machine.directory.clone(), machine.disk.clone())
        };
        let alive = Arc::new(AtomicBool::new(true));
        let wire = Wire {
            net: Arc::clone(&self.net),
            from: id,
            alive: Arc::clone(&alive),
        };
        let config = self.config.clone();
        let path = directory.join("raft.db");
        // What was wrong with it while it was off has been seen to.
        disk.platter.set(None);
        let (log, replica, snapshots) = disk.platter.work(|| {
            (
                LogStore::open(&path, &owner(id), disk.clone()).unwrap(),
                Replica::open(&directory.join("rune.db")).unwrap(),
                Arc::new(SnapshotDir::open(&directory.join("snapshots")).unwrap()),
            )
        });
        let state = StateMachine::new(replica, Arc::clone(&snapshots), disk.clone()).unwrap();
        let node = Node::start(&owner(id), config, wire, log, state, snapshots, disk).await;
        let station = Station {
            node: node.unwrap(),
            alive,
        };
        self.note(&format!("start {id}"));
        self.net
            .stations
            .lock()
            .unwrap()
            .insert(id, station.clone());
        let mut machines = self.machines.lock().unwrap();
        if let Some(machine) = machines.get_mut(&id) {
            machine.station = Some(station);
        }
    }

    /// Ends a node in the middle of whatever it does. What it has written is there after a
    /// restart; after a power loss only what it has synced.
    pub(crate) fn crash(&self, id: NodeId, power: bool) {
        self.note(&format!("crash {id}, power {power}"));
        self.net.stations.lock().unwrap().remove(&id);
        let mut machines = self.machines.lock().unwrap();
        let Some(machine) = machines.get_mut(&id) else {
            return;
        };
        let Some(station) = machine.station.take() else {
            return;
        };
        station.alive.store(false, Ordering::Relaxed);
        machine.disk.kill();
        let after = self.new_directory(id);
        let platter = machine
            .disk
            .platter
            .after(&machine.directory, &after, power);
        machine.disk = SimDisk::new(self.dice.clone(), platter, DISK);
        // Whatever the old life has open it keeps, and nothing comes to its disk any more.
        fs::remove_dir_all(&machine.directory).unwrap();
        machine.directory = after;
        drop(SimRuntime::spawn(
            async move { station.node.shutdown().await },
        ));
    }

    pub(crate) fn down(&self) -> Vec<NodeId> {
        let machines = self.machines.lock().unwrap();
        let down = machines
            .iter()
            .filter(|(_, machine)| machine.station.is_none());
        down.map(|(id, _)| *id).collect()
    }

    /// Has the disk of a node do something wrong, or nothing any more.
    pub(crate) fn fail(&self, id: NodeId, fault: Option<Fault>) {
        self.note(&format!("disk of {id}: {fault:?}"));
        self.machines.lock().unwrap()[&id].disk.platter.set(fault);
    }

    /// The nodes that have stopped, or whose machine has no power.
    pub(crate) fn broken(&self) -> Vec<NodeId> {
        let machines = self.machines.lock().unwrap();
        let broken = machines.iter().filter(|(_, machine)| {
            let station = machine.station.as_ref();
            station.is_some_and(|station| {
                machine.disk.platter.is_dead() || station.node.status().failure.is_some()
            })
        });
        broken.map(|(id, _)| *id).collect()
    }

    /// Makes the disk of a node slow, or well again.
    pub(crate) fn slow_down(&self, id: NodeId, slow: bool) {
        let micros = if slow { DISK * 50 } else { DISK };
        self.machines.lock().unwrap()[&id].disk.set_micros(micros);
    }
}
