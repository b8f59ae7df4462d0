//! What the tests share.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command as Process;
use std::sync::Arc;

use openraft::entry::RaftEntry as _;
use openraft::storage::{RaftLogStorageExt as _, RaftStateMachine as _};
use openraft::{EntryPayload, Membership};
use openraft_rt_sim::SimRuntime;
use rune_raft::{Leader, LogEntry, LogId, LogStore, Payload, Proposal, SnapshotDir, StateMachine};
use rune_storage::{LogOwner, Ordered, Replica};
use rune_store_runtime::{CachePut, Command, CommandId, Leadership, Timestamp};

use crate::sim::SimDisk;

pub(crate) fn owner(node: u64) -> LogOwner {
    LogOwner {
        cluster: "c".to_owned(),
        node,
    }
}

/// Runs a future in the simulated runtime.
pub(crate) fn simulate<T>(seed: u64, future: impl Future<Output = T>) -> T {
    use openraft::AsyncRuntime as _;
    SimRuntime::with_seed(seed).block_on(future)
}

pub(crate) fn open_log(directory: &Path) -> LogStore<SimDisk> {
    let path = directory.join("raft.db");
    LogStore::open(&path, &owner(1), SimDisk::default()).unwrap()
}

pub(crate) fn open_state(directory: &Path) -> StateMachine<SimDisk> {
    let replica = Replica::open(&directory.join("rune.db")).unwrap();
    let snapshots = SnapshotDir::open(&directory.join("snapshots")).unwrap();
    StateMachine::new(replica, Arc::new(snapshots), SimDisk::default()).unwrap()
}

pub(crate) fn at(term: u64, index: u64) -> LogId {
    LogId::new(Leader { term, node_id: 1 }, index)
}

pub(crate) fn blank(term: u64, index: u64) -> LogEntry {
    LogEntry::new_blank(at(term, index))
}

pub(crate) fn entry(term: u64, index: u64, text: &str) -> LogEntry {
    LogEntry {
        log_id: at(term, index),
        payload: Payload::Normal(Proposal::from(text.to_owned())),
    }
}

pub(crate) fn membership(term: u64, index: u64, ids: &[u64]) -> LogEntry {
    let ids = ids.iter().copied().collect();
    LogEntry::new_membership(
        at(term, index),
        Membership::new_with_defaults(vec![ids], []),
    )
}

pub(crate) fn text(entry: &LogEntry) -> String {
    match &entry.payload {
        EntryPayload::Normal(proposal) => proposal.text().to_string(),
        _ => String::new(),
    }
}

/// A command that puts a value into the cache, with an id of its own number.
pub(crate) fn put(number: u64, key: &str, value: impl Into<serde_json::Value>) -> Command {
    let mut id = [7; 16];
    id[8..].copy_from_slice(&number.to_be_bytes());
    Command {
        id: CommandId::from_bytes(id),
        ..Command::new(
            Timestamp::from_millis(1_795_000_000_000 + i64::try_from(number).unwrap()),
            CachePut {
                key: key.to_owned(),
                value: value.into(),
                expires_at: Timestamp::from_millis(i64::MAX),
            },
        )
    }
}

pub(crate) async fn append(log: &mut LogStore<SimDisk>, entries: Vec<LogEntry>) {
    log.blocking_append(entries).await.unwrap();
}

/// Commands of a log that node 1 leads.
pub(crate) fn ordered(commands: &[Command]) -> Vec<Ordered> {
    let led = Leadership { term: 1, node: 1 };
    let commands = commands.iter().cloned();
    commands.map(|command| Ordered { command, led }).collect()
}

/// Applies commands as the entries from `first` on.
pub(crate) async fn apply(state: &mut StateMachine<SimDisk>, first: u64, commands: &[Command]) {
    let entries = (first..).zip(commands).map(|(index, command)| LogEntry {
        log_id: at(1, index),
        payload: Payload::Normal(Proposal::of(command).unwrap()),
    });
    apply_entries(state, entries.collect()).await.unwrap();
}

pub(crate) async fn apply_entries(
    state: &mut StateMachine<SimDisk>,
    entries: Vec<LogEntry>,
) -> std::io::Result<()> {
    let entries = entries.into_iter().map(|entry| Ok((entry, None)));
    state.apply(futures_util::stream::iter(entries)).await
}

/// The rows of a database.
pub(crate) fn digest(database: &Path) -> rune_storage::Digest {
    rune_storage::logical_digest(&reader(database)).unwrap()
}

pub(crate) fn reader(database: &Path) -> rusqlite::Connection {
    rusqlite::Connection::open_with_flags(database, rusqlite::OpenFlags::SQLITE_OPEN_READ_ONLY)
        .unwrap()
}

/// How far a database says that it is.
pub(crate) fn place(database: &Path) -> Option<String> {
    let db = reader(database);
    let mut select = db.prepare("SELECT position FROM replication").unwrap();
    let mut rows = select.query([]).unwrap();
    rows.next().unwrap().map(|row| row.get(0).unwrap())
}

/// A file system in memory that is soon full.
pub(crate) struct SmallDisk(PathBuf);

impl SmallDisk {
    /// Nothing where this process may mount none.
    pub(crate) fn mount(path: &Path, megabytes: u32) -> Option<Self> {
        let mounted = Process::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={megabytes}m"), "tmpfs"])
            .arg(path)
            .output();
        let mounted = mounted.is_ok_and(|output| output.status.success());
        mounted.then(|| Self(path.to_owned()))
    }

    /// Leaves no room.
    pub(crate) fn fill(&self) {
        let mut ballast = std::fs::File::create(self.ballast()).unwrap();
        while ballast.write_all(&[0; 4096]).is_ok() {}
    }

    /// Gives the room free again.
    pub(crate) fn free(&self) {
        std::fs::remove_file(self.ballast()).unwrap();
    }

    fn ballast(&self) -> PathBuf {
        self.0.join("ballast")
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // A lazy unmount; what is left goes with the namespace.
        let _ = Process::new("umount").arg("-l").arg(&self.0).status();
    }
}
