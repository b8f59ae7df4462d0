//! Snapshots: built while writing goes on, sent in parts, installed whole or not at all.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use openraft::storage::RaftStateMachine as _;
use openraft::{AsyncRuntime as _, RaftSnapshotBuilder as _};
use openraft_rt_sim::SimRuntime;
use rune_raft::{Chunk, Received, Receiver, SnapshotDir, SnapshotFile, StateMachine};
use rune_storage::{Digest, Replica};
use rune_store_runtime::Command;
use rune_testkit::store::random_commands;

use crate::sim::SimDisk;
use crate::support::{
    SmallDisk, apply, apply_entries, at, digest, membership, open_state, ordered, put, reader,
    simulate,
};

async fn build(state: &mut StateMachine<SimDisk>) -> SnapshotFile {
    let mut builder = state.try_create_snapshot_builder(true).await.unwrap();
    builder.build_snapshot().await.unwrap().snapshot
}

async fn install(state: &mut StateMachine<SimDisk>, snapshot: SnapshotFile) {
    let meta = snapshot.manifest().meta();
    state.install_snapshot(&meta, snapshot).await.unwrap();
}

fn commands(seed: u64) -> Vec<Command> {
    random_commands(seed, 200)
}

/// Sends a snapshot in parts, changed by `change`, and gives what came of it.
fn send(
    snapshot: &SnapshotFile,
    directory: &Path,
    change: impl Fn(&mut Chunk),
) -> std::io::Result<SnapshotFile> {
    let receiver = Receiver::new(Arc::new(SnapshotDir::open(directory).unwrap()));
    let mut offset = 0;
    for _ in 0..10_000 {
        let mut chunk = Chunk {
            manifest: snapshot.manifest().clone(),
            offset,
            bytes: snapshot.read(offset, 5000).unwrap(),
        };
        change(&mut chunk);
        match receiver.take(2, &chunk)? {
            Received::More(next) => offset = next,
            Received::Whole(snapshot) => return Ok(snapshot),
        }
    }
    unreachable!("the transfer does not end");
}

#[test]
fn a_node_that_gets_a_snapshot_is_as_the_one_that_made_it() {
    let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    simulate(1, async {
        let mut state = open_state(from.path());
        apply_entries(&mut state, vec![membership(1, 0, &[1, 2])])
            .await
            .unwrap();
        apply(&mut state, 1, &commands(5)).await;
        let snapshot = build(&mut state).await;
        let received = send(&snapshot, &to.path().join("incoming"), |_| ()).unwrap();
        let mode = fs::metadata(received.path()).unwrap().mode();
        assert_eq!(mode & 0o777, 0o600);

        let mut other = open_state(to.path());
        apply(&mut other, 0, &[put(99, "old", 1)]).await;
        // Somebody who reads sees the old state until it is the new one, and need not reopen.
        let db = reader(&to.path().join("rune.db"));
        let olds = |db: &rusqlite::Connection| {
            db.query_row("SELECT count(*) FROM cache WHERE key = 'old'", [], |row| {
                row.get::<_, u64>(0)
            })
            .unwrap()
        };
        assert_eq!(olds(&db), 1);
        install(&mut other, received).await;
        assert_eq!(olds(&db), 0);
        assert_eq!(
            digest(&to.path().join("rune.db")),
            digest(&from.path().join("rune.db"))
        );
        assert_eq!(
            other.applied_state().await.unwrap(),
            state.applied_state().await.unwrap()
        );
        // The log goes on behind it on both.
        apply(&mut state, 201, &[put(500, "k", 5)]).await;
        apply(&mut other, 201, &[put(500, "k", 5)]).await;
        assert_eq!(
            digest(&to.path().join("rune.db")),
            digest(&from.path().join("rune.db"))
        );
        drop(other);
        let mut other = open_state(to.path());
        let current = other.get_current_snapshot().await.unwrap().unwrap();
        assert_eq!(current.meta, snapshot.manifest().meta());
    });
}

#[test]
fn a_snapshot_that_is_not_what_was_sent_is_refused() {
    let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    simulate(1, async {
        let mut state = open_state(from.path());
        apply(&mut state, 0, &commands(6)).await;
        let snapshot = build(&mut state).await;
        let target = to.path().join("snapshots");
        let flipped = |chunk: &mut Chunk| {
            if chunk.offset == 5000 {
                chunk.bytes[17] ^= 1;
            }
        };
        let shorter = |chunk: &mut Chunk| chunk.manifest.bytes -= 4096;
        let other_place = |chunk: &mut Chunk| chunk.manifest.applied = Some(at(1, 999));
        let other_digest = |chunk: &mut Chunk| chunk.manifest.digest = Digest::of(b"other");
        let changes: [&dyn Fn(&mut Chunk); 4] = [&flipped, &shorter, &other_place, &other_digest];
        for change in changes {
            let error = send(&snapshot, &target, change).unwrap_err();
            assert!(error.to_string().contains("snapshot of entry"), "{error}");
            // Nothing stays of it.
            assert_eq!(fs::read_dir(&target).unwrap().count(), 0);
        }
        assert!(send(&snapshot, &target, |_| ()).is_ok());
    });
}

/// Bytes that have the right digest, and are no store.
#[test]
fn a_snapshot_that_is_no_sound_store_is_refused() {
    let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    simulate(1, async {
        let mut state = open_state(from.path());
        apply(&mut state, 0, &commands(7)).await;
        let snapshot = build(&mut state).await;
        let good = fs::read(snapshot.path()).unwrap();
        let mut torn = good.clone();
        // The middle of it was never written.
        torn[8192..16384].fill(0);
        let mut foreign = good.clone();
        // Its application id.
        foreign[68..72].copy_from_slice(b"ELSE");
        let mut newer = good.clone();
        // Its schema version.
        newer[60..64].copy_from_slice(&99u32.to_be_bytes());
        let truncated = good[..good.len() / 2].to_vec();
        for bytes in [torn, foreign, newer, truncated, b"not a database".to_vec()] {
            let target = to.path().join("snapshots");
            let change = |chunk: &mut Chunk| {
                chunk.manifest.bytes = bytes.len() as u64;
                chunk.manifest.digest = Digest::of(&bytes);
                chunk.bytes = bytes.clone();
            };
            let error = send(&snapshot, &target, change).unwrap_err();
            assert_eq!(error.kind(), std::io::ErrorKind::InvalidData, "{error}");
        }
    });
}

#[test]
fn parts_that_come_twice_or_late_do_no_harm() {
    let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    simulate(1, async {
        let mut state = open_state(from.path());
        apply(&mut state, 0, &commands(8)).await;
        let snapshot = build(&mut state).await;
        let receiver = Receiver::new(Arc::new(SnapshotDir::open(to.path()).unwrap()));
        let part = |offset| Chunk {
            manifest: snapshot.manifest().clone(),
            offset,
            bytes: snapshot.read(offset, 4096).unwrap(),
        };
        let more = |taken| match taken {
            Ok(Received::More(next)) => next,
            other => unreachable!("{other:?}"),
        };
        assert_eq!(more(receiver.take(2, &part(4096))), 0);
        assert_eq!(more(receiver.take(2, &part(0))), 4096);
        assert_eq!(more(receiver.take(2, &part(0))), 4096);
        assert_eq!(more(receiver.take(2, &part(8192))), 4096);
        assert_eq!(more(receiver.take(2, &part(4096))), 8192);
        // Another node begins one: the first is given up.
        assert_eq!(more(receiver.take(3, &part(0))), 4096);
        assert_eq!(more(receiver.take(2, &part(8192))), 0);
    });
}

#[test]
fn a_snapshot_is_of_one_moment_while_writing_goes_on() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path();
    let mut replica = Replica::open(&path.join("rune.db")).unwrap();
    let copier = replica.copier();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            // Both keys always have the same value, and the position says which.
            for number in 0..100_000u64 {
                if done.load(Ordering::Relaxed) {
                    break;
                }
                let value = "v".repeat(3000) + &number.to_string();
                let batch = [
                    put(number * 2, "a", value.clone()),
                    put(number * 2 + 1, "b", value),
                ];
                replica
                    .apply(&ordered(&batch), &number.to_string())
                    .unwrap();
            }
        });
        let mut positions = std::collections::BTreeSet::new();
        for attempt in 0..20 {
            let target = path.join(format!("{attempt}.db"));
            let (copied, position) = copier.copy_to(&target).unwrap();
            assert_eq!(rune_storage::measure(&target).unwrap(), copied);
            assert_eq!(rune_storage::examine(&target).unwrap(), position);
            if let Some(position) = position {
                let values: Vec<String> = reader(&target)
                    .prepare("SELECT value FROM cache ORDER BY key")
                    .unwrap()
                    .query_map([], |row| row.get(0))
                    .unwrap()
                    .map(Result::unwrap)
                    .collect();
                assert_eq!(values[0], values[1]);
                assert!(values[0].ends_with(&format!("v{position}\"")));
                positions.insert(position);
            }
        }
        done.store(true, Ordering::Relaxed);
        assert!(positions.len() > 1, "it was written meanwhile");
    });
}

#[test]
fn an_older_snapshot_is_not_installed_and_a_restart_finds_the_newest() {
    let directory = tempfile::tempdir().unwrap();
    simulate(1, async {
        let mut state = open_state(directory.path());
        apply(&mut state, 0, &[put(1, "k", 1)]).await;
        let older = build(&mut state).await;
        apply(&mut state, 1, &[put(2, "k", 2)]).await;
        let rows = digest(&directory.path().join("rune.db"));
        install(&mut state, older.clone()).await;
        assert_eq!(digest(&directory.path().join("rune.db")), rows);
        let newer = build(&mut state).await;
        // The older one can still be read by whoever sends it.
        assert_eq!(older.read(0, 16).unwrap(), *b"SQLite format 3\0");
        drop(state);
        let snapshots = directory.path().join("snapshots");
        fs::write(snapshots.join("3.draft"), "torn").unwrap();
        fs::write(snapshots.join("99999.json"), "{}").unwrap();
        let mut state = open_state(directory.path());
        let current = state.get_current_snapshot().await.unwrap().unwrap();
        assert_eq!(current.meta, newer.manifest().meta());
        assert_eq!(
            fs::read_dir(&snapshots).unwrap().count(),
            2,
            "a snapshot and its manifest"
        );
    });
}

/// The log behind a snapshot is dropped as soon as there is one, so a state that a power loss made
/// older than it must come back from it.
#[test]
fn a_state_that_was_lost_comes_back_from_the_snapshot() {
    let directory = tempfile::tempdir().unwrap();
    simulate(1, async {
        let mut state = open_state(directory.path());
        apply(&mut state, 0, &commands(9)).await;
        let snapshot = build(&mut state).await;
        let rows = digest(&directory.path().join("rune.db"));
        // What a power loss leaves: the database without its write-ahead log.
        let after = tempfile::tempdir().unwrap();
        fs::copy(
            directory.path().join("rune.db"),
            after.path().join("rune.db"),
        )
        .unwrap();
        let kept = open_state(after.path()).applied_state().await.unwrap();
        assert_eq!(
            kept.0,
            snapshot.manifest().applied,
            "on disk before the log goes"
        );
        // Even an empty one does.
        let empty = tempfile::tempdir().unwrap();
        let snapshots = empty.path().join("snapshots");
        fs::create_dir(&snapshots).unwrap();
        for entry in fs::read_dir(directory.path().join("snapshots")).unwrap() {
            let entry = entry.unwrap();
            fs::copy(entry.path(), snapshots.join(entry.file_name())).unwrap();
        }
        let mut state = open_state(empty.path());
        let current = state.get_current_snapshot().await.unwrap().unwrap();
        install(&mut state, current.snapshot).await;
        assert_eq!(digest(&empty.path().join("rune.db")), rows);
    });
}

#[test]
fn a_state_on_a_full_disk_waits_for_room_and_goes_on() {
    let mount = tempfile::tempdir().unwrap();
    let Some(small) = SmallDisk::mount(mount.path(), 16) else {
        println!("SKIPPED a_state_on_a_full_disk_waits_for_room_and_goes_on: cannot mount a tmpfs");
        return;
    };
    simulate(1, async {
        let large = |number| put(number, &number.to_string(), "x".repeat(1 << 19));
        let mut state = open_state(mount.path());
        apply(&mut state, 0, &[large(1)]).await;
        let room = async || {
            small.fill();
            SimRuntime::sleep(Duration::from_millis(2500)).await;
            small.free();
        };
        let commands = [large(2), large(3)];
        futures_util::future::join(apply(&mut state, 1, &commands), room()).await;
        assert_eq!(state.applied_state().await.unwrap().0, Some(at(1, 2)));
        let (snapshot, ()) = futures_util::future::join(build(&mut state), room()).await;
        assert_eq!(snapshot.manifest().applied, Some(at(1, 2)));
        // Nothing stays of the attempts.
        let files = fs::read_dir(mount.path().join("snapshots")).unwrap();
        assert_eq!(files.count(), 2, "a snapshot and its manifest");
    });
}

#[test]
fn a_second_snapshot_of_a_place_leaves_the_first_as_it_is() {
    let directory = tempfile::tempdir().unwrap();
    let snapshots = directory.path().join("snapshots");
    simulate(1, async {
        let mut state = open_state(directory.path());
        apply(&mut state, 0, &[put(1, "k", 1)]).await;
        let first = build(&mut state).await;
        let file = fs::metadata(first.path()).unwrap().ino();
        let second = build(&mut state).await;
        assert_eq!(second.path(), first.path());
        assert_eq!(fs::metadata(second.path()).unwrap().ino(), file);
        let names = || fs::read_dir(&snapshots).unwrap().map(Result::unwrap);
        assert_eq!(names().count(), 2, "a snapshot and its manifest");
        for file in names() {
            assert_eq!(file.metadata().unwrap().mode() & 0o777, 0o600, "{file:?}");
        }
        // One whose bytes are not those that were written is none.
        drop(state);
        let mut bytes = fs::read(first.path()).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        fs::write(first.path(), bytes).unwrap();
        assert!(SnapshotDir::open(&snapshots).unwrap().current().is_none());
    });
}
