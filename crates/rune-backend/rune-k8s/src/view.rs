//! What the watch has seen of the pods.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::runtime::watcher::{self, Event};
use kube::runtime::{WatchStreamExt, watcher as watch_pods};
use rune_store_runtime::ReplicaId;
use tokio::sync::watch;

use crate::manifest::REPLICA;
use crate::state::Seen;

/// How long the first list of pods is waited for.
const FIRST_LIST: Duration = Duration::from_secs(10);

/// The pods as they were seen last. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct View(Arc<watch::Sender<Pods>>);

/// Every pod of the daemon.
#[derive(Debug, Default)]
pub(crate) struct Pods {
    pub(crate) by_id: HashMap<ReplicaId, Seen>,
    /// Whether they were listed once.
    is_known: bool,
    /// Listed again, and not whole yet.
    next: HashMap<ReplicaId, Seen>,
}

impl View {
    pub(crate) fn new() -> Self {
        Self(Arc::new(watch::Sender::default()))
    }

    /// Follows the pods with these labels; never ends.
    pub(crate) async fn follow(self, pods: Api<Pod>, labels: String) {
        let config = watcher::Config::default().labels(&labels);
        let mut events = Box::pin(watch_pods(pods, config).default_backoff());
        while let Some(event) = events.next().await {
            match event {
                Ok(event) => self.0.send_modify(|pods| pods.take(event)),
                // What was seen last holds until it is told again.
                Err(error) => tracing::debug!(%error, "the watch of pods is begun again"),
            }
        }
    }

    /// Waits until the pods were listed once; answers whether they were.
    pub(crate) async fn known(&self) -> bool {
        let mut pods = self.0.subscribe();
        let known = pods.wait_for(|pods| pods.is_known);
        tokio::time::timeout(FIRST_LIST, known).await.is_ok()
    }

    /// What was seen, now.
    pub(crate) fn pods(&self) -> watch::Ref<'_, Pods> {
        self.0.borrow()
    }

    /// Tells of every change.
    pub(crate) fn subscribe(&self) -> watch::Receiver<Pods> {
        self.0.subscribe()
    }
}

impl Pods {
    fn take(&mut self, event: Event<Pod>) {
        match event {
            Event::Init => self.next.clear(),
            Event::InitApply(pod) => {
                if let Some(id) = replica(&pod) {
                    self.next.insert(id, Seen::of(&pod));
                }
            }
            Event::InitDone => {
                self.by_id = std::mem::take(&mut self.next);
                self.is_known = true;
            }
            Event::Apply(pod) => {
                if let Some(id) = replica(&pod) {
                    self.by_id.insert(id, Seen::of(&pod));
                }
            }
            Event::Delete(pod) => {
                if let Some(id) = replica(&pod) {
                    self.by_id.remove(&id);
                }
            }
        }
    }
}

fn replica(pod: &Pod) -> Option<ReplicaId> {
    let labels = pod.metadata.labels.as_ref()?;
    labels.get(REPLICA)?.parse().ok()
}
