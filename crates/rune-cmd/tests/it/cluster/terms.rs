//! What a node that leads does when it has no engine, or is to end.

use rune_testkit::{ModelServer, Protocol};
use rustix::process::{Signal, kill_process};
use serde_json::json;

use super::rig::Cluster;
use super::{script, until};
use crate::home::replica_pids;
use crate::wire::{Api, LIMIT, POLL, answer, assert_no_panic, deploy, spawn};

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_whose_engine_cannot_be_made_has_another_one_lead() {
    let cluster = Cluster::start(3).await;
    let leader = cluster.leader().await;
    let (broken, other) = (&cluster.nodes[leader], &cluster.nodes[(leader + 1) % 3]);
    let transfer = |place: usize| {
        let number = (place + 1).to_string();
        other.rune(&["cluster", "transfer-leader", &number])
    };
    // The engine of its next term cannot be made.
    let prices = broken.0.data_dir().join("prices.toml");
    std::fs::write(prices, "no prices").unwrap();
    transfer((leader + 1) % 3).ok();
    until(|| broken.0.log().contains("the engine cannot be prepared")).await;
    // Whoever asked may see that it has given up already.
    drop(transfer(leader));
    until(|| broken.0.log().contains("another node is to lead")).await;
    let api = Api::of(&broken.0);
    let answered = async {
        while answer(api.get("/v1/agents")).await.unwrap().0 != 200 {
            tokio::time::sleep(POLL).await;
        }
    };
    tokio::time::timeout(LIMIT, answered).await.unwrap();
    assert_no_panic(broken);
}

#[tokio::test(flavor = "multi_thread")]
async fn replicas_that_do_not_end_hold_up_no_hand_over() {
    let server = ModelServer::start(script()).await.unwrap();
    let process = ["--backend", "process"];
    let with_processes = |node| {
        process
            .iter()
            .fold(node, |node: rune_testkit::TestDaemonBuilder, arg| {
                node.arg(*arg)
            })
    };
    let mut cluster = Cluster::start_with(3, with_processes).await;
    deploy(
        &cluster.nodes[0],
        "agent",
        &[(&server, Protocol::Openai)],
        &[],
        "",
    );
    let leader = cluster.leader().await;
    let api = Api::of(&cluster.nodes[(leader + 1) % 3].0);
    let (status, body) = api.ask("agent", &json!({"input": "hi"})).await;
    assert_eq!(status, 200, "{body}");
    let data_dir = cluster.nodes[leader].0.data_dir();
    let replicas = replica_pids(&data_dir);
    assert!(!replicas.is_empty());
    for pid in replicas {
        kill_process(pid, Signal::STOP).unwrap();
    }
    // Its replica does nothing, and has to be killed.
    let asked = api.invoke("agent", &json!({"input": "held"}));
    let asked = spawn(answer(asked.header("idempotency-key", "one")));
    let at_leader = Api::of(&cluster.nodes[leader].0);
    let accepted = async {
        loop {
            let (_, page) = answer(at_leader.get("/v1/requests?limit=10"))
                .await
                .unwrap();
            if page["items"].as_array().is_some_and(|it| it.len() == 2) {
                break;
            }
            tokio::time::sleep(POLL).await;
        }
    };
    tokio::time::timeout(LIMIT, accepted).await.unwrap();
    let status = cluster.nodes[leader].0.terminate().await.unwrap();
    assert!(status.success(), "{status}");
    let (status, body) = asked.await.unwrap().unwrap();
    assert_eq!(
        (status, &body["output"]),
        (200, &json!("Echo: held")),
        "{body}"
    );
    assert!(replica_pids(&data_dir).is_empty());
}
