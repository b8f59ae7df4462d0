//! A cluster that is in trouble: no replica is doubled or lost.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rune_backend::{Backend, BackendError, ReplicaHealth, ReplicaSpec};
use rune_k8s::KubernetesReplicas;
use rune_testkit_kubernetes::{Script, ScriptedPods};

use crate::cluster::{Cluster, LIMIT, POLL, name_of, spec, started, until, until_health};

/// How long an API server is away that is away for long.
const OUTAGE: Duration = Duration::from_secs(30);

async fn cluster() -> Cluster {
    Cluster::start(ScriptedPods::new(Script::Serve)).await
}

/// Starts replicas at the same time.
async fn start_all(backend: &Arc<KubernetesReplicas>, specs: &[ReplicaSpec]) {
    let starts = specs.iter().map(|spec| started(backend, spec));
    tokio::time::timeout(LIMIT, futures_util::future::join_all(starts))
        .await
        .unwrap();
}

/// Every replica is there once, in the cluster and in what the backend says.
async fn assert_whole(cluster: &Cluster, backend: &KubernetesReplicas, specs: &[ReplicaSpec]) {
    let wanted: BTreeSet<String> = specs.iter().map(name_of).collect();
    let pods = cluster.pod_names();
    assert_eq!(pods.len(), wanted.len(), "{pods:?}");
    assert_eq!(pods.into_iter().collect::<BTreeSet<_>>(), wanted);
    let mut runs = cluster.pods.started();
    let all = runs.len();
    runs.sort();
    runs.dedup();
    assert_eq!(runs.len(), all, "one was started twice");
    let ids: BTreeSet<_> = specs.iter().map(|spec| spec.replica_id).collect();
    until("the list", async || {
        let listed = backend.list().await.unwrap();
        listed.into_iter().collect::<BTreeSet<_>>() == ids
    })
    .await;
    for id in ids {
        until_health(backend, id, |health| *health == ReplicaHealth::Ready).await;
    }
}

#[tokio::test]
async fn watches_that_break_lose_nothing() {
    let cluster = cluster().await;
    let backend = cluster.backend().await;
    let specs: Vec<ReplicaSpec> = (0..10).map(|_| spec()).collect();
    let breaks = async {
        for count in 0..10 {
            // In the middle of the starts.
            until("more pods", async || cluster.pods.started().len() >= count).await;
            cluster.server.break_watches();
        }
    };
    tokio::join!(start_all(&backend, &specs), breaks);
    assert_whole(&cluster, &backend, &specs).await;
}

#[tokio::test]
async fn a_past_that_is_gone_loses_nothing() {
    let cluster = cluster().await;
    let backend = cluster.backend().await;
    let specs: Vec<ReplicaSpec> = (0..10).map(|_| spec()).collect();
    let forgets = async {
        for count in 0..10 {
            until("more pods", async || cluster.pods.started().len() >= count).await;
            cluster.server.forget_the_past();
        }
    };
    tokio::join!(start_all(&backend, &specs), forgets);
    // What went while nobody looked is seen to be gone.
    backend.stop(specs[0].replica_id).await.unwrap();
    cluster.server.forget_the_past();
    until_health(&backend, specs[0].replica_id, |health| {
        *health == ReplicaHealth::Gone
    })
    .await;
    assert_whole(&cluster, &backend, &specs[1..]).await;
}

#[tokio::test]
async fn events_that_come_twice_and_late_change_nothing() {
    let cluster = cluster().await;
    let backend = cluster.backend().await;
    cluster.server.duplicate_events(true);
    cluster.server.delay_events(Duration::from_millis(300));
    let specs: Vec<ReplicaSpec> = (0..5).map(|_| spec()).collect();
    start_all(&backend, &specs).await;
    assert_whole(&cluster, &backend, &specs).await;
    // One that is on its way and not seen yet is not taken for gone.
    let late = spec();
    let looks = async {
        loop {
            tokio::time::sleep(POLL).await;
            let health = backend.health(late.replica_id).await.unwrap();
            assert_ne!(health, ReplicaHealth::Gone);
        }
    };
    tokio::select! {
        _ = started(&backend, &late) => {}
        () = looks => {}
    }
}

#[tokio::test]
async fn a_server_that_is_away_for_long_loses_nothing() {
    let cluster = cluster().await;
    let backend = cluster.backend().await;
    let specs: Vec<ReplicaSpec> = (0..3).map(|_| spec()).collect();
    start_all(&backend, &specs).await;
    cluster.server.down();
    let begin = Instant::now();
    until("the break is seen", async || {
        backend.health(spec().replica_id).await.is_err()
    })
    .await;
    let late = spec();
    let error = backend.start(&late).await.unwrap_err();
    let is_away =
        matches!(&error, BackendError::Unavailable(why) if why.contains("does not answer"));
    assert!(is_away, "{error}");
    while begin.elapsed() < OUTAGE {
        for spec in &specs {
            // They run and answer, whatever the server does.
            assert_eq!(
                backend.health(spec.replica_id).await.unwrap(),
                ReplicaHealth::Ready
            );
        }
        tokio::time::sleep(Duration::from_millis(250)).await;
    }
    // One ends meanwhile.
    cluster.pods.crash(&name_of(&specs[0]), 1);
    cluster.server.up().await.unwrap();
    let ended = |health: &ReplicaHealth| matches!(health, ReplicaHealth::Unhealthy(why) if why.contains("exit code 1"));
    until_health(&backend, specs[0].replica_id, ended).await;
    backend.stop(specs[0].replica_id).await.unwrap();
    started(&backend, &late).await;
    until_health(&backend, specs[0].replica_id, |health| {
        *health == ReplicaHealth::Gone
    })
    .await;
    let mut left = specs[1..].to_vec();
    left.push(late);
    assert_whole(&cluster, &backend, &left).await;
}
