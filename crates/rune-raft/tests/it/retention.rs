//! A node that joins while others write.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use openraft::AsyncRuntime as _;
use openraft_rt_sim::SimRuntime;
use rune_raft::{Change, NodeConfig, NodeId};

use crate::node::{cluster_with, leader};
use crate::sim::cluster::quick;
use crate::sim::net::{Station, Weather};
use crate::support::{put, simulate};

/// The snapshot takes as long to get there as what the log is as large again takes to be written.
/// More snapshots are taken meanwhile, and the log behind the first one has to stay.
#[test]
fn a_node_catches_up_while_others_write() {
    let root = tempfile::tempdir().unwrap();
    simulate(1, async {
        let config = NodeConfig {
            keep_percent: 100,
            ..quick()
        };
        let cluster = cluster_with(root.path(), 3, config).await;
        let (_, node) = leader(&cluster).await;
        let value = "x".repeat(64 << 10);
        for number in 1..=100 {
            let command = put(number, &number.to_string(), value.as_str());
            node.write(&command).await.unwrap().outcome.unwrap();
        }
        let (stop, next) = (
            Arc::new(AtomicBool::new(false)),
            Arc::new(AtomicU64::new(101)),
        );
        let writers: Vec<_> = (0..4)
            .map(|_| {
                let (node, stop, next) = (node.clone(), Arc::clone(&stop), Arc::clone(&next));
                SimRuntime::spawn(async move {
                    while !stop.load(Ordering::Relaxed) {
                        let number = next.fetch_add(1, Ordering::Relaxed);
                        let command = put(number, &(number % 100).to_string(), "small");
                        node.write(&command).await.unwrap().outcome.unwrap();
                        SimRuntime::sleep(Duration::from_millis(10)).await;
                    }
                })
            })
            .collect();
        // A part of 64 KiB takes about thirty milliseconds.
        *cluster.net.weather.lock().unwrap() = Weather {
            delay: 30_000,
            ..Weather::FINE
        };
        let id = node.new_number().await.unwrap();
        cluster.add(id).await;
        let began = next.load(Ordering::Relaxed);
        let addr = id.to_string();
        let join = Change::AddLearner { node: id, addr };
        node.change(join).await.unwrap();
        let caught_up = async {
            let is_there = |(one, station): (NodeId, Station)| {
                one == id && station.node.status().applied.map(|id| id.index) >= node.status().last
            };
            while !cluster.running().into_iter().any(is_there) {
                SimRuntime::sleep(Duration::from_millis(10)).await;
            }
        };
        let joined = SimRuntime::timeout(Duration::from_secs(60), caught_up).await;
        let written = next.load(Ordering::Relaxed) - began;
        stop.store(true, Ordering::Relaxed);
        for writer in writers {
            writer.await.unwrap();
        }
        joined.expect("it has caught up");
        assert!(written > 80, "{written} commands are no load");
    });
}
