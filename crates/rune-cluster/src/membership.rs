//! What operators do with a cluster, from any of its nodes.

mod trouble;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use rune_raft::{About, BasicNode, CallError, Change, Node, NodeId, Threads};
use rune_store_runtime::{Reject, StoreError};
use tokio::time::Instant;

use crate::{Identity, PeerTransport};

/// How long a majority is looked for to say whether there is one.
const QUORUM_PATIENCE: Duration = Duration::from_secs(2);

/// How long a new cluster is waited for to have a leader, and another node to lead.
const LEADER_LIMIT: Duration = Duration::from_secs(10);

/// How often what changes by itself is looked at.
const LOOK: Duration = Duration::from_millis(50);

/// A cluster, seen from one of its nodes, or from one that is in none yet. Cheap to clone.
#[derive(Clone)]
pub struct Cluster {
    inner: Arc<Inner>,
}

struct Inner {
    node: Node<Threads, PeerTransport>,
    name: String,
    log: PathBuf,
}

/// How a cluster is.
#[derive(Debug, Clone)]
pub struct ClusterStatus {
    /// Its name.
    pub cluster: String,
    /// The node that was asked.
    pub node: NodeId,
    /// The term that the leader is in, or that node.
    pub term: u64,
    /// Who leads, as far as is known.
    pub leader: Option<NodeId>,
    /// Why nothing is decided, or this node is not part of it; nothing where it is.
    pub trouble: Option<String>,
    /// Whether its voters are being changed.
    pub is_changing: bool,
    /// The members by number.
    pub members: Vec<MemberStatus>,
}

/// How a member is.
#[derive(Debug, Clone)]
pub struct MemberStatus {
    /// Its number.
    pub node: NodeId,
    /// Where the others reach it.
    pub addr: String,
    /// What it does.
    pub role: Role,
    /// What it says of itself, or why it says nothing.
    pub about: Result<About, String>,
    /// Entries that the leader has and it does not, as the leader knows.
    pub lag: Option<u64>,
    /// How long ago it answered the leader last, in milliseconds.
    pub heard_ms: Option<u64>,
}

/// What a member does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Orders the commands of all.
    Leader,
    /// Votes, and may lead.
    Voter,
    /// Is sent everything, and has no vote.
    Learner,
}

impl Role {
    /// Its name.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Leader => "leader",
            Self::Voter => "voter",
            Self::Learner => "learner",
        }
    }
}

/// A snapshot that was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SnapshotAsked {
    /// The node that takes it.
    pub node: NodeId,
    /// The last entry that it will hold.
    pub wanted: Option<u64>,
    /// The last entry that the present one holds.
    pub snapshot: Option<u64>,
}

type Answers = BTreeMap<NodeId, Result<About, CallError>>;

impl Cluster {
    /// The cluster of a node; `log` is the file of its log.
    pub(crate) fn new(
        node: Node<Threads, PeerTransport>,
        identity: &Identity,
        log: PathBuf,
    ) -> Self {
        Self {
            inner: Arc::new(Inner {
                node,
                name: identity.cluster().to_owned(),
                log,
            }),
        }
    }

    /// The node.
    #[must_use]
    pub fn node(&self) -> &Node<Threads, PeerTransport> {
        &self.inner.node
    }

    /// The number of the node.
    #[must_use]
    pub fn id(&self) -> NodeId {
        self.node().status().id
    }

    /// The name of the cluster.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.inner.name
    }

    /// Where the log of the node is.
    pub(crate) fn log(&self) -> &std::path::Path {
        &self.inner.log
    }

    /// Begins a cluster of these nodes, once. All of them answer, and none of them was in a cluster.
    ///
    /// # Errors
    /// [`StoreError::Rejected`] with the reason; [`StoreError::Unavailable`].
    pub async fn init(&self, members: &BTreeMap<NodeId, String>) -> Result<(), StoreError> {
        let status = self.node().status();
        if status.members.membership().nodes().next().is_some() || status.last.is_some() {
            return Err(conflict(
                "this node is in a cluster already; `rune cluster status` shows it",
            ));
        }
        if !members.contains_key(&status.id) {
            return Err(conflict(format!(
                "this is node {}, which is not among the members {}",
                status.id,
                list(members.keys())
            )));
        }
        let mut places: BTreeMap<&str, NodeId> = BTreeMap::new();
        for (id, addr) in members {
            if let Some(other) = places.insert(addr, *id) {
                return Err(conflict(format!(
                    "nodes {other} and {id} have the same address, {addr}"
                )));
            }
        }
        let nodes = members.iter();
        let nodes: BTreeMap<_, _> = nodes
            .map(|(id, addr)| (*id, BasicNode::new(addr)))
            .collect();
        // Itself as well: the others will use the address that it was given.
        let asked = nodes.iter().map(|(id, node)| async move {
            let about = self.node().ask_about(*id, node).await;
            (*id, about)
        });
        for (id, about) in join_all(asked).await {
            let about = about.map_err(|error| {
                conflict(format!(
                    "{error}; start every node of the cluster first, with the same secret"
                ))
            })?;
            if !about.is_new {
                return Err(conflict(format!(
                    "node {id} is in a cluster already; start it with an empty data directory, or add this node to \
                     that cluster"
                )));
            }
        }
        self.node().initialize(nodes).await?;
        self.node().quorum(LEADER_LIMIT).await
    }

    /// Takes a node in that was in no cluster yet: it is sent everything, and has no vote. It is a
    /// member when this is answered, and catches up by and by, which [`Cluster::status`] shows.
    ///
    /// # Errors
    /// As [`Cluster::init`].
    pub async fn add_learner(&self, node: NodeId, addr: &str) -> Result<(), StoreError> {
        let addr = addr.to_owned();
        self.change(Change::AddLearner { node, addr }).await
    }

    /// Gives these members a vote, and no others.
    ///
    /// # Errors
    /// As [`Cluster::init`].
    pub async fn set_voters(&self, voters: Vec<NodeId>) -> Result<(), StoreError> {
        self.change(Change::SetVoters(voters.into_iter().collect()))
            .await
    }

    /// Removes a member for good, also one that is gone.
    ///
    /// # Errors
    /// As [`Cluster::init`].
    pub async fn remove(&self, node: NodeId) -> Result<(), StoreError> {
        self.joined()?;
        // Whoever removes it a second time has mistaken it for another one.
        if self.node().linearizable().await.is_ok() {
            let members = self.node().status().members;
            let members = members.membership();
            if members.get_node(&node).is_none() {
                return Err(conflict(format!(
                    "node {node} is no member; the members are {}",
                    list(members.nodes().map(|(id, _)| id))
                )));
            }
        }
        self.change(Change::Remove(node)).await
    }

    /// Has another voter lead.
    ///
    /// # Errors
    /// As [`Cluster::init`].
    pub async fn hand_over(&self, to: NodeId) -> Result<(), StoreError> {
        self.change(Change::HandOver(to)).await?;
        let deadline = Instant::now() + LEADER_LIMIT;
        while self.node().status().leader != Some(to) {
            if Instant::now() >= deadline {
                return Err(StoreError::Unavailable(format!(
                    "node {to} does not lead after {LEADER_LIMIT:?}; look at the status, and try again"
                )));
            }
            tokio::time::sleep(LOOK).await;
        }
        Ok(())
    }

    /// Has this node take a snapshot of what it has applied, after which its log is shortened. It is
    /// under way when this is answered.
    ///
    /// # Errors
    /// As [`Cluster::init`].
    pub async fn snapshot(&self) -> Result<SnapshotAsked, StoreError> {
        self.joined()?;
        let status = self.node().status();
        let asked = SnapshotAsked {
            node: status.id,
            wanted: status.applied.map(|id| id.index),
            snapshot: status.snapshot.map(|id| id.index),
        };
        if asked.snapshot < asked.wanted {
            self.node().take_snapshot().await?;
        }
        Ok(asked)
    }

    /// Whether this node takes part in a cluster of which a majority answers, and why not.
    ///
    /// # Errors
    /// The reason.
    pub async fn ready(&self) -> Result<(), String> {
        if let Some(trouble) = self.own_trouble() {
            return Err(trouble);
        }
        if self.node().quorum(QUORUM_PATIENCE).await.is_ok() {
            return Ok(());
        }
        Err(self.no_quorum(&self.node().survey().await))
    }

    /// How the cluster is. Every member is asked.
    pub async fn status(&self) -> ClusterStatus {
        let (answers, quorum) =
            tokio::join!(self.node().survey(), self.node().quorum(QUORUM_PATIENCE));
        let own = self.node().status();
        let abouts = answers.iter();
        let abouts = abouts.filter_map(|(id, about)| Some((*id, about.as_ref().ok()?)));
        let leads = abouts.filter(|(id, about)| about.leader == Some(*id));
        let leads = leads.max_by_key(|(_, about)| about.term);
        let trouble = self.own_trouble();
        let trouble = trouble.or_else(|| quorum.is_err().then(|| self.no_quorum(&answers)));
        let leader = leads.map(|(id, _)| id);
        let membership = own.members.membership();
        let voters: Vec<NodeId> = membership.voter_ids().collect();
        let members = membership.nodes().map(|(id, node)| {
            let progress = leads.and_then(|(_, about)| about.progress.get(id));
            let about = match answers.get(id) {
                Some(Ok(about)) => Ok(about.clone()),
                Some(Err(error)) => Err(error.to_string()),
                None => Err("it has just joined".to_owned()),
            };
            let is_leader = leader == Some(*id);
            MemberStatus {
                node: *id,
                addr: node.addr.clone(),
                role: match (is_leader, voters.contains(id)) {
                    (true, _) => Role::Leader,
                    (false, true) => Role::Voter,
                    (false, false) => Role::Learner,
                },
                about,
                lag: match (is_leader, leads, progress) {
                    (true, ..) => Some(0),
                    (false, Some((_, about)), Some(progress)) => Some(progress.lag(about.last)),
                    _ => None,
                },
                heard_ms: match is_leader {
                    true => None,
                    false => progress.and_then(|progress| progress.heard_ms),
                },
            }
        });
        ClusterStatus {
            cluster: self.inner.name.clone(),
            node: own.id,
            term: leads.map_or(own.term, |(_, about)| about.term),
            leader,
            trouble,
            is_changing: membership.get_joint_config().len() > 1,
            members: members.collect(),
        }
    }

    async fn change(&self, change: Change) -> Result<(), StoreError> {
        self.joined()?;
        match self.node().change(change).await {
            Err(StoreError::Unavailable(_)) => {
                let why = self.ready().await.err();
                Err(StoreError::Unavailable(why.unwrap_or_else(|| {
                    "no node led for long enough to make the change; look at the status, and try again".to_owned()
                })))
            }
            done => done,
        }
    }

    fn joined(&self) -> Result<(), StoreError> {
        self.own_trouble()
            .map_or(Ok(()), |trouble| Err(conflict(trouble)))
    }

    /// Why this node takes no part, whatever the others do.
    fn own_trouble(&self) -> Option<String> {
        let status = self.node().status();
        let id = status.id;
        if let Some(failure) = status.failure {
            return Some(format!("node {id} takes no part any more: {failure}"));
        }
        if status.is_removed {
            return Some(format!(
                "node {id} was removed from the cluster: stop it; to come back it joins under a new number with an \
                 empty data directory"
            ));
        }
        if status.members.membership().nodes().next().is_none() {
            return Some(format!(
                "node {id} is in no cluster yet: `rune cluster init` on one of the first nodes begins one, `rune \
                 cluster add-learner {id} ADDRESS` on a member takes this one in"
            ));
        }
        None
    }

    fn no_quorum(&self, answers: &Answers) -> String {
        let status = self.node().status();
        let voters: Vec<NodeId> = status.members.membership().voter_ids().collect();
        trouble::no_quorum(&voters, answers)
    }
}

fn conflict(message: impl Into<String>) -> StoreError {
    Reject::conflict(message).into()
}

fn list(ids: impl IntoIterator<Item = impl ToString>) -> String {
    let ids: Vec<String> = ids.into_iter().map(|id| id.to_string()).collect();
    ids.join(", ")
}
