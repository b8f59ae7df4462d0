//! What a node does for whoever runs it, in a cluster to which nothing happens.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use openraft::{AsyncRuntime as _, BasicNode, Instant as _};
use openraft_rt_sim::{SimInstant, SimRuntime};
use rune_raft::{
    Change, MAX_PROPOSAL_BYTES, MAX_WRITE_BYTES, Message, Node, NodeConfig, NodeId, Proposal,
    Reply, SnapshotDir,
};
use rune_store_runtime::limits::MAX_ENTRY_BYTES;
use rune_store_runtime::{Clock as _, Command, Reject, RequestId, StoreError, SystemClock};

use crate::sim::SimDisk;
use crate::sim::cluster::{Cluster, quick};
use crate::sim::dice::Dice;
use crate::sim::net::{Net, SimNode, Wire};
use crate::sim::run::Trace;
use crate::state::{accept, command, mark};
use crate::support::{
    SmallDisk, append, apply_entries, membership, open_log, open_state, owner, put, simulate,
};

/// A cluster of the nodes from 1 to `count`, which has a leader.
async fn cluster(root: &Path, count: u64) -> Cluster {
    cluster_with(root, count, quick()).await
}

pub(crate) async fn cluster_with(root: &Path, count: u64, config: NodeConfig) -> Cluster {
    let cluster = Cluster::new(Dice::new(1), root, config, Trace::default());
    for id in 1..=count {
        cluster.add(id).await;
    }
    let members: BTreeMap<NodeId, BasicNode> =
        (1..=count).map(|id| (id, BasicNode::new(id))).collect();
    node(&cluster, 1).initialize(members).await.unwrap();
    leader(&cluster).await;
    cluster
}

fn node(cluster: &Cluster, id: NodeId) -> SimNode {
    let mut running = cluster.running().into_iter();
    running.find(|(found, _)| *found == id).unwrap().1.node
}

pub(crate) async fn leader(cluster: &Cluster) -> (NodeId, SimNode) {
    loop {
        if let Some(leader) = cluster.leader() {
            return leader;
        }
        SimRuntime::sleep(Duration::from_millis(20)).await;
    }
}

fn join(id: NodeId) -> Change {
    Change::AddLearner {
        node: id,
        addr: id.to_string(),
    }
}

fn members(node: &SimNode) -> (BTreeSet<NodeId>, BTreeSet<NodeId>) {
    let members = node.status().members;
    let members = members.membership();
    (
        members.voter_ids().collect(),
        members.nodes().map(|(id, _)| *id).collect(),
    )
}

#[test]
fn voters_and_learners_are_removed_for_good_be_it_the_leader() {
    let root = tempfile::tempdir().unwrap();
    simulate(1, async {
        let cluster = cluster(root.path(), 3).await;
        let (first, node) = leader(&cluster).await;
        let learner = node.new_number().await.unwrap();
        cluster.add(learner).await;
        node.change(join(learner)).await.unwrap();
        let other = (1..=3).find(|id| *id != first).unwrap();
        for id in [other, learner] {
            node.change(Change::Remove(id)).await.unwrap();
        }
        let left: BTreeSet<NodeId> = (1..=3).filter(|id| *id != other).collect();
        assert_eq!(members(&node), (left.clone(), left.clone()));
        node.change(Change::Remove(first)).await.unwrap();
        let last = left.into_iter().find(|id| *id != first).unwrap();
        let (now, node) = loop {
            let (id, node) = leader(&cluster).await;
            if id == last {
                break (id, node);
            }
            SimRuntime::sleep(Duration::from_millis(20)).await;
        };
        let alone = BTreeSet::from([now]);
        assert_eq!(members(&node), (alone.clone(), alone));
        node.write(&put(1, "k", 1)).await.unwrap().outcome.unwrap();
    });
}

/// It leads for a moment longer, so that the others hear of its end, and the protocol takes no
/// change of members from it.
#[test]
fn a_leader_that_was_removed_leaves_changes_to_the_next_one() {
    let root = tempfile::tempdir().unwrap();
    simulate(1, async {
        let cluster = cluster(root.path(), 5).await;
        let (first, node) = leader(&cluster).await;
        let others: Vec<NodeId> = (1..=5).filter(|id| *id != first).collect();
        node.change(Change::Remove(first)).await.unwrap();
        let status = node.status();
        assert!(status.leads.is_some(), "{status:?}");
        let change = || Message::Change(Change::Remove(others[0]));
        let reply = node.serve(others[0], change()).await;
        assert!(matches!(reply, Ok(Reply::NotLeader(_))), "{reply:?}");
        assert_eq!(node.status().failure, None);
        let (_, next) = loop {
            let (id, node) = leader(&cluster).await;
            if id != first {
                break (id, node);
            }
            SimRuntime::sleep(Duration::from_millis(50)).await;
        };
        next.change(Change::Remove(others[0])).await.unwrap();
        let left: BTreeSet<NodeId> = others[1..].iter().copied().collect();
        assert_eq!(members(&next), (left.clone(), left));
    });
}

#[test]
fn a_change_that_would_leave_no_majority_is_refused() {
    let root = tempfile::tempdir().unwrap();
    simulate(1, async {
        let cluster = cluster(root.path(), 3).await;
        let (first, node) = leader(&cluster).await;
        let others: Vec<NodeId> = (1..=3).filter(|id| *id != first).collect();
        let [gone, other] = others[..] else {
            unreachable!("{others:?}")
        };
        let refused = async |change| node.change(change).await.unwrap_err().to_string();
        let error = refused(Change::SetVoters(BTreeSet::from([first, 9]))).await;
        assert!(error.contains("node 9 is no member"), "{error}");
        let error = refused(Change::SetVoters(BTreeSet::new())).await;
        assert!(error.contains("one voter at the least"), "{error}");
        // The address of a member is not changed.
        let moved = Change::AddLearner {
            node: other,
            addr: "elsewhere".to_owned(),
        };
        let error = refused(moved).await;
        assert!(error.contains("is a member at"), "{error}");
        let error = refused(join(9)).await;
        assert!(error.contains("refused"), "{error}");

        cluster.crash(gone, false);
        SimRuntime::sleep(Duration::from_secs(10)).await;
        for change in [
            Change::Remove(other),
            Change::SetVoters(BTreeSet::from([first, gone])),
        ] {
            let error = refused(change).await;
            let said = error.contains("the cluster would stop") && error.contains("1 of 2 answer");
            assert!(
                said && error.contains(&format!("and {gone} have not")),
                "{error}"
            );
        }
        let error = refused(Change::HandOver(gone)).await;
        assert!(error.contains("has not answered"), "{error}");

        // The one that is gone can go for good, and its number with it.
        node.change(Change::Remove(gone)).await.unwrap();
        assert_eq!(members(&node).0, BTreeSet::from([first, other]));
        cluster.start(gone).await;
        let back = self::node(&cluster, gone);
        SimRuntime::sleep(Duration::from_secs(10)).await;
        assert!(back.status().is_removed);
        let error = refused(join(gone)).await;
        assert!(error.contains("in use before"), "{error}");
        let asked = back.write(&put(1, "k", 1)).await;
        assert!(
            matches!(asked, Err(StoreError::Unavailable(_))),
            "{asked:?}"
        );
        node.write(&put(1, "k", 1)).await.unwrap().outcome.unwrap();
    });
}

#[test]
fn a_command_that_a_member_does_not_understand_is_kept_out_of_the_log() {
    let root = tempfile::tempdir().unwrap();
    simulate(1, async {
        let cluster = cluster(root.path(), 3).await;
        let (first, node) = leader(&cluster).await;
        let old = (1..=3).find(|id| *id != first).unwrap();
        let through = (1..=3).find(|id| ![first, old].contains(id)).unwrap();
        node.write(&put(1, "k", 1)).await.unwrap().outcome.unwrap();
        cluster.net.old.lock().unwrap().insert(old, 0);
        SimRuntime::sleep(Duration::from_secs(5)).await;
        let through = self::node(&cluster, through);
        let refused = async || {
            let written = through.write(&put(2, "k", 2)).await.unwrap();
            let Err(Reject::Conflict { message }) = written.outcome else {
                panic!("written: {written:?}");
            };
            message
        };
        let message = refused().await;
        assert!(
            message.contains(&format!("node {old} is not known")),
            "{message}"
        );
        // It is known of one that is gone, too.
        cluster.crash(old, false);
        SimRuntime::sleep(Duration::from_secs(5)).await;
        refused().await;
        node.change(Change::Remove(old)).await.unwrap();
        let written = through.write(&put(3, "k", 3)).await.unwrap();
        written.outcome.unwrap();
    });
}

/// Replication sends entries that were not answered in time again from their beginning.
#[test]
fn the_largest_command_gets_over_a_slow_line() {
    let root = tempfile::tempdir().unwrap();
    simulate(1, async {
        let cluster = cluster(root.path(), 3).await;
        // 4 MiB a second.
        cluster.net.weather.lock().unwrap().kibibyte = 244;
        let (_, node) = leader(&cluster).await;
        let request = RequestId::from_bytes([9; 16]);
        let accepted = node.write(&command(1, accept(request))).await.unwrap();
        accepted.outcome.unwrap();
        let large = "x".repeat(MAX_ENTRY_BYTES - 1024);
        let mut largest = mark(request, &large);
        while largest.entries.len() < MAX_PROPOSAL_BYTES / MAX_ENTRY_BYTES {
            largest.entries.extend(mark(request, &large).entries);
        }
        let written = node.write(&command(2, largest)).await.unwrap();
        written.outcome.unwrap();
        let larger = put(2, "k", "x".repeat(MAX_PROPOSAL_BYTES));
        let error = node.write(&larger).await.unwrap_err().to_string();
        assert!(error.contains("the limit of a cluster is"), "{error}");
    });
}

/// One that came into the log would stop every node for good.
#[test]
fn a_command_that_cannot_be_applied_is_kept_out_of_the_log() {
    let root = tempfile::tempdir().unwrap();
    simulate(1, async {
        let cluster = cluster(root.path(), 3).await;
        let (first, node) = leader(&cluster).await;
        let good = |number| Proposal::of(&put(number, "k", number)).unwrap();
        let text = good(9).text().to_string();
        let deep = format!("{}1{}", "[".repeat(200), "]".repeat(200));
        let newer = Command {
            v: Command::VERSION + 1,
            ..put(9, "k", 9)
        };
        let wrong = [
            Proposal::from(text.replace("\"value\":9", &format!("\"value\":{deep}"))),
            Proposal::from(text.replace("cache_put", "cache_melt")),
            Proposal::of(&newer).unwrap(),
            Proposal::of(&put(9, "k", "x".repeat(MAX_PROPOSAL_BYTES))).unwrap(),
        ];
        for (number, wrong) in (0..).step_by(2).zip(wrong) {
            assert_ne!(*wrong.text(), text.as_str().into());
            let proposals = [good(number), wrong, good(number + 1)];
            // From another node, which need not have looked at it.
            let mut answers = Vec::new();
            while answers.len() < proposals.len() {
                let message = Message::Write(proposals[answers.len()..].to_vec());
                match node.serve(first + 1, message).await.unwrap() {
                    rune_raft::Reply::Written(written) => answers.extend(written),
                    other => unreachable!("{other:?}"),
                }
            }
            let outcomes: Vec<_> = answers.into_iter().map(|one| one.outcome).collect();
            assert!(
                matches!(&outcomes[..], [Ok(_), Err(Reject::Invalid { .. }), Ok(_)]),
                "{outcomes:?}"
            );
        }
        for (id, station) in cluster.running() {
            assert_eq!(station.node.status().failure, None, "node {id}");
        }
    });
}

#[test]
fn a_leader_whose_disk_is_full_has_another_node_lead_and_comes_back() {
    let root = tempfile::tempdir().unwrap();
    // The directory of node 1 in its first life.
    let small = root.path().join("1-0");
    std::fs::create_dir(&small).unwrap();
    let Some(small) = SmallDisk::mount(&small, 16) else {
        println!(
            "SKIPPED a_leader_whose_disk_is_full_has_another_node_lead_and_comes_back: cannot mount a tmpfs"
        );
        return;
    };
    simulate(1, async {
        let cluster = cluster(root.path(), 3).await;
        while leader(&cluster).await.0 != 1 {
            let leader = leader(&cluster).await.1;
            leader.change(Change::HandOver(1)).await.unwrap();
            SimRuntime::sleep(Duration::from_millis(500)).await;
        }
        let (one, two) = (node(&cluster, 1), node(&cluster, 2));
        small.fill();
        let mut number = 0;
        let mut write = async || {
            number += 1;
            let command = put(number, "k", "x".repeat(200 << 10));
            two.write(&command).await.unwrap().outcome.unwrap();
        };
        for _ in 0..100 {
            write().await;
            if two.status().leader != Some(1) {
                break;
            }
            SimRuntime::sleep(Duration::from_millis(500)).await;
        }
        assert_ne!(two.status().leader, Some(1));
        let status = one.status();
        assert!(status.disk_full && status.failure.is_none(), "{status:?}");
        write().await;
        let written = two.status().last.unwrap();
        small.free();
        SimRuntime::sleep(Duration::from_secs(5)).await;
        one.applied(written).await.unwrap();
        let status = one.status();
        assert!(!status.disk_full && status.failure.is_none(), "{status:?}");
    });
}

/// Its votes and what it promised to keep are gone with its log.
#[test]
fn a_node_that_lost_its_log_and_not_its_database_does_not_start() {
    let root = tempfile::tempdir().unwrap();
    simulate(1, async {
        let mut log = open_log(root.path());
        let mut state = open_state(root.path());
        append(&mut log, vec![membership(1, 0, &[1])]).await;
        apply_entries(&mut state, vec![membership(1, 0, &[1])])
            .await
            .unwrap();
        let start = async |log, state| {
            let snapshots = SnapshotDir::open(&root.path().join("snapshots")).unwrap();
            let wire = Wire {
                net: Arc::new(Net::new(Dice::new(1))),
                from: 1,
                alive: Arc::new(AtomicBool::new(true)),
            };
            let (config, disk) = (NodeConfig::default(), SimDisk::default());
            Node::start(
                &owner(1),
                config,
                wire,
                log,
                state,
                Arc::new(snapshots),
                disk,
            )
            .await
        };
        let node = start(log, state).await.unwrap();
        node.shutdown().await;
        drop(node);
        for file in ["raft.db", "raft.db-wal", "raft.db-shm"] {
            // The last one that closes the log removes all but the first.
            let removed = std::fs::remove_file(root.path().join(file));
            assert!(file != "raft.db" || removed.is_ok());
        }
        let refused = start(open_log(root.path()), open_state(root.path())).await;
        let error = refused.err().unwrap().to_string();
        assert!(error.contains("join under a new number"), "{error}");
    });
}

/// What a leader without the others puts into its log it cannot commit, and would put there again
/// with every retry.
#[test]
fn a_leader_that_hears_of_no_majority_refuses_soon_and_puts_nothing_into_its_log() {
    let root = tempfile::tempdir().unwrap();
    simulate(1, async {
        let cluster = cluster(root.path(), 3).await;
        let (first, node) = leader(&cluster).await;
        node.write(&put(1, "k", 1)).await.unwrap().outcome.unwrap();
        for other in (1..=3).filter(|id| *id != first) {
            let mut cut = cluster.net.cut.lock().unwrap();
            cut.extend([(first, other), (other, first)]);
        }
        SimRuntime::sleep(Duration::from_secs(2)).await;
        let last = node.status().last;
        for number in 2..20 {
            let begun = SimInstant::now();
            let error = node.write(&put(number, "k", number)).await.unwrap_err();
            assert!(error.to_string().contains("majority"), "{error}");
            let read = node.linearizable().await.unwrap_err();
            assert!(read.to_string().contains("majority"), "{read}");
            assert!(
                begun.elapsed() < Duration::from_secs(5),
                "{:?}",
                begun.elapsed()
            );
        }
        assert_eq!(node.status().last, last);
        cluster.net.cut.lock().unwrap().clear();
        node.write(&put(20, "k", 20))
            .await
            .unwrap()
            .outcome
            .unwrap();
    });
}

/// A message that is larger than what another node takes would be sent again for ever.
#[test]
fn commands_that_are_many_megabytes_together_are_all_written() {
    let root = tempfile::tempdir().unwrap();
    simulate(1, async {
        let cluster = cluster(root.path(), 3).await;
        let (first, _) = leader(&cluster).await;
        let follower = node(&cluster, first % 3 + 1);
        let large = "x".repeat(MAX_ENTRY_BYTES - 1024);
        let proposals = (1..=12).map(|number| {
            let command = put(number, &number.to_string(), large.as_str());
            Proposal::of(&command).unwrap()
        });
        let mut proposals: Vec<_> = proposals.collect();
        let patience = Duration::from_secs(60);
        while !proposals.is_empty() {
            let written = follower.write_some(proposals.clone(), patience).await;
            let written = written.unwrap();
            assert!(written.iter().all(|one| one.outcome.is_ok()));
            assert!(written.len() <= MAX_WRITE_BYTES / (MAX_ENTRY_BYTES - 1024));
            proposals.drain(..written.len());
        }
        let none = follower.write_some(Vec::new(), patience).await;
        assert!(matches!(
            none,
            Err(StoreError::Rejected(Reject::Invalid { .. }))
        ));
    });
}

#[test]
fn a_command_from_the_far_future_does_not_move_the_time_of_the_state() {
    let root = tempfile::tempdir().unwrap();
    simulate(1, async {
        let cluster = cluster(root.path(), 3).await;
        let (first, node) = leader(&cluster).await;
        let now = SystemClock.now();
        let at = |number, at| Command {
            at,
            ..put(number, "k", number)
        };
        let future = at(1, now.plus(Duration::from_secs(3600)));
        let follower = self::node(&cluster, first % 3 + 1);
        for node in [&node, &follower] {
            let outcome = node.write(&future).await.unwrap().outcome;
            let Err(Reject::Invalid { message }) = outcome else {
                panic!("{outcome:?}");
            };
            assert!(message.contains("set the clocks"), "{message}");
        }
        // A little ahead is as good as any.
        let ahead = at(2, now.plus(Duration::from_secs(60)));
        node.write(&ahead).await.unwrap().outcome.unwrap();
    });
}

/// Whoever asks for two numbers may use the second one first, or only one of them.
#[test]
fn a_number_is_good_for_one_node_once_whenever_it_is_used() {
    let root = tempfile::tempdir().unwrap();
    simulate(1, async {
        let cluster = cluster(root.path(), 3).await;
        let (_, node) = leader(&cluster).await;
        let (early, late) = (
            node.new_number().await.unwrap(),
            node.new_number().await.unwrap(),
        );
        for id in [late, early] {
            cluster.add(id).await;
            let added = node.change(join(id)).await;
            added.unwrap_or_else(|error| panic!("{id}: {error}"));
        }
        for id in [late, early] {
            node.change(Change::Remove(id)).await.unwrap();
        }
        let unknown = node.new_number().await.unwrap() + 100;
        for (id, why) in [
            (early, "in use before"),
            (late, "in use before"),
            (unknown, "not given"),
        ] {
            let refused = node.change(join(id)).await.unwrap_err();
            assert!(refused.to_string().contains(why), "{refused}");
        }
    });
}

/// Two of the five that it takes three of to decide are the first to have an entry, of which one got
/// ahead of the other while both were ahead of the rest.
#[test]
fn what_two_of_five_nodes_have_is_not_committed() {
    let root = tempfile::tempdir().unwrap();
    simulate(1, async {
        let config = NodeConfig {
            election: Duration::from_secs(30),
            ..quick()
        };
        let cluster = cluster_with(root.path(), 5, config).await;
        let (first, node) = leader(&cluster).await;
        node.write(&put(1, "k", 1)).await.unwrap().outcome.unwrap();
        SimRuntime::sleep(Duration::from_millis(500)).await;
        let others: Vec<NodeId> = (1..=5).filter(|id| *id != first).collect();
        let cut = |ids: &[NodeId]| {
            let mut cut = cluster.net.cut.lock().unwrap();
            cut.clear();
            cut.extend(ids.iter().map(|id| (first, *id)));
        };
        // One has the second and the third entry before the leader has them on its own disk.
        cut(&others[1..]);
        cluster.slow_down(first, true);
        let write = |number| {
            let node = node.clone();
            let written = async move { node.write(&put(number, "k", number)).await };
            SimRuntime::spawn(written)
        };
        let mut writes = Vec::new();
        for number in 2..=3 {
            writes.push(write(number));
            SimRuntime::sleep(Duration::from_millis(5)).await;
        }
        SimRuntime::sleep(Duration::from_millis(15)).await;
        cut(&others);
        let last = write(4);
        SimRuntime::sleep(Duration::from_secs(1)).await;
        assert_eq!(
            node.status().applied.map(|id| id.index + 3),
            node.status().last
        );
        // Another one is sent all three.
        cut(&[others[0], others[2], others[3]]);
        for written in writes {
            written.await.unwrap().unwrap().outcome.unwrap();
        }
        let last = last.await.unwrap();
        assert!(last.is_err(), "two of five have it: {last:?}");
        cut(&[]);
        node.write(&put(4, "k", 4)).await.unwrap().outcome.unwrap();
    });
}

/// The log that says that a node was removed may be gone: the state has to say it.
#[test]
fn a_number_that_was_used_is_not_good_after_a_restart_either() {
    let root = tempfile::tempdir().unwrap();
    simulate(1, async {
        let cluster = cluster(root.path(), 1).await;
        let (first, node) = leader(&cluster).await;
        let id = node.new_number().await.unwrap();
        cluster.add(id).await;
        node.change(join(id)).await.unwrap();
        node.change(Change::Remove(id)).await.unwrap();
        cluster.crash(first, false);
        cluster.start(first).await;
        let (_, node) = leader(&cluster).await;
        let refused = node.change(join(id)).await.unwrap_err();
        assert!(refused.to_string().contains("in use before"), "{refused}");
    });
}

/// What it promised there it would have to keep here.
#[test]
fn a_node_of_another_cluster_does_not_join() {
    let root = tempfile::tempdir().unwrap();
    simulate(1, async {
        let cluster = cluster(root.path(), 1).await;
        let (first, node) = leader(&cluster).await;
        let other = first + 1;
        cluster.add(other).await;
        let alone = BTreeMap::from([(other, BasicNode::new(other))]);
        let stranger = self::node(&cluster, other);
        stranger.initialize(alone).await.unwrap();
        while stranger.status().leads.is_none() {
            SimRuntime::sleep(Duration::from_millis(20)).await;
        }
        let refused = node.change(join(other)).await.unwrap_err();
        assert!(
            refused.to_string().contains("in a cluster before"),
            "{refused}"
        );
        assert_eq!(members(&node).1, BTreeSet::from([first]));
    });
}
