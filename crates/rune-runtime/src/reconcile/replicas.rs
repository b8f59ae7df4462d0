//! The replicas that are there: sorted, taken over, let go.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rune_backend::ReplicaHealth;
use rune_store_runtime::{
    PageRequest, PutReplica, RemoveReplica, ReplicaFilter, ReplicaId, ReplicaRow, ReplicaState,
    StoreError,
};
use tokio::time::Instant;

use super::backoff::CALM;
use super::{Group, Look, ReconcileLoop, Started, Template};

impl ReconcileLoop {
    /// Sorts the deployment's live replicas into those that are as they should be, and the rest.
    /// Rows of replicas that are gone are removed.
    pub(super) async fn sort_replicas(&mut self, look: &mut Look) -> Result<(), StoreError> {
        let filter = ReplicaFilter {
            deployment_id: Some(look.deployment.id),
        };
        let page = PageRequest::first(PageRequest::MAX_LIMIT);
        let rows = self.store.replicas(&filter, &page).await?.items;
        for row in rows {
            if self.starts.contains(row.id) || self.draining().contains(&row.id) {
                continue;
            }
            match self.backend.health(row.id).await {
                Ok(ReplicaHealth::Ready | ReplicaHealth::Starting) => {
                    let from = match self.started_from.get(&row.id) {
                        Some(started) => Some(started.template.clone()),
                        None => self.adopt(look, &row).await?,
                    };
                    let group = from.and_then(|from| look.group(&from));
                    match group {
                        Some(group) => group.current.push(row.id),
                        None => look.outdated.push(row.id),
                    }
                }
                Ok(ReplicaHealth::Gone) => {
                    self.note_end(look, row.id, "it is gone");
                    self.started_from.remove(&row.id);
                    self.store
                        .write(RemoveReplica { replica_id: row.id })
                        .await?;
                }
                Ok(ReplicaHealth::Unhealthy(reason)) => {
                    tracing::warn!(replica = %row.id, reason, "replica is unhealthy");
                    self.note_end(look, row.id, &reason);
                    self.write_state(&row, ReplicaState::Unhealthy, reason)
                        .await?;
                    self.retire(row.id);
                }
                // Nothing is known about the replica, so nothing is done to it.
                Err(error) => {
                    tracing::warn!(replica = %row.id, %error, "backend does not answer");
                    let is_new = |it: &&mut Group| it.template.version_id == row.version_id;
                    let new = look.candidate.as_mut().filter(is_new);
                    new.unwrap_or(&mut look.stable).current.push(row.id);
                }
            }
        }
        Ok(())
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
                    let started = Started {
                        template: template.clone(),
                        since: Instant::now(),
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
        if !self.draining().insert(id) {
            return;
        }
        self.started_from.remove(&id);
        // From now on, not from when the row says so: whoever deployed a new version is told that it is ready next.
        self.router.drain(id);
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
