//! The objects of a cluster.
//!
//! In a bucket they are every node's, and nothing of what follows happens. Else each node has a directory of its own, and
//! the nodes give objects to each other, over a connection that nothing else waits for.
//!
//! # What holds
//!
//! * **An object that is answered for is on a majority of the voters**, synced. So is its row, which is written after
//!   that. Whatever majority goes on has the row, and a node that has the object; so whoever leads can read it.
//! * **It is seen whole or not at all**: whoever receives one compares it with its digest before it is there.
//! * **Every node gets to have all that its rows name.** What is applied is looked through for digests, and what is not here
//!   is pulled, in the background ([`catch_up`]); after a start, and where a snapshot replaced the rows, all rows
//!   are. Members that have no vote do so, too, and are asked like all others.
//!
//! What a crash leaves:
//!
//! * Before an object is on a majority: some copies, and no row that names them. They are removed as what nobody
//!   refers to. Whoever stored it has no answer, and stores it again.
//! * After that, before its row: the same.
//! * After its row: a majority of the voters has it, and each other node pulls it once it applies the row.
//! * In the middle of receiving one: a file under another name, which is no object.
//!
//! What does *not* hold: when voters are added, or one is taken out, what was a majority may be none of the new ones. Until the
//! others have caught up ([`ClusterObjects::status_of`] says so of a node) an object may have as few copies as before the
//! change, less those on nodes that were taken out: fewer nodes may fail at once than later. Nothing is lost by the change
//! alone, because what the nodes that stay lack is pulled from those that have it. Where a node is to be taken out for good, the
//! others should have caught up before.
//!
//! # Removing what nobody refers to
//!
//! Each node looks through its own directory, by the rows that it has. It first hears from the leader what the newest row
//! is, and has applied it: one that is behind, or cut off, removes nothing. What it removes is older than the grace, and no
//! row named it then. A row may name it later only if somebody stored it again: no row comes as late as the grace
//! after its object. Storing it again made it new on a majority of the voters; if this node is not among them it removes an
//! old copy, and pulls a new one when it applies the row. What is stored here meanwhile is new and not removed; so is what was
//! pulled.
//!
//! From a bucket the node that leads removes, by the same rule. One that is stopped for long between looking at how old an
//! object is and removing it, is no leader any more then, and does not know it: what another node stored again within that
//! moment is removed. So the grace should be longer than any pause in which somebody stores the same bytes again; by default
//! nothing is removed from buckets.

mod catch_up;
mod copies;
mod pull;
mod serve;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::stream::try_unfold;
use futures_util::{Stream, StreamExt as _};
use http_body_util::BodyDataStream;
use hyper::body::Incoming;
use rune_raft::{Members, Node, NodeId, Threads};
use rune_runtime::Tasks;
use rune_storage::{Digest, ObjectError, ObjectStore, SqliteStore, StorageError, Swept};
use rune_store_runtime::{BlobStore, Reject, StoreError, Timestamp};
use tokio::sync::Semaphore;

pub(crate) use catch_up::Wanted;
pub use serve::ObjectsStatus;

use crate::PeerTransport;
use pull::Pull;

/// The path of everything about objects.
pub(crate) const OBJECTS: &str = "/objects";

/// How long one may take from node to node.
const TRANSFER: Duration = Duration::from_secs(60);
/// How long nothing may come of one that is under way.
const SILENCE: Duration = Duration::from_secs(10);
/// Objects that one other node is sent at a time.
const SENT_AT_A_TIME: usize = 4;
/// Objects that are pulled at a time, and that are received at a time.
const AT_A_TIME: usize = 8;

/// The objects of a cluster, on one of its nodes. Cheap to clone.
#[derive(Clone)]
pub struct ClusterObjects {
    inner: Arc<Inner>,
}

struct Inner {
    id: NodeId,
    local: ObjectStore,
    store: Arc<SqliteStore>,
    node: Node<Threads, PeerTransport>,
    transport: PeerTransport,
    tasks: Tasks,
    /// How long a node that does not take an object is tried.
    patience: Duration,
    /// By node, the right to send it one.
    sending: Mutex<HashMap<NodeId, Arc<Semaphore>>>,
    pulls: Mutex<HashMap<Digest, Pull>>,
    pulling: Semaphore,
    receiving: Semaphore,
    wanted: Arc<Wanted>,
}

/// Another member.
#[derive(Debug, Clone)]
struct Peer {
    id: NodeId,
    addr: String,
}

impl ClusterObjects {
    /// The objects of a node, which are kept in `local` here.
    pub(crate) fn new(
        local: ObjectStore,
        store: Arc<SqliteStore>,
        node: Node<Threads, PeerTransport>,
        transport: PeerTransport,
        tasks: Tasks,
        patience: Duration,
        wanted: Arc<Wanted>,
    ) -> Self {
        Self {
            inner: Arc::new(Inner {
                id: node.status().id,
                local,
                store,
                node,
                transport,
                tasks,
                patience,
                sending: Mutex::default(),
                pulls: Mutex::default(),
                pulling: Semaphore::new(AT_A_TIME),
                receiving: Semaphore::new(AT_A_TIME),
                wanted,
            }),
        }
    }

    /// Removes objects that were written before a moment and that nobody refers to, where it is for this node to do so. Nothing
    /// is answered where a backup is being made, which keeps all of them.
    ///
    /// # Errors
    /// [`StorageError`] where the rows cannot be read, [`StorageError::Objects`].
    pub async fn sweep(&self, written_before: Timestamp) -> Result<Option<Swept>, StorageError> {
        let Inner {
            node, store, local, ..
        } = &*self.inner;
        let leads = || node.status().leader == Some(self.inner.id);
        if self.inner.is_shared() && !leads() {
            return Ok(Some(Swept::default()));
        }
        let newest = async { node.linearizable().await.is_ok() };
        store.sweep(local, written_before, newest).await
    }

    /// What this node keeps them in.
    #[must_use]
    pub fn local(&self) -> &ObjectStore {
        &self.inner.local
    }
}

#[async_trait]
impl BlobStore for ClusterObjects {
    /// Answers once a majority of the voters has them.
    async fn put(&self, bytes: Bytes) -> Result<String, StoreError> {
        let digest = self.inner.local.put(bytes.clone()).await?;
        if !self.inner.is_shared() {
            self.inner.replicate(digest, bytes).await?;
        }
        Ok(digest.to_string())
    }

    /// Those that are not here are asked for everywhere.
    async fn get(&self, digest: &str) -> Result<Bytes, StoreError> {
        let unknown = |_| Reject::not_found("object", &digest);
        let digest: Digest = digest.parse().map_err(unknown)?;
        let error = match self.inner.local.get(digest).await {
            Ok(bytes) => return Ok(bytes),
            Err(error) if self.inner.is_shared() => return Err(error.into()),
            Err(error) => error,
        };
        if !matches!(error, ObjectError::NotFound(_)) {
            tracing::error!(%digest, %error, "an object is taken from another node");
        }
        self.inner.pull(digest).await?;
        Ok(self.inner.local.get(digest).await?)
    }
}

impl Inner {
    /// Whether every node reads and writes the same place.
    fn is_shared(&self) -> bool {
        self.local.bucket().is_some()
    }

    /// All members, of whom this node is one.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] where this node is none, as far as it knows: one that joins or was just started may not have
    /// heard of the others yet, and can neither say that nobody has an object nor that enough have.
    fn members(&self) -> Result<Arc<Members>, StoreError> {
        let members = self.node.status().members;
        if members.membership().get_node(&self.id).is_some() {
            return Ok(members);
        }
        Err(StoreError::Unavailable(format!(
            "node {} does not know the members of its cluster yet",
            self.id
        )))
    }

    /// All other members.
    ///
    /// # Errors
    /// Those of [`Inner::members`].
    fn peers(&self) -> Result<Vec<Peer>, StoreError> {
        let members = self.members()?;
        let members = members.membership().nodes();
        let others = members.filter(|(id, _)| **id != self.id);
        let peer = |(id, node): (&NodeId, &rune_raft::BasicNode)| Peer {
            id: *id,
            addr: node.addr.clone(),
        };
        Ok(others.map(peer).collect())
    }
}

/// What another node says, as it comes.
fn arriving(
    body: Incoming,
    digest: Digest,
) -> impl Stream<Item = Result<Bytes, ObjectError>> + Send {
    let interrupted = move |reason| ObjectError::Interrupted { digest, reason };
    try_unfold(BodyDataStream::new(body), move |mut body| async move {
        let next = tokio::time::timeout(SILENCE, body.next()).await;
        let next = next.map_err(|_| interrupted(format!("nothing came for {SILENCE:?}")))?;
        let next = next.transpose();
        let next = next.map_err(|error| interrupted(error.to_string()))?;
        Ok(next.map(|bytes| (bytes, body)))
    })
}

/// What one was locked for, whoever panicked with it.
fn lock<T>(of: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    of.lock().unwrap_or_else(PoisonError::into_inner)
}
