//! Starting replicas beside the loop: a backend that takes long holds up nobody else.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use rune_backend::{Backend, BackendError, ReplicaSpec};
use rune_store_runtime::{
    DeploymentId, DeploymentRow, PutReplica, RemoveReplica, ReplicaId, ReplicaState, Store,
    StoreError, VersionRow,
};
use tokio::sync::{Notify, Semaphore};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::Template;
use crate::task::Tasks;

/// Starts under way at the same time, at the most.
const MAX_STARTS: usize = 16;

/// Why a replica was not started.
pub(super) enum StartError {
    Backend(BackendError),
    Store(StoreError),
    /// The process ends.
    Shutdown,
}

impl From<StoreError> for StartError {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

/// A start that has ended.
pub(super) struct Ended {
    pub(super) replica_id: ReplicaId,
    pub(super) deployment_id: DeploymentId,
    pub(super) generation: u64,
    pub(super) template: Template,
    pub(super) result: Result<(), StartError>,
}

/// The starts under way.
pub(super) struct Starts {
    store: Store,
    backend: Arc<dyn Backend>,
    tasks: Tasks,
    /// Woken by every start that ends.
    wake: Arc<Notify>,
    places: Arc<Semaphore>,
    running: HashMap<ReplicaId, Start>,
}

struct Start {
    deployment_id: DeploymentId,
    generation: u64,
    template: Template,
    /// Whether it was waited for already.
    is_late: bool,
    task: JoinHandle<Option<Result<(), StartError>>>,
}

impl Starts {
    pub(super) fn new(
        store: Store,
        backend: Arc<dyn Backend>,
        tasks: Tasks,
        wake: Arc<Notify>,
    ) -> Self {
        Self {
            store,
            backend,
            tasks,
            wake,
            places: Arc::new(Semaphore::new(MAX_STARTS)),
            running: HashMap::new(),
        }
    }

    pub(super) fn contains(&self, id: ReplicaId) -> bool {
        self.running.contains_key(&id)
    }

    /// How many are under way for a deployment as it is now.
    pub(super) fn count(&self, id: DeploymentId, template: &Template) -> usize {
        let of = |start: &&Start| start.deployment_id == id && start.template == *template;
        self.running.values().filter(of).count()
    }

    /// Begins to start a replica.
    pub(super) fn begin(
        &mut self,
        deployment: &DeploymentRow,
        version: &VersionRow,
        template: &Template,
    ) {
        let id = ReplicaId::generate();
        let starting = StartOne {
            store: self.store.clone(),
            backend: Arc::clone(&self.backend),
            spec: template.spec(id, deployment, version),
            places: Arc::clone(&self.places),
        };
        let (wake, shutdown) = (Arc::clone(&self.wake), self.tasks.shutdown());
        let task = self.tasks.spawn("start", async move {
            let result = tokio::select! {
                result = starting.run() => result,
                () = shutdown.cancelled() => Err(StartError::Shutdown),
            };
            wake.notify_one();
            result
        });
        let start = Start {
            deployment_id: deployment.id,
            generation: deployment.generation,
            template: template.clone(),
            is_late: false,
            task,
        };
        self.running.insert(id, start);
    }

    /// Those that have ended, after waiting for the new ones, `patience` at the longest.
    pub(super) async fn ended(&mut self, patience: Duration) -> Vec<Ended> {
        let deadline = Instant::now() + patience;
        let mut ended = Vec::new();
        for (id, mut start) in std::mem::take(&mut self.running) {
            let until = if start.is_late {
                Instant::now()
            } else {
                deadline
            };
            match tokio::time::timeout_at(until, &mut start.task).await {
                Ok(Ok(Some(result))) => ended.push(Ended {
                    replica_id: id,
                    deployment_id: start.deployment_id,
                    generation: start.generation,
                    template: start.template,
                    result,
                }),
                // It panicked, which is in the log; the next look finds what it left.
                Ok(_) => {}
                Err(_) => {
                    start.is_late = true;
                    self.running.insert(id, start);
                }
            }
        }
        ended
    }
}

/// One replica on its way.
struct StartOne {
    store: Store,
    backend: Arc<dyn Backend>,
    spec: ReplicaSpec,
    places: Arc<Semaphore>,
}

impl StartOne {
    async fn run(self) -> Result<(), StartError> {
        let id = self.spec.replica_id;
        self.store
            .write(self.row(ReplicaState::Starting, None))
            .await?;
        // The semaphore is never closed.
        let _place = self.places.acquire().await;
        let endpoint = match self.backend.start(&self.spec).await {
            Ok(endpoint) => endpoint,
            Err(error) => {
                self.stop().await;
                self.store.write(RemoveReplica { replica_id: id }).await?;
                return Err(StartError::Backend(error));
            }
        };
        let stored = self
            .store
            .write(self.row(ReplicaState::Ready, endpoint))
            .await;
        if stored.is_err() {
            // Nobody would know of it; its deployment may be gone.
            self.stop().await;
        }
        Ok(stored?)
    }

    async fn stop(&self) {
        let id = self.spec.replica_id;
        if let Err(error) = self.backend.stop(id).await {
            tracing::warn!(replica = %id, %error, "failed replica was not removed");
        }
    }

    fn row(&self, state: ReplicaState, endpoint: Option<String>) -> PutReplica {
        PutReplica {
            replica_id: self.spec.replica_id,
            deployment_id: self.spec.deployment_id,
            version_id: self.spec.version_id,
            state,
            reason: String::new(),
            backend: self.backend.name().to_owned(),
            endpoint,
        }
    }
}
