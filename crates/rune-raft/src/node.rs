//! A node of a cluster.

mod lead;

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::future::BoxFuture;
use openraft::async_runtime::watch::WatchReceiver as _;
use openraft::errors::{ClientWriteError, LinearizableReadError, RaftError};
use openraft::{AsyncRuntime, Config, Raft, ReadPolicy, ServerState, SnapshotPolicy};
use rune_storage::LogOwner;
use rune_store_runtime::{Command, Leadership, Reject, StoreError};
use serde::{Deserialize, Serialize};

use crate::state_machine::{Applied, Room};
use crate::survey::{self, Survey};
use crate::types::leadership;
use crate::{
    CallError, Disk, LogId, LogStatus, LogStore, Members, Message, Network, NodeId, Proposal,
    Received, Receiver, Reply, SnapshotDir, StateMachine, Transport, Types,
};

pub use lead::Lead;

/// How long a write or a read that met no leader waits before it looks for one again.
const RETRY_PAUSE: Duration = Duration::from_millis(20);

/// How often the size of the log is looked at.
const LOG_LOOK: Duration = Duration::from_secs(1);

/// How long a snapshot may take to be installed by the other side.
const INSTALL_TTL: Duration = Duration::from_secs(600);

/// How long a change of who takes part is waited for: it is two entries, each committed by all.
const CHANGE_ATTEMPT: Duration = Duration::from_secs(10);

/// Commands that may wait for the protocol on one node.
const QUEUE: u64 = 4096;

/// Nobody answered.
const NO_LEADER: &str = "no node answered as leader in time; the same command may be sent again";

/// A command in the log that was applied without an answer, which no command is.
const NO_ANSWER: &str = "the command has no answer";

/// How a node takes part.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeConfig {
    /// How often a leader says that it is there.
    pub heartbeat: Duration,
    /// A follower that heard nothing for twice as long as this, and then for a random time between
    /// one and a half heartbeats and as much again, tries to lead: the wider that is, the less
    /// often two try at once, and the sooner the first of them does. Twice as long as this is also
    /// how long a leader that heard nothing goes on.
    pub election: Duration,
    /// Entries after which a snapshot is taken.
    pub snapshot_entries: u64,
    /// Bytes of commands after which a snapshot is taken.
    pub snapshot_bytes: u64,
    /// Entries that stay in the log although a snapshot holds them, for nodes that are a little
    /// behind.
    pub keep_entries: u64,
    /// The parts in which a snapshot is sent.
    pub chunk_bytes: usize,
    /// How long a write or a linearizable read looks for a leader that answers it.
    pub patience: Duration,
}

impl Default for NodeConfig {
    fn default() -> Self {
        Self {
            heartbeat: Duration::from_millis(50),
            election: Duration::from_millis(150),
            snapshot_entries: 20_000,
            snapshot_bytes: 256 << 20,
            keep_entries: 2_000,
            chunk_bytes: 1 << 20,
            patience: Duration::from_secs(10),
        }
    }
}

impl NodeConfig {
    fn protocol(&self, cluster: &str) -> Config {
        let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        Config {
            cluster_name: cluster.to_owned(),
            heartbeat_interval: millis(self.heartbeat),
            election_timeout_min: millis(self.heartbeat * 3 / 2),
            election_timeout_max: millis(self.election * 2),
            install_snapshot_timeout: millis(INSTALL_TTL),
            snapshot_policy: SnapshotPolicy::LogsSinceLast(self.snapshot_entries),
            max_in_snapshot_log_to_keep: self.keep_entries,
            replication_lag_threshold: self.snapshot_entries.saturating_mul(2),
            api_channel_size: Some(QUEUE),
            enable_pre_vote: Some(true),
            // A leader that starts again stands for election like any other node. Entries that it
            // had sent and not synced are gone: leading on under the old vote, it would put others
            // in their places under the same numbers, and no node could tell the two apart.
            enable_leader_restore: Some(false),
            ..Config::default()
        }
    }

    /// After this an answer that did not come is looked for elsewhere.
    fn attempt(&self) -> Duration {
        self.election * 8
    }

    /// The same for what is asked of a leader.
    fn attempt_at<R: AsyncRuntime>(&self, message: &Message<R>) -> Duration {
        match message {
            Message::Change(_) => CHANGE_ATTEMPT,
            _ => self.attempt(),
        }
    }
}

/// A command that was applied.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Written {
    /// Its place in the log: who waits until a node has applied this reads it there. 0 for a
    /// command that cannot stand in a log.
    pub index: u64,
    /// The answer to it.
    pub outcome: Result<rune_store_runtime::Reply, Reject>,
}

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

/// A node of a cluster, running. Cheap to clone.
pub struct Node<D: Disk, T> {
    inner: Arc<Inner<D, T>>,
}

impl<D: Disk, T> Node<D, T> {
    pub(crate) const fn of(inner: Arc<Inner<D, T>>) -> Self {
        Self { inner }
    }

    pub(crate) fn inner(&self) -> &Inner<D, T> {
        &self.inner
    }
}

impl<D: Disk, T> Clone for Node<D, T> {
    fn clone(&self) -> Self {
        Self {
            inner: Arc::clone(&self.inner),
        }
    }
}

pub(crate) struct Inner<D: Disk, T> {
    pub(crate) id: NodeId,
    pub(crate) config: NodeConfig,
    pub(crate) raft: Raft<Types<D::Runtime>, StateMachine<D>>,
    pub(crate) transport: T,
    pub(crate) receiver: Receiver,
    pub(crate) log: LogStatus,
    pub(crate) room: Room,
    pub(crate) greatest: Arc<AtomicU64>,
    pub(crate) applied: Arc<Applied>,
    pub(crate) disk: D,
    pub(crate) survey: Survey,
}

/// Why this node did not do what only the leader does.
pub(crate) enum Refused {
    /// Somebody else may. Whether it was done is not known.
    NotLeader(Option<NodeId>),
    /// It takes no part.
    Stopped(String),
}

impl<D: Disk, T: Transport<D::Runtime>> Node<D, T> {
    /// Starts a node with its log, its database and its snapshots. It takes part in what its log
    /// says; a new one waits until it is told of a cluster, or to begin one with
    /// [`Node::initialize`].
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] where what is on disk cannot be gone on with, as the database of a
    /// node whose log is gone: with it went the votes that it gave and the entries that it promised to
    /// keep, and taking part without them could lose what was committed.
    pub async fn start(
        owner: &LogOwner,
        config: NodeConfig,
        transport: T,
        log: LogStore<D>,
        state: StateMachine<D>,
        snapshots: Arc<SnapshotDir>,
        disk: D,
    ) -> Result<Self, StoreError> {
        let id = owner.node;
        if log.is_pristine() && (state.has_applied() || snapshots.current().is_some()) {
            return Err(StoreError::Unavailable(format!(
                "node {id} has a database and no log: what it promised to the others is lost; remove it from the \
                 cluster, and have it join under a new number with an empty data directory"
            )));
        }
        let protocol = config.protocol(&owner.cluster).validate();
        let protocol = protocol.map_err(|error| unavailable(&error))?;
        let network = Network::new(id, transport.clone(), disk.clone(), config.chunk_bytes);
        let (status, greatest, since) = (log.status(), state.greatest(), state.since_snapshot());
        let (applied, room) = (state.applied(), state.room());
        let raft = Raft::new(id, Arc::new(protocol), network, log, state);
        let raft = raft.await.map_err(|error| unavailable(&error))?;
        let limit = config.snapshot_bytes;
        drop(D::Runtime::spawn(shorten(raft.clone(), since, limit)));
        let node = Self {
            inner: Arc::new(Inner {
                id,
                config,
                raft,
                transport,
                receiver: Receiver::new(snapshots),
                log: status,
                room,
                greatest,
                applied,
                disk,
                survey: Survey::default(),
            }),
        };
        drop(D::Runtime::spawn(yield_when_full(Arc::downgrade(
            &node.inner,
        ))));
        drop(D::Runtime::spawn(survey::run(Arc::downgrade(&node.inner))));
        Ok(node)
    }

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
    /// least one: those that were put into the log before another node began to lead. Looks for a
    /// leader for `patience`.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] as of [`Node::write`].
    pub async fn write_some(
        &self,
        proposals: Vec<Proposal>,
        patience: Duration,
    ) -> Result<Vec<Written>, StoreError> {
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

    /// Has a snapshot taken, and the log shortened, now.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] where this node takes no part any more.
    pub async fn take_snapshot(&self) -> Result<(), StoreError> {
        let asked = self.inner.raft.trigger().snapshot().await;
        asked.map_err(|error| unavailable(&error))
    }

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

    /// Ends the node. What it promised stays promised.
    pub async fn shutdown(&self) {
        if let Err(error) = self.inner.raft.shutdown().await {
            tracing::error!(%error, "the node did not end well");
        }
    }

    /// Answers what another node says. Whoever carries the message has made sure that it is the
    /// one that it says it is, of the same cluster.
    ///
    /// # Errors
    /// [`CallError::Broken`] where this node cannot answer.
    pub async fn serve(
        &self,
        from: NodeId,
        message: Message<D::Runtime>,
    ) -> Result<Reply<D::Runtime>, CallError> {
        let raft = &self.inner.raft;
        match message {
            Message::Append(rpc) => raft
                .append_entries(rpc)
                .await
                .map(Reply::Append)
                .map_err(|error| broken(&error)),
            Message::Vote(rpc) => {
                let vote = raft.vote(rpc).await;
                vote.map(Reply::Vote).map_err(|error| broken(&error))
            }
            Message::PreVote(rpc) => {
                let vote = raft.pre_vote(rpc).await;
                vote.map(Reply::Vote).map_err(|error| broken(&error))
            }
            Message::TransferLeader(rpc) => {
                let taken = raft.handle_transfer_leader(rpc).await;
                taken
                    .map(Reply::TransferLeader)
                    .map_err(|error| broken(&error))
            }
            Message::Chunk(vote, chunk) => {
                let receiver = self.inner.receiver.clone();
                let taken = self.inner.disk.run(move || receiver.take(from, &chunk));
                let taken = taken.await.and_then(|taken| taken);
                match taken.map_err(|error| broken(&error))? {
                    Received::More(next) => Ok(Reply::Chunk(next)),
                    Received::Whole(snapshot) => self.install(vote, snapshot).await,
                }
            }
            Message::About => Ok(Reply::About(Box::new(self.about(from)))),
            message @ (Message::Write(_) | Message::ReadIndex | Message::Change(_)) => {
                // One that was removed while it was away does not know it yet.
                let status = self.status();
                if status.leader == Some(status.id)
                    && status.members.membership().get_node(&from).is_none()
                {
                    return Err(CallError::Broken(format!(
                        "node {from} is no member any more"
                    )));
                }
                match self.lead(message).await {
                    Ok(reply) => Ok(reply),
                    Err(Refused::NotLeader(leader)) => Ok(Reply::NotLeader(leader)),
                    Err(Refused::Stopped(reason)) => Err(CallError::Broken(reason)),
                }
            }
        }
    }

    async fn install(
        &self,
        vote: crate::Vote,
        snapshot: crate::SnapshotFile,
    ) -> Result<Reply<D::Runtime>, CallError> {
        let draft = snapshot.path().to_owned();
        let snapshot = openraft::Snapshot {
            meta: snapshot.manifest().meta(),
            snapshot,
        };
        let installed = self.inner.raft.install_full_snapshot(vote, snapshot).await;
        // One that was not wanted: it has no other name yet.
        let removed = self.inner.disk.run(move || std::fs::remove_file(draft));
        drop(removed.await);
        installed
            .map(Reply::Snapshot)
            .map_err(|error| broken(&error))
    }

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
                Err(Refused::NotLeader(None))
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
        let oldest = self.oldest();
        let wrong = |proposal: &Proposal| proposal.check(oldest).err();
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
            let mut hint = None;
            loop {
                let leader = hint.take().or_else(|| self.status().leader);
                let answer = self.ask(leader, message.clone());
                match D::Runtime::timeout(attempt, answer).await {
                    Ok(Ok(Reply::NotLeader(leader))) => hint = leader,
                    Ok(Ok(reply)) => {
                        if let Some(answer) = wanted(reply) {
                            return Ok(answer);
                        }
                    }
                    Ok(Err(Refused::NotLeader(leader))) => hint = leader,
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

impl<D: Disk, T> Inner<D, T> {
    fn is_full(&self) -> bool {
        self.log.is_full() || self.room.is_wanted()
    }

    /// Who is to lead instead of this node, where it leads and another voter could: the one that
    /// has most of the log.
    fn successor(&self) -> Option<NodeId> {
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
async fn yield_when_full<D: Disk, T: Transport<D::Runtime>>(node: Weak<Inner<D, T>>) {
    loop {
        D::Runtime::sleep(LOG_LOOK).await;
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

/// Has a snapshot taken when the log has become large, however few entries that are.
async fn shorten<D: Disk>(
    raft: Raft<Types<D::Runtime>, StateMachine<D>>,
    since: Arc<AtomicU64>,
    limit: u64,
) {
    loop {
        D::Runtime::sleep(LOG_LOOK).await;
        if raft.metrics().borrow_watched().running_state.is_err() {
            return;
        }
        if since.load(Ordering::Relaxed) >= limit && raft.trigger().snapshot().await.is_err() {
            return;
        }
    }
}

pub(crate) fn unavailable(error: &impl ToString) -> StoreError {
    StoreError::Unavailable(error.to_string())
}

fn broken(error: &impl ToString) -> CallError {
    CallError::Broken(error.to_string())
}
