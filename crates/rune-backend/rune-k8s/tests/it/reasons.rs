//! Replicas that do not run, and what their deployment is told.

use std::time::Duration;

use rune_backend::{Backend, BackendError, ReplicaHealth, ReplicaSpec};
use rune_testkit_kubernetes::{Script, ScriptedPods};

use crate::cluster::{Cluster, connect, failed, name_of, spec, started, until, until_health};

#[track_caller]
fn check(error: &BackendError, expected: &str) {
    let BackendError::Unavailable(message) = error else {
        panic!("{error:?}")
    };
    assert!(message.contains(expected), "{message}");
}

#[tokio::test]
async fn an_image_that_is_nowhere_is_said_to_be() {
    let cluster = Cluster::start(ScriptedPods::new(Script::NoImage)).await;
    let mut spec = spec();
    spec.image = Some("nowhere:1".to_owned());
    let error = failed(&*cluster.backend().await, &spec).await;
    check(
        &error,
        "ImagePullBackOff: Back-off pulling image \"nowhere:1\"",
    );
}

#[tokio::test]
async fn a_container_that_ends_is_said_to_have_ended() {
    let cluster = Cluster::start(ScriptedPods::new(Script::Exit(3))).await;
    let error = failed(&*cluster.backend().await, &spec()).await;
    check(&error, "its container has ended with exit code 3");
}

#[tokio::test]
async fn a_pod_that_no_node_takes_and_one_that_does_not_answer_are_told_apart() {
    let cluster = Cluster::start(ScriptedPods::new(Script::Unwell)).await;
    let mut config = cluster.config();
    config.settings.start_timeout = Duration::from_secs(2);
    let slow = connect(config.clone()).await;
    check(
        &failed(&slow, &spec()).await,
        "it does not answer its probe at /health yet",
    );
    config
        .settings
        .node_selector
        .insert("disk".to_owned(), "fast".to_owned());
    let picky = connect(config).await;
    check(
        &failed(&picky, &spec()).await,
        "Unschedulable: 0/1 nodes are available",
    );
}

#[tokio::test]
async fn one_that_takes_longer_to_start_than_its_agent_says_is_ended() {
    let cluster = Cluster::start(ScriptedPods::new(Script::Unwell)).await;
    let slow = ReplicaSpec {
        startup: Duration::from_millis(500),
        ..spec()
    };
    let error = failed(&*cluster.backend().await, &slow).await;
    check(&error, "not ready within 500 ms (`startup_timeout_ms`)");
}

#[tokio::test]
async fn what_is_not_valid_is_refused_and_leaves_nothing() {
    let cluster = Cluster::start(ScriptedPods::new(Script::Serve)).await;
    let backend = cluster.backend().await;
    let mut no_label = spec();
    no_label.agent = "not a label".to_owned();
    let BackendError::Invalid(message) = failed(&backend, &no_label).await else {
        panic!()
    };
    assert!(message.contains("metadata.labels"), "{message}");
    assert!(!message.contains("secret-token"), "{message}");
    assert_eq!(cluster.pod_names(), Vec::<String>::new());
}

#[tokio::test]
async fn a_replica_that_breaks_is_seen_to_be_broken() {
    let cluster = Cluster::start(ScriptedPods::new(Script::Serve)).await;
    let backend = cluster.backend().await;
    let (unwell, crashed, deleted) = (spec(), spec(), spec());
    for spec in [&unwell, &crashed, &deleted] {
        started(&backend, spec).await;
    }
    // The condition of a pod has whole seconds, and so does the start of its container.
    tokio::time::sleep(Duration::from_millis(1100)).await;
    cluster.pods.make_unwell(&name_of(&unwell));
    cluster.pods.crash(&name_of(&crashed), 7);
    let says = |expected: &'static str| move |health: &ReplicaHealth| matches!(health, ReplicaHealth::Unhealthy(why) if why.contains(expected));
    until_health(&backend, crashed.replica_id, says("exit code 7")).await;
    until_health(
        &backend,
        unwell.replica_id,
        says("does not answer its probe"),
    )
    .await;
    backend.stop(deleted.replica_id).await.unwrap();
    until("it is gone", async || {
        !cluster.pod_names().contains(&name_of(&deleted))
    })
    .await;
}
