//! What nodes say to each other, and the protocol's client over whatever carries it.

use std::collections::BTreeMap;
use std::future::Future;
use std::io;
use std::time::Duration;

use openraft::errors::{
    NetworkError, RPCError, ReplicationClosed, StreamingError, Timeout, Unreachable,
};
use openraft::network::RPCOption;
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, TransferLeaderRequest,
    TransferLeaderResponse, VoteRequest, VoteResponse,
};
use openraft::{
    AsyncRuntime, BasicNode, OptionalSend, RPCTypes, RaftNetworkFactory, RaftNetworkV2, Snapshot,
};
use rune_store_runtime::Reject;
use serde::{Deserialize, Serialize};

use crate::entry::size;
use crate::{
    About, Change, Disk, Leader, LogEntry, Manifest, NodeId, Proposal, SnapshotFile, Types, Vote,
    Written,
};

/// How long a part of a snapshot may take to be written by the other side.
const CHUNK_TTL: Duration = Duration::from_secs(10);

/// Entries get so many times the time of a heartbeat to be answered: they wait for a disk.
const APPEND_BEATS: u32 = 4;

/// What a megabyte of entries gets in addition. The protocol sends entries that were not answered
/// again from their beginning, so what never has enough time never arrives.
const MEBIBYTE_TTL: Duration = Duration::from_secs(1);

/// What a megabyte of a snapshot gets in addition to be examined and installed.
const INSTALL_TTL: Duration = Duration::from_millis(100);

/// Parts that may fail to go further before the transfer is begun anew.
const MAX_STALLS: u32 = 8;

/// What one node asks of another.
#[derive(Debug, Serialize, Deserialize)]
#[serde(bound = "")]
pub enum Message<R: AsyncRuntime> {
    /// Replicates entries; without entries a heartbeat.
    Append(AppendEntriesRequest<Types<R>>),
    /// Asks for a vote.
    Vote(VoteRequest<Types<R>>),
    /// Asks whether a vote would be given.
    PreVote(VoteRequest<Types<R>>),
    /// A part of a snapshot, from the leader with this vote.
    Chunk(Vote, Chunk),
    /// Hands leadership over.
    TransferLeader(TransferLeaderRequest<Types<R>>),
    /// Commands in their order, from a node that is not the leader.
    Write(Vec<Proposal>),
    /// Asks how far one has to have applied to read what was written before now.
    ReadIndex,
    /// Asks for a change of who takes part.
    Change(Change),
    /// Asks a node how it is.
    About,
}

// By hand, because deriving it would ask the same of the runtime.
impl<R: AsyncRuntime> Clone for Message<R> {
    fn clone(&self) -> Self {
        match self {
            Self::Append(rpc) => Self::Append(rpc.clone()),
            Self::Vote(rpc) => Self::Vote(rpc.clone()),
            Self::PreVote(rpc) => Self::PreVote(rpc.clone()),
            Self::Chunk(vote, chunk) => Self::Chunk(*vote, chunk.clone()),
            Self::TransferLeader(rpc) => Self::TransferLeader(rpc.clone()),
            Self::Write(proposals) => Self::Write(proposals.clone()),
            Self::ReadIndex => Self::ReadIndex,
            Self::Change(change) => Self::Change(change.clone()),
            Self::About => Self::About,
        }
    }
}

/// The answer to a [`Message`].
#[derive(Debug, Serialize, Deserialize)]
#[serde(bound = "")]
pub enum Reply<R: AsyncRuntime> {
    /// To [`Message::Append`].
    Append(AppendEntriesResponse<Types<R>>),
    /// To [`Message::Vote`] and [`Message::PreVote`].
    Vote(VoteResponse<Types<R>>),
    /// To [`Message::Chunk`] where the next one begins here.
    Chunk(u64),
    /// To the last [`Message::Chunk`].
    Snapshot(SnapshotResponse<Types<R>>),
    /// To [`Message::TransferLeader`].
    TransferLeader(TransferLeaderResponse<Types<R>>),
    /// To [`Message::Write`]: the first of the commands, at least one. Of the others nothing is known.
    Written(Vec<Written>),
    /// To [`Message::ReadIndex`]: the index.
    ReadIndex(u64),
    /// To [`Message::Change`] where it was made, or will not be.
    Changed(Result<(), Reject>),
    /// To [`Message::About`].
    About(Box<About>),
    /// To [`Message::Write`], [`Message::ReadIndex`] and [`Message::Change`] where this node cannot
    /// say, and perhaps who can.
    NotLeader(Option<NodeId>),
    /// The same where it leads and does not hear from a majority.
    Alone,
}

/// A part of a snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Chunk {
    /// Which snapshot.
    pub manifest: Manifest,
    /// Where the part begins.
    pub offset: u64,
    /// The part.
    pub bytes: Vec<u8>,
}

/// A message that was not answered.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// It did not get there, and will not soon: there is nobody.
    #[error("unreachable: {0}")]
    Unreachable(String),
    /// Whether it got there is not known.
    #[error("{0}")]
    Broken(String),
}

/// Carries messages. It answers what the other side answered, and need not know what that is.
pub trait Transport<R: AsyncRuntime>: Clone + Send + Sync + 'static {
    /// Sends a message to a node and waits for the answer. The caller gives up after a time and
    /// drops the future; `ttl` says when, for the other side.
    fn call(
        &self,
        target: NodeId,
        node: &BasicNode,
        message: Message<R>,
        ttl: Duration,
    ) -> impl Future<Output = Result<Reply<R>, CallError>> + Send;

    /// Tells who can be called: what is kept for others, or for other places, is of no use any more.
    fn keep(&self, _members: &BTreeMap<NodeId, BasicNode>) {}
}

/// The protocol's client over a transport.
#[derive(Debug, Clone)]
pub struct Network<D, T> {
    id: NodeId,
    transport: T,
    disk: D,
    chunk_bytes: usize,
}

/// The client of one other node.
#[derive(Debug)]
pub struct Link<D, T> {
    network: Network<D, T>,
    target: NodeId,
    node: BasicNode,
}

impl<D, T> Network<D, T> {
    /// The client of node `id`, which sends snapshots in parts of `chunk_bytes`.
    pub const fn new(id: NodeId, transport: T, disk: D, chunk_bytes: usize) -> Self {
        Self {
            id,
            transport,
            disk,
            chunk_bytes,
        }
    }
}

impl<D: Disk, T: Transport<D::Runtime>> RaftNetworkFactory<Types<D::Runtime>> for Network<D, T> {
    type Network = Link<D, T>;

    async fn new_client(&mut self, target: NodeId, node: &BasicNode) -> Link<D, T> {
        Link {
            network: self.clone(),
            target,
            node: node.clone(),
        }
    }
}

impl<D: Disk, T: Transport<D::Runtime>> Link<D, T> {
    async fn call(
        &self,
        action: RPCTypes,
        message: Message<D::Runtime>,
        ttl: Duration,
    ) -> Result<Reply<D::Runtime>, RPCError<Types<D::Runtime>>> {
        let call = self
            .network
            .transport
            .call(self.target, &self.node, message, ttl);
        match D::Runtime::timeout(ttl, call).await {
            Ok(Ok(reply)) => Ok(reply),
            Ok(Err(error @ CallError::Unreachable(_))) => Err(Unreachable::new(&error).into()),
            Ok(Err(error)) => Err(NetworkError::new(&error).into()),
            Err(_) => Err(Timeout {
                action,
                id: self.network.id,
                target: self.target,
                timeout: ttl,
            }
            .into()),
        }
    }

    fn unexpected(&self) -> NetworkError<Types<D::Runtime>> {
        NetworkError::from_string(format!("node {} answered something else", self.target))
    }

    async fn send(
        &self,
        vote: Vote,
        snapshot: SnapshotFile,
        ttl: Duration,
    ) -> Result<SnapshotResponse<Types<D::Runtime>>, StreamingError<Types<D::Runtime>>> {
        let total = snapshot.manifest().bytes;
        let (mut offset, mut stalls) = (0, 0);
        loop {
            let (file, limit) = (snapshot.clone(), self.network.chunk_bytes);
            let bytes = self.network.disk.run(move || file.read(offset, limit));
            let bytes = match bytes.await {
                Ok(Ok(bytes)) => bytes,
                Ok(Err(error)) | Err(error) => return Err(unreadable(&error).into()),
            };
            let end = offset + bytes.len() as u64;
            let manifest = snapshot.manifest().clone();
            let chunk = Chunk {
                manifest,
                offset,
                bytes,
            };
            // The last one is answered when the snapshot is installed. It may get lost like any
            // other, so what it is waited for has to do with the size.
            let install = INSTALL_TTL * u32::try_from(total >> 20).unwrap_or(u32::MAX);
            let more = if end < total { Duration::ZERO } else { install };
            let ttl = ttl.min(CHUNK_TTL + more);
            let message = Message::Chunk(vote, chunk);
            let reply = self.call(RPCTypes::InstallSnapshot, message, ttl).await;
            let next = match reply.map_err(streaming)? {
                Reply::Snapshot(response) => return Ok(response),
                Reply::Chunk(next) => next,
                _ => return Err(self.unexpected().into()),
            };
            if next <= offset {
                stalls += 1;
                if stalls > MAX_STALLS {
                    return Err(self.unexpected().into());
                }
            }
            offset = next.min(total);
        }
    }
}

/// How long entries may take to be on the other side's disk; a heartbeat has `beat`.
fn append_ttl(entries: &[LogEntry], beat: Duration) -> Duration {
    if entries.is_empty() {
        return beat;
    }
    let kibibytes = entries.iter().map(size).sum::<usize>() >> 10;
    let kibibytes = u32::try_from(kibibytes).unwrap_or(u32::MAX);
    beat * APPEND_BEATS + MEBIBYTE_TTL / 1024 * kibibytes
}

fn unreadable<R: AsyncRuntime>(error: &io::Error) -> NetworkError<Types<R>> {
    NetworkError::from_string(format!("the snapshot cannot be read: {error}"))
}

fn streaming<R: AsyncRuntime>(error: RPCError<Types<R>>) -> StreamingError<Types<R>> {
    match error {
        RPCError::Timeout(error) => error.into(),
        RPCError::Unreachable(error) => error.into(),
        RPCError::Network(error) => error.into(),
        RPCError::RemoteError(error) => NetworkError::from_string(error.to_string()).into(),
    }
}

impl<D: Disk, T: Transport<D::Runtime>> RaftNetworkV2<Types<D::Runtime>> for Link<D, T> {
    type SnapshotData = SnapshotFile;

    async fn append_entries(
        &mut self,
        rpc: AppendEntriesRequest<Types<D::Runtime>>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<Types<D::Runtime>>, RPCError<Types<D::Runtime>>> {
        let ttl = append_ttl(&rpc.entries, option.hard_ttl());
        let message = Message::Append(rpc);
        match self.call(RPCTypes::AppendEntries, message, ttl).await? {
            Reply::Append(response) => Ok(response),
            _ => Err(self.unexpected().into()),
        }
    }

    async fn vote(
        &mut self,
        rpc: VoteRequest<Types<D::Runtime>>,
        option: RPCOption,
    ) -> Result<VoteResponse<Types<D::Runtime>>, RPCError<Types<D::Runtime>>> {
        let message = Message::Vote(rpc);
        match self
            .call(RPCTypes::Vote, message, option.hard_ttl())
            .await?
        {
            Reply::Vote(response) => Ok(response),
            _ => Err(self.unexpected().into()),
        }
    }

    async fn pre_vote(
        &mut self,
        rpc: VoteRequest<Types<D::Runtime>>,
        option: RPCOption,
    ) -> Result<VoteResponse<Types<D::Runtime>>, RPCError<Types<D::Runtime>>> {
        let message = Message::PreVote(rpc);
        match self
            .call(RPCTypes::Vote, message, option.hard_ttl())
            .await?
        {
            Reply::Vote(response) => Ok(response),
            _ => Err(self.unexpected().into()),
        }
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: Snapshot<Leader, NodeId, BasicNode, SnapshotFile>,
        cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        option: RPCOption,
    ) -> Result<SnapshotResponse<Types<D::Runtime>>, StreamingError<Types<D::Runtime>>> {
        let send = self.send(vote, snapshot.snapshot, option.hard_ttl());
        match D::Runtime::select2(cancel, send).await {
            openraft::async_runtime::Select2::First(closed) => Err(closed.into()),
            openraft::async_runtime::Select2::Second(sent) => sent,
        }
    }

    async fn transfer_leader(
        &mut self,
        req: TransferLeaderRequest<Types<D::Runtime>>,
        option: RPCOption,
    ) -> Result<TransferLeaderResponse<Types<D::Runtime>>, RPCError<Types<D::Runtime>>> {
        let message = Message::TransferLeader(req);
        match self
            .call(RPCTypes::TransferLeader, message, option.hard_ttl())
            .await?
        {
            Reply::TransferLeader(response) => Ok(response),
            _ => Err(self.unexpected().into()),
        }
    }
}
