//! What was answered is on disk: the power fails behind any answer, and any sync may fail.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;

use openraft::storage::{
    IOFlushed, RaftLogStorage as _, RaftLogStorageExt as _, RaftStateMachine as _,
};
use openraft::{RaftLogReader as _, RaftSnapshotBuilder as _, Vote};
use rune_raft::{Chunk, Leader, LogStore, Manifest, Received, Receiver, SnapshotDir, StateMachine};
use rune_storage::Replica;
use tempfile::TempDir;

use crate::sim::SimDisk;
use crate::sim::dice::Dice;
use crate::sim::platter::{Fault, Platter};
use crate::support::{apply, at, blank, digest, entry, open_state, owner, put, simulate};

/// The longest that a write takes, in microseconds.
const DISK: u64 = 1_000;

/// A machine whose power fails.
struct Machine {
    root: TempDir,
    dice: Dice,
    life: u64,
    disk: SimDisk,
}

impl Machine {
    fn new(seed: u64) -> Self {
        let (root, dice) = (tempfile::tempdir().unwrap(), Dice::new(seed));
        let disk = SimDisk::new(dice.clone(), Platter::new(dice.clone()), DISK);
        let machine = Self {
            root,
            dice,
            life: 0,
            disk,
        };
        fs::create_dir(machine.directory()).unwrap();
        machine
    }

    fn directory(&self) -> PathBuf {
        self.root.path().join(self.life.to_string())
    }

    fn log(&self) -> LogStore<SimDisk> {
        let path = self.directory().join("raft.db");
        let open = || LogStore::open(&path, &owner(1), self.disk.clone()).unwrap();
        self.disk.platter.work(open)
    }

    fn state(&self) -> StateMachine<SimDisk> {
        let directory = self.directory();
        let (replica, snapshots) = self.disk.platter.work(|| {
            let replica = Replica::open(&directory.join("rune.db")).unwrap();
            (
                replica,
                SnapshotDir::open(&directory.join("snapshots")).unwrap(),
            )
        });
        StateMachine::new(replica, Arc::new(snapshots), self.disk.clone()).unwrap()
    }

    fn lose_power(&mut self) {
        self.disk.kill();
        let before = self.directory();
        self.life += 1;
        fs::create_dir(self.directory()).unwrap();
        let platter = self.disk.platter.after(&before, &self.directory(), true);
        self.disk = SimDisk::new(self.dice.clone(), platter, DISK);
    }
}

#[test]
fn what_a_log_answered_is_there_after_a_power_loss() {
    for seed in 0..24 {
        simulate(seed, async {
            let mut machine = Machine::new(seed);
            let dice = machine.dice.clone();
            let mut log = machine.log();
            let (mut entries, mut purged, mut vote) = (Vec::new(), None, None);
            for number in 1..=40u64 {
                let next = entries
                    .last()
                    .copied()
                    .or(purged)
                    .map_or(0, |last| last + 1);
                match dice.below(6) {
                    0 => {
                        let leader_id = Leader {
                            term: number,
                            node_id: 1,
                        };
                        let committed = false;
                        log.save_vote(&Vote {
                            leader_id,
                            committed,
                        })
                        .await
                        .unwrap();
                        vote = Some(number);
                    }
                    1 => {
                        entries.pop();
                        let last = entries.last().copied().or(purged);
                        log.truncate_after(last.map(|last| at(1, last)))
                            .await
                            .unwrap();
                    }
                    2 if entries.len() > 3 => {
                        purged = Some(entries.remove(0));
                        log.purge(at(1, purged.unwrap())).await.unwrap();
                    }
                    _ => {
                        entries.extend([next, next + 1]);
                        let new = [next, next + 1].map(|index| entry(1, index, "{}"));
                        log.blocking_append(new).await.unwrap();
                    }
                }
                if dice.per_mille(400) {
                    drop(log);
                    machine.lose_power();
                    log = machine.log();
                }
                let mut reader = log.get_log_reader().await;
                let found = reader.try_get_log_entries(..).await.unwrap();
                let found: Vec<u64> = found.iter().map(|entry| entry.log_id.index).collect();
                assert_eq!(found, entries, "seed {seed}, step {number}");
                let found = reader.read_vote().await.unwrap();
                assert_eq!(
                    found.map(|vote| vote.leader_id.term),
                    vote,
                    "seed {seed}, step {number}"
                );
                let found = log.get_log_state().await.unwrap().last_purged_log_id;
                assert_eq!(
                    found.map(|id| id.index),
                    purged,
                    "seed {seed}, step {number}"
                );
            }
        });
    }
}

/// Whoever has the answer to a vote takes the entries before it for written, and says so to whom it
/// voted for.
#[test]
fn a_vote_is_on_disk_behind_the_entries_before_it() {
    for seed in 0..8 {
        simulate(seed, async {
            let mut machine = Machine::new(seed);
            let mut log = machine.log();
            for index in 0..3 {
                let append = log.append([blank(1, index)], IOFlushed::noop());
                append.await.unwrap();
            }
            let leader_id = Leader {
                term: 2,
                node_id: 2,
            };
            let vote = Vote {
                leader_id,
                committed: false,
            };
            log.save_vote(&vote).await.unwrap();
            drop(log);
            machine.lose_power();
            let mut log = machine.log();
            let mut reader = log.get_log_reader().await;
            assert_eq!(reader.read_vote().await.unwrap(), Some(vote));
            let last = log.get_log_state().await.unwrap().last_log_id;
            assert_eq!(last, Some(at(1, 2)), "seed {seed}");
        });
    }
}

/// What a sync that failed was to have on disk is lost, and the next one says nothing of it.
#[test]
fn a_log_whose_sync_failed_is_not_written_again() {
    for failing in 1..=4 {
        simulate(failing, async {
            let mut machine = Machine::new(failing);
            let mut log = machine.log();
            machine.disk.platter.set(Some(Fault::Sync(failing)));
            let mut answered = 0;
            while log.blocking_append([blank(1, answered)]).await.is_ok() {
                answered += 1;
                assert!(answered < failing, "answered, and not synced");
            }
            assert_eq!(answered, failing - 1);
            assert!(!machine.disk.platter.is_faulty(), "the disk is well again");
            let leader_id = Leader {
                term: 9,
                node_id: 1,
            };
            let vote = Vote {
                leader_id,
                committed: false,
            };
            assert!(log.save_vote(&vote).await.is_err());
            assert!(log.blocking_append([blank(1, answered)]).await.is_err());
            assert!(log.status().failure().is_some());
            drop(log);
            machine.lose_power();
            let last = machine.log().get_log_state().await.unwrap().last_log_id;
            assert_eq!(last.map_or(0, |last| last.index + 1), answered);
        });
    }
}

/// The leader that is told so drops what the snapshot stands for.
#[test]
fn a_snapshot_that_was_installed_is_there_after_a_power_loss() {
    let from = tempfile::tempdir().unwrap();
    for seed in 0..8 {
        simulate(seed, async {
            let from = from.path().join(seed.to_string());
            fs::create_dir(&from).unwrap();
            let mut state = open_state(&from);
            apply(&mut state, 0, &[put(1, "k", 1), put(2, "k", 2)]).await;
            let mut builder = state.get_snapshot_builder().await;
            let sent = builder.build_snapshot().await.unwrap().snapshot;
            let mut machine = Machine::new(seed);
            let mut state = machine.state();
            let received = machine.disk.platter.work(|| {
                let incoming = SnapshotDir::open(&machine.directory().join("incoming")).unwrap();
                let chunk = Chunk {
                    manifest: sent.manifest().clone(),
                    offset: 0,
                    bytes: sent.read(0, usize::MAX).unwrap(),
                };
                Receiver::new(Arc::new(incoming)).take(2, &chunk)
            });
            let Ok(Received::Whole(received)) = received else {
                unreachable!("{received:?}");
            };
            let meta = sent.manifest().meta();
            state.install_snapshot(&meta, received).await.unwrap();
            machine.lose_power();
            let mut state = machine.state();
            let kept = state.get_current_snapshot().await.unwrap();
            let kept = kept.map(|kept| kept.snapshot.manifest().clone());
            assert_eq!(kept.as_ref(), Some(sent.manifest()), "seed {seed}");
            let applied = state.applied_state().await.unwrap().0;
            assert_eq!(applied, sent.manifest().applied, "seed {seed}");
            let rows = digest(&machine.directory().join("rune.db"));
            assert_eq!(rows, digest(&from.join("rune.db")), "seed {seed}");
        });
    }
}

/// A snapshot that could not be built is none, be it empty or a part of one: the log that it would
/// stand for is needed.
#[test]
fn a_snapshot_that_could_not_be_built_is_none() {
    let mut failures = 0;
    for failing in 1.. {
        let is_over = simulate(failing, async {
            let mut machine = Machine::new(failing);
            let mut state = machine.state();
            apply(&mut state, 0, &[put(1, "k", 1)]).await;
            let build = async |state: &mut StateMachine<SimDisk>| {
                let mut builder = state.get_snapshot_builder().await;
                let built = builder.build_snapshot().await;
                built.map(|built| built.snapshot.manifest().clone())
            };
            let first = build(&mut state).await.unwrap();
            apply(&mut state, 1, &[put(2, "k", 2)]).await;
            machine.disk.platter.set(Some(Fault::Sync(failing)));
            let second = build(&mut state).await;
            let is_over = machine.disk.platter.is_faulty();
            assert!(second.is_ok() || !is_over, "sync {failing}");
            machine.disk.platter.set(None);
            let rows = digest(&machine.directory().join("rune.db"));
            machine.lose_power();
            let mut state = machine.state();
            let found = state
                .get_current_snapshot()
                .await
                .unwrap()
                .unwrap()
                .snapshot;
            match &second {
                Ok(second) => assert_eq!(found.manifest(), second),
                // The last sync is that of the names.
                Err(_) => {
                    assert!([Some(at(1, 0)), Some(at(1, 1))].contains(&found.manifest().applied));
                }
            }
            // The state is not behind it, or comes back from it.
            let applied = state.applied_state().await.unwrap().0;
            assert!(applied >= first.applied);
            if applied < found.manifest().applied {
                let meta = found.manifest().meta();
                state.install_snapshot(&meta, found).await.unwrap();
            }
            let second: Option<Manifest> = second.ok();
            if second.is_some() {
                assert_eq!(digest(&machine.directory().join("rune.db")), rows);
            }
            is_over
        });
        if is_over {
            break;
        }
        failures += 1;
    }
    assert!(
        failures >= 4,
        "{failures} syncs: the copy, the store, the manifest, the names"
    );
}
