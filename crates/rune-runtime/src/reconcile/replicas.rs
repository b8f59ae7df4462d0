//! The replicas that are there: sorted, taken over, let go.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::stream::{self, StreamExt as _};
use rune_backend::{BackendError, ReplicaHealth};
use rune_store_runtime::{
    DeploymentId, PageRequest, PutReplica, RemoveReplica, ReplicaFilter, ReplicaId, ReplicaRow,
    ReplicaState, StoreError,
};
use tokio::time::Instant;

use super::backoff::CALM;
use super::{Look, ReconcileLoop, Started, Template};

/// Replicas that the backend is asked about at the same time.
const ASKED_AT_A_TIME: usize = 64;

/// A replica, and what the backend says of it.
pub(super) struct Found {
    row: ReplicaRow,
    health: Result<ReplicaHealth, BackendError>,
    /// Whether it took nothing new already before.
    drains: bool,
}

impl Found {
    pub(super) const fn id(&self) -> ReplicaId {
        self.row.id
    }
}

impl ReconcileLoop {
    /// The replicas of every deployment, with what the backend says of them. Many are asked at a time: one that does not
    /// answer holds up the look, and not the more of them there are.
    pub(super) async fn find_replicas(
        &self,
    ) -> Result<HashMap<DeploymentId, Vec<Found>>, StoreError> {
        let mut page = PageRequest::first(PageRequest::MAX_LIMIT);
        let mut rows = Vec::new();
        loop {
            let found = self
                .store
                .replicas(&ReplicaFilter::default(), &page)
                .await?;
            rows.extend(found.items);
            match found.next {
                Some(cursor) => page.cursor = Some(cursor),
                None => break,
            }
        }
        rows.retain(|row| !self.starts.contains(row.id) && !self.draining().contains(&row.id));
        let asked = rows.into_iter().map(|row| async {
            let drains = self.drains(row.id);
            let health = self.backend.health(row.id).await;
            Found {
                row,
                health,
                drains,
            }
        });
        let mut asked = stream::iter(asked).buffered(ASKED_AT_A_TIME);
        let mut all: HashMap<_, Vec<_>> = HashMap::new();
        while let Some(found) = asked.next().await {
            all.entry(found.row.deployment_id).or_default().push(found);
        }
        Ok(all)
    }

    /// Sorts the deployment's live replicas into those that are as they should be, and the rest.
    /// Rows of replicas that are gone are removed.
    pub(super) async fn sort_replicas(
        &mut self,
        look: &mut Look,
        replicas: Vec<Found>,
    ) -> Result<(), StoreError> {
        for found in replicas {
            let Found {
                row,
                health,
                drains,
            } = found;
            match health {
                Ok(ReplicaHealth::Ready | ReplicaHealth::Starting) => {
                    let from = match self.started_from.get(&row.id) {
                        Some(started) => Some(started.template.clone()),
                        None => self.adopt(look, &row).await?,
                    };
                    match from {
                        Some(from) => look.add(row.id, &from),
                        None => look.outdated.push(row.id),
                    }
                }
                Ok(ReplicaHealth::Gone) => {
                    if !drains {
                        self.note_end(look, row.id, "it is gone");
                    }
                    self.started_from.remove(&row.id);
                    self.store
                        .write(RemoveReplica { replica_id: row.id })
                        .await?;
                }
                Ok(ReplicaHealth::Unhealthy(reason)) => {
                    tracing::warn!(replica = %row.id, reason, "replica is unhealthy");
                    // Who was told to end by somebody else has not failed.
                    if !drains && !self.drains(row.id) {
                        self.note_end(look, row.id, &reason);
                    }
                    self.write_state(&row, ReplicaState::Unhealthy, reason)
                        .await?;
                    self.retire(row.id);
                }
                // Nothing is known about the replica, so nothing is done to it.
                Err(error) => {
                    tracing::warn!(replica = %row.id, %error, "backend does not answer");
                    look.is_unsure = true;
                    match self.started_from.get(&row.id) {
                        Some(started) => look.add(row.id, &started.template),
                        None => look.is_partial = true,
                    }
                }
            }
        }
        Ok(())
    }

    /// Whether a replica takes nothing new.
    fn drains(&self, id: ReplicaId) -> bool {
        let replica = self.router.replica(id);
        replica.is_some_and(|replica| replica.is_draining())
    }

    /// Notes that a replica of this process ended by itself, where that was soon after it was ready.
    fn note_end(&mut self, look: &mut Look, id: ReplicaId, why: &str) {
        let Some(started) = self.started_from.get(&id) else {
            return;
        };
        let (after, template) = (started.since.elapsed(), started.template.clone());
        let role = look.group(&template).map(|group| group.role);
        if let Some(role) = role.filter(|_| after < CALM) {
            self.backoffs.ended(&look.deployment, role, after, why);
        }
    }

    /// Takes over a replica of an earlier process, where it is as it should be: what it was made from.
    async fn adopt(
        &mut self,
        look: &Look,
        row: &ReplicaRow,
    ) -> Result<Option<Template>, StoreError> {
        let Some(endpoint) = &row.endpoint else {
            return Ok(None);
        };
        if row.backend != self.backend.name() {
            return Ok(None);
        }
        let templates = [Some(&look.stable), look.candidate.as_ref()];
        let templates = templates.into_iter().flatten().map(|group| &group.template);
        for template in templates.filter(|it| it.version_id == row.version_id) {
            let Some(version) = self.store.version(row.version_id).await? else {
                return Ok(None);
            };
            let deployment = &look.deployment;
            let spec = template.spec(row.id, deployment, &version);
            match self.backend.adopt(&spec, endpoint).await {
                Ok(true) => {
                    tracing::info!(replica = %row.id, agent = deployment.agent, "replica goes on");
                    let age = self.store.now().as_millis() - row.created_at.as_millis();
                    let age = Duration::from_millis(u64::try_from(age).unwrap_or_default());
                    let now = Instant::now();
                    let started = Started {
                        template: template.clone(),
                        since: now.checked_sub(age).unwrap_or(now),
                    };
                    self.started_from.insert(row.id, started);
                    return Ok(Some(template.clone()));
                }
                Ok(false) => {}
                Err(error) => {
                    tracing::warn!(replica = %row.id, %error, "replica of an earlier start is replaced");
                    return Ok(None);
                }
            }
        }
        Ok(None)
    }

    /// Ends what an earlier process has started and no row speaks of.
    pub(super) async fn remove_orphans(&self) -> Result<(), StoreError> {
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
    pub(super) fn retire(&mut self, id: ReplicaId) {
        self.retire_within(id, self.drain_grace);
    }

    /// The same with another time for what it runs.
    pub(super) fn retire_within(&mut self, id: ReplicaId, grace: Duration) {
        if !self.draining().insert(id) {
            return;
        }
        self.started_from.remove(&id);
        // From now on, not from when the row says so: whoever deployed a new version is told that it is ready next.
        self.router.drain(id);
        let (backend, store) = (Arc::clone(&self.backend), self.store.clone());
        let wake = Arc::clone(&self.wake);
        let draining = Arc::clone(&self.draining);
        let shutdown = self.tasks.shutdown();
        self.tasks.spawn("drain", async move {
            let drained = async {
                // Of one whose deployment is deleted it is written already.
                if let Ok(Some(row)) = store.replica(id).await
                    && row.state != ReplicaState::Draining
                {
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
            let ended = tokio::select! {
                ended = drained => ended,
                // The next process finds it, or it ends with this one.
                () = shutdown.cancelled() => return,
            };
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
