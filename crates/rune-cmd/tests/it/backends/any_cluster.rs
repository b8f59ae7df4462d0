//! What holds in any cluster: that of the test kit, and a real one where `KUBECONFIG` names it.

use std::collections::BTreeSet;

use rune_testkit::TestDaemon;
use rune_testkit_kubernetes::Kubectl;
use serde_json::{Value, json};

use super::cluster::{Cluster, NAMESPACE};
use super::real::{Place, SKIPPED, alone};
use super::watch::{Told, Watch};
use super::{containers, rig};
use crate::home::{RUNE, Served};
use crate::wire::{Api, LIMIT, POLL};

/// An agent whose tools are no processes, so that a node needs nothing for it.
const RUNEFILE: &str = "name: talker\nversion: 0.1.0\ninstructions: Answer.\ndefault_model: default\n\
                        toolset: [rune@system-time, rune@file-write, rune@memory-store]\n\
                        models:\n  providers: [offline]\n  model_mapping: {default: offline}\n";

/// Writes the agent into the home of a daemon, and deploys as many replicas.
pub(super) fn deploy_talker(served: &Served, replicas: &str) {
    let dir = served.0.home().join("talker");
    std::fs::create_dir_all(&dir).unwrap();
    std::fs::write(dir.join("Runefile"), RUNEFILE).unwrap();
    served.rune(&["run", "talker", "--replicas", replicas]).ok();
}

#[tokio::test(flavor = "multi_thread")]
async fn replicas_are_what_the_cluster_says_in_that_of_the_test_kit() {
    if !rig::is_here("kubernetes") {
        return;
    }
    let cluster = Cluster::start().await;
    everything(&Place {
        kubeconfig: cluster.server.kubeconfig(NAMESPACE).unwrap(),
        namespace: NAMESPACE.to_owned(),
        image: containers::image().unwrap().to_owned(),
        addr: Cluster::address(),
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn replicas_are_what_the_cluster_says_in_a_real_one() {
    let Some(place) = Place::real() else {
        eprintln!("{SKIPPED}");
        return;
    };
    let _alone = alone();
    everything(&place).await;
}

/// A pod, as `kubectl` has it.
struct Pod {
    name: String,
    replica: String,
    is_ready: bool,
}

struct Judge {
    kubectl: Kubectl,
    namespace: String,
}

impl Judge {
    async fn ok(&self, args: &[&str]) -> String {
        let args = [&["--namespace", &self.namespace], args].concat();
        let output = self.kubectl.run(&args).await.unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{args:?}: {said}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// The pods of a daemon, without those that are being deleted.
    async fn pods(&self, daemon: &str) -> Vec<Pod> {
        let label = format!("--selector=rune.daemon={daemon}");
        let said = self.ok(&["get", "pods", &label, "-o", "json"]).await;
        let list: Value = serde_json::from_str(&said).unwrap();
        let pods = list["items"].as_array().unwrap().iter();
        let pods = pods.filter(|pod| pod["metadata"].get("deletionTimestamp").is_none());
        pods.map(|pod| Pod {
            name: pod["metadata"]["name"].as_str().unwrap().to_owned(),
            replica: pod["metadata"]["labels"]["rune.replica"]
                .as_str()
                .unwrap()
                .to_owned(),
            is_ready: pod["status"]["containerStatuses"][0]["ready"] == true,
        })
        .collect()
    }
}

async fn everything(place: &Place) {
    let Some(kubectl) = Kubectl::find(place.kubeconfig.clone()).unwrap() else {
        return;
    };
    let judge = Judge {
        kubectl,
        namespace: place.namespace.clone(),
    };
    let daemon = place.configure(TestDaemon::builder(RUNE));
    let daemon = daemon.arg("--backend").arg("kubernetes");
    let served = Served(daemon.start().await.unwrap());
    let id = std::fs::read_to_string(served.0.data_dir().join("daemon.id")).unwrap();
    let id = id.trim();
    let watch = Watch::start(&judge.kubectl, &judge.namespace, id);
    deploy_talker(&served, "2");
    let api = Api::of(&served.0);
    let hello = json!({"input": "hello"});
    let (status, body) = api.ask("talker", &hello).await;
    assert_eq!(
        (status, &body["output"]),
        (200, &json!("Echo: hello")),
        "{body}"
    );
    let mut believed = agree(&judge, &watch, &served, id).await;

    let pods = judge.pods(id).await;
    let (gone, replica) = (pods[0].name.clone(), pods[0].replica.clone());
    let described = judge.ok(&["describe", "pod", &gone]).await;
    assert!(described.contains("rune.agent=talker"), "{described}");
    let log = judge.ok(&["logs", &gone]).await;
    let own = served.rune(&["agent", "logs", "talker"]).ok();
    let last = log.lines().rfind(|line| line.contains("ready")).unwrap();
    let last: String = last.chars().filter(char::is_ascii_graphic).collect();
    let own: String = own.chars().filter(char::is_ascii_graphic).collect();
    assert!(own.contains(&last), "{last}\n{own}");

    judge.ok(&["delete", "pod", &gone, "--wait=false"]).await;
    // Nobody who asks notices.
    for _ in 0..20 {
        let (status, body) = api.ask("talker", &hello).await;
        assert_eq!(status, 200, "{body}\n{}", served.0.log());
    }
    until(&served, "another pod took its place", async || {
        let pods = judge.pods(id).await;
        let ready = pods.iter().filter(|pod| pod.is_ready).count();
        ready == 2 && pods.iter().all(|pod| pod.replica != replica)
    })
    .await;
    believed.extend(agree(&judge, &watch, &served, id).await);

    served.rune(&["agent", "stop", "talker"]).ok();
    until(&served, "no pod is left", async || {
        judge.pods(id).await.is_empty() && watch.told().pods == 0
    })
    .await;
    // What came and went in between is what the daemon has believed, and nothing else.
    let expected = Told {
        ever_ready: believed,
        ..Told::default()
    };
    assert_eq!(watch.told(), expected);
    assert_eq!(expected.ever_ready.len(), 3);
}

/// Waits until the daemon, the cluster and a watch of it name the same replicas, all of them ready; answers them.
async fn agree(judge: &Judge, watch: &Watch, served: &Served, daemon: &str) -> BTreeSet<String> {
    until(served, "the daemon and the cluster agree", async || {
        let url = format!("{}/v1/replicas", served.0.control_plane());
        let page: Value = reqwest::get(url).await.unwrap().json().await.unwrap();
        let rows = page["items"].as_array().unwrap();
        let believed: BTreeSet<&str> = rows
            .iter()
            .filter(|row| row["state"] == "ready" && row["backend"] == "kubernetes")
            .map(|row| row["id"].as_str().unwrap())
            .collect();
        let told = watch.told();
        let told: BTreeSet<&str> = told.ready.iter().map(String::as_str).collect();
        let pods = judge.pods(daemon).await;
        let seen: BTreeSet<&str> = pods
            .iter()
            .filter(|pod| pod.is_ready)
            .map(|pod| pod.replica.as_str())
            .collect();
        believed == seen && told == seen && seen.len() == 2 && pods.len() == 2 && rows.len() == 2
    })
    .await;
    watch.told().ready
}

async fn until(served: &Served, what: &str, is: impl AsyncFn() -> bool) {
    let reached = async {
        while !is().await {
            tokio::time::sleep(POLL).await;
        }
    };
    let reached = tokio::time::timeout(LIMIT, reached).await;
    assert!(reached.is_ok(), "not so: {what}\n{}", served.0.log());
}
