//! Replicas in pods of a cluster of daemons: they are the cluster's, whichever of its nodes leads.

use std::net::SocketAddr;
use std::sync::Mutex;

use serde_json::{Value, json};
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};

use super::any_cluster::deploy_talker;
use super::cluster::Cluster as Kubernetes;
use super::rig::is_here;
use crate::cluster::rig::Cluster;
use crate::home::Served;
use crate::wire::{Api, LIMIT, POLL, spawn};

/// An id that no deployment knows.
const ORPHAN: &str = "rep_019f000000007000800000000000000b";

/// What a service of Kubernetes is for the nodes: one address that leads to each of them in turn.
async fn service(nodes: Vec<SocketAddr>) -> SocketAddr {
    let listener = TcpListener::bind(Kubernetes::address()).await.unwrap();
    let address = listener.local_addr().unwrap();
    // It ends with the test.
    drop(spawn(async move {
        let mut turn = 0;
        while let Ok((mut client, _)) = listener.accept().await {
            let (before, after) = nodes.split_at(turn % nodes.len());
            let nodes: Vec<SocketAddr> = [after, before].concat();
            turn += 1;
            drop(spawn(async move {
                for node in nodes {
                    if let Ok(mut node) = TcpStream::connect(node).await {
                        // Whoever breaks off, that is all of it.
                        let _ = copy_bidirectional(&mut client, &mut node).await;
                        return;
                    }
                }
            }));
        }
    }));
    address
}

/// The replicas that a node believes in, by their ids, and whether all of them are ready.
async fn believed(node: &Served) -> (Vec<String>, bool) {
    let url = format!("{}/v1/replicas", node.0.control_plane());
    let page: Value = reqwest::get(url).await.unwrap().json().await.unwrap();
    let rows = page["items"].as_array().unwrap();
    let ids = rows
        .iter()
        .map(|row| row["id"].as_str().unwrap().to_owned());
    let mut ids: Vec<String> = ids.collect();
    ids.sort();
    (ids, rows.iter().all(|row| row["state"] == "ready"))
}

/// The replicas of the pods that are not being deleted.
fn there(kubernetes: &Kubernetes) -> Vec<String> {
    let pods = kubernetes.pods();
    let live = pods
        .iter()
        .filter(|pod| pod["metadata"].get("deletionTimestamp").is_none());
    let ids = live.map(|pod| {
        pod["metadata"]["labels"]["rune.replica"]
            .as_str()
            .unwrap()
            .to_owned()
    });
    let mut ids: Vec<String> = ids.collect();
    ids.sort();
    ids
}

async fn until(node: &Served, what: &str, is: impl AsyncFn() -> bool) {
    let reached = async {
        while !is().await {
            tokio::time::sleep(POLL).await;
        }
    };
    let reached = tokio::time::timeout(LIMIT, reached).await;
    assert!(reached.is_ok(), "not so: {what}\n{}", node.0.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn pods_of_a_cluster_are_taken_over_by_its_next_leader() {
    if !is_here("kubernetes") {
        return;
    }
    let kubernetes = Kubernetes::start().await;
    let listens: Vec<SocketAddr> = (0..3).map(|_| Kubernetes::address()).collect();
    let service = service(listens.clone()).await;
    let free = Mutex::new(listens);
    let mut cluster = Cluster::start_with(3, |builder| {
        let own = free.lock().unwrap().pop().unwrap();
        kubernetes
            .configure(builder)
            .arg("--backend")
            .arg("kubernetes")
            .env("RUNE_KUBERNETES_REPLICA_ADDR", own.to_string())
            .env("RUNE_KUBERNETES_DAEMON_URL", format!("http://{service}"))
    })
    .await;
    let first = cluster.leader().await;
    let follower = &cluster.nodes[(first + 1) % 3];
    deploy_talker(follower, "2");
    let status = follower.rune(&["cluster", "status", "-o", "json"]).json();
    let owners: Vec<Value> = kubernetes
        .pods()
        .iter()
        .map(|pod| pod["metadata"]["labels"]["rune.daemon"].clone())
        .collect();
    assert_eq!(
        owners,
        [status["cluster"].clone(), status["cluster"].clone()]
    );
    let (replicas, _) = believed(follower).await;
    assert_eq!(there(&kubernetes), replicas);

    // As a leader leaves it that is lost in the middle of a start.
    let name = format!("rune-{ORPHAN}").replace('_', "-");
    let orphan = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name, "labels": {"rune.daemon": owners[0], "rune.replica": ORPHAN}},
        "spec": {"terminationGracePeriodSeconds": 0, "containers": [{
            "name": "replica", "image": "none", "imagePullPolicy": "Never",
        }]},
    });
    kubernetes.apply(&orphan).await;
    cluster.nodes[first].0.kill9().unwrap();
    let next = cluster.leader_but(first).await;
    assert_ne!(next, first);
    cluster.ready().await;
    for node in cluster.nodes.iter().filter(|node| node.0.pid().is_some()) {
        let (status, body) = Api::of(&node.0)
            .ask("talker", &json!({"input": "hello"}))
            .await;
        assert_eq!(
            (status, &body["output"]),
            (200, &json!("Echo: hello")),
            "{body}\n{}",
            node.0.log()
        );
    }
    let next = &cluster.nodes[next];
    until(
        next,
        "the next leader has them, and what is nobody's is gone",
        async || believed(next).await == (replicas.clone(), true) && there(&kubernetes) == replicas,
    )
    .await;
    // It ends them, too.
    next.rune(&["agent", "stop", "talker"]).ok();
    until(next, "no pod is left", async || {
        there(&kubernetes).is_empty()
    })
    .await;
}
