//! What `kubectl get --watch` tells of the pods of a daemon.

use std::collections::{BTreeMap, BTreeSet};
use std::io::BufReader;
use std::process::Child;
use std::sync::{Arc, Mutex};

use rune_testkit_kubernetes::Kubectl;
use serde_json::{Deserializer, Value};

/// A `kubectl` that follows pods, and what it has told.
pub(super) struct Watch {
    kubectl: Child,
    told: Arc<Mutex<Vec<Value>>>,
}

/// The pods of a watch.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Told {
    /// Replicas whose pods are ready and not being deleted.
    pub(super) ready: BTreeSet<String>,
    /// Pods that are there.
    pub(super) pods: usize,
    /// Replicas that have ever been ready.
    pub(super) ever_ready: BTreeSet<String>,
}

impl Watch {
    pub(super) fn start(kubectl: &Kubectl, namespace: &str, daemon: &str) -> Self {
        let label = format!("--selector=rune.daemon={daemon}");
        let args = ["get", "pods", "--namespace", namespace, &label];
        let as_events = ["--watch", "--output-watch-events", "-o", "json"];
        let mut kubectl = kubectl.start(&[&args[..], &as_events].concat()).unwrap();
        let out = BufReader::new(kubectl.stdout.take().unwrap());
        let told = Arc::<Mutex<Vec<Value>>>::default();
        let events = Arc::clone(&told);
        // It ends with the program.
        tokio::task::spawn_blocking(move || {
            for event in Deserializer::from_reader(out)
                .into_iter()
                .map_while(Result::ok)
            {
                events.lock().unwrap().push(event);
            }
        });
        Self { kubectl, told }
    }

    /// How the pods are by all that was told; each comes once and goes once.
    pub(super) fn told(&self) -> Told {
        let events = self.told.lock().unwrap();
        let (mut there, mut known) = (BTreeMap::new(), BTreeSet::new());
        let mut ever_ready = BTreeSet::new();
        for event in events.iter() {
            let pod = &event["object"];
            let name = pod["metadata"]["name"].as_str().unwrap();
            let replica = &pod["metadata"]["labels"]["rune.replica"];
            let replica = replica.as_str().unwrap().to_owned();
            let is_ready = pod["status"]["containerStatuses"][0]["ready"] == true
                && pod["metadata"].get("deletionTimestamp").is_none();
            match event["type"].as_str().unwrap() {
                "ADDED" => assert!(known.insert(name), "{name} came twice: {events:?}"),
                "MODIFIED" => assert!(there.contains_key(name), "{name}: {events:?}"),
                "DELETED" => {
                    assert!(there.remove(name).is_some(), "{name}: {events:?}");
                    continue;
                }
                other => assert_eq!(other, "MODIFIED", "{event}"),
            }
            if is_ready {
                ever_ready.insert(replica.clone());
            }
            there.insert(name, is_ready.then_some(replica));
        }
        Told {
            pods: there.len(),
            ready: there.into_values().flatten().collect(),
            ever_ready,
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        // Whether it still runs or not.
        let _ = self.kubectl.kill();
        let _ = self.kubectl.wait();
    }
}
