//! Packages and large outputs on nodes that have directories of their own.

use std::fs;
use std::path::{Path, PathBuf};

use rune_testkit::{ModelServer, Protocol};
use serde_json::json;

use super::rig::Cluster;
use crate::home::Served;
use crate::objects::{AGENT, LARGE, make_output, script};
use crate::wire::{Api, LIMIT, POLL, assert_no_panic, deploy};

fn objects_of(node: &Served) -> PathBuf {
    node.0.data_dir().join("objects")
}

/// The files of the objects below a directory.
fn files(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).into_iter().flatten();
    let paths = entries.map(|entry| entry.unwrap().path());
    paths
        .flat_map(|path| match path.is_dir() {
            true => files(&path),
            false => vec![path],
        })
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_package_and_a_large_output_outlive_the_node_that_stored_them() {
    let server = ModelServer::start(script()).await.unwrap();
    let mut cluster = Cluster::start(3).await;
    let models = [(&server, Protocol::Openai)];
    deploy(&cluster.nodes[0], AGENT, &models, &[LARGE], "");
    let leader = cluster.leader().await;
    let (_, output) = make_output(&Api::of(&cluster.nodes[leader].0)).await;
    let read = async |api: &Api| {
        let answer = api.get(&output).send().await.unwrap();
        assert_eq!(answer.status(), 200, "{answer:?}");
        answer.text().await.unwrap()
    };
    let expected = read(&Api::of(&cluster.nodes[leader].0)).await;

    // Its disk is gone with it.
    cluster.nodes[leader].0.kill9().unwrap();
    let lost = objects_of(&cluster.nodes[leader]);
    assert_eq!(files(&lost).len(), 2, "the package and the output");
    fs::remove_dir_all(&lost).unwrap();
    for (_, node) in cluster
        .nodes
        .iter()
        .enumerate()
        .filter(|(at, _)| *at != leader)
    {
        let api = Api::of(&node.0);
        assert_eq!(read(&api).await, expected);
        let (_, done) = api.ask(AGENT, &json!({"input": "hi"})).await;
        assert_eq!(done["output"], "Echo: hi", "{done}");
    }

    // What it lacks when it is back it takes over, without being asked for it.
    cluster.nodes[leader].0.restart().await.unwrap();
    let taken_over = async {
        while files(&lost).len() < 2 {
            tokio::time::sleep(POLL).await;
        }
    };
    tokio::time::timeout(LIMIT, taken_over).await.unwrap();
    for node in &cluster.nodes {
        assert_no_panic(node);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_of_one_node_has_what_only_others_had() {
    let server = ModelServer::start(script()).await.unwrap();
    let mut cluster = Cluster::start(3).await;
    let models = [(&server, Protocol::Openai)];
    deploy(&cluster.nodes[0], AGENT, &models, &[LARGE], "");
    make_output(&Api::of(&cluster.nodes[0].0)).await;
    let node = &cluster.nodes[0];
    let target = node.0.home().join("backups");
    let backup = |node: &Served| {
        let target = target.to_str().unwrap();
        node.rune(&["backup", target, "-o", "json"])
    };
    let settled = async {
        while files(&objects_of(node)).len() < 2 {
            tokio::time::sleep(POLL).await;
        }
    };
    tokio::time::timeout(LIMIT, settled).await.unwrap();
    // One is gone, and one is not what it was.
    let [gone, damaged] = &files(&objects_of(node))[..] else {
        panic!("{:?}", files(&objects_of(node)));
    };
    fs::remove_file(gone).unwrap();
    fs::write(damaged, "altered").unwrap();
    let made = backup(node).json();
    assert_eq!(
        (&made["lost"], &made["objects"]),
        (&json!([]), &json!(2)),
        "{made}"
    );

    // Where nobody can be asked it is said what is missing.
    fs::remove_file(gone).unwrap();
    cluster.nodes[0].0.kill9().unwrap();
    fs::remove_dir_all(&target).unwrap();
    let ran = backup(&cluster.nodes[0]);
    assert!(
        ran.stderr.contains("not taken from other nodes"),
        "{}",
        ran.stderr
    );
    assert!(ran.stderr.contains("missing or damaged"), "{}", ran.stderr);
    let made = ran.json();
    assert_eq!(made["lost"].as_array().unwrap().len(), 1, "{made}");
}
