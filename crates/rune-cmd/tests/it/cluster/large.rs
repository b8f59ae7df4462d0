//! A database that takes a while to be sent: a node joins, and every node is restarted, while clients go on.

use std::path::Path;
use std::time::{Duration, Instant};

use futures_util::{StreamExt as _, stream};
use rune_storage::{Digest, logical_digest};
use rusqlite::Connection;
use serde_json::{Value, json};

use super::rig::{Clients, Cluster, daemon, free_addr};
use crate::home::{Served, write_plain};
use crate::wire::{Api, LIMIT, POLL, answer, assert_no_panic};

/// The size of the database in MiB, unless `RUNE_TEST_CLUSTER_GIB` says so.
const MIB: u64 = 24;
/// Bytes of what a request that fills it says, and how often a request stores that.
const INPUT: usize = 256 << 10;
const COPIES: u64 = 3;
/// Requests that fill it at a time, and clients that go on meanwhile.
const FILLING: usize = 8;
const CLIENTS: usize = 4;
/// How long a MiB may take to be sent and installed, on a machine that does much else.
const PER_MIB: Duration = Duration::from_millis(500);

#[tokio::test(flavor = "multi_thread")]
async fn a_node_joins_a_large_database_and_all_are_restarted_and_no_request_fails() {
    let mib = mib();
    let patience = LIMIT + PER_MIB * u32::try_from(mib).unwrap();
    let mut cluster = Cluster::start_with(3, |node| node.env("RUST_LOG", "warn")).await;
    write_plain(&cluster.nodes[0].0.home().join("plain"));
    cluster.nodes[0].rune(&["run", "plain"]).ok();
    let begun = Instant::now();
    fill(&Api::of(&cluster.nodes[0].0), mib).await;
    let filled = begun.elapsed();

    let clients = Clients::start(&cluster, CLIENTS, "plain");
    let addr = free_addr();
    let joining = Served(daemon(4, addr, &[]).start().await.unwrap());
    let begun = Instant::now();
    let url = format!(
        "{}/v1/cluster/add-learner",
        cluster.nodes[0].0.control_plane()
    );
    let body = json!({"node": 4, "addr": addr.to_string()});
    let added = reqwest::Client::new().post(url).json(&body).send().await;
    let added = added.unwrap();
    let (code, target) = (added.status(), added.json().await.unwrap());
    assert_eq!(code, 200, "{target}");
    let target = number(&leader(&target), "last");
    within(
        patience,
        "the new node has what the others had",
        async || number(&member(&status(&cluster).await, 4), "applied") >= target,
    )
    .await;
    let joined = begun.elapsed();
    let (asked, longest) = clients.end().await;
    println!(
        "{mib} MiB written in {filled:?}; a node joined in {joined:?}, while {asked} requests were answered, the longest time \
         without an answer {longest:?}"
    );
    assert!(asked > 0);
    cluster.nodes.push(joining);
    println!("{}", report(&cluster));
    same_rows(&cluster, patience).await;

    let clients = Clients::start(&cluster, CLIENTS, "plain");
    let begun = Instant::now();
    cluster.restart_all(&clients).await;
    let restarted = begun.elapsed();
    let (asked, longest) = clients.end().await;
    println!(
        "every node was restarted in {restarted:?}, while {asked} requests were answered, the longest time without an answer \
         {longest:?}"
    );
    assert!(asked > 0);
    println!("{}", report(&cluster));
    same_rows(&cluster, patience).await;
    for node in &cluster.nodes {
        assert_no_panic(node);
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "how long a test takes is for who runs it"
)]
fn mib() -> u64 {
    let given = std::env::var("RUNE_TEST_CLUSTER_GIB").ok();
    given.map_or(MIB, |gib| gib.parse::<u64>().unwrap() << 10)
}

/// Has requests be stored until the database has this size.
async fn fill(api: &Api, mib: u64) {
    let requests = (mib << 20) / (INPUT as u64 * COPIES);
    let asked = stream::iter(0..requests).map(|n| async move {
        let input = format!("{n} {}", "large ".repeat(INPUT / 6));
        let request = api.invoke("plain", &json!({"input": input}));
        let (status, body) = answer(request).await.unwrap();
        assert_eq!(status, 200, "{}", body["error"]);
    });
    asked.buffer_unordered(FILLING).collect::<()>().await;
}

async fn within(patience: Duration, what: &str, holds: impl AsyncFn() -> bool) {
    let waited = async {
        while !holds().await {
            tokio::time::sleep(POLL).await;
        }
    };
    let waited = tokio::time::timeout(patience, waited).await;
    assert!(waited.is_ok(), "not within {patience:?}: {what}");
}

async fn status(cluster: &Cluster) -> Value {
    let url = format!("{}/v1/cluster/status", cluster.nodes[0].0.control_plane());
    let answer = reqwest::get(url).await.unwrap();
    answer.json().await.unwrap()
}

fn find(cluster: &Value, field: &str, value: &Value) -> Value {
    let members = cluster["members"].as_array().unwrap().iter();
    let mut found = members.filter(|member| member[field] == *value);
    found.next().cloned().unwrap_or_default()
}

fn member(cluster: &Value, node: u64) -> Value {
    find(cluster, "node", &json!(node))
}

fn leader(cluster: &Value) -> Value {
    find(cluster, "role", &json!("leader"))
}

fn number(member: &Value, field: &str) -> Option<u64> {
    member[field].as_u64()
}

/// Waits until every node has applied everything, and compares their rows.
async fn same_rows(cluster: &Cluster, patience: Duration) {
    let all_applied = async || {
        let status = status(cluster).await;
        let last = number(&leader(&status), "last");
        let members = status["members"].as_array().unwrap();
        let all = last.is_some() && members.iter().all(|row| number(row, "applied") == last);
        all.then_some(last)
    };
    within(patience, "every node has the same rows", async || {
        let Some(before) = all_applied().await else {
            return false;
        };
        let nodes = cluster.nodes.iter();
        let digests: Vec<Digest> = nodes.map(|node| digest(&node.0.data_dir())).collect();
        let same = digests.windows(2).all(|two| two[0] == two[1]);
        // What differs may have been written meanwhile, by the engine itself.
        assert!(same || all_applied().await != Some(before), "{digests:?}");
        same
    })
    .await;
}

fn digest(data_dir: &Path) -> Digest {
    let db = Connection::open(data_dir.join("rune.db")).unwrap();
    logical_digest(&db).unwrap()
}

/// The most memory that each node had, and what is in its directory.
fn report(cluster: &Cluster) -> String {
    let nodes = cluster.nodes.iter().enumerate();
    let lines = nodes.map(|(place, node)| {
        let status = format!("/proc/{}/status", node.0.pid().unwrap());
        let status = std::fs::read_to_string(status).unwrap();
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let disk = size(&node.0.data_dir()) >> 20;
        format!(
            "node {}: peak RSS {}, {disk} MiB on disk",
            place + 1,
            peak.unwrap_or_default().trim()
        )
    });
    lines.collect::<Vec<_>>().join("\n")
}

fn size(dir: &Path) -> u64 {
    let entries = std::fs::read_dir(dir).unwrap().flatten();
    let sizes = entries.map(|entry| match entry.metadata() {
        Ok(found) if found.is_dir() => size(&entry.path()),
        Ok(found) => found.len(),
        // Gone by now.
        Err(_) => 0,
    });
    sizes.sum()
}
