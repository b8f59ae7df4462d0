//! OpenRaft's own suite for a log and a state machine, on the threads of a real runtime.

use std::sync::Arc;

use openraft::testing::log::{StoreBuilder, Suite};
use openraft::{StorageError, TokioRuntime};
use rune_raft::{LogStore, SnapshotDir, StateMachine, Threads, Types};
use rune_storage::Replica;
use tempfile::TempDir;

use crate::support::owner;

type Config = Types<TokioRuntime>;

struct Stores;

impl StoreBuilder<Config, LogStore<Threads>, StateMachine<Threads>, TempDir> for Stores {
    async fn build(
        &self,
    ) -> Result<(TempDir, LogStore<Threads>, StateMachine<Threads>), StorageError<Config>> {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path();
        let log = LogStore::open(&path.join("raft.db"), &owner(0), Threads).unwrap();
        let replica = Replica::open(&path.join("rune.db")).unwrap();
        let snapshots = Arc::new(SnapshotDir::open(&path.join("snapshots")).unwrap());
        let state = StateMachine::new(replica, snapshots, Threads).unwrap();
        Ok((directory, log, state))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_suite_of_the_library_passes() {
    Suite::test_all(Stores).await.unwrap();
}
