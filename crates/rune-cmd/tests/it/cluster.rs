//! Three daemons that are one cluster.

mod chaos;
mod kills;
mod large;
mod membership;
mod network;
mod objects;
mod partitions;
pub(crate) mod rig;
mod terms;
mod walk_through;

use rune_testkit::{ModelScript, ModelServer, Protocol, Reply, TestDaemon, ToolCall};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;

use crate::home::{Home, RUNE, Served};
use crate::wire::{Api, LIMIT, POLL, answer, assert_no_panic, deploy, spawn};
use rig::{Clients, Cluster, SECRET, daemon, free_addr, read_effects, with_effects};

fn script() -> ModelScript {
    ModelScript::new()
        .on_text("slow")
        .reply(Reply::echo().first_byte_after(std::time::Duration::from_secs(2)))
        .on_text("again")
        .reply(Reply::calls([ToolCall::new("again", json!({}))]))
        .then(Reply::echo())
        .on_text("once")
        .reply(Reply::calls([ToolCall::new("once", json!({}))]))
        .then(Reply::echo())
        .echo_chunks(4)
}

#[tokio::test(flavor = "multi_thread")]
async fn every_node_answers_and_another_one_goes_on_when_the_leader_is_killed() {
    let server = ModelServer::start(script()).await.unwrap();
    let mut cluster = Cluster::start(3).await;
    deploy(
        &cluster.nodes[0],
        "agent",
        &[(&server, Protocol::Openai)],
        &[],
        "",
    );
    for node in &cluster.nodes {
        let (status, body) = Api::of(&node.0).ask("agent", &json!({"input": "hi"})).await;
        assert_eq!(
            (status, &body["output"]),
            (200, &json!("Echo: hi")),
            "{body}"
        );
    }

    // In mid-request, asked through a node that stays.
    let leader = cluster.leader().await;
    let other = (leader + 1) % 3;
    let api = Api::of(&cluster.nodes[other].0);
    let id = api.start("agent", "slow").await;
    let keyed = api.invoke("agent", &json!({"input": "slow and keyed"}));
    let keyed = spawn(answer(keyed.header("idempotency-key", "one")));
    server.wait_for_requests(5).await.unwrap();
    cluster.nodes[leader].0.kill9().unwrap();
    let row = api.ended(&id).await;
    assert_eq!(
        (&row["status"], &row["output"]),
        (&json!("completed"), &json!("Echo: slow")),
        "{row}"
    );
    let (status, body) = keyed.await.unwrap().unwrap();
    assert_eq!(
        (status, &body["output"]),
        (200, &json!("Echo: slow and keyed")),
        "{body}"
    );

    // The one that was killed catches up, and answers again.
    cluster.nodes[leader].0.restart().await.unwrap();
    cluster.ready().await;
    let api = Api::of(&cluster.nodes[leader].0);
    assert_eq!(api.request(&id).await["output"], "Echo: slow");
    for node in &cluster.nodes {
        assert_no_panic(node);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_majority_nothing_is_accepted_and_callers_are_told_to_come_back() {
    let mut cluster = Cluster::start(3).await;
    let leader = cluster.leader().await;
    let left = (leader + 1) % 3;
    for node in (0..3).filter(|node| *node != left) {
        cluster.nodes[node].0.kill9().unwrap();
    }
    let api = Api::of(&cluster.nodes[left].0);
    let response = api.get("/v1/agents").send().await.unwrap();
    assert_eq!(response.status(), 503);
    assert!(response.headers().contains_key("retry-after"));
    let body: serde_json::Value = response.json().await.unwrap();
    assert_eq!(body["error"]["code"], "unavailable", "{body}");
    for node in (0..3).filter(|node| *node != left) {
        cluster.nodes[node].0.restart().await.unwrap();
    }
    cluster.ready().await;
    let (status, body) = answer(api.get("/v1/agents")).await.unwrap();
    assert_eq!(status, 200, "{body}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_is_cut_off_says_nothing_of_what_was_written_last() {
    let mut cluster = Cluster::start(3).await;
    let newest = "/v1/agents?consistency=linearizable";
    for node in &cluster.nodes {
        let (status, body) = answer(Api::of(&node.0).get(newest)).await.unwrap();
        assert_eq!(status, 200, "{body}");
    }
    let leader = cluster.leader().await;
    for node in (0..3).filter(|node| *node != leader) {
        cluster.nodes[node].0.kill9().unwrap();
    }
    let api = Api::of(&cluster.nodes[leader].0);
    let (status, body) = answer(api.get(newest)).await.unwrap();
    assert_eq!(
        (status, &body["error"]["code"]),
        (503, &json!("unavailable"))
    );
    // What it has itself it still shows.
    let (status, body) = answer(api.get("/v1/agents?consistency=local"))
        .await
        .unwrap();
    assert_eq!(status, 200, "{body}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_is_told_to_end_hands_over_and_no_caller_notices() {
    let server = ModelServer::start(script()).await.unwrap();
    let mut cluster = Cluster::start(3).await;
    deploy(
        &cluster.nodes[0],
        "agent",
        &[(&server, Protocol::Openai)],
        &[],
        "",
    );
    let leader = cluster.leader().await;
    let api = Api::of(&cluster.nodes[(leader + 1) % 3].0);
    let id = api.start("agent", "slow").await;
    server.wait_for_requests(1).await.unwrap();
    let asking = spawn(async move {
        for round in 0..20 {
            let request = api.invoke("agent", &json!({"input": "hi"}));
            let request = request.header("idempotency-key", format!("round-{round}"));
            let (status, body) = answer(request).await.unwrap();
            assert_eq!(
                (status, &body["output"]),
                (200, &json!("Echo: hi")),
                "{body}"
            );
        }
        api
    });
    let status = cluster.nodes[leader].0.terminate().await.unwrap();
    assert!(status.success(), "{status}");
    let api = asking.await.unwrap();
    let row = api.ended(&id).await;
    assert_eq!(row["output"], "Echo: slow", "{row}");
    assert_ne!(cluster.leader_but(leader).await, leader);
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_are_restarted_one_after_the_other_and_no_request_fails() {
    let server = ModelServer::start(script()).await.unwrap();
    let mut cluster = Cluster::start(3).await;
    deploy(
        &cluster.nodes[0],
        "agent",
        &[(&server, Protocol::Openai)],
        &[],
        "",
    );
    let clients = Clients::start(&cluster, 8, "agent");
    cluster.restart_all(&clients).await;
    let (requests, _) = clients.end().await;
    println!("{requests} requests while every node was restarted");
    assert!(requests > 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn effects_happen_once_where_they_must_when_the_leader_is_killed() {
    let server = ModelServer::start(script()).await.unwrap();
    let mut cluster = Cluster::start(3).await;
    let (tools, effects) = with_effects();
    deploy(
        &cluster.nodes[0],
        "agent",
        &[(&server, Protocol::Openai)],
        &tools.each_ref().map(rig::Effect::tool),
        "",
    );
    let leader = cluster.leader().await;
    let api = Api::of(&cluster.nodes[(leader + 1) % 3].0);
    let again = api.start("agent", "again").await;
    let once = api.start("agent", "once").await;
    until(|| read_effects(effects.path(), "begun").len() == 2).await;
    cluster.nodes[leader].0.kill9().unwrap();
    let row = api.ended(&again).await;
    assert_eq!(row["output"], "Echo: again", "{row}");
    // Its model is told that nobody knows what became of the call.
    let row = api.ended(&once).await;
    assert_eq!(row["status"], "completed", "{row}");
    let begun = read_effects(effects.path(), "begun");
    let of = |id: &str| -> Vec<_> { begun.iter().filter(|line| line.starts_with(id)).collect() };
    assert_eq!(of(&once).len(), 1, "{begun:?}");
    let repeated = of(&again);
    assert_eq!(repeated.len(), 2, "{begun:?}");
    assert_eq!(repeated[0], repeated[1], "under another key");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_was_away_for_a_while_gives_up_what_it_had_begun() {
    let server = ModelServer::start(script()).await.unwrap();
    let cluster = Cluster::start(3).await;
    let (tools, effects) = with_effects();
    deploy(
        &cluster.nodes[0],
        "agent",
        &[(&server, Protocol::Openai)],
        &tools.each_ref().map(rig::Effect::tool),
        "",
    );
    let leader = cluster.leader().await;
    let api = Api::of(&cluster.nodes[(leader + 1) % 3].0);
    let id = api.start("agent", "again").await;
    until(|| read_effects(effects.path(), "begun").len() == 1).await;
    let away = &cluster.nodes[leader];
    let pid = Pid::from_raw(away.0.pid().unwrap().cast_signed()).unwrap();
    kill_process(pid, Signal::STOP).unwrap();
    // Whoever follows the request follows it at the next leader, which takes it up.
    let row = api.ended(&id).await;
    assert_eq!(row["output"], "Echo: again", "{row}");
    kill_process(pid, Signal::CONT).unwrap();
    until(|| away.0.log().contains("the engine has ended here")).await;
    cluster.ready().await;
    assert_eq!(Api::of(&away.0).request(&id).await, row);
    let begun = read_effects(effects.path(), "begun");
    assert_eq!(begun.len(), 2, "{begun:?}");
    assert_eq!(begun[0], begun[1], "under another key");
    assert_no_panic(away);
}

/// Waits until something is so.
async fn until(is_so: impl Fn() -> bool) {
    let wait = async {
        while !is_so() {
            tokio::time::sleep(POLL).await;
        }
    };
    tokio::time::timeout(LIMIT, wait).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_is_not_what_it_was_not_before() {
    // Without a secret, or with one that can be guessed.
    let home = Home::new();
    let start = ["daemon", "start", "--foreground", "--node-id", "1"];
    let ran = home.rune(&start).ends(2);
    assert!(ran.stderr.contains("RUNE_CLUSTER_SECRET"), "{}", ran.stderr);
    assert!(
        ran.stderr.contains("openssl rand -hex 32"),
        "{}",
        ran.stderr
    );
    let mut short = home.command(&start);
    short.env("RUNE_CLUSTER_SECRET", "too short a secret");
    let ran = crate::home::Ran::new(short).ends(2);
    assert!(!ran.stderr.contains("too short a secret"), "{}", ran.stderr);

    // What it has written is for the node that it was, in the cluster that it was in.
    let mut node = Served(daemon(1, free_addr(), &[]).start().await.unwrap());
    node.0.terminate().await.unwrap();
    let again = |args: &[&str], secret: &str| {
        let mut command = node.command(&["daemon", "start", "--foreground"]);
        command
            .args([
                "--gateway-addr",
                "127.0.0.1:0",
                "--control-plane-addr",
                "127.0.0.1:0",
            ])
            .args(args)
            .env("RUNE_CLUSTER_SECRET", secret);
        crate::home::Ran::new(command).ends(1).stderr
    };
    let alone = again(&[], SECRET);
    assert!(alone.contains("--node-id"), "{alone}");
    let raft = ["--raft-addr", "127.0.0.1:0", "--node-id"];
    let other = again(&[&raft[..], &["2"]].concat(), SECRET);
    assert!(other.contains("node 1"), "{other}");
    let elsewhere = again(&[&raft[..], &["1"]].concat(), &SECRET.to_uppercase());
    assert!(elsewhere.contains("RUNE_CLUSTER_SECRET"), "{elsewhere}");

    // Nor does one that was alone become a node.
    let mut alone = Served(TestDaemon::builder(RUNE).start().await.unwrap());
    alone.0.terminate().await.unwrap();
    let mut command = alone.command(&["daemon", "start", "--foreground", "--node-id", "1"]);
    command
        .args([
            "--gateway-addr",
            "127.0.0.1:0",
            "--control-plane-addr",
            "127.0.0.1:0",
        ])
        .args(["--raft-addr", "127.0.0.1:0"])
        .env("RUNE_CLUSTER_SECRET", SECRET);
    let ran = crate::home::Ran::new(command).ends(1);
    assert!(
        ran.stderr.contains("empty data directory"),
        "{}",
        ran.stderr
    );
}
