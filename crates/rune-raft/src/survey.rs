//! What the nodes of a cluster know of each other.
//!
//! Every node asks every other one once a second how it is. So each knows which commands the others
//! understand, also those that are gone in the moment at which this one begins to lead; and a node
//! that was removed while it was away finds out.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use futures_util::future::join_all;
use openraft::async_runtime::watch::WatchReceiver as _;
use openraft::{AsyncRuntime as _, BasicNode, Instant as _};
use rune_store_runtime::{Command, StoreError};
use serde::{Deserialize, Serialize};

use crate::node::Inner;
use crate::{CallError, Disk, Message, Node, NodeId, Reply, Transport};

/// How often the others are asked.
const PAUSE: Duration = Duration::from_secs(1);

/// How long an answer is waited for.
const LIMIT: Duration = Duration::from_secs(2);

/// What a node says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct About {
    /// Its version of Rune.
    pub rune: String,
    /// The newest version of commands that it applies.
    pub commands: u16,
    /// Whether it never was in a cluster.
    pub is_new: bool,
    /// Whether who asked is a member, as far as it knows.
    pub knows_asker: bool,
    /// The term that it is in.
    pub term: u64,
    /// Who leads, as far as it knows.
    pub leader: Option<NodeId>,
    /// Its last entry.
    pub last: Option<u64>,
    /// The last entry that it applied.
    pub applied: Option<u64>,
    /// The last entry that its snapshot holds.
    pub snapshot: Option<u64>,
    /// The last entry that is no longer in its log.
    pub purged: Option<u64>,
    /// Whether it waits for room on its disk.
    pub disk_full: bool,
    /// Why it takes no part any more.
    pub failure: Option<String>,
    /// How far the others are, where it leads.
    pub progress: BTreeMap<NodeId, Progress>,
}

/// How far a member is, as the leader sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// The last entry that it is known to have.
    pub matched: Option<u64>,
    /// How long ago it answered last, in milliseconds.
    pub heard_ms: Option<u64>,
}

impl Progress {
    /// Entries that a leader with this last one has and the member does not.
    #[must_use]
    pub fn lag(&self, last: Option<u64>) -> u64 {
        let entries = |index: Option<u64>| index.map_or(0, |index| index + 1);
        entries(last).saturating_sub(entries(self.matched))
    }
}

/// What is kept of the answers.
#[derive(Debug, Default)]
pub(crate) struct Survey(Mutex<Known>);

#[derive(Debug, Default)]
struct Known {
    /// The newest version of commands that a member was heard to apply.
    commands: BTreeMap<NodeId, u16>,
    is_removed: bool,
}

impl Survey {
    fn lock(&self) -> MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the others have removed this node.
    pub(crate) fn is_removed(&self) -> bool {
        self.lock().is_removed
    }

    /// The member that understands the least, and what that is. Of one that was never heard it is
    /// the oldest version there is.
    pub(crate) fn oldest(&self, members: impl Iterator<Item = NodeId>) -> Option<(NodeId, u16)> {
        let known = self.lock();
        let commands = |id: &NodeId| known.commands.get(id).copied();
        let versions = members.map(|id| (id, commands(&id).unwrap_or(Command::OLDEST)));
        versions.min_by_key(|(_, version)| *version)
    }

    fn learn(&self, members: &Addresses, answers: &Answers) {
        let mut known = self.lock();
        known.commands.retain(|id, _| members.contains_key(id));
        let heard = answers.iter().filter_map(|(id, about)| {
            let about = about.as_ref().ok()?;
            Some((*id, about))
        });
        let mut strangers = false;
        let mut friends = false;
        for (id, about) in heard {
            known.commands.insert(id, about.commands);
            // One that has not heard of this node yet may be a little behind.
            strangers |= !about.knows_asker && about.leader.is_some();
            friends |= about.knows_asker;
        }
        if strangers && !friends {
            known.is_removed = true;
        } else if friends {
            known.is_removed = false;
        }
    }
}

type Addresses = BTreeMap<NodeId, BasicNode>;
type Answers = BTreeMap<NodeId, Result<About, CallError>>;

impl<D: Disk, T: Transport<D::Runtime>> Node<D, T> {
    /// What this node says of itself to another one.
    #[must_use]
    pub fn about(&self, asker: NodeId) -> About {
        let status = self.status();
        let index = |id: Option<crate::LogId>| id.map(|id| id.index);
        let members = status.members.membership();
        About {
            rune: env!("CARGO_PKG_VERSION").to_owned(),
            commands: Command::VERSION,
            is_new: status.term == 0 && status.last.is_none() && status.applied.is_none(),
            knows_asker: members.get_node(&asker).is_some(),
            term: status.term,
            leader: status.leader,
            last: status.last,
            applied: index(status.applied),
            snapshot: index(status.snapshot),
            purged: index(status.purged),
            disk_full: status.disk_full,
            failure: status.failure.clone(),
            progress: self.inner().progress(),
        }
    }

    /// Asks a node, member or not, what it says of itself.
    ///
    /// # Errors
    /// A [`CallError`] where it does not answer, or is not the one that it should be.
    pub async fn ask_about(&self, id: NodeId, node: &BasicNode) -> Result<About, CallError> {
        let call = self.inner().transport.call(id, node, Message::About, LIMIT);
        match D::Runtime::timeout(LIMIT, call).await {
            Ok(Ok(Reply::About(about))) => Ok(*about),
            Ok(Ok(_)) => Err(CallError::Broken(format!(
                "node {id} answered something else"
            ))),
            Ok(Err(error)) => Err(error),
            Err(_) => Err(CallError::Unreachable(format!(
                "node {id} at {} did not answer within {LIMIT:?}",
                node.addr
            ))),
        }
    }

    /// Asks every member, this one included, what it says of itself.
    pub async fn survey(&self) -> BTreeMap<NodeId, Result<About, CallError>> {
        let id = self.inner().id;
        let members = self.addresses();
        let asked = members.iter().map(|(member, node)| async move {
            let about = if *member == id {
                Ok(self.about(id))
            } else {
                self.ask_about(*member, node).await
            };
            (*member, about)
        });
        join_all(asked).await.into_iter().collect()
    }

    /// Whether a majority answers one that leads it. Looks for it for `patience`.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`].
    pub async fn quorum(&self, patience: Duration) -> Result<(), StoreError> {
        self.ask_leader(Message::ReadIndex, patience, |reply| match reply {
            Reply::ReadIndex(_) => Some(()),
            _ => None,
        })
        .await
    }

    fn addresses(&self) -> Addresses {
        let status = self.status();
        let nodes = status.members.membership().nodes();
        nodes.map(|(id, node)| (*id, node.clone())).collect()
    }
}

impl<D: Disk, T> Inner<D, T> {
    /// How far the members are, where this node leads.
    pub(crate) fn progress(&self) -> BTreeMap<NodeId, Progress> {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        let heard = metrics.heartbeat.as_ref();
        let heard = |id: &NodeId| {
            let at = (*heard?.get(id)?)?;
            u64::try_from(at.elapsed().as_millis()).ok()
        };
        let matched = metrics.replication.iter().flatten();
        matched
            .map(|(id, matched)| {
                let progress = Progress {
                    matched: matched.map(|id| id.index),
                    heard_ms: heard(id),
                };
                (*id, progress)
            })
            .collect()
    }
}

/// Asks the others again and again, for as long as the node is there.
pub(crate) async fn run<D: Disk, T: Transport<D::Runtime>>(node: Weak<Inner<D, T>>) {
    loop {
        {
            let Some(inner) = node.upgrade() else { return };
            if inner.raft.metrics().borrow_watched().running_state.is_err() {
                return;
            }
            let node = Node::of(Arc::clone(&inner));
            let members = node.addresses();
            inner.transport.keep(&members);
            let mut answers = node.survey().await;
            // What it knows of itself is no news, and it takes itself for a member always.
            answers.remove(&inner.id);
            inner.survey.learn(&members, &answers);
        }
        D::Runtime::sleep(PAUSE).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn about(commands: u16, knows_asker: bool) -> About {
        About {
            rune: String::new(),
            commands,
            is_new: false,
            knows_asker,
            term: 1,
            leader: Some(1),
            last: None,
            applied: None,
            snapshot: None,
            purged: None,
            disk_full: false,
            failure: None,
            progress: BTreeMap::new(),
        }
    }

    fn learn(survey: &Survey, answers: &[(NodeId, Option<About>)]) {
        let members = answers.iter();
        let members = members.map(|(id, _)| (*id, BasicNode::new(id))).collect();
        let gone = || CallError::Unreachable(String::new());
        let answers = answers.iter().cloned();
        let answers = answers.map(|(id, about)| (id, about.ok_or_else(gone)));
        survey.learn(&members, &answers.collect());
    }

    #[test]
    fn what_a_member_understands_is_known_after_it_is_gone() {
        let survey = Survey::default();
        let members = || [1, 2, 3].into_iter();
        assert_eq!(survey.oldest(members()), Some((1, Command::OLDEST)));
        let both = [
            (1, Some(about(7, true))),
            (2, Some(about(6, true))),
            (3, Some(about(5, true))),
        ];
        learn(&survey, &both);
        assert_eq!(survey.oldest(members()), Some((3, 5)));
        learn(&survey, &[(1, Some(about(7, true))), (2, None), (3, None)]);
        assert_eq!(survey.oldest(members()), Some((3, 5)));
        // One that is no member any more counts for nothing, and is a stranger when it comes back.
        learn(&survey, &[(1, Some(about(7, true))), (2, None)]);
        assert_eq!(survey.oldest([1, 2].into_iter()), Some((2, 6)));
        assert_eq!(survey.oldest(members()), Some((3, Command::OLDEST)));
    }

    #[test]
    fn a_node_is_removed_where_those_that_answer_do_not_know_it() {
        let survey = Survey::default();
        learn(&survey, &[(1, None), (2, None)]);
        assert!(!survey.is_removed());
        learn(
            &survey,
            &[(1, Some(about(1, false))), (2, Some(about(1, true)))],
        );
        assert!(!survey.is_removed());
        learn(&survey, &[(1, Some(about(1, false))), (2, None)]);
        assert!(survey.is_removed());
        learn(&survey, &[(1, Some(about(1, true))), (2, None)]);
        assert!(!survey.is_removed());
    }
}
