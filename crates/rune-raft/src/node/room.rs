//! A leader whose disk is full.

use std::collections::BTreeSet;
use std::sync::Weak;
use std::time::Duration;

use openraft::AsyncRuntime as _;
use openraft::async_runtime::watch::WatchReceiver as _;

use super::Inner;
use crate::{Disk, NodeId, Transport};

/// How often the room on the disk is looked at.
const LOOK: Duration = Duration::from_secs(1);

impl<D: Disk, T> Inner<D, T> {
    /// Who is to lead instead of this node, where it leads and another voter could: the one that
    /// has most of the log.
    pub(super) fn successor(&self) -> Option<NodeId> {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        let voters: BTreeSet<NodeId> = metrics.membership_config.membership().voter_ids().collect();
        let others = metrics.replication.as_ref()?.iter();
        let others = others.filter(|(id, _)| **id != self.id && voters.contains(id));
        others
            .max_by_key(|(_, matched)| **matched)
            .map(|(id, _)| *id)
    }
}

/// Has another node lead while the disk of this one is full: it can promise nothing, and those
/// that wait for it could go on.
pub(super) async fn yield_when_full<D: Disk, T: Transport<D::Runtime>>(node: Weak<Inner<D, T>>) {
    loop {
        D::Runtime::sleep(LOOK).await;
        let Some(node) = node.upgrade() else { return };
        if node.raft.metrics().borrow_watched().running_state.is_err() {
            return;
        }
        if !node.is_full() {
            continue;
        }
        let Some(to) = node.successor() else { continue };
        tracing::error!(
            node = node.id,
            to,
            "the disk is full: another node is to lead"
        );
        if node.raft.trigger().transfer_leader(to).await.is_err() {
            return;
        }
    }
}
