//! A power loss at every point: what is on disk then is what was written before some moment.
//! Whatever was answered by then is there, and what is there is a beginning of what was written.

use std::fs;
use std::path::Path;

use openraft::storage::{RaftLogStorage as _, RaftStateMachine as _};
use openraft::{RaftLogReader as _, Vote};
use rune_raft::Leader;
use rune_store_runtime::Command;
use rune_testkit::store::random_commands;

use crate::support::{append, apply, at, digest, entry, open_log, open_state, simulate, text};

/// How far apart the points are: less than the header of a page in the write-ahead log.
const STEP: u64 = 509;

/// The state of a database at a moment when its write-ahead log had so many bytes.
fn cut(from: &Path, to: &Path, name: &str, bytes: u64) {
    fs::create_dir_all(to).unwrap();
    fs::copy(from.join(name), to.join(name)).unwrap();
    let wal = format!("{name}-wal");
    let whole = fs::read(from.join(&wal)).unwrap();
    let length = usize::try_from(bytes).unwrap().min(whole.len());
    fs::write(to.join(&wal), &whole[..length]).unwrap();
}

fn wal(directory: &Path, name: &str) -> u64 {
    directory
        .join(format!("{name}-wal"))
        .metadata()
        .map_or(0, |found| found.len())
}

/// What a log is after each write: its entries and the term of its vote.
type Content = (Vec<(u64, String)>, Option<u64>);

async fn content(directory: &Path) -> Content {
    let mut log = open_log(directory);
    let mut reader = log.get_log_reader().await;
    let entries = reader.try_get_log_entries(..).await.unwrap();
    let vote = reader.read_vote().await.unwrap();
    let state = log.get_log_state().await.unwrap();
    let next = entries
        .last()
        .map(|entry| entry.log_id)
        .or(state.last_purged_log_id);
    assert_eq!(state.last_log_id, next, "no gap at the end");
    (
        entries
            .iter()
            .map(|entry| (entry.log_id.index, text(entry)))
            .collect(),
        vote.map(|vote| vote.leader_id.term),
    )
}

#[test]
fn a_log_that_is_cut_anywhere_has_what_was_answered() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path();
    simulate(3, async {
        let mut log = open_log(path);
        let mut entries: Vec<(u64, String)> = Vec::new();
        let mut vote = None;
        // After each answer: how long the write-ahead log was, and what the log held.
        let mut answered: Vec<(u64, Content)> = vec![(wal(path, "raft.db"), (Vec::new(), None))];
        for number in 0..40u64 {
            match number % 5 {
                3 => {
                    let term = number + 1;
                    let leader_id = Leader { term, node_id: 1 };
                    let saved = Vote {
                        leader_id,
                        committed: false,
                    };
                    log.save_vote(&saved).await.unwrap();
                    vote = Some(term);
                }
                4 => {
                    entries.pop();
                    let last = entries.last().map(|(index, _)| at(1, *index));
                    log.truncate_after(last).await.unwrap();
                }
                _ => {
                    let index = entries.last().map_or(0, |(index, _)| index + 1);
                    let new = vec![
                        entry(1, index, &format!("{number} {}", "x".repeat(100))),
                        entry(1, index + 1, &format!("{number}+")),
                    ];
                    entries.extend(new.iter().map(|entry| (entry.log_id.index, text(entry))));
                    append(&mut log, new).await;
                }
            }
            answered.push((wal(path, "raft.db"), (entries.clone(), vote)));
        }
        let end = wal(path, "raft.db");
        let mut bytes = 0;
        while bytes <= end {
            let after = tempfile::tempdir().unwrap();
            cut(path, after.path(), "raft.db", bytes);
            if bytes >= answered[0].0 {
                let found = content(after.path()).await;
                let promised = answered
                    .iter()
                    .rposition(|(length, _)| *length <= bytes)
                    .unwrap();
                let is = answered.iter().rposition(|(_, content)| *content == found);
                assert!(
                    is.is_some_and(|is| is >= promised),
                    "cut at {bytes}: {found:?} is not what it was after write {promised} or later"
                );
            }
            bytes += STEP;
        }
    });
}

#[test]
fn a_state_that_is_cut_anywhere_knows_how_old_it_is() {
    let commands: Vec<Command> = random_commands(11, 60);
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path();
    simulate(4, async {
        let mut state = open_state(path);
        let mut rows = vec![digest(&path.join("rune.db"))];
        let opened = wal(path, "rune.db");
        for (index, command) in commands.iter().enumerate() {
            apply(&mut state, index as u64, std::slice::from_ref(command)).await;
            rows.push(digest(&path.join("rune.db")));
        }
        let end = wal(path, "rune.db");
        let mut seen = std::collections::BTreeSet::new();
        let mut bytes = opened;
        while bytes <= end {
            let after = tempfile::tempdir().unwrap();
            cut(path, after.path(), "rune.db", bytes);
            let mut cut = open_state(after.path());
            let (applied, _) = cut.applied_state().await.unwrap();
            let count = applied.map_or(0, |id| id.index + 1);
            seen.insert(count);
            let count = usize::try_from(count).unwrap();
            assert_eq!(digest(&after.path().join("rune.db")), rows[count]);
            // The rest of the log is given to it again, and it ends as the others.
            apply(&mut cut, count as u64, &commands[count..]).await;
            assert_eq!(digest(&after.path().join("rune.db")), *rows.last().unwrap());
            bytes += STEP * 16;
        }
        assert!(seen.len() > 10, "the points were at different commits");
    });
}
