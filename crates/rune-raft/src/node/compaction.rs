//! When a snapshot is taken, and how much of the log stays behind it.
//!
//! A snapshot costs as much as the database is large, so a large one is taken less often. And it
//! takes as long to get to another node: what is written meanwhile has to be in the log still when
//! it is there, or that node would need the next snapshot, and so on for ever. So the log may be as
//! large as a snapshot.

use std::sync::Arc;
use std::time::Duration;

use openraft::async_runtime::watch::WatchReceiver as _;
use openraft::{AsyncRuntime as _, Raft};

use super::NodeConfig;
use crate::sizes::Sizes;
use crate::{Disk, LogId, SnapshotDir, StateMachine, Types};

/// How often the size of the log is looked at.
const LOOK: Duration = Duration::from_millis(250);

/// What an entry of the log costs beside its bytes.
const OVERHEAD: u64 = 128;

/// Keeps the log of a node as short as it may be.
pub(super) struct Compaction<D: Disk> {
    pub(super) raft: Raft<Types<D::Runtime>, StateMachine<D>>,
    pub(super) snapshots: Arc<SnapshotDir>,
    pub(super) sizes: Sizes,
    pub(super) config: NodeConfig,
}

/// How long a log is.
#[derive(Debug, Clone, Copy)]
struct Log {
    applied: Option<LogId>,
    snapshot: Option<LogId>,
    purged: Option<LogId>,
    /// The bytes of the snapshot.
    bytes: u64,
}

impl<D: Disk> Compaction<D> {
    /// Works until the node ends.
    pub(super) async fn run(self) {
        loop {
            D::Runtime::sleep(LOOK).await;
            let log = {
                let metrics = self.raft.metrics();
                let metrics = metrics.borrow_watched();
                if metrics.running_state.is_err() {
                    return;
                }
                let current = self.snapshots.current();
                Log {
                    applied: metrics.last_applied,
                    snapshot: metrics.snapshot,
                    purged: metrics.purged,
                    bytes: current.map_or(0, |snapshot| snapshot.manifest().bytes),
                }
            };
            if self.config.wants_snapshot(log, &self.sizes)
                && self.raft.trigger().snapshot().await.is_err()
            {
                return;
            }
            if let Some(upto) = self.config.purges(log, &self.sizes)
                && self.raft.trigger().purge_log(upto).await.is_err()
            {
                return;
            }
        }
    }
}

impl NodeConfig {
    /// Whether the log behind the snapshot is long, and not small beside it.
    fn wants_snapshot(&self, log: Log, sizes: &Sizes) -> bool {
        let index = log.snapshot.map(|id| id.index);
        let applied = log.applied.map_or(0, |id| id.index + 1);
        let entries = applied.saturating_sub(index.map_or(0, |index| index + 1));
        let bytes = sizes.behind(index).saturating_add(entries * OVERHEAD);
        let is_long = entries >= self.snapshot_entries || bytes >= self.snapshot_bytes;
        is_long && bytes >= percent(log.bytes, self.snapshot_percent)
    }

    /// The last entry that is not to be kept, where there are some.
    fn purges(&self, log: Log, sizes: &Sizes) -> Option<u64> {
        let snapshot = log.snapshot?.index;
        let by_count = snapshot.checked_sub(self.keep_entries)?;
        let kept = self.keep_bytes.max(percent(log.bytes, self.keep_percent));
        let by_bytes = sizes.first_within(kept).saturating_sub(1);
        let upto = by_count.min(by_bytes);
        let is_there = log.purged.is_none_or(|purged| purged.index < upto);
        is_there.then_some(upto)
    }
}

const fn percent(bytes: u64, percent: u64) -> u64 {
    (bytes / 100).saturating_mul(percent)
}
