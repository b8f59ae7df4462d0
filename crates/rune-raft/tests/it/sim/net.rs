//! A network that is slow, loses, repeats and reorders, and can be cut in each direction.

use std::collections::{BTreeMap, BTreeSet};
use std::future::pending;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use openraft::{AsyncRuntime as _, BasicNode};
use openraft_rt_sim::SimRuntime;
use rune_raft::{CallError, Message, Node, NodeId, Reply, Transport};

use super::SimDisk;
use super::dice::Dice;
use crate::support::text;

pub(crate) type SimNode = Node<SimDisk, Wire>;

/// A running node, until it crashes.
#[derive(Clone)]
pub(crate) struct Station {
    pub(crate) node: SimNode,
    pub(crate) alive: Arc<AtomicBool>,
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct Weather {
    /// Of a thousand messages.
    pub(crate) lost: u64,
    /// Of a thousand messages.
    pub(crate) repeated: u64,
    /// The longest that a message is under way, in microseconds.
    pub(crate) delay: u64,
    /// What a KiB of entries takes in addition, in microseconds.
    pub(crate) kibibyte: u64,
}

impl Weather {
    pub(crate) const FINE: Self = Self {
        lost: 0,
        repeated: 0,
        delay: 2_000,
        kibibyte: 0,
    };
}

pub(crate) struct Net {
    dice: Dice,
    pub(crate) stations: Mutex<BTreeMap<NodeId, Station>>,
    pub(crate) cut: Mutex<BTreeSet<(NodeId, NodeId)>>,
    pub(crate) weather: Mutex<Weather>,
    /// Parts of snapshots that arrived.
    pub(crate) chunks: AtomicU64,
    pub(crate) repeated: AtomicU64,
    /// Nodes that say that they understand commands up to this version only.
    pub(crate) old: Mutex<BTreeMap<NodeId, u16>>,
}

impl Net {
    pub(crate) fn new(dice: Dice) -> Self {
        Self {
            dice,
            stations: Mutex::default(),
            cut: Mutex::default(),
            weather: Mutex::new(Weather::FINE),
            chunks: AtomicU64::new(0),
            repeated: AtomicU64::new(0),
            old: Mutex::default(),
        }
    }

    /// The time that a message is under way; forever where it is lost.
    async fn travel(&self, from: NodeId, to: NodeId) {
        let weather = *self.weather.lock().unwrap();
        SimRuntime::sleep(self.dice.micros(50, weather.delay.max(50))).await;
        let cut = self.cut.lock().unwrap().contains(&(from, to));
        if cut || self.dice.per_mille(weather.lost) {
            pending::<()>().await;
        }
    }
}

/// The network as one life of one node has it.
#[derive(Clone)]
pub(crate) struct Wire {
    pub(crate) net: Arc<Net>,
    pub(crate) from: NodeId,
    pub(crate) alive: Arc<AtomicBool>,
}

impl Transport<SimRuntime> for Wire {
    async fn call(
        &self,
        target: NodeId,
        _: &BasicNode,
        message: Message<SimRuntime>,
        _: Duration,
    ) -> Result<Reply<SimRuntime>, CallError> {
        let (net, from) = (&self.net, self.from);
        if !self.alive.load(Ordering::Relaxed) {
            pending::<()>().await;
        }
        net.travel(from, target).await;
        if let Message::Append(rpc) = &message {
            let bytes: usize = rpc.entries.iter().map(|entry| text(entry).len()).sum();
            let kibibytes = u64::try_from(bytes >> 10).unwrap();
            let micros = net.weather.lock().unwrap().kibibyte * kibibytes;
            if micros > 0 {
                SimRuntime::sleep(Duration::from_micros(micros)).await;
            }
        }
        let station = net.stations.lock().unwrap().get(&target).cloned();
        let Some(Station { node, alive }) = station else {
            return Err(CallError::Unreachable("connection refused".to_owned()));
        };
        if matches!(message, Message::Chunk(..)) {
            net.chunks.fetch_add(1, Ordering::Relaxed);
        }
        if net.dice.per_mille(net.weather.lock().unwrap().repeated) {
            net.repeated.fetch_add(1, Ordering::Relaxed);
            let (net, message) = (Arc::clone(net), message.clone());
            drop(SimRuntime::spawn(async move {
                // Late, perhaps to another life of the node, and nobody waits for the answer.
                SimRuntime::sleep(net.dice.micros(0, 3_000_000)).await;
                let station = net.stations.lock().unwrap().get(&target).cloned();
                if let Some(Station { node, .. }) = station {
                    drop(node.serve(from, message).await);
                }
            }));
        }
        // Whoever asked may give up; whoever was asked goes on.
        let served = SimRuntime::spawn(async move { node.serve(from, message).await });
        let mut reply = served.await.unwrap();
        if let Ok(Reply::About(about)) = &mut reply
            && let Some(version) = net.old.lock().unwrap().get(&target)
        {
            about.commands = *version;
        }
        if !alive.load(Ordering::Relaxed) {
            pending::<()>().await;
        }
        net.travel(target, from).await;
        if !self.alive.load(Ordering::Relaxed) {
            pending::<()>().await;
        }
        reply
    }
}
