//! Who leads, and what is written as the leader.

use std::time::Duration;

use openraft::async_runtime::watch::WatchReceiver as _;
use openraft::metrics::RaftServerMetrics;
use openraft::raft::TransferLeaderRequest;
use openraft::{AsyncRuntime, ServerState};
use rune_store_runtime::{Leadership, StoreError};

use super::forward::{NO_LEADER, RETRY_PAUSE, Written};
use super::propose::Refused;
use super::unavailable;
use crate::types::leadership;
use crate::{Disk, Message, Node, NodeId, Proposal, Reply, Transport, Types};

/// How often a node stands in the place of a leader that has ended before it waits like any other.
const STANDS: u32 = 4;

/// Who leads, as far as a node knows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Lead {
    /// Nobody that it knows of.
    Nobody,
    /// Another node.
    Other {
        /// Which one.
        node: NodeId,
        /// Where it is.
        addr: String,
    },
    /// The node itself.
    Own(Leadership),
}

impl<D: Disk, T: Transport<D::Runtime>> Node<D, T> {
    /// Who leads now.
    #[must_use]
    pub fn leader(&self) -> Lead {
        let metrics = self.inner.raft.server_metrics();
        lead_of(&metrics.borrow_watched())
    }

    /// Tells who leads as often as that changes, until the node ends.
    pub async fn watch_leader(&self, tell: impl Fn(Lead) + Send) {
        let mut metrics = self.inner.raft.server_metrics();
        loop {
            let lead = lead_of(&metrics.borrow_watched());
            tell(lead);
            if metrics.changed().await.is_err() {
                return tell(Lead::Nobody);
            }
        }
    }

    /// Whether another node could lead in the place of this one, which does.
    #[must_use]
    pub fn has_successor(&self) -> bool {
        self.inner.successor().is_some()
    }

    /// Has the node lead in the place of this one that has most of the log; `false` where there is none.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] where this node takes no part any more.
    pub async fn step_down(&self) -> Result<bool, StoreError> {
        let Some(to) = self.inner.successor() else {
            return Ok(false);
        };
        let asked = self.inner.raft.trigger().transfer_leader(to).await;
        asked.map(|()| true).map_err(|error| unavailable(&error))
    }

    /// Stands for election in the place of a leader whose process has ended, and does not wait for as long as one that says
    /// nothing is waited for. To be called where that is known, as where its machine closed the connections to it and refuses
    /// new ones. Returns when another leader is being elected, or none was soon.
    ///
    /// A node only gives up its own lease of that leader: one that errs gets no votes of those that hear it, and what was
    /// committed hangs on no lease.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] where this node takes no part any more.
    pub async fn succeed(&self, gone: NodeId) -> Result<(), StoreError> {
        let raft = &self.inner.raft;
        let (vote, members) = {
            let metrics = raft.metrics();
            let metrics = metrics.borrow_watched();
            (metrics.vote, metrics.membership_config.clone())
        };
        if !vote.committed || vote.leader_id.node_id != gone || gone == self.inner.id {
            return Ok(());
        }
        // What a leader says to those that it does not hand over to: its lease is over.
        let over = TransferLeaderRequest::new(vote, gone, None);
        let over = raft.handle_transfer_leader(over).await;
        drop(over.map_err(|error| unavailable(&error))?);
        // Of those that stand at once the greatest has it: it is the first to try, a moment after the others know.
        let voters = members.membership().voter_ids();
        let before = voters
            .filter(|id| *id > self.inner.id && *id != gone)
            .count();
        let before = u32::try_from(before).unwrap_or(u32::MAX);
        let pause = (self.inner.config.heartbeat / 4).saturating_mul(before.saturating_add(1));
        for _ in 0..STANDS {
            D::Runtime::sleep(pause).await;
            if raft.metrics().borrow_watched().vote != vote {
                break;
            }
            let stood = raft.trigger().elect(true).await;
            stood.map_err(|error| unavailable(&error))?;
        }
        Ok(())
    }

    /// Writes commands that were made by this node as this leader, like [`Node::write_some`]. Nothing where it does not lead
    /// any more, or not as that one; what was put into the log before may be applied.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] as of [`Node::write`].
    pub async fn write_leading(
        &self,
        lead: Leadership,
        proposals: Vec<Proposal>,
        patience: Duration,
    ) -> Result<Option<Vec<Written>>, StoreError> {
        let attempt = self.inner.config.attempt();
        let written = async {
            loop {
                let writing = self.lead(Message::Write(proposals.clone()));
                match D::Runtime::timeout(attempt, writing).await {
                    Ok(Ok(Reply::Written(written))) if !written.is_empty() => {
                        return Ok(Some(written));
                    }
                    Ok(Err(Refused::Stopped(reason))) => {
                        return Err(StoreError::Unavailable(reason));
                    }
                    // One that was just elected, or has not heard from the others for a while, says so, too: what
                    // the engine of a leader does waits for them.
                    Ok(Ok(_) | Err(Refused::NotLeader(_) | Refused::Alone)) | Err(_) => {}
                }
                if self.leader() != Lead::Own(lead) {
                    return Ok(None);
                }
                D::Runtime::sleep(RETRY_PAUSE).await;
            }
        };
        let written = D::Runtime::timeout(patience, written).await;
        written.unwrap_or_else(|_| Err(StoreError::Unavailable(NO_LEADER.to_owned())))
    }
}

fn lead_of<R: AsyncRuntime>(metrics: &RaftServerMetrics<Types<R>>) -> Lead {
    let Some(leader) = metrics.current_leader else {
        return Lead::Nobody;
    };
    if leader == metrics.id {
        return match metrics.state {
            ServerState::Leader => Lead::Own(leadership(&metrics.vote.leader_id)),
            _ => Lead::Nobody,
        };
    }
    let member = metrics.membership_config.membership().get_node(&leader);
    member.map_or(Lead::Nobody, |member| Lead::Other {
        node: leader,
        addr: member.addr.clone(),
    })
}
