//! What operators do with a cluster.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use rune_cluster::{Cluster, ClusterSecret, ClusterStatus, Member, Role};
use rune_raft::NodeId;
use rune_storage::{SqliteStore, StorageConfig};
use rune_store_runtime::{CommandLog as _, StoreError};
use rune_testkit::store::random_commands;
use tokio::net::TcpListener;
use tokio::time::{sleep, timeout};

use crate::cluster::{Peer, SECRET, cluster, converged, put, settings};

const LIMIT: Duration = Duration::from_secs(60);
const LOOK: Duration = Duration::from_millis(50);
/// Longer than every pause in which a member is asked how it is.
const QUIET: Duration = Duration::from_secs(4);

async fn new_peer(dir: &std::path::Path, id: NodeId) -> Peer {
    Peer::start(&dir.join(id.to_string()), SECRET, id, settings()).await
}

fn places(peers: &[&Peer]) -> BTreeMap<NodeId, String> {
    let places = peers.iter();
    places
        .map(|peer| (peer.cluster.id(), peer.addr.clone()))
        .collect()
}

fn reason<T: std::fmt::Debug>(refused: Result<T, StoreError>) -> String {
    match refused {
        Err(StoreError::Rejected(reject)) => reject.to_string(),
        other => unreachable!("not refused: {other:?}"),
    }
}

async fn until(what: &str, is: impl AsyncFn() -> bool) {
    let waited = timeout(LIMIT, async {
        while !is().await {
            sleep(LOOK).await;
        }
    });
    assert!(waited.await.is_ok(), "not within {LIMIT:?}: {what}");
}

fn roles(status: &ClusterStatus) -> BTreeMap<NodeId, Role> {
    let members = status.members.iter();
    members.map(|member| (member.node, member.role)).collect()
}

/// Gives these a vote, once those without one have caught up.
async fn set_voters(cluster: &Cluster, voters: &[NodeId]) {
    until("the voters are changed", async || {
        match cluster.set_voters(voters.to_vec()).await {
            Ok(()) => true,
            Err(error) => {
                assert!(error.to_string().contains("wait"), "{error}");
                false
            }
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_begins_once_and_with_nodes_that_answer() {
    let dir = tempfile::tempdir().unwrap();
    let (one, two) = (new_peer(dir.path(), 1).await, new_peer(dir.path(), 2).await);
    let not_yet = one.cluster.ready().await.unwrap_err();
    assert!(not_yet.contains("rune cluster init"), "{not_yet}");
    let refused = reason(one.cluster.add_learner(3, "127.0.0.1:1").await);
    assert!(refused.contains("in no cluster yet"), "{refused}");

    let members = places(&[&one, &two]);
    let with = |id: NodeId, addr: &str| {
        let mut members = members.clone();
        members.insert(id, addr.to_owned());
        members
    };
    // Nobody is there; another node is; this one is not named; an address is named twice.
    for (members, said) in [
        (with(2, "127.0.0.1:1"), "node 2 at 127.0.0.1:1"),
        (with(3, "127.0.0.1:1"), "node 3 at 127.0.0.1:1"),
        (BTreeMap::from([(2, one.addr.clone())]), "this is node 1"),
        (BTreeMap::from([(1, two.addr.clone())]), "is not node 1"),
        (with(3, &two.addr), "have the same address"),
        (BTreeMap::new(), "not among the members"),
    ] {
        let refused = reason(one.cluster.init(&members).await);
        assert!(refused.contains(said), "{refused}");
    }
    one.cluster.init(&members).await.unwrap();
    until("there is a majority", async || {
        one.cluster.ready().await.is_ok()
    })
    .await;
    let refused = reason(one.cluster.init(&members).await);
    assert!(refused.contains("in a cluster already"), "{refused}");
    // A node of a cluster is in no other one.
    let three = new_peer(dir.path(), 3).await;
    let refused = reason(three.cluster.init(&places(&[&two, &three])).await);
    assert!(
        refused.contains("node 2 is in a cluster already"),
        "{refused}"
    );
    for peer in [one, two, three] {
        peer.end().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dead_member_is_replaced_from_any_node() {
    let (peers, dir) = cluster(3, &settings()).await;
    for peer in &peers {
        peer.node.linearizable().await.unwrap();
    }
    let leader = peers[0].node.status().leader.unwrap();
    let (gone, mut left): (Vec<_>, Vec<_>) = peers
        .into_iter()
        .partition(|peer| peer.cluster.id() != leader && peer.cluster.id() != leader % 3 + 1);
    let gone = gone.into_iter().next().unwrap();
    let (dead, dead_addr) = (gone.cluster.id(), gone.addr.clone());
    // Every question goes to one that does not lead.
    let asked = left.iter().find(|peer| peer.cluster.id() != leader);
    let asked = asked.unwrap().cluster.clone();
    until("every member answers", async || {
        let status = asked.status().await;
        let all = status.members.iter().all(|member| member.about.is_ok());
        all && status.leader.is_some() && status.trouble.is_none()
    })
    .await;

    gone.end().await;
    until("it is known that one is gone", async || {
        let status = asked.status().await;
        let dead = status.members.iter().find(|member| member.node == dead);
        dead.unwrap().about.is_err()
    })
    .await;
    until("two are a majority", async || asked.ready().await.is_ok()).await;
    // Once its silence counts, none of the other two can go.
    let mut others = left.iter().map(|peer| peer.cluster.id());
    let other = others.find(|id| *id != leader).unwrap();
    drop(others);
    until("the silence of the dead one counts", async || {
        let heard = |member: &rune_cluster::MemberStatus| member.heard_ms;
        let status = asked.status().await;
        let dead = status.members.iter().find(|member| member.node == dead);
        heard(dead.unwrap()).is_none_or(|ms| ms > 3_000)
    })
    .await;
    let refused = reason(asked.remove(other).await);
    assert!(refused.contains("the cluster would stop"), "{refused}");

    // Somebody at its address sees who still asks for it.
    let listener = TcpListener::bind(&dead_addr).await.unwrap();
    timeout(LIMIT, listener.accept()).await.unwrap().unwrap();
    asked.remove(dead).await.unwrap();
    let refused = reason(asked.remove(dead).await);
    assert!(refused.contains("is no member"), "{refused}");
    until("nobody asks for it any more", async || {
        timeout(QUIET, listener.accept()).await.is_err()
    })
    .await;
    drop(listener);

    // Its number is gone for good, and so is its data.
    let refused = reason(asked.add_learner(dead, &dead_addr).await);
    assert!(refused.contains("in use before"), "{refused}");
    let refused = reason(asked.add_learner(4, "127.0.0.1:1").await);
    assert!(refused.contains("node 4 at 127.0.0.1:1"), "{refused}");
    let fourth = new_peer(dir.path(), 4).await;
    asked.add_learner(4, &fourth.addr).await.unwrap();
    assert_eq!(roles(&asked.status().await)[&4], Role::Learner);
    set_voters(&asked, &[leader, other, 4]).await;
    asked.hand_over(4).await.unwrap();
    until("the others know", async || {
        roles(&asked.status().await).get(&4) == Some(&Role::Leader)
    })
    .await;
    let written = left[0].node.write(&put("after", 1)).await.unwrap();
    written.outcome.unwrap();
    left.push(fourth);
    converged(&left.iter().collect::<Vec<_>>()).await;

    // The dead one comes back, and finds out.
    let listener = TcpListener::bind(&dead_addr).await.unwrap();
    let path = dir.path().join(dead.to_string());
    let back = Peer::start_at(listener, &path, SECRET, dead, settings());
    let back = back.await.unwrap();
    until("it knows that it was removed", async || {
        let ready = back.cluster.ready().await;
        ready.is_err_and(|why| why.contains("was removed"))
    })
    .await;
    for peer in left.into_iter().chain([back]) {
        peer.end().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_begins_a_cluster_and_comes_to_those_that_join() {
    let dir = tempfile::tempdir().unwrap();
    let database = dir.path().join("1/rune.db");
    std::fs::create_dir(dir.path().join("1")).unwrap();
    let store = SqliteStore::open(StorageConfig::new(&database)).unwrap();
    let store = Arc::new(store);
    for command in random_commands(5, 200) {
        // Some are refused.
        drop(store.submit(command).await);
    }
    store.close().await.unwrap();
    // All but how far the log was applied.
    let rows = || {
        let mut db = rusqlite::Connection::open(&database).unwrap();
        let looking = db.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate);
        let looking = looking.unwrap();
        looking.execute("DELETE FROM replication", []).unwrap();
        rune_storage::logical_digest(&looking).unwrap()
    };
    let before = rows();

    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap().to_string();
    let secret = ClusterSecret::parse(&SECRET.to_owned().into()).unwrap();
    Member::found(&secret, 1, &addr, &database).unwrap();
    let path = dir.path().join("1");
    let one = Peer::start_at(listener, &path, SECRET, 1, settings());
    let one = one.await.unwrap();
    until("it leads itself", async || {
        one.cluster.ready().await.is_ok()
    })
    .await;
    let refused = reason(one.cluster.init(&places(&[&one])).await);
    assert!(refused.contains("in a cluster already"), "{refused}");
    let (two, three) = (new_peer(dir.path(), 2).await, new_peer(dir.path(), 3).await);
    for peer in [&two, &three] {
        one.cluster
            .add_learner(peer.cluster.id(), &peer.addr)
            .await
            .unwrap();
    }
    set_voters(&one.cluster, &[1, 2, 3]).await;
    converged(&[&one, &two, &three]).await;
    assert_eq!(rows(), before, "the rows are not those of the database");
    three
        .node
        .write(&put("after", 1))
        .await
        .unwrap()
        .outcome
        .unwrap();
    converged(&[&one, &two, &three]).await;
    assert_ne!(rows(), before);
    for peer in [one, two, three] {
        peer.end().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_majority_a_node_says_whom_to_start() {
    let (mut peers, _dir) = cluster(2, &settings()).await;
    until("there is a majority", async || {
        peers[0].cluster.ready().await.is_ok()
    })
    .await;
    peers.pop().unwrap().end().await;
    let alone = peers.pop().unwrap();
    let said = alone.cluster.ready().await.unwrap_err();
    assert!(
        said.contains("1 of 2 voters answer; start node 2"),
        "{said}"
    );
    let status = alone.cluster.status().await;
    assert_eq!(
        status
            .trouble
            .as_deref()
            .map(|said| said.contains("start node 2")),
        Some(true)
    );
    alone.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_snapshot_is_taken_when_it_is_asked_for() {
    let (peers, _dir) = cluster(1, &settings()).await;
    let one = &peers[0];
    one.node.write(&put("k", 1)).await.unwrap().outcome.unwrap();
    let asked = one.cluster.snapshot().await.unwrap();
    assert!(
        asked.wanted.is_some() && asked.snapshot < asked.wanted,
        "{asked:?}"
    );
    until("it is there", async || {
        one.node.status().snapshot.map(|id| id.index) >= asked.wanted
    })
    .await;
    for peer in peers {
        peer.end().await;
    }
}
