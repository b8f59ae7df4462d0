//! The objects of a cluster whose nodes have directories of their own.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use rune_cluster::ClusterObjects;
use rune_storage::{Digest, ObjectStore, Swept};
use rune_store_runtime::limits::MAX_OBJECT_BYTES;
use rune_store_runtime::{
    AuditId, AuditVerdict, BlobStore as _, Clock as _, Command, CommandLog as _, RecordAudit,
    StoreError, SystemClock, Timestamp,
};
use tokio::net::TcpListener;

use crate::cluster::{Peer, SECRET, cluster, converged, put, settings};

/// How long anything may take on a slow machine.
const LIMIT: Duration = Duration::from_secs(60);

/// Waits until something is so.
async fn until<F: Future<Output = bool>>(what: &str, mut so: impl FnMut() -> F) {
    let waited = tokio::time::timeout(LIMIT, async {
        while !so().await {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    assert!(waited.await.is_ok(), "{what}");
}

fn file(dir: &tempfile::TempDir, node: u64, digest: Digest) -> PathBuf {
    let (hex, objects) = (
        digest.hex(),
        dir.path().join(node.to_string()).join("objects"),
    );
    let (fan, rest) = hex.split_at(2);
    objects.join("sha256").join(fan).join(rest)
}

async fn store(objects: &ClusterObjects, bytes: impl Into<Bytes>) -> Digest {
    let stored = objects.put(bytes.into()).await.unwrap();
    stored.parse().unwrap()
}

async fn read(peer: &Peer, digest: Digest) -> Result<Bytes, StoreError> {
    peer.objects.get(&digest.to_string()).await
}

async fn holds(peer: &Peer, digest: Digest) -> bool {
    peer.objects.local().head(digest).await.unwrap().is_some()
}

/// Has a row name an object.
async fn name(peer: &Peer, digest: Digest) {
    let named = put(&digest.hex(), serde_json::json!({"digest": digest}));
    peer.store.submit(named).await.unwrap();
}

async fn end(peers: impl IntoIterator<Item = Peer>) {
    for peer in peers {
        peer.end().await;
    }
}

async fn restart(addr: &str, dir: &Path, id: u64) -> Peer {
    let listener = TcpListener::bind(addr).await.unwrap();
    let peer = Peer::start_at(listener, dir, SECRET, id, settings()).await;
    peer.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_one_node_stored_the_others_read_when_it_is_gone_and_one_alone_stores_nothing() {
    let (mut peers, dir) = cluster(3, &settings()).await;
    let mut digests = Vec::new();
    for (number, peer) in peers.iter().enumerate() {
        digests.push(store(&peer.objects, format!("object {number}")).await);
    }
    for digest in &digests {
        let mut held = 0;
        for peer in &peers {
            held += u64::from(holds(peer, *digest).await);
        }
        assert!(held >= 2, "{digest} is on {held} nodes");
    }
    let gone = peers.remove(0);
    gone.end().await;
    std::fs::remove_dir_all(dir.path().join("1")).unwrap();
    for peer in &peers {
        for (number, digest) in digests.iter().enumerate() {
            assert_eq!(
                read(peer, *digest).await.unwrap(),
                format!("object {number}")
            );
        }
    }
    // Two of three are a majority still; one is none.
    let late = store(&peers[0].objects, "late").await;
    assert!(holds(&peers[1], late).await);
    peers.pop().unwrap().end().await;
    let refused = peers[0].objects.put(Bytes::from_static(b"alone")).await;
    let Err(StoreError::Unavailable(reason)) = refused else {
        panic!("{refused:?}");
    };
    assert!(
        reason.contains("no majority") && reason.contains("node 3"),
        "{reason}"
    );
    assert_eq!(read(&peers[0], late).await.unwrap(), "late");
    // Whether the others have it is not known, so that it is not said that there is none.
    let unknown = read(&peers[0], Digest::of(b"never stored")).await;
    assert!(
        matches!(unknown, Err(StoreError::Unavailable(_))),
        "{unknown:?}"
    );
    end(peers).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_does_not_know_the_others_says_neither_that_there_is_none_nor_that_enough_have_it()
{
    let dir = tempfile::tempdir().unwrap();
    let peer = Peer::start(dir.path(), SECRET, 1, settings()).await;
    let read = read(&peer, Digest::of(b"of others")).await;
    let stored = peer.objects.put(Bytes::from_static(b"alone")).await;
    for refused in [read.map(|_| ()), stored.map(|_| ())] {
        let Err(StoreError::Unavailable(reason)) = refused else {
            panic!("{refused:?}");
        };
        assert!(
            reason.contains("does not know the members of its cluster"),
            "{reason}"
        );
    }
    peer.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_missing_or_damaged_one_is_taken_from_a_node_that_has_it_whole() {
    let (peers, dir) = cluster(3, &settings()).await;
    let digest = store(&peers[0].objects, "whole").await;
    for peer in &peers {
        until("a node has no copy", || holds(peer, digest)).await;
    }
    // Nothing on the third, which may ask either; the first gives what is damaged.
    std::fs::remove_file(file(&dir, 3, digest)).unwrap();
    std::fs::write(file(&dir, 1, digest), "altered").unwrap();
    assert_eq!(read(&peers[2], digest).await.unwrap(), "whole");
    assert_eq!(std::fs::read(file(&dir, 3, digest)).unwrap(), b"whole");
    // Whoever reads a damaged one gets, and has from then on, the other.
    std::fs::write(file(&dir, 1, digest), "altered").unwrap();
    assert_eq!(read(&peers[0], digest).await.unwrap(), "whole");
    assert_eq!(std::fs::read(file(&dir, 1, digest)).unwrap(), b"whole");
    // Where only a damaged one is left it is not handed out, and the node that has it knows.
    for node in [2, 3] {
        std::fs::remove_file(file(&dir, node, digest)).unwrap();
    }
    std::fs::write(file(&dir, 1, digest), "altered").unwrap();
    let refused = read(&peers[1], digest).await;
    assert!(
        matches!(refused, Err(StoreError::Unavailable(_))),
        "{refused:?}"
    );
    assert!(!file(&dir, 2, digest).exists());

    let unknown = read(&peers[0], Digest::of(b"never stored")).await;
    assert!(
        matches!(unknown, Err(StoreError::Rejected(_))),
        "{unknown:?}"
    );
    end(peers).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_large_one_goes_from_node_to_node_once_for_all_who_ask() {
    let (peers, dir) = cluster(3, &settings()).await;
    let large: Vec<u8> = (0..20 << 20).map(|n: u32| (n / 7) as u8).collect();
    let digest = store(&peers[0].objects, large.clone()).await;
    until("the third has no copy", || holds(&peers[2], digest)).await;
    std::fs::remove_file(file(&dir, 3, digest)).unwrap();
    let asked = futures_util::future::join_all((0..4).map(|_| read(&peers[2], digest)));
    for read in asked.await {
        assert!(read.unwrap() == large);
    }
    let too_large = peers[0]
        .objects
        .put(vec![0; MAX_OBJECT_BYTES + 1].into())
        .await;
    assert!(
        matches!(too_large, Err(StoreError::Rejected(_))),
        "{too_large:?}"
    );
    end(peers).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_was_away_or_joins_or_lost_its_objects_gets_what_the_rows_name() {
    let (mut peers, dir) = cluster(3, &settings()).await;
    let before = store(&peers[0].objects, "before").await;
    name(&peers[0], before).await;
    let third = peers.pop().unwrap();
    let (addr, files) = (third.addr.clone(), dir.path().join("3"));
    third.end().await;
    let meanwhile = store(&peers[0].objects, "meanwhile").await;
    name(&peers[0], meanwhile).await;
    // Nothing names this one, and nothing holds that.
    let unnamed = store(&peers[0].objects, "unnamed").await;
    name(&peers[0], Digest::of(b"no object")).await;
    std::fs::remove_dir_all(files.join("objects")).unwrap();

    let third = restart(&addr, &files, 3).await;
    let fourth = Peer::start(&dir.path().join("4"), SECRET, 4, settings()).await;
    peers.push(third);
    peers[0].objects.same_place(4, &fourth.addr).await.unwrap();
    peers[0].cluster.add_learner(4, &fourth.addr).await.unwrap();
    peers.push(fourth);
    for at in [2, 3] {
        let peer = &peers[at];
        until("it did not catch up", || async {
            holds(peer, before).await && holds(peer, meanwhile).await
        })
        .await;
        until("it does not know that it did", || async {
            let asked = peers[0].objects.status_of(at as u64 + 1, &peer.addr).await;
            asked.unwrap().missing == Some(0)
        })
        .await;
        assert!(!holds(peer, unnamed).await, "{at}");
    }
    // What is stored from now on a learner, too, gets as soon as a row names it.
    let after = store(&peers[0].objects, "after").await;
    name(&peers[0], after).await;
    until("the learner has no copy", || holds(&peers[3], after)).await;
    end(peers).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_missing_is_asked_for_until_a_node_that_has_it_answers() {
    let (mut peers, dir) = cluster(3, &settings()).await;
    let digest = store(&peers[0].objects, "rare").await;
    until("the second has no copy", || holds(&peers[1], digest)).await;
    // The third alone is to have it, and is away when it is looked for.
    let third = peers.pop().unwrap();
    until("the third has no copy", || holds(&third, digest)).await;
    let (addr, files) = (third.addr.clone(), dir.path().join("3"));
    third.end().await;
    for node in [1, 2] {
        std::fs::remove_file(file(&dir, node, digest)).unwrap();
    }
    name(&peers[0], digest).await;
    for peer in &peers {
        until("it does not say that one is missing", || async {
            peer.objects.status().missing == Some(1)
        })
        .await;
    }
    let third = restart(&addr, &files, 3).await;
    for peer in &peers {
        until("it did not get it", || holds(peer, digest)).await;
    }
    peers.push(third);
    end(peers).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_may_be_the_only_one_to_have_an_object_stays_while_it_answers() {
    let (mut peers, dir) = cluster(3, &settings()).await;
    let digest = store(&peers[0].objects, "rare").await;
    for peer in &peers {
        until("a node has no copy", || holds(peer, digest)).await;
    }
    until("a node does not know what it lacks", || async {
        let outlive = peers[0].objects.outlive(3);
        outlive.await.is_ok()
    })
    .await;
    // Nobody gives it to the first, and all say that they may have it.
    for node in [1, 2, 3] {
        std::fs::write(file(&dir, node, digest), "altered").unwrap();
    }
    std::fs::remove_file(file(&dir, 1, digest)).unwrap();
    name(&peers[0], digest).await;
    until("it does not say that one is missing", || async {
        peers[0].objects.status().missing == Some(1)
    })
    .await;
    let refused = peers[1].objects.outlive(3).await;
    let Err(StoreError::Rejected(reject)) = refused else {
        panic!("{refused:?}");
    };
    let reason = reject.to_string();
    assert!(
        reason.contains("node 1 lacks 1 object") && reason.contains("stop node 3"),
        "{reason}"
    );
    // What one lacks that is to leave matters to nobody, and one that is gone gives nothing.
    peers[1].objects.outlive(1).await.unwrap();
    peers.pop().unwrap().end().await;
    peers[1].objects.outlive(3).await.unwrap();
    end(peers).await;
}

/// Has an object be as old as an hour.
fn age(path: &Path) {
    let file = File::options().write(true).open(path).unwrap();
    file.set_modified(SystemTime::now() - Duration::from_secs(3600))
        .unwrap();
}

fn a_minute_ago() -> Timestamp {
    SystemClock.now().minus(Duration::from_secs(60))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_node_removes_what_no_row_names_and_one_that_is_cut_off_nothing() {
    let (mut peers, dir) = cluster(3, &settings()).await;
    // What is older than every row would be another database's.
    let first = RecordAudit {
        audit_id: AuditId::generate(),
        kind: "test".to_owned(),
        resource: "objects".to_owned(),
        verdict: AuditVerdict::Allowed,
        reason: String::new(),
        caller: "test".to_owned(),
        request_id: None,
    };
    let first = Command::new(Timestamp::from_millis(1000), first);
    peers[0].store.submit(first).await.unwrap();
    for text in ["named", "old", "young"] {
        let digest = store(&peers[0].objects, text).await;
        for peer in &peers {
            until("one has no copy", || holds(peer, digest)).await;
        }
    }
    let [named, old, young] = ["named", "old", "young"].map(|text| Digest::of(text.as_bytes()));
    for node in 1..=3 {
        age(&file(&dir, node, named));
        age(&file(&dir, node, old));
    }
    // The row is made on one node and swept by another one, which may not have applied it yet.
    name(&peers[0], named).await;
    for peer in &peers[1..] {
        let swept = peer.objects.sweep(a_minute_ago()).await.unwrap();
        let old_one = Swept {
            objects: 1,
            bytes: 3,
        };
        assert_eq!(swept, Some(old_one));
        assert!(holds(peer, named).await && holds(peer, young).await);
        assert!(!holds(peer, old).await);
    }
    converged(&peers.iter().collect::<Vec<_>>()).await;
    // What was removed on two of three is removed on the third, too, and not given back to them.
    assert!(holds(&peers[0], old).await);
    end(peers.drain(1..)).await;
    let alone = &peers[0];
    assert_eq!(
        alone.objects.sweep(a_minute_ago()).await.unwrap(),
        Some(Swept::default())
    );
    assert!(holds(alone, old).await);
    end(peers).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_with_different_stores_do_not_become_one_cluster() {
    let (peers, dir) = cluster(1, &settings()).await;
    let bucket = ObjectStore::open(
        "s3://bucket/prefix",
        &[
            ("AWS_ACCESS_KEY_ID", "id"),
            ("AWS_SECRET_ACCESS_KEY", "hidden"),
        ]
        .map(|(name, value)| (name, value.to_owned()))
        .into(),
    );
    let other = Peer::start_with(&dir.path().join("2"), 2, bucket.unwrap()).await;
    let refused = peers[0].objects.same_place(2, &other.addr).await;
    let Err(StoreError::Rejected(reject)) = refused else {
        panic!("{refused:?}");
    };
    let reason = reject.to_string();
    assert!(
        reason.contains("s3://bucket/prefix") && !reason.contains("hidden"),
        "{reason}"
    );
    other.end().await;
    end(peers).await;
}
