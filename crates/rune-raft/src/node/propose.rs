//! What only the leader does.

use std::sync::PoisonError;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::future::BoxFuture;
use openraft::async_runtime::watch::WatchReceiver as _;
use openraft::errors::{ClientWriteError, LinearizableReadError, RaftError};
use openraft::{Instant as _, ReadPolicy, ServerState};
use rune_store_runtime::{Clock as _, Command, SystemClock};

use super::forward::{InstantOf, Written};
use crate::{Disk, Message, Node, NodeId, Proposal, Reply, Transport};

/// A command in the log that was applied without an answer, which no command is.
pub(super) const NO_ANSWER: &str = "the command has no answer";

/// How far the clock of a node may be ahead of that of the leader. The time of a state does not go
/// back: a command from the far future would end every lease and window for good.
const MAX_SKEW: Duration = Duration::from_secs(5 * 60);

/// Why this node did not do what only the leader does.
pub(crate) enum Refused {
    /// Somebody else may. Whether it was done is not known.
    NotLeader(Option<NodeId>),
    /// It leads and does not hear from a majority: what it would put into the log now, it could
    /// not commit, and would put there again with every retry.
    Alone,
    /// It takes no part.
    Stopped(String),
}

impl<D: Disk, T: Transport<D::Runtime>> Node<D, T> {
    /// Does what only the leader does.
    pub(crate) async fn lead(
        &self,
        message: Message<D::Runtime>,
    ) -> Result<Reply<D::Runtime>, Refused> {
        match message {
            Message::Write(proposals) => self.propose(proposals).await,
            Message::Change(change) => {
                // It asks the node that is to join, so that its type would be its own part.
                let made: BoxFuture<'_, _> = Box::pin(self.make(change));
                made.await
            }
            Message::ReadIndex => self.read_index().await,
            _ => Err(Refused::NotLeader(None)),
        }
    }

    /// How far one has to have applied to read what was written before now, where this node leads.
    pub(crate) async fn read_index(&self) -> Result<Reply<D::Runtime>, Refused> {
        let read = self.inner.raft.get_read_linearizer(ReadPolicy::ReadIndex);
        match read.await {
            Ok(read) => Ok(Reply::ReadIndex(read.read_log_id().index())),
            Err(RaftError::APIError(LinearizableReadError::ForwardToLeader(forward))) => {
                Err(Refused::NotLeader(forward.leader_id))
            }
            Err(RaftError::APIError(LinearizableReadError::QuorumNotEnough(_))) => {
                Err(Refused::Alone)
            }
            Err(RaftError::Fatal(error)) => Err(Refused::Stopped(error.to_string())),
        }
    }

    /// The member that understands the oldest commands only, and which.
    fn oldest(&self) -> (NodeId, u16) {
        let (id, members) = (self.inner.id, self.status().members);
        let others = members.membership().nodes().map(|(id, _)| *id);
        let others = self
            .inner
            .survey
            .oldest(others.filter(|other| *other != id));
        let own = (id, Command::VERSION);
        others.filter(|other| other.1 < own.1).unwrap_or(own)
    }

    /// Puts commands into the log, as long as this node leads, and answers those that were applied.
    ///
    /// Those of another node are looked at again, because a single one that cannot be applied would
    /// stop every node for good. It is answered alone, what is before it first.
    async fn propose(&self, mut proposals: Vec<Proposal>) -> Result<Reply<D::Runtime>, Refused> {
        let stopped = |error: &dyn ToString| Refused::Stopped(error.to_string());
        let (oldest, latest) = (self.oldest(), SystemClock.now().plus(MAX_SKEW));
        let wrong = |proposal: &Proposal| proposal.check(oldest, latest).err();
        let wrong = proposals.iter().map(wrong).enumerate();
        let wrong = wrong.filter_map(|(at, reject)| Some((at, reject?))).next();
        match wrong {
            Some((0, reject)) => {
                let outcome = Err(reject);
                return Ok(Reply::Written(vec![Written { index: 0, outcome }]));
            }
            Some((at, _)) => proposals.truncate(at),
            None => {}
        }
        if self.inner.is_full() {
            return Err(Refused::Stopped(format!(
                "the disk of node {}, which leads, is full",
                self.inner.id
            )));
        }
        if proposals.is_empty() {
            return Ok(Reply::Written(Vec::new()));
        }
        if self.is_alone() {
            return Err(Refused::Alone);
        }
        let answers = self.inner.raft.client_write_many(proposals).await;
        let mut answers = answers.map_err(|error| stopped(&error))?;
        let mut written = Vec::new();
        while let Some(answer) = answers.next().await {
            match answer.map_err(|error| stopped(&error))? {
                Ok(response) => written.push(Written {
                    index: response.log_id.index,
                    outcome: response.response.ok_or_else(|| stopped(&NO_ANSWER))?,
                }),
                // What is behind it in the log is not there either.
                Err(
                    ClientWriteError::ForwardToLeader(forward)
                    | ClientWriteError::LogEntryDiscarded(forward),
                ) if written.is_empty() => return Err(Refused::NotLeader(forward.leader_id)),
                Err(error) if written.is_empty() => return Err(stopped(&error)),
                Err(_) => break,
            }
        }
        Ok(Reply::Written(written))
    }

    /// Whether this node leads and has not heard from a majority for longer than a follower waits
    /// for a leader.
    fn is_alone(&self) -> bool {
        let (led, acked) = {
            let metrics = self.inner.raft.metrics();
            let metrics = metrics.borrow_watched();
            let members = metrics.membership_config.membership();
            let others = members.voter_ids().any(|id| id != self.inner.id);
            if metrics.state != ServerState::Leader || !others {
                return false;
            }
            (metrics.vote, metrics.last_quorum_acked.map(|acked| *acked))
        };
        let now = InstantOf::<D>::now();
        // Nobody may have answered yet whoever began to lead just now.
        let mut seen = self
            .inner
            .led
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let since = match *seen {
            Some((known, since)) if known == led => since,
            _ => {
                *seen = Some((led, now));
                now
            }
        };
        now.saturating_duration_since(acked.unwrap_or(since).max(since))
            > self.inner.config.election * 2
    }
}
