//! How a node is.

use std::sync::Arc;

use openraft::ServerState;
use openraft::async_runtime::watch::WatchReceiver as _;
use rune_store_runtime::Leadership;

use crate::types::leadership;
use crate::{Disk, LogId, Members, Node, NodeId, Transport};

/// How a node is.
#[derive(Debug, Clone)]
pub struct Status {
    /// The node.
    pub id: NodeId,
    /// The term that it is in.
    pub term: u64,
    /// Who leads, as far as it knows.
    pub leader: Option<NodeId>,
    /// Since when this node leads, where it does: what its commands can be
    /// [fenced](rune_store_runtime::Command::fenced) with. Whether it still does, only the log can
    /// say.
    pub leads: Option<Leadership>,
    /// Its last entry.
    pub last: Option<u64>,
    /// The last entry that it applied.
    pub applied: Option<LogId>,
    /// The last entry that its snapshot holds.
    pub snapshot: Option<LogId>,
    /// The last entry that is no longer in its log.
    pub purged: Option<LogId>,
    /// The membership that it applied last.
    pub members: Arc<Members>,
    /// Whether it waits for room on the disk.
    pub disk_full: bool,
    /// Why it takes no part any more; nothing where it does.
    pub failure: Option<String>,
    /// Whether the others have removed it.
    pub is_removed: bool,
}

impl<D: Disk, T: Transport<D::Runtime>> Node<D, T> {
    /// How the node is.
    #[must_use]
    pub fn status(&self) -> Status {
        let metrics = self.inner.raft.metrics();
        let metrics = metrics.borrow_watched();
        Status {
            id: self.inner.id,
            term: metrics.current_term,
            leader: metrics.current_leader,
            leads: (metrics.state == ServerState::Leader && metrics.vote.committed)
                .then(|| leadership(&metrics.vote.leader_id))
                .filter(|led| led.node == self.inner.id),
            last: metrics.last_log_index,
            applied: metrics.last_applied,
            snapshot: metrics.snapshot,
            purged: metrics.purged,
            members: Arc::clone(&metrics.membership_config),
            disk_full: self.inner.is_full(),
            failure: self.inner.log.failure().or_else(|| {
                let stopped = metrics.running_state.as_ref().err();
                stopped.map(ToString::to_string)
            }),
            is_removed: self.inner.survey.is_removed(),
        }
    }
}
