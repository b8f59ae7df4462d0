//! A node with all that belongs to it.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rune_raft::{LogStore, Node, NodeConfig, NodeId, SnapshotDir, StateMachine, Threads};
use rune_runtime::Tasks;
use rune_storage::{
    DataDirLock, Durability, LogOwner, Replica, SqliteStore, StorageConfig, StorageError,
    create_private_dir,
};
use rune_store_runtime::StoreError;
use tokio::net::TcpListener;

use crate::log::ClusterLog;
use crate::{ClusterSecret, Identity, IdentityError, PeerServer, PeerTransport};

/// How long connections get to end.
const GRACE: Duration = Duration::from_secs(5);

/// A node that is to be opened.
pub struct MemberConfig {
    /// What its cluster has in common.
    pub secret: ClusterSecret,
    /// Its number.
    pub node: NodeId,
    /// Where other nodes reach it.
    pub listener: TcpListener,
    /// The database. Its directory is the data directory: created where it is missing, locked while
    /// the node is open.
    pub database: PathBuf,
    /// How it takes part.
    pub protocol: NodeConfig,
}

/// Why a node could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum MemberError {
    /// It has no identity.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// Its files cannot be used.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// The directory of its snapshots cannot be used.
    #[error("cannot use the snapshots in {path}")]
    Snapshots {
        /// The directory.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The database was written without a log, so that no other node has what is in it.
    #[error(
        "{0} is the database of a daemon that was in no cluster; start this node with an empty data directory"
    )]
    Standalone(PathBuf),
    /// The protocol cannot go on with what is there.
    #[error("cannot start the node")]
    Start(#[source] StoreError),
}

/// A node of a cluster, open.
pub struct Member {
    node: Node<Threads, PeerTransport>,
    identity: Identity,
    store: Arc<SqliteStore>,
    tasks: Tasks,
    _lock: DataDirLock,
}

impl Member {
    /// Name of the file of the log, beside the database.
    pub const LOG_FILE: &'static str = "raft.db";

    /// Opens the files of a node, or makes them, and takes part in the cluster that they are of. A
    /// new node waits until it is told of one, or to begin one.
    ///
    /// # Errors
    /// A [`MemberError`]; [`StorageError::Owner`] where the files are those of another node.
    pub async fn open(config: MemberConfig) -> Result<Self, MemberError> {
        let MemberConfig {
            secret,
            node: id,
            listener,
            database,
            protocol,
        } = config;
        let identity = Identity::new(&secret, id)?;
        let directory = match database.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        create_private_dir(directory).map_err(|source| StorageError::Io {
            action: "create",
            path: directory.to_owned(),
            source,
        })?;
        let lock = DataDirLock::acquire(directory)?;
        let owner = LogOwner {
            cluster: identity.cluster().to_owned(),
            node: id,
        };
        let log_file = directory.join(Self::LOG_FILE);
        // The log is made first: a database without one is not that of a node.
        if database.exists() && !log_file.exists() {
            return Err(MemberError::Standalone(database));
        }
        let log = LogStore::open(&log_file, &owner, Durability::Full, Threads)?;
        let path = directory.join("snapshots");
        let no_snapshots = |source| MemberError::Snapshots {
            path: path.clone(),
            source,
        };
        let snapshots = Arc::new(SnapshotDir::open(&path).map_err(no_snapshots)?);
        let replica = Replica::open(&database)?;
        let state = StateMachine::new(replica, Arc::clone(&snapshots), Threads);
        let state = state.map_err(no_snapshots)?;
        let tasks = Tasks::new();
        let transport = PeerTransport::new(identity.clone(), tasks.clone());
        let patience = protocol.patience;
        let node = Node::start(&owner, protocol, transport, log, state, snapshots, Threads);
        let node = node.await.map_err(MemberError::Start)?;
        let server = PeerServer::new(listener, identity.clone(), tasks.clone());
        tasks.spawn("cluster-server", server.run(node.clone()));
        let log = ClusterLog::new(node.clone(), tasks.clone(), patience);
        let readers = StorageConfig::DEFAULT_READERS;
        let store = SqliteStore::replicated(database, readers, Arc::new(log))?;
        Ok(Self {
            node,
            identity,
            store: Arc::new(store),
            tasks,
            _lock: lock,
        })
    }

    /// The node in the protocol: membership, reads that are the newest, how it is.
    #[must_use]
    pub const fn node(&self) -> &Node<Threads, PeerTransport> {
        &self.node
    }

    /// Who it is.
    #[must_use]
    pub const fn identity(&self) -> &Identity {
        &self.identity
    }

    /// Its store. What is written to it is written to the cluster, and what was answered is read
    /// from it; what others wrote is read when it has been applied here.
    #[must_use]
    pub fn store(&self) -> Arc<SqliteStore> {
        Arc::clone(&self.store)
    }

    /// Takes no part any more, closes the store and gives the data directory free. What the node
    /// promised stays promised.
    ///
    /// # Errors
    /// Those of closing the store.
    pub async fn close(self) -> Result<(), StorageError> {
        self.node.shutdown().await;
        if !self.tasks.stop(GRACE).await {
            tracing::warn!(tasks = self.tasks.len(), "connections did not end in time");
        }
        self.store.close().await
    }
}
