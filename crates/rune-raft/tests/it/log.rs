//! The log of a node.

use std::time::Duration;

use futures_util::TryStreamExt as _;
use openraft::storage::{RaftLogStorage as _, RaftLogStorageExt as _};
use openraft::{RaftLogReader as _, Vote};
use proptest::prelude::*;
use rune_raft::{Leader, LogStore, Threads};
use rune_storage::StorageError;

use crate::sim::SimDisk;
use crate::support::{
    SmallDisk, append, at, blank, entry, membership, open_log, owner, simulate, text,
};

#[derive(Debug, Clone)]
enum Step {
    Append(u64),
    Truncate(u64),
    Purge(u64),
    Vote(u64),
    Committed,
    Reopen,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        4 => (1..5u64).prop_map(Step::Append),
        2 => (0..6u64).prop_map(Step::Truncate),
        1 => (0..6u64).prop_map(Step::Purge),
        1 => (1..9u64).prop_map(Step::Vote),
        1 => Just(Step::Committed),
        2 => Just(Step::Reopen),
    ];
    proptest::collection::vec(step, 1..60)
}

/// What the log should hold: the entries behind `purged`.
#[derive(Debug, Default)]
struct Model {
    next: u64,
    purged: Option<u64>,
    entries: Vec<(u64, String)>,
    vote: Option<u64>,
}

async fn holds(log: &mut LogStore<SimDisk>, model: &Model) {
    let mut reader = log.get_log_reader().await;
    let found = reader.try_get_log_entries(..).await.unwrap();
    let found: Vec<_> = found
        .iter()
        .map(|entry| (entry.log_id.index, text(entry)))
        .collect();
    assert_eq!(found, model.entries);
    let state = log.get_log_state().await.unwrap();
    assert_eq!(
        state.last_purged_log_id.map(|id| id.index),
        model.purged,
        "purged"
    );
    let last = model.entries.last().map(|(index, _)| *index);
    assert_eq!(state.last_log_id.map(|id| id.index), last.or(model.purged));
    let vote = reader.read_vote().await.unwrap();
    assert_eq!(vote.map(|vote| vote.leader_id.term), model.vote);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_log_holds_what_was_done_to_it_before_and_after_a_restart(steps in steps(), seed: u64) {
        let directory = tempfile::tempdir().unwrap();
        simulate(seed, async {
            let mut log = open_log(directory.path());
            let mut model = Model::default();
            for (number, step) in steps.iter().enumerate() {
                match step {
                    Step::Append(count) => {
                        let new: Vec<_> = (model.next..model.next + count)
                            .map(|index| entry(1, index, &format!("{number}-{index}")))
                            .collect();
                        model.entries.extend(new.iter().map(|entry| (entry.log_id.index, text(entry))));
                        model.next += count;
                        append(&mut log, new).await;
                    }
                    Step::Truncate(back) => {
                        let first = model.purged.map_or(0, |purged| purged + 1);
                        let next = model.next.saturating_sub(*back).max(first);
                        log.truncate_after(next.checked_sub(1).map(|last| at(1, last))).await.unwrap();
                        model.entries.retain(|(index, _)| *index < next);
                        model.next = next;
                    }
                    Step::Purge(count) => {
                        let Some((index, _)) = model.entries.get(usize::try_from(*count).unwrap()) else { continue };
                        let index = *index;
                        log.purge(at(1, index)).await.unwrap();
                        model.entries.retain(|(other, _)| *other > index);
                        model.purged = Some(index);
                    }
                    Step::Vote(term) => {
                        log.save_vote(&Vote { leader_id: Leader { term: *term, node_id: 1 }, committed: false }).await.unwrap();
                        model.vote = Some(*term);
                    }
                    Step::Committed => {
                        let last = log.get_log_state().await.unwrap().last_log_id;
                        log.save_committed(last).await.unwrap();
                        assert_eq!(log.read_committed().await.unwrap(), last);
                    }
                    Step::Reopen => {
                        drop(log);
                        log = open_log(directory.path());
                    }
                }
                holds(&mut log, &model).await;
            }
        });
    }
}

/// It comes to disk with the change behind it. A node that has forgotten it answers reads of before
/// its restart until it hears from the leader.
#[test]
fn how_far_a_log_was_committed_is_there_after_a_restart() {
    let directory = tempfile::tempdir().unwrap();
    simulate(1, async {
        let mut log = open_log(directory.path());
        append(&mut log, (0..4).map(|index| blank(1, index)).collect()).await;
        log.save_committed(Some(at(1, 2))).await.unwrap();
        append(&mut log, vec![blank(1, 4)]).await;
        drop(log);
        let mut log = open_log(directory.path());
        assert_eq!(log.read_committed().await.unwrap(), Some(at(1, 2)));
    });
}

#[test]
fn entries_of_every_kind_are_read_back() {
    let directory = tempfile::tempdir().unwrap();
    simulate(1, async {
        let entries = vec![
            membership(1, 0, &[1, 2, 3]),
            blank(1, 1),
            entry(2, 2, "{\"größe\":1}"),
        ];
        let mut log = open_log(directory.path());
        append(&mut log, entries.clone()).await;
        drop(log);
        let mut reader = open_log(directory.path()).get_log_reader().await;
        assert_eq!(reader.try_get_log_entries(0..3).await.unwrap(), entries);
    });
}

#[test]
fn a_log_of_another_node_or_cluster_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("raft.db");
    simulate(1, async {
        drop(open_log(directory.path()));
        for other in [
            owner(2),
            rune_storage::LogOwner {
                cluster: "other".to_owned(),
                node: 1,
            },
        ] {
            let refused = LogStore::open(&path, &other, SimDisk::default());
            let error = refused.err().unwrap();
            assert!(matches!(error, StorageError::Owner { .. }), "{error}");
            let text = error.to_string();
            assert!(
                text.contains("node 1 of cluster c")
                    && text.contains(&format!("node {} of cluster {}", other.node, other.cluster)),
                "{text}"
            );
        }
        drop(open_log(directory.path()));
    });
}

#[test]
fn a_store_is_no_log_and_a_log_no_store() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("rune.db");
    drop(rune_storage::Replica::open(&path).unwrap());
    simulate(1, async {
        let log = LogStore::open(&path, &owner(1), SimDisk::default());
        assert!(matches!(log.err(), Some(StorageError::Foreign { .. })));
        drop(open_log(directory.path()));
    });
    let store = rune_storage::Replica::open(&directory.path().join("raft.db"));
    assert!(matches!(store.err(), Some(StorageError::Foreign { .. })));
}

#[test]
fn replication_reads_no_more_than_a_message_should_hold() {
    let directory = tempfile::tempdir().unwrap();
    simulate(1, async {
        let large = "x".repeat(1 << 20);
        let mut log = open_log(directory.path());
        // More than is kept in memory, so that both ways of reading are used.
        for index in 0..20 {
            append(&mut log, vec![entry(1, index, &large)]).await;
        }
        let mut reader = log.get_log_reader().await;
        for from in [0, 5, 18] {
            let part = reader.limited_get_log_entries(from, 20).await.unwrap();
            assert_eq!(part.first().unwrap().log_id.index, from);
            assert!(part.len() <= 4, "{} entries of 1 MiB", part.len());
        }
        let all: Vec<_> = reader
            .entries_stream(0..20)
            .await
            .try_collect()
            .await
            .unwrap();
        let indexes: Vec<u64> = all.iter().map(|entry| entry.log_id.index).collect();
        assert_eq!(indexes, (0..20).collect::<Vec<_>>());
    });
}

/// What is on disk after a write that failed is not known, so nothing is promised any more.
#[tokio::test]
async fn a_log_that_failed_is_not_written_again() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("raft.db");
    let mut log = LogStore::open(&path, &owner(1), Threads).unwrap();
    log.blocking_append([blank(1, 0)]).await.unwrap();
    let other = rusqlite::Connection::open(&path).unwrap();
    other
        .execute_batch("ALTER TABLE entries RENAME TO gone")
        .unwrap();
    assert!(log.blocking_append([blank(1, 1)]).await.is_err());
    other
        .execute_batch("ALTER TABLE gone RENAME TO entries")
        .unwrap();
    let vote = Vote {
        leader_id: Leader {
            term: 5,
            node_id: 1,
        },
        committed: false,
    };
    assert!(log.save_vote(&vote).await.is_err());
    assert!(log.blocking_append([blank(1, 2)]).await.is_err());
    assert!(
        log.status()
            .failure()
            .unwrap()
            .contains("cannot be written")
    );
    drop(log);
    let mut log = LogStore::open(&path, &owner(1), Threads).unwrap();
    assert_eq!(
        log.get_log_state().await.unwrap().last_log_id,
        Some(at(1, 0))
    );
}

#[tokio::test]
async fn a_log_on_a_full_disk_waits_for_room_and_goes_on() {
    let mount = tempfile::tempdir().unwrap();
    let Some(small) = SmallDisk::mount(mount.path(), 4) else {
        println!("SKIPPED a_log_on_a_full_disk_waits_for_room_and_goes_on: cannot mount a tmpfs");
        return;
    };
    let path = mount.path().join("raft.db");
    let mut log = LogStore::open(&path, &owner(1), Threads).unwrap();
    log.blocking_append([blank(1, 0)]).await.unwrap();
    small.fill();
    let status = log.status();
    let written = tokio::time::timeout(Duration::from_secs(60), async {
        let large = "x".repeat(2 << 20);
        log.blocking_append([entry(1, 1, &large)]).await.unwrap();
        log
    });
    let room = async {
        while !status.is_full() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        assert_eq!(status.failure(), None);
        small.free();
    };
    let (written, ()) = futures_util::future::join(written, room).await;
    let mut log = written.unwrap();
    assert!(!status.is_full());
    assert_eq!(
        log.get_log_state().await.unwrap().last_log_id,
        Some(at(1, 1))
    );
}

#[test]
fn a_log_with_a_gap_is_not_read_over_it() {
    let directory = tempfile::tempdir().unwrap();
    simulate(1, async {
        let mut log = open_log(directory.path());
        append(&mut log, (0..9).map(|index| blank(1, index)).collect()).await;
        drop(log);
        let db = rusqlite::Connection::open(directory.path().join("raft.db")).unwrap();
        db.execute("DELETE FROM entries WHERE id = 4", []).unwrap();
        let mut reader = open_log(directory.path()).get_log_reader().await;
        assert_eq!(reader.try_get_log_entries(..4).await.unwrap().len(), 4);
        let error = reader
            .try_get_log_entries(..)
            .await
            .unwrap_err()
            .to_string();
        assert!(error.contains("no entry between"), "{error}");
    });
}
