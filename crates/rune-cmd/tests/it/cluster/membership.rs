//! What operators do with a cluster of daemons.

use serde_json::{Value, json};

use super::rig::{Cluster, daemon, free_addr, get, until};
use crate::home::{Served, write_plain};
use crate::wire::{Api, answer};

fn status(node: &Served) -> Value {
    node.rune(&["cluster", "status", "-o", "json"]).json()
}

fn member(cluster: &Value, node: u64) -> Value {
    let members = cluster["members"].as_array().unwrap().iter();
    let mut found = members.filter(|member| member["node"] == node);
    found.next().cloned().unwrap_or_default()
}

/// What a command that is refused says.
#[track_caller]
fn refused(node: &Served, args: &[&str]) -> String {
    let args = [&["cluster"][..], args].concat();
    node.rune(&args).ends(1).stderr
}

#[tokio::test(flavor = "multi_thread")]
async fn every_node_shows_the_cluster_and_takes_changes_of_it() {
    let cluster = Cluster::start(3).await;
    let leader = cluster.leader().await;
    let other = &cluster.nodes[(leader + 1) % 3];
    let number = |place: usize| u64::try_from(place).unwrap() + 1;
    let ran = other.rune(&["cluster", "status"]).ends(0);
    assert!(ran.stdout.contains("quorum   yes"), "{}", ran.stdout);
    let lines: Vec<&str> = ran.stdout.lines().collect();
    let leads = format!("leader   node {},", number(leader));
    assert!(
        lines.iter().any(|line| line.starts_with(&leads)),
        "{}",
        ran.stdout
    );
    assert_eq!(
        lines.iter().filter(|line| line.ends_with(" ok")).count(),
        3,
        "{}",
        ran.stdout
    );
    let shown = status(other);
    assert_eq!(shown["node"], number((leader + 1) % 3));
    assert_eq!(member(&shown, number(leader))["role"], "leader");
    assert_eq!(member(&shown, 1)["version"], env!("CARGO_PKG_VERSION"));
    let (code, named) = get(&format!("{}/v1/status", other.0.control_plane())).await;
    assert_eq!(code, 200);
    assert_eq!(named["cluster"], shown["cluster"]);
    assert_eq!(named["node"], number((leader + 1) % 3).to_string());

    // Nothing is begun a second time, and nobody is taken for somebody else.
    let said = refused(other, &["init"]);
    assert!(said.contains("in a cluster already"), "{said}");
    let nowhere = free_addr().to_string();
    let said = refused(other, &["add-learner", "4", &nowhere]);
    assert!(said.contains("node 4 at"), "{said}");
    let addr = member(&shown, 1)["addr"].as_str().unwrap().to_owned();
    let said = refused(other, &["add-learner", "4", &addr]);
    assert!(said.contains("is not node 4"), "{said}");
    let said = refused(other, &["remove", "9"]);
    assert!(
        said.contains("node 9 is no member; the members are 1, 2, 3"),
        "{said}"
    );
    let said = refused(other, &["change-membership", "1", "9"]);
    assert!(said.contains("node 9 is no member"), "{said}");
    let wrong = other
        .rune(&["cluster", "add-learner", "4", "nowhere"])
        .ends(2);
    assert!(wrong.stderr.contains("HOST:PORT"), "{}", wrong.stderr);

    // A snapshot is of the node that is asked.
    let made = other.rune(&["cluster", "snapshot", "-o", "json"]).json();
    assert_eq!(made["node"], shown["node"]);
    let snapshot = member(&status(other), made["node"].as_u64().unwrap())["snapshot"].clone();
    assert!(
        snapshot.as_u64() >= made["snapshot"].as_u64(),
        "{snapshot} {made}"
    );

    let next = number((leader + 1) % 3).to_string();
    other.rune(&["cluster", "transfer-leader", &next]).ok();
    until("the other one leads", async || {
        cluster.leader().await != leader
    })
    .await;

    // What was done is in the audit trail, and what was refused is not.
    let url = format!("{}/v1/audit", other.0.control_plane());
    let (_, audit) = get(&url).await;
    let kinds: Vec<&str> = audit["items"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(|row| row["kind"].as_str())
        .filter(|kind| kind.starts_with("cluster."))
        .collect();
    assert_eq!(kinds.len(), 3, "{audit}");
    for kind in [
        "cluster.init",
        "cluster.snapshot",
        "cluster.transfer_leader",
    ] {
        assert!(kinds.contains(&kind), "{kinds:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_is_lost_for_good_is_replaced() {
    let mut cluster = Cluster::start(3).await;
    write_plain(&cluster.nodes[0].0.home().join("plain"));
    cluster.nodes[0].rune(&["run", "plain"]).ok();
    let lost = cluster.leader().await;
    let (lost_id, left) = (u64::try_from(lost).unwrap() + 1, (lost + 1) % 3);
    let third = u64::try_from((lost + 2) % 3).unwrap() + 1;
    cluster.nodes[lost].0.kill9().unwrap();
    let asked = &cluster.nodes[left];
    until("another one leads", async || {
        let shown = asked.rune(&["cluster", "status", "-o", "json"]);
        let shown: Value = serde_json::from_str(&shown.stdout).unwrap_or_default();
        shown["quorum"] == true
            && shown["leader"] != lost_id
            && member(&shown, lost_id)["state"] != "ok"
    })
    .await;
    // Of the two that are left none can go; the lost one can.
    until("its silence counts", async || {
        let heard = member(&status(asked), lost_id)["heard_ms"].as_u64();
        heard.is_none_or(|ms| ms > 3_000)
    })
    .await;
    let said = refused(asked, &["remove", &third.to_string()]);
    assert!(said.contains("the cluster would stop"), "{said}");
    asked
        .rune(&["cluster", "remove", &lost_id.to_string()])
        .ok();

    let addr = free_addr();
    let said = refused(
        asked,
        &["add-learner", &lost_id.to_string(), &addr.to_string()],
    );
    assert!(said.contains("was in use before"), "{said}");
    let fourth = daemon(4, addr, &[]);
    let fourth = Served(fourth.start().await.unwrap());
    // Until it is taken in it says what it waits for, and is alive.
    let base = fourth.0.gateway().to_owned();
    until("it says why it is not ready", async || {
        let (code, ready) = get(&format!("{base}/ready")).await;
        code == 503 && ready.to_string().contains("rune cluster add-learner 4")
    })
    .await;
    assert_eq!(get(&format!("{base}/health")).await.0, 200);
    let added = asked.rune(&["cluster", "add-learner", "4", &addr.to_string()]);
    let added = added.ends(0);
    assert!(
        added.stderr.contains("node 4 has everything"),
        "{}",
        added.stderr
    );
    let voters = [left + 1, usize::try_from(third).unwrap(), 4].map(|id| id.to_string());
    let voters: Vec<&str> = voters.iter().map(String::as_str).collect();
    let change = [&["cluster", "change-membership"][..], &voters].concat();
    asked.rune(&change).ok();
    let shown = status(&fourth);
    let roles: Vec<_> = shown["members"]
        .as_array()
        .unwrap()
        .iter()
        .map(|row| row["role"].clone())
        .collect();
    assert_eq!(roles.len(), 3, "{shown}");
    assert!(!roles.contains(&json!("learner")), "{shown}");
    until("the new node answers callers", async || {
        get(&format!("{base}/ready")).await.0 == 200
    })
    .await;
    let (code, body) = Api::of(&fourth.0)
        .ask("plain", &json!({"input": "hi"}))
        .await;
    assert_eq!((code, &body["output"]), (200, &json!("Echo: hi")), "{body}");

    // The lost one comes back, and finds that it is not wanted.
    cluster.nodes[lost].0.restart().await.unwrap();
    let base = cluster.nodes[lost].0.gateway().to_owned();
    until("it knows", async || {
        let (code, ready) = get(&format!("{base}/ready")).await;
        code == 503 && ready.to_string().contains("was removed from the cluster")
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_without_a_majority_is_alive_and_not_ready() {
    let mut cluster = Cluster::start(3).await;
    for place in [1, 2] {
        cluster.nodes[place].0.kill9().unwrap();
    }
    let base = cluster.nodes[0].0.gateway().to_owned();
    until("it says whom to start", async || {
        let (code, ready) = get(&format!("{base}/ready")).await;
        let parts = ready["parts"].as_array().cloned().unwrap_or_default();
        let part = parts.iter().find(|part| part["name"] == "cluster");
        let reason = part
            .and_then(|part| part["reason"].as_str())
            .unwrap_or_default();
        code == 503 && reason.contains("1 of 3 voters answer; start nodes 2, 3")
    })
    .await;
    assert_eq!(get(&format!("{base}/health")).await.0, 200);
    let ran = cluster.nodes[0].rune(&["cluster", "status"]).ends(6);
    assert!(ran.stdout.contains("quorum   no"), "{}", ran.stdout);
    assert!(ran.stderr.contains("start nodes 2, 3"), "{}", ran.stderr);
    let metrics = reqwest::get(format!("{base}/metrics")).await.unwrap();
    let metrics = metrics.text().await.unwrap();
    for line in [
        "rune_cluster_quorum 0",
        "rune_cluster_term ",
        "rune_cluster_elections_total ",
    ] {
        assert!(metrics.contains(line), "{line}: {metrics}");
    }
    cluster.nodes[1].0.restart().await.unwrap();
    until("two are a majority", async || {
        get(&format!("{base}/ready")).await.0 == 200
    })
    .await;
    cluster.nodes[0].rune(&["cluster", "status"]).ok();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_that_is_no_node_says_how_to_start_one() {
    let served = Served::with_plain().await;
    for args in [
        &["status"][..],
        &["init"],
        &["snapshot"],
        &["remove", "1"],
        &["transfer-leader", "1"],
        &["add-learner", "1", "127.0.0.1:1"],
        &["change-membership", "1"],
    ] {
        let said = refused(&served, args);
        assert!(said.contains("rune daemon start --node-id 1"), "{said}");
    }
    let (code, named) = get(&format!("{}/v1/status", served.0.control_plane())).await;
    assert_eq!(
        (code, &named["node"], &named["cluster"]),
        (200, &json!("local"), &Value::Null)
    );
    let api = Api::of(&served.0);
    let (code, _) = answer(api.get("/v1/agents")).await.unwrap();
    assert_eq!(code, 200);
}
