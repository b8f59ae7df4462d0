//! The store of a cluster is a store like any other.

use std::sync::Arc;
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::Duration;

use rune_cluster::MemberError;
use rune_storage::{SqliteStore, StorageConfig, StorageError};
use rune_store_runtime::{CacheReader as _, CommandLog as _, RuntimeStore, StoreError, Timestamp};
use rune_testkit::store::{TestStore, random_commands};
use tokio::net::TcpListener;
use tokio::sync::oneshot;

use crate::cluster::{Peer, SECRET, cluster, converged, put, settings};

/// The store of a node that does not lead.
fn follower() -> TestStore {
    let (store, elsewhere) = Elsewhere::start();
    TestStore::new(store, elsewhere)
}

rune_testkit::store_suite!(follower);

/// A cluster of two in a runtime of its own.
struct Elsewhere {
    end: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Elsewhere {
    fn start() -> (Arc<dyn RuntimeStore>, Self) {
        let (end, ended) = oneshot::channel();
        let (started, store) = mpsc::channel();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_multi_thread()
                .worker_threads(2)
                .enable_all()
                .build();
            runtime.unwrap().block_on(async {
                let (peers, _dir) = cluster(2, &settings()).await;
                peers[1].node.linearizable().await.unwrap();
                let leader = peers[1].node.status().leader;
                let follower = peers
                    .iter()
                    .find(|peer| Some(peer.node.status().id) != leader);
                started.send(follower.unwrap().store.clone()).unwrap();
                drop(ended.await);
            });
        });
        let elsewhere = Self {
            end: Some(end),
            thread: Some(thread),
        };
        (store.recv().unwrap(), elsewhere)
    }
}

impl Drop for Elsewhere {
    fn drop(&mut self) {
        drop(self.end.take());
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
    }
}

/// Many writers on every node; each reads what it wrote where it wrote it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_written_is_read_on_the_same_node_and_all_nodes_agree() {
    let (peers, _dir) = cluster(3, &settings()).await;
    let mut writers = tokio::task::JoinSet::new();
    for (at, peer) in peers.iter().enumerate() {
        for writer in 0..8 {
            let store = Arc::clone(&peer.store);
            writers.spawn(async move {
                let key = format!("{at}-{writer}");
                for number in 0..20 {
                    store.submit(put(&key, number)).await.unwrap();
                    let read = store.cached(&key, Timestamp::from_millis(0)).await;
                    assert_eq!(read.unwrap().unwrap().value, number);
                }
            });
        }
    }
    while let Some(written) = writers.join_next().await {
        written.unwrap();
    }
    converged(&peers.iter().collect::<Vec<_>>()).await;
    for peer in peers {
        peer.end().await;
    }
}

/// What a store answers to any commands, a single node answers, too, and has the same rows.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_and_a_single_node_agree_on_random_commands() {
    let (peers, dir) = cluster(2, &settings()).await;
    let path = dir.path().join("alone").join("rune.db");
    let alone = SqliteStore::open(StorageConfig::new(&path)).unwrap();
    let mut commands = random_commands(7, 300);
    // The time of a cluster does not go back with that of a command, which a single node lets it.
    commands.sort_by_key(|command| command.at);
    for (number, command) in commands.into_iter().enumerate() {
        let expected = alone.submit(command.clone()).await;
        let found = peers[number % 2].store.submit(command.clone()).await;
        match (&expected, &found) {
            // What is too deep to be parsed is refused with other words.
            (Err(StoreError::Rejected(_)), Err(StoreError::Rejected(_))) => {}
            _ => assert_eq!(expected, found, "command {number}: {command:?}"),
        }
    }
    converged(&peers.iter().collect::<Vec<_>>()).await;
    for peer in peers {
        peer.end().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_goes_on_with_its_files_and_no_other_one_does() {
    let (mut peers, dir) = cluster(2, &settings()).await;
    peers[0].store.submit(put("before", 1)).await.unwrap();
    let second = peers.pop().unwrap();
    let addr = second.addr.clone();
    second.end().await;
    let files = dir.path().join("2");

    for (secret, id) in [(SECRET, 3), ("another secret, which is long enough too", 2)] {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let other = Peer::start_at(listener, &files, secret, id, settings()).await;
        let Err(MemberError::Storage(StorageError::Owner { .. })) = other else {
            panic!("the files of another node were taken");
        };
    }

    let listener = TcpListener::bind(&addr).await.unwrap();
    let second = Peer::start_at(listener, &files, SECRET, 2, settings()).await;
    let second = second.unwrap();
    second.store.submit(put("after", 2)).await.unwrap();
    for key in ["before", "after"] {
        let read = second.store.cached(key, Timestamp::from_millis(0)).await;
        assert!(read.unwrap().is_some(), "{key}");
    }
    second.end().await;

    // With one of two nodes nothing is decided any more; who asks is told in time.
    let asked = peers[0].store.submit(put("alone", 3));
    let asked = tokio::time::timeout(Duration::from_secs(30), asked).await;
    let refused = asked.unwrap();
    assert!(
        matches!(refused, Err(StoreError::Unavailable(_))),
        "{refused:?}"
    );
    for peer in peers {
        peer.end().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_database_of_a_single_node_is_not_taken_into_a_cluster() {
    let dir = tempfile::tempdir().unwrap();
    let alone = SqliteStore::open(StorageConfig::new(dir.path().join("rune.db"))).unwrap();
    alone.submit(put("alone", 1)).await.unwrap();
    drop(alone);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let taken = Peer::start_at(listener, dir.path(), SECRET, 1, settings()).await;
    assert!(matches!(taken, Err(MemberError::Standalone(_))));
}
