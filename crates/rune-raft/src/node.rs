//! A node of a cluster.

mod compaction;
mod config;
mod forward;
mod lead;
mod propose;
mod room;
mod status;

use std::sync::{Arc, Mutex};

use openraft::{AsyncRuntime as _, Raft};
use rune_storage::LogOwner;
use rune_store_runtime::StoreError;

use self::compaction::Compaction;
pub use self::config::NodeConfig;
use self::forward::InstantOf;
pub use self::forward::{MAX_WRITE_BYTES, MAX_WRITE_COMMANDS, Written};
pub use self::lead::Lead;
pub(crate) use self::propose::Refused;
pub use self::status::Status;
use crate::state_machine::{Applied, Retired, Room};
use crate::survey::{self, Survey};
use crate::{
    CallError, Disk, LogStatus, LogStore, Message, Network, NodeId, Received, Receiver, Reply,
    SnapshotDir, SnapshotFile, StateMachine, Transport, Types, Vote,
};

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
    /// Numbers of nodes that were members and are not.
    pub(crate) retired: Retired,
    /// Under which vote this node was last seen to lead, and since when.
    led: Mutex<Option<(Vote, InstantOf<D>)>>,
    pub(crate) applied: Arc<Applied>,
    pub(crate) disk: D,
    pub(crate) survey: Survey,
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
        let (status, retired, sizes) = (log.status(), state.retired(), log.sizes());
        let (applied, room) = (state.applied(), state.room());
        let raft = Raft::new(id, Arc::new(protocol), network, log, state);
        let raft = raft.await.map_err(|error| unavailable(&error))?;
        let compaction = Compaction {
            raft: raft.clone(),
            snapshots: Arc::clone(&snapshots),
            sizes,
            config: config.clone(),
        };
        drop(D::Runtime::spawn(compaction.run()));
        let node = Self {
            inner: Arc::new(Inner {
                id,
                config,
                raft,
                transport,
                receiver: Receiver::new(snapshots),
                log: status,
                room,
                retired,
                led: Mutex::default(),
                applied,
                disk,
                survey: Survey::default(),
            }),
        };
        drop(D::Runtime::spawn(room::yield_when_full(Arc::downgrade(
            &node.inner,
        ))));
        drop(D::Runtime::spawn(survey::run(Arc::downgrade(&node.inner))));
        Ok(node)
    }

    /// Has a snapshot taken, and the log shortened, now.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] where this node takes no part any more.
    pub async fn take_snapshot(&self) -> Result<(), StoreError> {
        let asked = self.inner.raft.trigger().snapshot().await;
        asked.map_err(|error| unavailable(&error))
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
                    Err(Refused::Alone) => Ok(Reply::Alone),
                    Err(Refused::Stopped(reason)) => Err(CallError::Broken(reason)),
                }
            }
        }
    }

    async fn install(
        &self,
        vote: Vote,
        snapshot: SnapshotFile,
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
}

impl<D: Disk, T> Inner<D, T> {
    fn is_full(&self) -> bool {
        self.log.is_full() || self.room.is_wanted()
    }
}

pub(crate) fn unavailable(error: &impl ToString) -> StoreError {
    StoreError::Unavailable(error.to_string())
}

fn broken(error: &impl ToString) -> CallError {
    CallError::Broken(error.to_string())
}
