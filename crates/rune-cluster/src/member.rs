//! A node with all that belongs to it.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use rune_raft::{
    FoundError, Lead, LogStore, Node, NodeConfig, NodeId, SnapshotDir, StateMachine, Threads, found,
};
use rune_runtime::Tasks;
use rune_storage::{
    DataDirLock, LogOwner, ObjectStore, Replica, SqliteStore, StorageConfig, StorageError,
    create_private_dir,
};
use rune_store_runtime::{Leadership, StoreError};
use tokio::net::TcpListener;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::log::{ClusterLog, Led};
use crate::objects::Wanted;
use crate::server::{Clients, ClientsCell};
use crate::{
    Cluster, ClusterObjects, ClusterSecret, Identity, IdentityError, PeerServer, PeerTransport,
};

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
    /// Where it keeps its objects: in a bucket that all nodes have, or in a directory that no other node has.
    pub objects: ObjectStore,
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
        "{0} is the database of a daemon that was in no cluster; start this node with an empty data directory, or with \
         what `rune restore --node-id` makes of a backup"
    )]
    Standalone(PathBuf),
    /// A cluster could not be begun with a database.
    #[error("cannot begin a cluster with {path}")]
    Found {
        /// The database.
        path: PathBuf,
        /// Why.
        #[source]
        source: Box<FoundError>,
    },
    /// The protocol cannot go on with what is there.
    #[error("cannot start the node")]
    Start(#[source] StoreError),
}

/// A node of a cluster, open.
pub struct Member {
    node: Node<Threads, PeerTransport>,
    cluster: Cluster,
    identity: Identity,
    transport: PeerTransport,
    store: Arc<SqliteStore>,
    objects: ClusterObjects,
    tasks: Tasks,
    leader: watch::Receiver<Lead>,
    clients: ClientsCell,
    patience: Duration,
    lock: Mutex<Option<DataDirLock>>,
}

/// The next time for which a node leads.
pub struct Term {
    lead: Arc<OnceLock<Leadership>>,
    /// The store of the node, for what only its leader may write: refused before there is one, and not applied as of any other one. Once the node is
    /// not that leader any more, what is written to it has no answer at all.
    pub store: Arc<SqliteStore>,
    /// Fires when a command found that the node is not that leader any more; [`Member::leader`] may say so earlier, or later.
    pub deposed: CancellationToken,
}

impl Term {
    /// From now on the store writes as this leader; the first one counts.
    pub fn begin(&self, lead: Leadership) {
        self.lead.get_or_init(|| lead);
    }
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
            objects,
            protocol,
        } = config;
        let identity = Identity::new(&secret, id)?;
        let directory = directory_of(&database);
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
        let log = LogStore::open(&log_file, &owner, Threads)?;
        let path = directory.join("snapshots");
        let no_snapshots = |source| MemberError::Snapshots {
            path: path.clone(),
            source,
        };
        let snapshots = Arc::new(SnapshotDir::open(&path).map_err(no_snapshots)?);
        let replica = Replica::open(&database)?;
        let state = StateMachine::new(replica, Arc::clone(&snapshots), Threads);
        let wanted = Arc::new(Wanted::default());
        let state = state.map_err(no_snapshots)?.observed_by(wanted.clone());
        let tasks = Tasks::new();
        let transport = PeerTransport::new(identity.clone(), tasks.clone());
        let patience = protocol.patience;
        let carried = transport.clone();
        let node = Node::start(&owner, protocol, carried, log, state, snapshots, Threads);
        let node = node.await.map_err(MemberError::Start)?;
        let leader = watch_leader(&node, &tasks);
        succeed_leaders(&node, &transport, &tasks);
        let cluster = Cluster::new(node.clone(), &identity, log_file);
        let log = ClusterLog::new(node.clone(), tasks.clone(), patience, None);
        let readers = StorageConfig::DEFAULT_READERS;
        let store = SqliteStore::replicated(database, readers, Arc::new(log))?;
        let store = Arc::new(store);
        let objects = ClusterObjects::new(
            objects,
            Arc::clone(&store),
            node.clone(),
            transport.clone(),
            tasks.clone(),
            patience,
            wanted,
        );
        let clients = ClientsCell::default();
        let server = PeerServer::new(listener, identity.clone(), tasks.clone());
        let server = server.with_clients(Arc::clone(&clients));
        tasks.spawn("cluster-server", server.run(node.clone(), objects.clone()));
        tasks.spawn("cluster-objects", objects.clone().catch_up());
        Ok(Self {
            node,
            cluster,
            identity,
            transport,
            store,
            objects,
            tasks,
            leader,
            clients,
            patience,
            lock: Mutex::new(Some(lock)),
        })
    }

    /// Makes a database that nobody has open that of the first node of a new cluster, which others
    /// reach at `addr`. The cluster has begun with it when it is opened.
    ///
    /// # Errors
    /// A [`MemberError`].
    pub fn found(
        secret: &ClusterSecret,
        node: NodeId,
        addr: &str,
        database: &Path,
    ) -> Result<(), MemberError> {
        let directory = directory_of(database);
        let _lock = DataDirLock::acquire(directory)?;
        let owner = LogOwner {
            cluster: secret.cluster(),
            node,
        };
        let log = directory.join(Self::LOG_FILE);
        found(database, &log, &owner, addr).map_err(|source| MemberError::Found {
            path: database.to_owned(),
            source: Box::new(source),
        })
    }

    /// Who leads, as it changes.
    #[must_use]
    pub fn leader(&self) -> watch::Receiver<Lead> {
        self.leader.clone()
    }

    /// What the engine of this node works with when it leads next.
    #[must_use]
    pub fn next_term(&self) -> Term {
        let led = Led::default();
        let (lead, deposed) = (Arc::clone(&led.lead), led.deposed.clone());
        let log = ClusterLog::new(
            self.node.clone(),
            self.tasks.clone(),
            self.patience,
            Some(led),
        );
        Term {
            lead,
            store: Arc::new(self.store.ordered_by(Arc::new(log))),
            deposed,
        }
    }

    /// How the other nodes are reached.
    #[must_use]
    pub const fn transport(&self) -> &PeerTransport {
        &self.transport
    }

    /// Has what clients ask of other nodes, and these of this one, be answered; the first one given counts.
    pub fn answer_with(&self, clients: Arc<dyn Clients>) {
        self.clients.get_or_init(|| clients);
    }

    /// The node in the protocol: membership, reads that are the newest, how it is.
    #[must_use]
    pub const fn node(&self) -> &Node<Threads, PeerTransport> {
        &self.node
    }

    /// What operators do with its cluster.
    #[must_use]
    pub fn cluster(&self) -> Cluster {
        self.cluster.clone()
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

    /// The objects of the cluster.
    #[must_use]
    pub const fn objects(&self) -> &ClusterObjects {
        &self.objects
    }

    /// Takes no part any more, closes the store and gives the data directory free. What the node
    /// promised stays promised.
    ///
    /// # Errors
    /// Those of closing the store.
    pub async fn close(&self) -> Result<(), StorageError> {
        self.node.shutdown().await;
        if !self.tasks.stop(GRACE).await {
            tracing::warn!(tasks = self.tasks.len(), "connections did not end in time");
        }
        let closed = self.store.close().await;
        let lock = self.lock.lock();
        lock.unwrap_or_else(PoisonError::into_inner).take();
        closed
    }
}

/// The directory of a file.
fn directory_of(file: &Path) -> &Path {
    match file.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

/// Has another node lead as soon as it is known that the one that did has ended.
fn succeed_leaders(node: &Node<Threads, PeerTransport>, transport: &PeerTransport, tasks: &Tasks) {
    let (node, mut ended, shutdown) = (node.clone(), transport.ended(), tasks.shutdown());
    let succeed = async move {
        loop {
            let gone = match ended.recv().await {
                Ok(gone) => gone,
                Err(RecvError::Lagged(_)) => continue,
                Err(RecvError::Closed) => return,
            };
            if let Err(error) = node.succeed(gone).await {
                tracing::debug!(%error, gone, "not stood for election");
            }
        }
    };
    tasks.spawn("cluster-succession", async move {
        shutdown.run_until_cancelled(succeed).await;
    });
}

/// Who leads, for whoever wants to know.
fn watch_leader(node: &Node<Threads, PeerTransport>, tasks: &Tasks) -> watch::Receiver<Lead> {
    let sender = watch::Sender::new(node.leader());
    let receiver = sender.subscribe();
    let (node, shutdown) = (node.clone(), tasks.shutdown());
    tasks.spawn("cluster-leader", async move {
        let told = node.watch_leader(|lead| {
            sender.send_if_modified(|known| {
                let is_new = *known != lead;
                *known = lead;
                is_new
            });
        });
        shutdown.run_until_cancelled(told).await;
        sender.send_replace(Lead::Nobody);
    });
    receiver
}
