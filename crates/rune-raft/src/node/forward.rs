//! Writes and linearizable reads from any node: whoever leads is asked, until somebody answers.

use std::time::Duration;

use openraft::{AsyncRuntime, Instant as _};
use rune_store_runtime::{Command, Reject, StoreError};
use serde::{Deserialize, Serialize};

use super::propose::{NO_ANSWER, Refused};
use super::unavailable;
use crate::{Disk, Message, Node, NodeId, Proposal, Reply, Transport};

/// How long a write or a read that met no leader waits before it looks for one again.
pub(super) const RETRY_PAUSE: Duration = Duration::from_millis(20);

/// Nobody answered.
pub(super) const NO_LEADER: &str =
    "no node answered as leader in time; the same command may be sent again";

/// Why nothing is decided here.
const ALONE: &str = "the node that leads does not hear from a majority of the nodes; the same command may be sent again, \
                     here or to a node of the other side";

pub(super) type InstantOf<D> = <<D as Disk>::Runtime as AsyncRuntime>::Instant;

/// Commands that are sent to the leader at once at the most.
pub const MAX_WRITE_COMMANDS: usize = 1024;

/// Bytes of commands that are sent to the leader at once at the most; one command may exceed it.
pub const MAX_WRITE_BYTES: usize = 4 << 20;

/// A command that was applied.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Written {
    /// Its place in the log: who waits until a node has applied this reads it there. 0 for a
    /// command that cannot stand in a log.
    pub index: u64,
    /// The answer to it.
    pub outcome: Result<rune_store_runtime::Reply, Reject>,
}

impl<D: Disk, T: Transport<D::Runtime>> Node<D, T> {
    /// Writes a command through whoever leads, and answers when it is applied there. It is sent
    /// again, under its id, until it is answered: applied once, however often it arrives.
    ///
    /// Commands that are under way at the same time are applied in any order.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] where nobody answered it; it may have been applied, and may be
    /// written again. [`StoreError::Rejected`] where it is no command for a log at all; that the
    /// state forbids it is an outcome.
    pub async fn write(&self, command: &Command) -> Result<Written, StoreError> {
        let proposal = Proposal::checked(command)?;
        let written = self.write_some(vec![proposal], self.inner.config.patience);
        let mut written = written.await?;
        written.pop().ok_or_else(|| unavailable(&NO_ANSWER))
    }

    /// Writes commands in their order, like [`Node::write`], and answers the first of them, at
    /// least one: as many as fit into one message, and of these what was put into the log before
    /// another node began to lead. Looks for a leader for `patience`.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] as of [`Node::write`]; [`StoreError::Rejected`] for none.
    pub async fn write_some(
        &self,
        mut proposals: Vec<Proposal>,
        patience: Duration,
    ) -> Result<Vec<Written>, StoreError> {
        if proposals.is_empty() {
            return Err(Reject::invalid("there is no command to write").into());
        }
        proposals.truncate(fitting(&proposals));
        let message = Message::Write(proposals);
        self.ask_leader(message, patience, |reply| match reply {
            Reply::Written(written) => (!written.is_empty()).then_some(written),
            _ => None,
        })
        .await
    }

    /// Waits until this node has applied everything that was written anywhere before this was
    /// called, and gives the index of it. A node that is cut off from the majority never gets
    /// there.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`].
    pub async fn linearizable(&self) -> Result<u64, StoreError> {
        let index = self
            .ask_leader(
                Message::ReadIndex,
                self.inner.config.patience,
                |reply| match reply {
                    Reply::ReadIndex(index) => Some(index),
                    _ => None,
                },
            )
            .await?;
        self.applied(index).await?;
        Ok(index)
    }

    /// Waits until this node has applied the log up to `index`, such as [`Written::index`].
    ///
    /// # Errors
    /// [`StoreError::Unavailable`].
    pub async fn applied(&self, index: u64) -> Result<(), StoreError> {
        let patience = self.inner.config.patience;
        let reached = self.inner.applied.reach(index);
        let reached = D::Runtime::timeout(patience, reached).await;
        reached.map_err(|_| {
            StoreError::Unavailable(format!(
                "this node has not applied entry {index} of the log within {patience:?}"
            ))
        })
    }

    /// Waits until this node has applied what it had applied before it was started, and may be
    /// read from without going back in time.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] where it did not within `patience`.
    pub async fn recovered(&self, patience: Duration) -> Result<(), StoreError> {
        let recovered = self.inner.raft.wait_for_recovery(Some(patience)).await;
        recovered.map(drop).map_err(|error| unavailable(&error))
    }

    /// Asks whoever leads, until somebody answers. Nobody being leader passes, also on a node that
    /// is it: one that was just elected has yet to hear from the others.
    pub(crate) async fn ask_leader<A>(
        &self,
        message: Message<D::Runtime>,
        patience: Duration,
        wanted: fn(Reply<D::Runtime>) -> Option<A>,
    ) -> Result<A, StoreError> {
        let attempt = self.inner.config.attempt_at(&message);
        let asked = async {
            let (mut hint, mut alone) = (None, None);
            loop {
                let leader = hint.take().or_else(|| self.status().leader);
                let answer = self.ask(leader, message.clone());
                match D::Runtime::timeout(attempt, answer).await {
                    Ok(Ok(Reply::NotLeader(leader)) | Err(Refused::NotLeader(leader))) => {
                        hint = leader;
                    }
                    Ok(Ok(Reply::Alone) | Err(Refused::Alone)) => {
                        let since = *alone.get_or_insert_with(InstantOf::<D>::now);
                        if since.elapsed() >= self.inner.config.attempt() {
                            return Err(StoreError::Unavailable(ALONE.to_owned()));
                        }
                    }
                    Ok(Ok(reply)) => {
                        if let Some(answer) = wanted(reply) {
                            return Ok(answer);
                        }
                    }
                    Ok(Err(Refused::Stopped(reason))) => {
                        return Err(StoreError::Unavailable(reason));
                    }
                    Err(_) => {}
                }
                D::Runtime::sleep(RETRY_PAUSE).await;
            }
        };
        let answer = D::Runtime::timeout(patience, asked).await;
        answer.unwrap_or_else(|_| Err(StoreError::Unavailable(NO_LEADER.to_owned())))
    }

    async fn ask(
        &self,
        leader: Option<NodeId>,
        message: Message<D::Runtime>,
    ) -> Result<Reply<D::Runtime>, Refused> {
        let Some(leader) = leader.filter(|leader| *leader != self.inner.id) else {
            return self.lead(message).await;
        };
        let members = self.status().members;
        let Some(node) = members.membership().get_node(&leader) else {
            return Err(Refused::NotLeader(None));
        };
        let ttl = self.inner.config.attempt_at(&message);
        let call = self.inner.transport.call(leader, node, message, ttl);
        call.await.map_err(|error| {
            tracing::debug!(%error, leader, "not answered by the leader");
            Refused::NotLeader(None)
        })
    }
}

/// How many of the commands fit into one message, at least one.
fn fitting(proposals: &[Proposal]) -> usize {
    let mut bytes = 0usize;
    let fit = proposals.iter().take(MAX_WRITE_COMMANDS);
    let fit = fit.take_while(|proposal| {
        bytes = bytes.saturating_add(proposal.bytes());
        bytes <= MAX_WRITE_BYTES
    });
    fit.count().max(1)
}
