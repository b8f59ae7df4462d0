//! The reconcile loop: makes what runs match what is deployed.
//!
//! It looks at every deployment when it is woken and at an interval, starts what is
//! missing, replaces what is outdated or unhealthy, drains before it stops, and writes
//! what it saw, with the reason, into the deployment's row. A failing start is tried
//! again with growing pauses, at once when the deployment changes.

mod start;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rune_backend::{Backend, BackendError, ReplicaHealth, ReplicaSpec};
use rune_store_runtime::{
    DeploymentFilter, DeploymentId, DeploymentRow, DeploymentState, PageRequest, PutReplica,
    RemoveReplica, ReplicaFilter, ReplicaId, ReplicaRow, ReplicaState, SetDeploymentState, Store,
    StoreError, VersionId,
};
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use self::start::{Ended, StartError, Starts};
use crate::router::ReplicaRouter;
use crate::task::Tasks;

/// How often the loop looks without being woken.
const INTERVAL: Duration = Duration::from_secs(5);
/// Pause after the first failing start; doubles with every further one.
const FIRST_BACKOFF: Duration = Duration::from_secs(1);
/// How long a look waits for the starts it made. What takes longer goes on beside the loop
/// and wakes it.
const START_PATIENCE: Duration = Duration::from_secs(1);
/// Longest pause between two starts.
const MAX_BACKOFF: Duration = Duration::from_secs(60);

/// Wakes the loop and tells when it has looked. Cheap to clone.
#[derive(Clone)]
pub struct ReconcileHandle {
    backend: Arc<dyn Backend>,
    wake: Arc<Notify>,
    passes: watch::Receiver<u64>,
    known: watch::Receiver<bool>,
}

impl ReconcileHandle {
    /// Makes the loop look now.
    pub fn wake(&self) {
        self.wake.notify_one();
    }

    /// The last lines that a replica has logged, at the most so many; nothing where it has no log of its own.
    ///
    /// # Errors
    /// [`BackendError::Unavailable`] where the backend does not answer.
    pub async fn replica_log(
        &self,
        id: ReplicaId,
        lines: usize,
    ) -> Result<Option<String>, BackendError> {
        self.backend.logs(id, lines).await
    }

    /// Returns once a pass has ended, counted from this call on; `false` where the loop has
    /// ended. The pass under way may not see what was just written, the one after it does.
    pub fn next_pass(&self) -> impl Future<Output = bool> + Send + use<> {
        let mut passes = self.passes.clone();
        passes.mark_unchanged();
        async move { passes.changed().await.is_ok() }
    }

    /// Returns once the router knows every deployment, whether or not its replicas run
    /// already: from then on a request for any of them can be accepted, and waits.
    pub async fn deployments_known(&self) {
        let mut known = self.known.clone();
        // An error means that the loop has ended; nothing more will happen then.
        let _ = known.wait_for(|known| *known).await;
    }
}

/// The loop.
pub struct ReconcileLoop {
    store: Store,
    backend: Arc<dyn Backend>,
    router: ReplicaRouter,
    tasks: Tasks,
    drain_grace: Duration,
    wake: Arc<Notify>,
    passes: watch::Sender<u64>,
    known: watch::Sender<bool>,
    /// What each replica of this process was started from.
    started_from: HashMap<ReplicaId, Template>,
    /// Shared with the tasks that drain.
    draining: Arc<Mutex<HashSet<ReplicaId>>>,
    backoff: HashMap<DeploymentId, Backoff>,
    starts: Starts,
}

/// What was found of a deployment.
struct Look {
    deployment: DeploymentRow,
    template: Template,
    /// Replicas that are as they should be.
    current: Vec<ReplicaId>,
    /// All others that live.
    outdated: Vec<ReplicaId>,
    /// Why no replica is to be started.
    failure: Option<String>,
}

/// The part of a deployment that a replica is made from: a replica with another one is
/// outdated.
#[derive(Clone, PartialEq, Eq)]
struct Template {
    version_id: VersionId,
    env: BTreeMap<String, String>,
}

struct Backoff {
    generation: u64,
    failures: u32,
    not_before: Instant,
    reason: String,
}

impl ReconcileLoop {
    /// A loop that has not looked yet.
    #[must_use]
    pub fn new(
        store: Store,
        backend: Arc<dyn Backend>,
        router: ReplicaRouter,
        tasks: Tasks,
        drain_grace: Duration,
    ) -> (Self, ReconcileHandle) {
        let wake = Arc::new(Notify::new());
        let passes = watch::Sender::new(0);
        let known = watch::Sender::new(false);
        let starts = Starts::new(
            store.clone(),
            Arc::clone(&backend),
            tasks.clone(),
            Arc::clone(&wake),
        );
        let handle = ReconcileHandle {
            backend: Arc::clone(&backend),
            wake: Arc::clone(&wake),
            passes: passes.subscribe(),
            known: known.subscribe(),
        };
        let this = Self {
            store,
            backend,
            router,
            tasks,
            drain_grace,
            wake,
            passes,
            known,
            started_from: HashMap::new(),
            draining: Arc::default(),
            backoff: HashMap::new(),
            starts,
        };
        (this, handle)
    }

    /// Runs until the shutdown.
    pub async fn run(mut self) {
        let shutdown = self.tasks.shutdown();
        if let Err(error) = self.remove_orphans().await {
            tracing::warn!(%error, "replicas without a deployment were not looked for");
        }
        loop {
            match self.pass().await {
                Ok(()) => self.passes.send_modify(|passes| *passes += 1),
                Err(error) => tracing::error!(%error, "reconcile pass failed"),
            }
            let pause = self.pause();
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = self.wake.notified() => {}
                () = self.router.suspicion() => {}
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    /// Until the next look: the interval, or less where a start is to be tried again. One
    /// that is due and was not tried waits for a store that does not answer.
    fn pause(&self) -> Duration {
        let now = Instant::now();
        let next = self
            .backoff
            .values()
            .map(|b| match b.not_before.saturating_duration_since(now) {
                Duration::ZERO => FIRST_BACKOFF,
                pause => pause,
            })
            .min();
        next.unwrap_or(INTERVAL).min(INTERVAL)
    }

    async fn pass(&mut self) -> Result<(), StoreError> {
        let deployments = self.deployments().await?;
        let wanted: HashSet<DeploymentId> = deployments.iter().map(|d| d.id).collect();
        for known in self.router.deployments() {
            if !wanted.contains(&known.id) {
                for replica in self.router.replicas(known.id) {
                    self.retire(replica.id());
                }
                self.router.remove_deployment(known.id);
                self.backoff.remove(&known.id);
            }
        }
        for deployment in &deployments {
            let mut seen = deployment.clone();
            if seen.state == DeploymentState::Failed && !self.backoff.contains_key(&seen.id) {
                // That it failed is what an earlier process found; this one has not tried.
                seen.state = DeploymentState::Pending;
            }
            self.router.set_deployment(seen);
        }
        self.known.send_replace(true);
        let mut looks = Vec::with_capacity(deployments.len());
        for deployment in deployments {
            let id = deployment.id;
            match self.look(deployment).await {
                Ok(look) => looks.push(look),
                Err(error) => tracing::warn!(deployment = %id, %error, "reconcile failed"),
            }
        }
        let ended = self.starts.ended(START_PATIENCE).await;
        self.take_in(ended, &mut looks);
        for look in looks {
            let id = look.deployment.id;
            if let Err(error) = self.settle(look).await {
                tracing::warn!(deployment = %id, %error, "reconcile failed");
            }
        }
        Ok(())
    }

    async fn deployments(&self) -> Result<Vec<DeploymentRow>, StoreError> {
        let mut page = PageRequest::first(PageRequest::MAX_LIMIT);
        let mut rows = Vec::new();
        loop {
            let found = self
                .store
                .deployments(&DeploymentFilter::default(), &page)
                .await?;
            rows.extend(found.items);
            match found.next {
                Some(cursor) => page.cursor = Some(cursor),
                None => return Ok(rows),
            }
        }
    }

    /// Finds out how a deployment is, and begins what is to be done about it.
    async fn look(&mut self, deployment: DeploymentRow) -> Result<Look, StoreError> {
        let template = Template {
            version_id: deployment.version_id,
            env: deployment.env.clone(),
        };
        let (mut current, outdated) = self.sort_replicas(&deployment, &template).await?;
        let wanted = deployment.replicas as usize;
        while current.len() > wanted {
            if let Some(id) = current.pop() {
                self.retire(id);
            }
        }
        let missing = wanted - current.len();
        let mut failure = None;
        if missing == 0 {
            self.backoff.remove(&deployment.id);
        } else {
            let under_way = self.starts.count(deployment.id, &template);
            let more = missing.saturating_sub(under_way);
            failure = self.start(&deployment, &template, more).await?;
        }
        Ok(Look {
            deployment,
            template,
            current,
            outdated,
            failure,
        })
    }

    /// Begins to start `count` replicas, or answers why it does not.
    async fn start(
        &mut self,
        deployment: &DeploymentRow,
        template: &Template,
        count: usize,
    ) -> Result<Option<String>, StoreError> {
        let held = self.backoff.get(&deployment.id);
        let held = held.filter(|b| b.generation == deployment.generation);
        if let Some(held) = held.filter(|b| count == 0 || Instant::now() < b.not_before) {
            return Ok(Some(held.reason.clone()));
        }
        let Some(version) = self.store.version(deployment.version_id).await? else {
            return Ok(Some(format!(
                "version `{}` does not exist",
                deployment.version_id
            )));
        };
        for _ in 0..count {
            self.starts.begin(deployment, &version, template);
        }
        Ok(None)
    }

    /// Adds what came of the starts to what was found before they ended.
    fn take_in(&mut self, ended: Vec<Ended>, looks: &mut Vec<Look>) {
        let mut failed: HashMap<DeploymentId, String> = HashMap::new();
        for start in ended {
            let look = looks
                .iter_mut()
                .find(|look| look.deployment.id == start.deployment_id);
            match start.result {
                Ok(()) => {
                    let id = start.replica_id;
                    if let Some(look) = look {
                        let is_current = look.template == start.template
                            && look.current.len() < look.deployment.replicas as usize;
                        if is_current {
                            look.current.push(id);
                        } else if look.template != start.template {
                            look.outdated.push(id);
                        }
                        // One too many is found and retired by the next look.
                    }
                    self.started_from.insert(id, start.template);
                }
                Err(StartError::Backend(error)) => {
                    if look.is_some_and(|look| look.deployment.generation == start.generation) {
                        failed.insert(start.deployment_id, error.to_string());
                    }
                }
                Err(StartError::Store(error)) => {
                    let id = start.deployment_id;
                    tracing::warn!(deployment = %id, %error, "reconcile failed");
                    // Nothing is said of a deployment of which not all is known.
                    looks.retain(|look| look.deployment.id != id);
                }
                Err(StartError::Shutdown) => {}
            }
        }
        for look in looks {
            if let Some(reason) = failed.remove(&look.deployment.id) {
                self.note_failure(&look.deployment, &reason);
                look.failure = Some(reason);
            }
        }
    }

    /// Lets go of what is replaced and writes what was found.
    async fn settle(&mut self, look: Look) -> Result<(), StoreError> {
        let Look {
            deployment,
            current,
            outdated,
            failure,
            ..
        } = look;
        let wanted = deployment.replicas as usize;
        if current.len() == wanted || (wanted > 0 && !current.is_empty()) {
            for id in &outdated {
                self.retire(*id);
            }
        }
        if current.len() == wanted {
            self.backoff.remove(&deployment.id);
        }
        let (state, reason) = judge(wanted, current.len(), outdated.len(), failure);
        if deployment.state != state || deployment.reason != reason {
            let seen = SetDeploymentState {
                deployment_id: deployment.id,
                generation: deployment.generation,
                state,
                reason: reason.clone(),
            };
            self.store.write(seen).await?;
        }
        // Whoever waits for a replica is told now, not at the next look.
        self.router.set_deployment(DeploymentRow {
            state,
            reason,
            ..deployment
        });
        Ok(())
    }

    /// The deployment's live replicas: those that are as they should be, and the rest.
    /// Rows of replicas that are gone are removed.
    async fn sort_replicas(
        &mut self,
        deployment: &DeploymentRow,
        template: &Template,
    ) -> Result<(Vec<ReplicaId>, Vec<ReplicaId>), StoreError> {
        let filter = ReplicaFilter {
            deployment_id: Some(deployment.id),
        };
        let page = PageRequest::first(PageRequest::MAX_LIMIT);
        let rows = self.store.replicas(&filter, &page).await?.items;
        let (mut current, mut outdated) = (Vec::new(), Vec::new());
        for row in rows {
            if self.starts.contains(row.id) || self.draining().contains(&row.id) {
                continue;
            }
            match self.backend.health(row.id).await {
                Ok(ReplicaHealth::Ready | ReplicaHealth::Starting) => {
                    let is_current = match self.started_from.get(&row.id) {
                        Some(from) => from == template,
                        None => self.adopt(deployment, &row, template).await?,
                    };
                    if is_current {
                        current.push(row.id);
                    } else {
                        outdated.push(row.id);
                    }
                }
                Ok(ReplicaHealth::Gone) => {
                    self.started_from.remove(&row.id);
                    self.store
                        .write(RemoveReplica { replica_id: row.id })
                        .await?;
                }
                Ok(ReplicaHealth::Unhealthy(reason)) => {
                    tracing::warn!(replica = %row.id, reason, "replica is unhealthy");
                    self.write_state(&row, ReplicaState::Unhealthy, reason)
                        .await?;
                    self.retire(row.id);
                }
                // Nothing is known about the replica, so nothing is done to it.
                Err(error) => {
                    tracing::warn!(replica = %row.id, %error, "backend does not answer");
                    current.push(row.id);
                }
            }
        }
        Ok((current, outdated))
    }

    /// Takes over a replica of an earlier process, where it is as it should be.
    async fn adopt(
        &mut self,
        deployment: &DeploymentRow,
        row: &ReplicaRow,
        template: &Template,
    ) -> Result<bool, StoreError> {
        let Some(endpoint) = &row.endpoint else {
            return Ok(false);
        };
        if row.version_id != deployment.version_id || row.backend != self.backend.name() {
            return Ok(false);
        }
        let Some(version) = self.store.version(deployment.version_id).await? else {
            return Ok(false);
        };
        let spec = ReplicaSpec::new(row.id, deployment, &version);
        match self.backend.adopt(&spec, endpoint).await {
            Ok(adopted) => {
                if adopted {
                    tracing::info!(replica = %row.id, agent = deployment.agent, "replica goes on");
                    self.started_from.insert(row.id, template.clone());
                }
                Ok(adopted)
            }
            Err(error) => {
                tracing::warn!(replica = %row.id, %error, "replica of an earlier start is replaced");
                Ok(false)
            }
        }
    }

    /// Ends what an earlier process has started and no row speaks of.
    async fn remove_orphans(&self) -> Result<(), StoreError> {
        let there = match self.backend.list().await {
            Ok(there) => there,
            Err(error) => {
                tracing::warn!(%error, "replicas without a deployment were not looked for");
                return Ok(());
            }
        };
        for id in there {
            if self.store.replica(id).await?.is_some() {
                continue;
            }
            match self.backend.stop(id).await {
                Ok(()) => tracing::info!(replica = %id, "a replica without a deployment was ended"),
                Err(error) => tracing::warn!(replica = %id, %error, "replica was not stopped"),
            }
        }
        Ok(())
    }

    fn note_failure(&mut self, deployment: &DeploymentRow, reason: &str) {
        let entry = self
            .backoff
            .entry(deployment.id)
            .or_insert_with(|| Backoff {
                generation: deployment.generation,
                failures: 0,
                not_before: Instant::now(),
                reason: String::new(),
            });
        if entry.generation != deployment.generation {
            entry.generation = deployment.generation;
            entry.failures = 0;
        }
        let pause = FIRST_BACKOFF
            .saturating_mul(1 << entry.failures.min(6))
            .min(MAX_BACKOFF);
        entry.failures += 1;
        entry.not_before = Instant::now() + pause;
        reason.clone_into(&mut entry.reason);
        tracing::warn!(
            deployment = %deployment.id,
            agent = deployment.agent,
            failures = entry.failures,
            reason,
            "replica did not start"
        );
    }

    async fn write_state(
        &self,
        row: &ReplicaRow,
        state: ReplicaState,
        reason: String,
    ) -> Result<(), StoreError> {
        let put = PutReplica {
            replica_id: row.id,
            deployment_id: row.deployment_id,
            version_id: row.version_id,
            state,
            reason,
            backend: row.backend.clone(),
            endpoint: row.endpoint.clone(),
        };
        self.store.write(put).await
    }

    fn draining(&self) -> MutexGuard<'_, HashSet<ReplicaId>> {
        lock(&self.draining)
    }

    /// Drains and stops a replica without holding up the loop.
    fn retire(&mut self, id: ReplicaId) {
        if !self.draining().insert(id) {
            return;
        }
        self.started_from.remove(&id);
        // From now on, not from when the row says so: whoever deployed a new version is told that it is ready next.
        if let Some(replica) = self.router.replica(id) {
            replica.drain();
        }
        let (backend, store) = (Arc::clone(&self.backend), self.store.clone());
        let (grace, wake) = (self.drain_grace, Arc::clone(&self.wake));
        let draining = Arc::clone(&self.draining);
        self.tasks.spawn("drain", async move {
            let drained = async {
                if let Ok(Some(row)) = store.replica(id).await {
                    let put = PutReplica {
                        replica_id: id,
                        deployment_id: row.deployment_id,
                        version_id: row.version_id,
                        state: ReplicaState::Draining,
                        reason: String::new(),
                        backend: row.backend,
                        endpoint: row.endpoint,
                    };
                    store.write(put).await.map_err(|error| error.to_string())?;
                }
                let idle = backend
                    .drain(id, grace)
                    .await
                    .map_err(|error| error.to_string())?;
                if !idle {
                    tracing::warn!(replica = %id, "replica was not idle in time and is stopped");
                }
                backend.stop(id).await.map_err(|error| error.to_string())?;
                let removed = store.write(RemoveReplica { replica_id: id }).await;
                removed.map_err(|error| error.to_string())
            };
            let ended = drained.await;
            lock(&draining).remove(&id);
            match ended {
                Ok(()) => wake.notify_one(),
                // The next look at the interval finds the replica and tries again.
                Err(error) => tracing::warn!(replica = %id, error, "replica was not stopped"),
            }
        });
    }
}

fn lock(draining: &Mutex<HashSet<ReplicaId>>) -> MutexGuard<'_, HashSet<ReplicaId>> {
    draining.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What the deployment's row says.
fn judge(
    wanted: usize,
    current: usize,
    outdated: usize,
    failure: Option<String>,
) -> (DeploymentState, String) {
    match failure {
        Some(reason) if current + outdated == 0 => (DeploymentState::Failed, reason),
        Some(reason) => (DeploymentState::Degraded, reason),
        None if wanted == 0 => (DeploymentState::Stopped, String::new()),
        None if current + outdated == 0 => {
            (DeploymentState::Pending, "replicas are starting".to_owned())
        }
        None if current < wanted => (
            DeploymentState::Degraded,
            format!("{current} of {wanted} replicas are ready"),
        ),
        None => (DeploymentState::Ready, String::new()),
    }
}
