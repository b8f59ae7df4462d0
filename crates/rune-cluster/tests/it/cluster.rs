//! A cluster in this process: its nodes have their own directories and sockets.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rune_cluster::{
    Cluster, ClusterObjects, ClusterSecret, Identity, Member, MemberConfig, MemberError,
    PeerTransport,
};
use rune_raft::{BasicNode, Node, NodeConfig, NodeId, Threads};
use rune_storage::{Digest, ObjectStore, SqliteStore};
use rune_store_runtime::{CachePut, Command, Timestamp};
use tokio::net::TcpListener;

pub(crate) const SECRET: &str = "a secret of a cluster in a test, long enough";

pub(crate) type TestNode = Node<Threads, PeerTransport>;

pub(crate) fn identity(secret: &str, node: NodeId) -> Identity {
    let secret = ClusterSecret::parse(&secret.to_owned().into()).unwrap();
    Identity::new(&secret, node).unwrap()
}

/// Elections that a slow machine does not disturb.
pub(crate) fn settings() -> NodeConfig {
    NodeConfig {
        heartbeat: Duration::from_millis(100),
        election: Duration::from_millis(500),
        patience: Duration::from_secs(5),
        ..NodeConfig::default()
    }
}

pub(crate) struct Peer {
    pub(crate) node: TestNode,
    pub(crate) store: Arc<SqliteStore>,
    pub(crate) cluster: Cluster,
    pub(crate) objects: ClusterObjects,
    pub(crate) addr: String,
    member: Member,
    database: PathBuf,
}

impl Peer {
    /// Starts a node of the cluster with this secret.
    pub(crate) async fn start(dir: &Path, secret: &str, id: NodeId, config: NodeConfig) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        Self::start_at(listener, dir, secret, id, config)
            .await
            .unwrap()
    }

    pub(crate) async fn start_at(
        listener: TcpListener,
        dir: &Path,
        secret: &str,
        id: NodeId,
        protocol: NodeConfig,
    ) -> Result<Self, MemberError> {
        let objects = ObjectStore::open_directory(&dir.join("objects")).unwrap();
        Self::open(listener, dir, secret, id, objects, protocol).await
    }

    /// Starts a node with other objects.
    pub(crate) async fn start_with(dir: &Path, id: NodeId, objects: ObjectStore) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let opened = Self::open(listener, dir, SECRET, id, objects, settings());
        opened.await.unwrap()
    }

    async fn open(
        listener: TcpListener,
        dir: &Path,
        secret: &str,
        id: NodeId,
        objects: ObjectStore,
        protocol: NodeConfig,
    ) -> Result<Self, MemberError> {
        let addr = listener.local_addr().unwrap().to_string();
        let database = dir.join("rune.db");
        let config = MemberConfig {
            secret: ClusterSecret::parse(&secret.to_owned().into()).unwrap(),
            node: id,
            listener,
            database: database.clone(),
            objects,
            protocol,
        };
        let member = Member::open(config).await?;
        Ok(Self {
            node: member.node().clone(),
            store: member.store(),
            cluster: member.cluster(),
            objects: member.objects().clone(),
            addr,
            member,
            database,
        })
    }

    pub(crate) fn at(&self) -> BasicNode {
        BasicNode::new(&self.addr)
    }

    /// Ends the node.
    pub(crate) async fn end(self) {
        self.member.close().await.unwrap();
    }

    /// What its rows are.
    pub(crate) fn digest(&self) -> Digest {
        let db = rusqlite::Connection::open(&self.database).unwrap();
        rune_storage::logical_digest(&db).unwrap()
    }
}

/// Nodes that are a cluster, with the directory that they are in.
pub(crate) async fn cluster(size: u64, config: &NodeConfig) -> (Vec<Peer>, tempfile::TempDir) {
    let dir = tempfile::tempdir().unwrap();
    let mut peers = Vec::new();
    for id in 1..=size {
        let path = dir.path().join(id.to_string());
        peers.push(Peer::start(&path, SECRET, id, config.clone()).await);
    }
    let members = (1..).zip(&peers).map(|(id, peer)| (id, peer.at()));
    let members: BTreeMap<_, _> = members.collect();
    peers[0].node.initialize(members).await.unwrap();
    // From here on every one knows the others.
    for peer in &peers {
        peer.node.linearizable().await.unwrap();
    }
    (peers, dir)
}

/// A command that puts a value into the cache.
pub(crate) fn put(key: &str, value: impl Into<serde_json::Value>) -> Command {
    let put = CachePut {
        key: key.to_owned(),
        value: value.into(),
        expires_at: Timestamp::from_millis(i64::MAX),
    };
    Command::new(Timestamp::from_millis(1_795_000_000_000), put)
}

/// Waits until these have the same rows, with everything that was written before now.
pub(crate) async fn converged(peers: &[&Peer]) {
    for peer in peers {
        peer.node.linearizable().await.unwrap();
    }
    let digests: Vec<_> = peers.iter().map(|peer| peer.digest()).collect();
    assert!(digests.windows(2).all(|two| two[0] == two[1]));
}
