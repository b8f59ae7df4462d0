//! Who takes part: a cluster is begun, nodes join, get a vote and leave.
//!
//! What changes it is asked of any node and made by the one that leads, which refuses what would
//! leave the cluster without a majority that answers.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use openraft::errors::{ChangeMembershipError, ClientWriteError, RaftError};
use openraft::raft::Precondition;
use openraft::{AsyncRuntime, BasicNode, ChangeMembers};
use rune_store_runtime::{Reject, StoreError};
use serde::{Deserialize, Serialize};

use crate::node::{Refused, unavailable};
use crate::{Disk, Members, Message, Node, NodeId, Reply, Transport, Types};

/// The least number of a node that joined a cluster without being told one. Those that a cluster
/// begins with have smaller ones, given by hand.
pub const FIRST_JOINED: NodeId = 1 << 20;

/// How long a change is tried.
const PATIENCE: Duration = Duration::from_secs(30);

/// A voter that has not answered for so long does not count as one that would decide with others.
const SILENCE: Duration = Duration::from_secs(3);

/// Entries that a learner may be behind to get a vote: until it has them, it decides nothing.
pub const MAX_VOTER_LAG: u64 = 1_000;

/// A change of who takes part.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Change {
    /// A node is taken in: it is sent everything, and has no vote.
    AddLearner {
        /// Its number, which no node has had.
        node: NodeId,
        /// Where the others reach it.
        addr: String,
    },
    /// These have a vote, and no others. Voters that are not among them stay as learners.
    SetVoters(BTreeSet<NodeId>),
    /// A node takes no part any more, for good. It may be the leader, and it may be gone.
    Remove(NodeId),
    /// Another voter leads.
    HandOver(NodeId),
}

impl<D: Disk, T: Transport<D::Runtime>> Node<D, T> {
    /// Begins a cluster, once, on one node that never was in one.
    ///
    /// # Errors
    /// [`StoreError::Rejected`] where this node is in a cluster, or is not among the members.
    pub async fn initialize(&self, members: BTreeMap<NodeId, BasicNode>) -> Result<(), StoreError> {
        if let Some(id) = members.keys().find(|id| **id >= FIRST_JOINED) {
            return Err(Reject::invalid(format!(
                "node number {id} is not below {FIRST_JOINED}; the greater ones are for nodes that join"
            ))
            .into());
        }
        match self.inner().raft.initialize(members).await {
            Ok(()) => Ok(()),
            Err(RaftError::APIError(error)) => Err(Reject::conflict(error.to_string()).into()),
            Err(RaftError::Fatal(error)) => Err(unavailable(&error)),
        }
    }

    /// A number for a node that is to join, which no node has had or will have. To be asked of
    /// the leader.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`].
    pub async fn new_number(&self) -> Result<NodeId, StoreError> {
        // The index of an entry that is committed is nobody else's.
        let blank = self.inner().raft.write_blank().await;
        let blank = blank.map_err(|error| unavailable(&error))?;
        Ok(FIRST_JOINED + blank.log_id.index)
    }

    /// Has whoever leads make a change, which is tried until it is made or refused. One that is made
    /// already is made.
    ///
    /// # Errors
    /// [`StoreError::Rejected`] with the reason; [`StoreError::Unavailable`] where nobody led for
    /// long enough.
    pub async fn change(&self, change: Change) -> Result<(), StoreError> {
        let message = Message::Change(change);
        let answer = self.ask_leader(message, PATIENCE, |reply| match reply {
            Reply::Changed(outcome) => Some(outcome),
            _ => None,
        });
        Ok(answer.await??)
    }

    /// Makes a change, where this node leads.
    pub(crate) async fn make(&self, change: Change) -> Result<Reply<D::Runtime>, Refused> {
        // What another leader changed is in the log before this one, and may not be applied yet.
        let Reply::ReadIndex(index) = self.read_index().await? else {
            return Err(Refused::NotLeader(None));
        };
        let applied = self.applied(index).await;
        applied.map_err(|_| Refused::NotLeader(None))?;
        let members = self.status().members;
        // One that was removed leads for a moment longer, so that the others hear of it. OpenRaft takes no change from it.
        if members.membership().get_node(&self.inner().id).is_none() {
            return Err(Refused::NotLeader(None));
        }
        let made = match change {
            Change::AddLearner { node, addr } => self.add_learner(&members, node, addr).await,
            Change::SetVoters(ids) => self.set_voters(&members, ids).await,
            Change::Remove(id) => self.remove(&members, id).await,
            Change::HandOver(to) => self.hand_over(&members, to).await,
        };
        match made {
            Ok(()) => Ok(Reply::Changed(Ok(()))),
            Err(Unmade::Rejected(reject)) => Ok(Reply::Changed(Err(reject))),
            Err(Unmade::Refused(refused)) => Err(refused),
        }
    }

    async fn add_learner(&self, members: &Members, id: NodeId, addr: String) -> Result<(), Unmade> {
        let node = BasicNode::new(addr);
        if let Some(known) = members.membership().get_node(&id) {
            if *known == node {
                return Ok(());
            }
            return Err(conflict(format!(
                "node {id} is a member at {}; to move it, remove it and have it join under a new number with an empty \
                 data directory",
                known.addr
            )));
        }
        if self.inner().retired.contains(id) {
            return Err(conflict(format!(
                "node number {id} was in use before; a node that lost its disk joins under a new number"
            )));
        }
        let given = self.status().applied.map_or(0, |applied| applied.index) + FIRST_JOINED;
        if id > given {
            return Err(conflict(format!(
                "this cluster has not given the number {id} to a node; ask it for one, or take one below {FIRST_JOINED}"
            )));
        }
        // Of this one, because it is the one that has to reach it.
        let about = self.ask_about(id, &node).await;
        let about = about.map_err(|error| conflict(error.to_string()))?;
        if !about.is_new {
            return Err(conflict(format!(
                "node {id} at {} was in a cluster before; have it join with an empty data directory",
                node.addr
            )));
        }
        let added = ChangeMembers::AddNodes(BTreeMap::from([(id, node)]));
        self.submit(members, added, true).await
    }

    async fn set_voters(&self, members: &Members, ids: BTreeSet<NodeId>) -> Result<(), Unmade> {
        let (nodes, progress) = (members.membership(), self.inner().progress());
        let voters: BTreeSet<NodeId> = nodes.voter_ids().collect();
        if ids.is_empty() {
            return Err(invalid("a cluster has one voter at the least"));
        }
        for id in &ids {
            if nodes.get_node(id).is_none() {
                return Err(not_a_member(*id, nodes.nodes().map(|(id, _)| *id)));
            }
        }
        let last = self.status().last;
        for id in ids.difference(&voters) {
            let lag = progress.get(id).map(|progress| progress.lag(last));
            match lag {
                Some(0..=MAX_VOTER_LAG) => {}
                Some(lag) => {
                    return Err(conflict(format!(
                        "node {id} is {lag} entries behind; it gets a vote when it is {MAX_VOTER_LAG} behind or less: \
                         wait, and look at the status"
                    )));
                }
                None => {
                    return Err(conflict(format!(
                        "node {id} has not been sent anything yet; wait, and look at the status"
                    )));
                }
            }
        }
        self.check_majority(&ids)?;
        self.submit(members, ChangeMembers::ReplaceAllVoters(ids), true)
            .await
    }

    async fn remove(&self, members: &Members, id: NodeId) -> Result<(), Unmade> {
        let nodes = members.membership();
        if nodes.get_node(&id).is_none() {
            if self.inner().retired.contains(id) {
                return Ok(());
            }
            return Err(not_a_member(id, nodes.nodes().map(|(id, _)| *id)));
        }
        let ids = BTreeSet::from([id]);
        let voters: BTreeSet<NodeId> = nodes.voter_ids().collect();
        if !voters.contains(&id) {
            let removed = ChangeMembers::RemoveNodes(ids);
            return self.submit(members, removed, false).await;
        }
        let left: BTreeSet<NodeId> = voters.difference(&ids).copied().collect();
        if left.is_empty() {
            return Err(conflict(format!(
                "node {id} is the only voter; a cluster without one would never decide anything again"
            )));
        }
        self.check_majority(&left)?;
        // A voter goes with its vote, in the second of two steps: it cannot be dropped in the first.
        self.submit(members, ChangeMembers::RemoveVoters(ids), false)
            .await
    }

    async fn hand_over(&self, members: &Members, to: NodeId) -> Result<(), Unmade> {
        let voters: BTreeSet<NodeId> = members.membership().voter_ids().collect();
        if !voters.contains(&to) {
            return Err(conflict(format!(
                "node {to} is no voter and cannot lead; the voters are {}",
                list(voters)
            )));
        }
        if to == self.inner().id {
            return Ok(());
        }
        self.check_answers(to)?;
        let asked = self.inner().raft.trigger().transfer_leader(to).await;
        asked.map_err(|error| Unmade::Refused(Refused::Stopped(error.to_string())))
    }

    /// Whether these would decide anything: a majority of them answers.
    fn check_majority(&self, voters: &BTreeSet<NodeId>) -> Result<(), Unmade> {
        let silent: BTreeSet<NodeId> = voters
            .iter()
            .copied()
            .filter(|id| !self.answers(*id))
            .collect();
        let answering = voters.len() - silent.len();
        if answering > voters.len() / 2 {
            return Ok(());
        }
        Err(conflict(format!(
            "with the voters {} the cluster would stop: {answering} of {} answer, and {} have not for {SILENCE:?}; \
             start those, or take others",
            list(voters.iter().copied()),
            voters.len(),
            list(silent),
        )))
    }

    fn check_answers(&self, id: NodeId) -> Result<(), Unmade> {
        if self.answers(id) {
            return Ok(());
        }
        Err(conflict(format!(
            "node {id} has not answered for {SILENCE:?}; start it first"
        )))
    }

    fn answers(&self, id: NodeId) -> bool {
        let heard = || self.inner().progress().get(&id)?.heard_ms;
        let within = |ms: u64| Duration::from_millis(ms) < SILENCE;
        id == self.inner().id || heard().is_some_and(within)
    }

    /// Makes a change of these members, and of no others: what was looked at before must hold.
    async fn submit(
        &self,
        members: &Members,
        change: ChangeMembers<NodeId, BasicNode>,
        retain: bool,
    ) -> Result<(), Unmade> {
        let last_membership_log_id = *members.log_id();
        let same = Precondition::LastMembershipLogId {
            last_membership_log_id,
        };
        let raft = &self.inner().raft;
        let changed = raft.change_membership_if(change, retain, [same]).await;
        changed.map(drop).map_err(Unmade::from)
    }
}

/// Why a change was not made.
enum Unmade {
    /// It is not allowed.
    Rejected(Reject),
    /// It may be tried again.
    Refused(Refused),
}

impl<R: AsyncRuntime> From<RaftError<Types<R>, ClientWriteError<Types<R>>>> for Unmade {
    fn from(error: RaftError<Types<R>, ClientWriteError<Types<R>>>) -> Self {
        let error = match error {
            RaftError::APIError(error) => error,
            RaftError::Fatal(error) => return Self::Refused(Refused::Stopped(error.to_string())),
        };
        match error {
            ClientWriteError::ForwardToLeader(forward)
            | ClientWriteError::LogEntryDiscarded(forward) => {
                Self::Refused(Refused::NotLeader(forward.leader_id))
            }
            // Another change is under way, or was made in between; perhaps it is this one.
            ClientWriteError::ChangeMembershipError(
                ChangeMembershipError::InProgress(_)
                | ChangeMembershipError::UncommittedLeaderLog(_),
            )
            | ClientWriteError::PreconditionFailed(_) => Self::Refused(Refused::NotLeader(None)),
            ClientWriteError::ChangeMembershipError(error) => {
                Self::Rejected(Reject::conflict(error.to_string()))
            }
        }
    }
}

fn conflict(message: String) -> Unmade {
    Unmade::Rejected(Reject::conflict(message))
}

fn invalid(message: &str) -> Unmade {
    Unmade::Rejected(Reject::invalid(message))
}

fn not_a_member(id: NodeId, members: impl Iterator<Item = NodeId>) -> Unmade {
    conflict(format!(
        "node {id} is no member; the members are {}, and a node joins as a learner first",
        list(members)
    ))
}

fn list(ids: impl IntoIterator<Item = NodeId>) -> String {
    let ids: Vec<String> = ids.into_iter().map(|id| id.to_string()).collect();
    ids.join(", ")
}
