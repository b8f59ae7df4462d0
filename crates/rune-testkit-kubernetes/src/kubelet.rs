//! A kubelet and a scheduler for one node: they run what the server has.

mod config;
mod container;
mod docker;
mod pod;
mod probe;
mod runtime;
mod schedule;
mod scripted;
mod status;
mod surroundings;

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use self::surroundings::Api;
use crate::cluster::Cluster;
use crate::object::{self, text};
use crate::resource::named;
use crate::store::Key;
use crate::write::{self, WriteOptions};
use crate::{ApiServer, task};

pub use docker::DockerPods;
pub use runtime::{ContainerRequest, Mount, PodRuntime, Running, StartFailure};
pub use scripted::{Script, ScriptedPods};

/// A node.
#[derive(Debug, Clone)]
pub struct NodeConfig {
    /// Its name.
    pub name: String,
    /// Its labels, which node selectors ask for.
    pub labels: Vec<(String, String)>,
    /// Processors that pods can ask for.
    pub cpus: u32,
    /// Memory that pods can ask for, in MiB.
    pub memory_mib: u32,
    /// Pause before a container that ended starts again; doubles with every further time.
    pub backoff: Duration,
    /// Where the volumes of claims are, each at `NAMESPACE/CLAIM`; absent: it has none.
    pub volumes: Option<PathBuf>,
}

impl Default for NodeConfig {
    fn default() -> Self {
        Self {
            name: "node".to_owned(),
            labels: Vec::new(),
            cpus: 16,
            memory_mib: 65_536,
            backoff: Duration::from_millis(500),
            volumes: None,
        }
    }
}

/// A node that runs pods; it ends when dropped, and its containers with it.
#[derive(Debug)]
pub struct Kubelet {
    stop: CancellationToken,
}

impl Kubelet {
    /// Joins a node to the cluster of a server.
    #[must_use]
    pub fn start(server: &ApiServer, node: NodeConfig, runtime: Arc<dyn PodRuntime>) -> Self {
        let stop = CancellationToken::new();
        let worker = Worker {
            cluster: Arc::clone(server.cluster()),
            node: Arc::new(node),
            runtime,
            api: Api::of(server).map(Arc::new),
            stop: stop.clone(),
        };
        worker.join();
        task::spawn_until(stop.clone(), worker.run());
        Self { stop }
    }
}

impl Drop for Kubelet {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

struct Worker {
    cluster: Arc<Cluster>,
    node: Arc<NodeConfig>,
    runtime: Arc<dyn PodRuntime>,
    api: Option<Arc<Api>>,
    stop: CancellationToken,
}

impl Worker {
    /// Makes the node known.
    fn join(&self) {
        let Some(nodes) = named("nodes") else { return };
        let labels: serde_json::Map<String, Value> = self
            .node
            .labels
            .iter()
            .map(|(key, value)| (key.clone(), json!(value)))
            .collect();
        let node = json!({
            "apiVersion": "v1", "kind": "Node", "metadata": {"name": self.node.name, "labels": labels},
        });
        // One of the same name is this node, started again.
        let options = WriteOptions::default();
        let _ = write::create(&mut self.cluster.store(), nodes, "", node, &options);
    }

    async fn run(self) {
        let mut latest = self.cluster.store().subscribe();
        let mut running: HashMap<String, CancellationToken> = HashMap::new();
        loop {
            latest.mark_unchanged();
            self.look(&mut running);
            if latest.changed().await.is_err() {
                return;
            }
        }
    }

    /// Places new pods, begins those of this node, and ends those that are deleted.
    fn look(&self, running: &mut HashMap<String, CancellationToken>) {
        schedule::place(&self.cluster, &self.node);
        let Some(pods) = named("pods") else { return };
        let own: Vec<(Key, Arc<Value>)> = self
            .cluster
            .store()
            .list(pods, None)
            .filter(|(_, pod)| text(pod, "/spec/nodeName") == self.node.name)
            .map(|(key, pod)| (key.clone(), Arc::clone(pod)))
            .collect();
        running.retain(|uid, stop| {
            let found = own.iter().find(|(_, pod)| object::uid(pod) == uid);
            if found.is_none_or(|(_, pod)| object::is_deleting(pod)) {
                stop.cancel();
            }
            found.is_some()
        });
        for (key, pod) in own {
            let uid = object::uid(&pod).to_owned();
            if running.contains_key(&uid) {
                continue;
            }
            let ending = CancellationToken::new();
            if object::is_deleting(&pod) {
                ending.cancel();
            }
            running.insert(uid, ending.clone());
            let pod = pod::PodTask::new(
                Arc::clone(&self.cluster),
                Arc::clone(&self.node),
                Arc::clone(&self.runtime),
                self.api.clone(),
                key,
                pod,
                ending,
            );
            task::spawn_until(self.stop.clone(), pod.run());
        }
    }
}
