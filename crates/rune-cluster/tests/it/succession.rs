//! Who leads when the one that did has ended.

use std::time::Duration;

use rune_raft::{Lead, NodeConfig};

use crate::cluster::{cluster, converged, put, settings};

/// A leader that says nothing is waited for much longer than a test takes.
fn patient() -> NodeConfig {
    NodeConfig {
        heartbeat: Duration::from_secs(2),
        election: Duration::from_secs(1200),
        patience: Duration::from_secs(60),
        ..settings()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_place_of_a_leader_that_has_ended_is_taken_before_it_is_missed() {
    let (mut peers, _dir) = cluster(3, &patient()).await;
    peers[0].node.write(&put("before", 1)).await.unwrap();
    assert!(matches!(peers[0].node.leader(), Lead::Own(_)));
    for peer in &peers[1..] {
        // From here on it is connected to the leader.
        peer.node.linearizable().await.unwrap();
    }
    peers.remove(0).end().await;
    let written = peers[0].node.write(&put("after", 2)).await.unwrap();
    assert!(written.outcome.is_ok());
    converged(&[&peers[0], &peers[1]]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_takes_a_leader_for_ended_which_is_there_changes_nothing() {
    let (peers, _dir) = cluster(3, &patient()).await;
    peers[0].node.write(&put("before", 1)).await.unwrap();
    let term = peers[0].node.status().term;
    peers[1].node.linearizable().await.unwrap();
    peers[1].node.succeed(1).await.unwrap();
    peers[1].node.write(&put("after", 2)).await.unwrap();
    peers[2].node.linearizable().await.unwrap();
    for peer in &peers {
        let status = peer.node.status();
        assert_eq!((status.term, status.leader), (term, Some(1)));
    }
    converged(&peers.iter().collect::<Vec<_>>()).await;
}
