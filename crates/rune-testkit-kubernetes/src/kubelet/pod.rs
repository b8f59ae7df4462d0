//! One pod on its node, from its first container to its deletion.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::future::join_all;
use serde_json::Value;
use tokio_util::sync::CancellationToken;

use super::NodeConfig;
use super::config::Volumes;
use super::container::{Kind, run_container};
use super::runtime::PodRuntime;
use super::status::{self, ContainerState};
use super::surroundings::{Api, Hosts};
use crate::cluster::Cluster;
use crate::events::{self, Level};
use crate::garbage::{self, DeleteOptions};
use crate::object::{self, list};
use crate::resource::named;
use crate::store::Key;
use crate::write::{self, WriteOptions};

/// The task of a pod.
pub(super) struct PodTask {
    pub(super) cluster: Arc<Cluster>,
    pub(super) node: Arc<NodeConfig>,
    pub(super) runtime: Arc<dyn PodRuntime>,
    /// The server, where containers reach it.
    pub(super) api: Option<Arc<Api>>,
    key: Key,
    pub(super) pod: Arc<Value>,
    /// Cancelled when the pod is deleted.
    pub(super) ending: CancellationToken,
    states: Mutex<States>,
}

#[derive(Default)]
struct States {
    init: Vec<ContainerState>,
    containers: Vec<ContainerState>,
    address: String,
    /// The container whose network the others share.
    network: Option<String>,
}

impl PodTask {
    pub(super) fn new(
        cluster: Arc<Cluster>,
        node: Arc<NodeConfig>,
        runtime: Arc<dyn PodRuntime>,
        api: Option<Arc<Api>>,
        key: Key,
        pod: Arc<Value>,
        ending: CancellationToken,
    ) -> Self {
        let states = |kind: Kind| vec![ContainerState::default(); list(&pod, kind.path()).len()];
        let states = States {
            init: states(Kind::Init),
            containers: states(Kind::Main),
            ..States::default()
        };
        Self {
            cluster,
            node,
            runtime,
            api,
            key,
            pod,
            ending,
            states: Mutex::new(states),
        }
    }

    pub(super) async fn run(self) {
        self.publish();
        match Volumes::new(&self.node) {
            Ok(volumes) => {
                let hosts = Hosts::new(volumes.hosts());
                tokio::select! {
                    () = self.containers(&volumes) => {}
                    () = hosts.follow(&self.cluster, &self.pod) => {}
                }
            }
            Err(error) => self.warn("FailedMount", &error),
        }
        self.ending.cancelled().await;
        self.finalize();
    }

    async fn containers(&self, volumes: &Volumes) {
        for at in 0..list(&self.pod, Kind::Init.path()).len() {
            run_container(self, Kind::Init, at, volumes).await;
            let is_done = self
                .states()
                .init
                .get(at)
                .is_some_and(|c| c.finished == Some(0));
            if !is_done {
                return;
            }
        }
        // The first makes the network that the others share.
        let all = (0..list(&self.pod, Kind::Main.path()).len())
            .map(|at| run_container(self, Kind::Main, at, volumes));
        join_all(all).await;
    }

    fn states(&self) -> MutexGuard<'_, States> {
        self.states.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes how a container is, and tells the server.
    pub(super) fn change(&self, kind: Kind, at: usize, change: impl FnOnce(&mut ContainerState)) {
        {
            let mut states = self.states();
            let of = match kind {
                Kind::Init => &mut states.init,
                Kind::Main => &mut states.containers,
            };
            if let Some(state) = of.get_mut(at) {
                change(state);
            }
        }
        self.publish();
    }

    /// Notes the container that was started, by which the others find the network.
    pub(super) fn joined(&self, kind: Kind, at: usize, id: &str, address: &str) {
        if kind == Kind::Main && at == 0 {
            let mut states = self.states();
            states.network = Some(id.to_owned());
            address.clone_into(&mut states.address);
        }
    }

    /// The container whose network another one shares.
    pub(super) fn network(&self) -> Option<String> {
        self.states().network.clone()
    }

    pub(super) fn warn(&self, reason: &str, message: &str) {
        self.note(Level::Warning, reason, message);
    }

    pub(super) fn tell(&self, reason: &str, message: &str) {
        self.note(Level::Normal, reason, message);
    }

    fn note(&self, level: Level, reason: &str, message: &str) {
        let mut store = self.cluster.store();
        events::note(&mut store, &self.pod, "kubelet", level, reason, message);
    }

    fn publish(&self) {
        let Some(pods) = named("pods") else { return };
        let mut store = self.cluster.store();
        let found = store.get(&self.key);
        let Some(found) = found.filter(|pod| object::uid(pod) == object::uid(&self.pod)) else {
            return;
        };
        let mut pod = Value::clone(found);
        let states = self.states();
        status::write(&mut pod, &states.init, &states.containers, &states.address);
        drop(states);
        let options = WriteOptions {
            manager: "kubelet".to_owned(),
            ..WriteOptions::default()
        };
        // It is as it was read, so nothing can be in the way.
        let _ = write::update(&mut store, pods, &self.key, pod, "status", &options);
    }

    /// How long the containers have to end.
    pub(super) fn grace(&self) -> Duration {
        let store = self.cluster.store();
        let found = store.get(&self.key);
        let grace = found.and_then(|pod| {
            let grace = pod.pointer("/metadata/deletionGracePeriodSeconds")?;
            grace.as_u64()
        });
        Duration::from_secs(grace.unwrap_or(0))
    }

    /// Tells the server that nothing of the pod runs any more.
    fn finalize(&self) {
        let Some(pods) = named("pods") else { return };
        let options = DeleteOptions {
            grace_seconds: Some(0),
            uid: Some(object::uid(&self.pod).to_owned()),
            ..DeleteOptions::default()
        };
        // It may be gone already, by force.
        let _ = garbage::delete(&mut self.cluster.store(), pods, &self.key, &options);
    }
}
