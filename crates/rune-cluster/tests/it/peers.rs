//! What nodes do for each other, and for whom they do nothing.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use rune_cluster::PeerTransport;
use rune_raft::{CallError, Change, Message, NodeConfig, NodeId, Reply, Transport as _};
use rune_runtime::Tasks;
use rune_store_runtime::StoreError;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::client::danger::{
    HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier,
};
use tokio_rustls::rustls::crypto::{CryptoProvider, aws_lc_rs};
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer, ServerName, UnixTime};
use tokio_rustls::rustls::{self, ClientConfig, DigitallySignedStruct, SignatureScheme};

use crate::cluster::{Peer, SECRET, TestNode, cluster, converged, identity, put, settings};

const TTL: Duration = Duration::from_secs(10);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_node_writes_and_goes_on_when_the_leader_is_gone() {
    let (peers, _dir) = cluster(3, &settings()).await;
    for (number, peer) in peers.iter().enumerate() {
        let written = peer.node.write(&put(&format!("{number}"), number)).await;
        written.unwrap().outcome.unwrap();
    }
    // What no node could read again is not put into the log, where it would stop all of them.
    let deep = (0..200).fold(serde_json::Value::Null, |value, _| vec![value].into());
    let refused = peers[0].node.write(&put("deep", deep)).await;
    assert!(
        matches!(refused, Err(StoreError::Rejected(_))),
        "{refused:?}"
    );
    converged(&peers.iter().collect::<Vec<_>>()).await;

    let leader = peers[0].node.status().leader.unwrap();
    let (gone, mut left): (Vec<_>, Vec<_>) = peers
        .into_iter()
        .partition(|peer| peer.node.status().id == leader);
    for peer in gone {
        peer.end().await;
    }
    for peer in &left {
        let written = peer.node.write(&put("after", 1)).await.unwrap();
        written.outcome.unwrap();
    }
    converged(&left.iter().collect::<Vec<_>>()).await;

    // Of two nodes one alone decides nothing, and says so.
    left.pop().unwrap().end().await;
    let alone = left.pop().unwrap();
    let refused = alone.node.write(&put("alone", 1)).await;
    assert!(
        matches!(refused, Err(StoreError::Unavailable(_))),
        "{refused:?}"
    );
    let refused = alone.node.linearizable().await;
    assert!(
        matches!(refused, Err(StoreError::Unavailable(_))),
        "{refused:?}"
    );
    alone.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_joins_is_sent_a_snapshot_in_parts_while_writes_go_on() {
    let config = NodeConfig {
        snapshot_entries: 50,
        snapshot_percent: 0,
        keep_entries: 0,
        keep_bytes: 0,
        keep_percent: 0,
        chunk_bytes: 16 << 10,
        ..settings()
    };
    let (peers, dir) = cluster(3, &config).await;
    let large = "x".repeat(20_000);
    for number in 0..200 {
        let written = peers[0]
            .node
            .write(&put(&format!("{number}"), &*large))
            .await;
        written.unwrap().outcome.unwrap();
    }
    let leader = peers[0].node.status().leader.unwrap();
    let leader = peers.iter().find(|peer| peer.node.status().id == leader);
    let leader = leader.unwrap();
    // Nothing but a snapshot has the first entries any more.
    while leader.node.status().purged.is_none() {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let fourth = Peer::start(&dir.path().join("4"), SECRET, 4, config).await;
    let writes = async {
        for number in 0..100 {
            let written = peers[1].node.write(&put("meanwhile", number)).await;
            written.unwrap().outcome.unwrap();
        }
    };
    let join = Change::AddLearner {
        node: 4,
        addr: fourth.addr.clone(),
    };
    let (joined, ()) = tokio::join!(leader.node.change(join), writes);
    joined.unwrap();
    let voters = BTreeSet::from([1, 2, 3, 4]);
    promoted(&leader.node, voters).await;
    let all: Vec<_> = peers.iter().chain([&fourth]).collect();
    converged(&all).await;
    let snapshot = fourth.node.status().snapshot;
    assert!(snapshot.is_some(), "it caught up without a snapshot");
    for peer in peers.into_iter().chain([fourth]) {
        peer.end().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_of_another_cluster_is_neither_asked_nor_answered() {
    let dir = tempfile::tempdir().unwrap();
    let peer = Peer::start(dir.path(), SECRET, 1, settings()).await;
    let tasks = Tasks::new();
    let foreign = identity(&SECRET.to_uppercase(), 2);
    let stranger = PeerTransport::new(foreign, tasks.clone());
    let asked = stranger.call(1, &peer.at(), Message::ReadIndex, TTL).await;
    let Err(CallError::Unreachable(reason)) = asked else {
        panic!("answered: {asked:?}");
    };
    assert!(reason.contains("of another cluster"), "{reason}");

    // Who does not care whom it talks to is not talked to without a certificate of the cluster.
    for certificate in [None, Some("another.example")] {
        let heard = credulous(&peer.addr, certificate).await;
        assert!(!matches!(heard, Ok(1..)), "{certificate:?}: {heard:?}");
    }

    let own = PeerTransport::new(identity(SECRET, 2), tasks.clone());
    let asked = own.call(1, &peer.at(), Message::ReadIndex, TTL).await;
    assert!(matches!(asked, Ok(Reply::NotLeader(None))), "{asked:?}");
    tasks.stop(TTL).await;
    peer.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_node_at_an_address_is_not_taken_for_the_one_asked() {
    let dir = tempfile::tempdir().unwrap();
    let peer = Peer::start(dir.path(), SECRET, 1, settings()).await;
    let tasks = Tasks::new();
    let own = PeerTransport::new(identity(SECRET, 2), tasks.clone());
    let asked = own.call(3, &peer.at(), Message::ReadIndex, TTL).await;
    let Err(CallError::Unreachable(reason)) = asked else {
        panic!("answered: {asked:?}");
    };
    assert!(reason.contains("is not node 3"), "{reason}");
    let gone = peer.at();
    peer.end().await;

    let asked = own.call(1, &gone, Message::ReadIndex, TTL).await;
    assert!(matches!(asked, Err(CallError::Unreachable(_))), "{asked:?}");
    tasks.stop(TTL).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_says_nothing_takes_no_place_of_a_node() {
    let dir = tempfile::tempdir().unwrap();
    let peer = Peer::start(dir.path(), SECRET, 1, settings()).await;
    let mut silent = Vec::new();
    for _ in 0..300 {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind("127.0.0.2:0".parse().unwrap()).unwrap();
        silent.push(socket.connect(peer.addr.parse().unwrap()).await.unwrap());
    }
    let tasks = Tasks::new();
    let own = PeerTransport::new(identity(SECRET, 2), tasks.clone());
    let asked = own.call(1, &peer.at(), Message::ReadIndex, TTL).await;
    assert!(matches!(asked, Ok(Reply::NotLeader(None))), "{asked:?}");
    tasks.stop(TTL).await;
    peer.end().await;
}

/// Gives these a vote, once those without one have caught up.
async fn promoted(leader: &TestNode, voters: BTreeSet<NodeId>) {
    let change = Change::SetVoters(voters);
    while let Err(error) = leader.change(change.clone()).await {
        assert!(error.to_string().contains("wait"), "{error}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Connects as somebody who believes everybody, and asks. Gives how many bytes are answered.
async fn credulous(addr: &str, certificate: Option<&str>) -> std::io::Result<usize> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(Arc::clone(&provider));
    let config = config.with_safe_default_protocol_versions().unwrap();
    let config = config
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(BelievesAll(provider)));
    let mut config = match certificate {
        None => config.with_no_client_auth(),
        Some(name) => {
            let made = rcgen::generate_simple_self_signed([name.to_owned()]).unwrap();
            let key = PrivatePkcs8KeyDer::from(made.signing_key.serialize_der());
            let chain = vec![made.cert.der().clone()];
            config.with_client_auth_cert(chain, key.into()).unwrap()
        }
    };
    config.alpn_protocols = vec![b"h2".to_vec()];
    let stream = TcpStream::connect(addr).await?;
    let name = "node-1.example".try_into().unwrap();
    let tls = TlsConnector::from(Arc::new(config));
    let mut tls = tls.connect(name, stream).await?;
    tls.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0")
        .await?;
    tokio::time::timeout(TTL, tls.read(&mut [0; 64])).await?
}

#[derive(Debug)]
struct BelievesAll(Arc<CryptoProvider>);

impl ServerCertVerifier for BelievesAll {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
