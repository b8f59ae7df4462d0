//! Deployments whose version has a range of replicas: how many run is decided here and written down, and what falls asleep
//! is known well enough to be woken.

use std::collections::HashMap;
use std::sync::Arc;

use futures_util::future::join_all;
use rune_env::ScalingConfig;
use rune_store_runtime::{
    AuditVerdict, AutoscaleDeployment, DeploymentId, DeploymentRow, EventId, Quota, QuotaUse,
    Store, StoreError,
};
use serde_json::json;
use tokio::sync::Semaphore;
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::backoff::{FIRST_BACKOFF, MAX_BACKOFF};
use super::rollout::{DECIDER, audit};
use super::scaling::{Decision, Situation, Trend};
use super::{ReconcileLoop, Template};
use crate::agent::{Agent, AgentLoader};
use crate::engine::Publication;
use crate::package_cache::PackageCache;
use crate::router::{Load, ReplicaRouter};

/// Agents that are loaded to stand by at the same time, at the most.
const MAX_LOADS: usize = 4;

/// Decides how many replicas there are to be.
#[derive(Default)]
pub(super) struct Autoscaler {
    config: ScalingConfig,
    /// What a namespace may come to.
    quota: Quota,
    /// By deployment, with the generation that they are about.
    trends: HashMap<DeploymentId, (u64, Trend)>,
    /// Makes what stands by for a deployment that sleeps.
    describer: Option<Describer>,
    /// What stands by, or is loaded to.
    standing_by: HashMap<DeploymentId, StandingBy>,
}

/// What stands by for a deployment that sleeps.
struct StandingBy {
    /// What it is made from.
    template: Template,
    /// Ends the loading of what is not needed any more.
    _obsolete: DropGuard,
}

/// Loads agents that no replica runs.
#[derive(Clone)]
struct Describer {
    loader: Arc<AgentLoader>,
    packages: PackageCache,
    /// For those that are loaded at the same time.
    places: Arc<Semaphore>,
}

impl Autoscaler {
    pub(super) fn new(
        config: ScalingConfig,
        quota: Quota,
        loader: Arc<AgentLoader>,
        packages: PackageCache,
    ) -> Self {
        Self {
            config,
            quota,
            describer: Some(Describer {
                loader,
                packages,
                places: Arc::new(Semaphore::new(MAX_LOADS)),
            }),
            ..Self::default()
        }
    }

    /// Whether there is anything to look at again and again.
    pub(super) fn is_needed(&self) -> bool {
        !self.trends.is_empty()
    }

    pub(super) fn forget(&mut self, id: DeploymentId) {
        self.trends.remove(&id);
        self.standing_by.remove(&id);
    }

    /// What is to be changed, and what that is about.
    fn look(&mut self, row: &DeploymentRow, router: &ReplicaRouter) -> Option<(Decision, Load)> {
        let Some(scaling) = row.scaling.as_ref().filter(|_| row.replicas > 0) else {
            self.trends.remove(&row.id);
            return None;
        };
        let now = Instant::now();
        let load = router.load(row.id);
        let fresh = || (row.generation, Trend::new(now));
        let (generation, trend) = self.trends.entry(row.id).or_insert_with(fresh);
        if *generation != row.generation {
            // What a person decided holds for a while.
            (*generation, *trend) = fresh();
        }
        let situation = Situation {
            load,
            wanted: scaling.wanted,
            bounds: scaling.bounds,
            rolls_out: row.candidate().is_some(),
        };
        let decision = trend.look(now, situation, &self.config);
        decision.map(|decision| (decision, load))
    }

    /// What is left of a decision about one of these deployments within the quota of its namespace. Where nothing is, that is
    /// said once.
    fn within_quota<'a>(
        &self,
        decision: Decision,
        row: &DeploymentRow,
        rows: impl Iterator<Item = &'a DeploymentRow>,
    ) -> Option<Decision> {
        let wanted = row.wanted();
        if decision.to <= wanted || self.quota.replicas.is_none() {
            return Some(decision);
        }
        let is_other = |it: &&DeploymentRow| it.namespace == row.namespace && it.id != row.id;
        let room = self.quota.room(QuotaUse::of(rows.filter(is_other)));
        let Some(room) = room.filter(|room| *room < decision.to) else {
            return Some(decision);
        };
        let decision = match room > wanted {
            true => Decision {
                to: room,
                reason: format!(
                    "{}; `admission.max_replicas` leaves {room}",
                    decision.reason
                ),
            },
            false => Decision {
                to: wanted,
                reason: format!(
                    "more are needed than {wanted}, but the namespace `{}` has as many replicas as `admission.max_replicas` \
                     allows",
                    row.namespace
                ),
            },
        };
        let is_known = row
            .scaling
            .as_ref()
            .is_some_and(|it| it.reason == decision.reason);
        (!is_known).then_some(decision)
    }
}

impl Describer {
    /// Loads the agent of a deployment that sleeps, again and again until that comes to something, and has it stand by.
    async fn describe(&self, store: &Store, router: &ReplicaRouter, row: &DeploymentRow) {
        let mut pause = FIRST_BACKOFF;
        loop {
            match self.try_describe(store, row).await {
                Ok(agent) => return router.stand_by(row.id, row.version_id, Arc::new(agent)),
                // Its requests are accepted once a replica runs that is started for them.
                Err(reason) => {
                    tracing::warn!(deployment = %row.id, agent = row.agent, reason, "a sleeping agent is not known");
                }
            }
            router.describes(row.id, false);
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(MAX_BACKOFF);
        }
    }

    async fn try_describe(&self, store: &Store, row: &DeploymentRow) -> Result<Agent, String> {
        // The semaphore is never closed.
        let _place = self.places.acquire().await;
        match store.version(row.version_id).await {
            Ok(Some(version)) => self.load(&version.digest, row).await,
            Ok(None) => Err(format!("version `{}` does not exist", row.version_id)),
            Err(error) => Err(error.to_string()),
        }
    }

    async fn load(&self, digest: &str, row: &DeploymentRow) -> Result<Agent, String> {
        let dir = self.packages.get(digest).await;
        let dir = dir.map_err(|error| error.to_string())?;
        let loader = Arc::clone(&self.loader);
        let (namespace, env) = (row.namespace.clone(), row.env.clone());
        let agent = tokio::task::spawn_blocking(move || loader.load(&dir, &namespace, &env)).await;
        let agent = agent.map_err(|error| error.to_string())?;
        agent.map_err(|error| error.to_string())
    }
}

impl ReconcileLoop {
    /// Whether a deployment, as the router knows it, needs more or fewer replicas.
    pub(super) fn is_to_scale(&mut self) -> bool {
        let rows = self.router.deployments();
        let mut look = |row: &DeploymentRow| {
            let (decision, _) = self.autoscaler.look(row, &self.router)?;
            let rows = rows.iter().map(|row| &**row);
            self.autoscaler.within_quota(decision, row, rows)
        };
        // Every one is looked at, for what it needs now counts later.
        rows.iter().filter_map(|row| look(row)).count() > 0
    }

    /// Decides how many replicas there are to be, and writes it down.
    pub(super) async fn rescale(&mut self, rows: &mut [DeploymentRow]) -> Result<(), StoreError> {
        self.ask_before_they_go(rows).await;
        for at in 0..rows.len() {
            let Some(row) = rows.get(at) else { continue };
            let Some((decision, load)) = self.autoscaler.look(row, &self.router) else {
                continue;
            };
            let decision = self.autoscaler.within_quota(decision, row, rows.iter());
            let (Some(Decision { to, reason }), Some(row)) = (decision, rows.get_mut(at)) else {
                continue;
            };
            let from = row.wanted();
            let scale = AutoscaleDeployment {
                deployment_id: row.id,
                generation: row.generation,
                from,
                to,
                reason: reason.clone(),
            };
            let told = format!("{from} to {to} replicas: {reason}");
            let mut audit = audit(row, "deployment.autoscale", told);
            if from == to {
                audit
                    .iter_mut()
                    .for_each(|it| it.verdict = AuditVerdict::Denied);
            }
            let quota = self.autoscaler.quota;
            match self.store.write_within(quota, scale, audit).await {
                Ok(scaled) => *row = scaled,
                Err(StoreError::Rejected(reject)) => {
                    // Somebody was faster: it is looked at anew.
                    tracing::debug!(deployment = %row.id, %reject, "a decision was void");
                    self.wake.notify_one();
                    continue;
                }
                Err(error) => return Err(error),
            }
            if from == to {
                tracing::warn!(deployment = %row.id, agent = row.agent, reason, "a deployment is not scaled");
                continue;
            }
            tracing::info!(deployment = %row.id, agent = row.agent, from, to, reason, "a deployment is scaled");
            let direction = if to > from { "up" } else { "down" };
            metrics::counter!("rune_scalings_total", "direction" => direction).increment(1);
            self.tell_scaled(row, from, load).await;
        }
        Ok(())
    }

    /// Asks the replicas of deployments that are to have fewer what goes on in them: each says that itself, and it may have
    /// begun since it was asked last.
    async fn ask_before_they_go(&mut self, rows: &[DeploymentRow]) {
        let mut asked = Vec::new();
        for row in rows {
            let decided = self.autoscaler.look(row, &self.router);
            if decided.is_some_and(|(it, _)| it.to < row.wanted()) {
                asked.extend(self.router.replicas(row.id));
            }
        }
        let asked = asked.iter().map(async |replica| {
            if let Some(client) = replica.client() {
                match client.status().await {
                    Ok(status) => replica.note(&status),
                    Err(error) => {
                        tracing::debug!(replica = %replica.id(), %error, "replica does not answer");
                    }
                }
            }
        });
        join_all(asked).await;
    }

    /// Has what falls asleep, or slept before this process began, be known while nothing of it runs.
    pub(super) fn stand_by(&mut self, row: &DeploymentRow) {
        let template = Template {
            version_id: row.version_id,
            env: row.env.clone(),
        };
        let known = self.autoscaler.standing_by.get(&row.id);
        if !row.is_asleep() || known.is_some_and(|known| known.template == template) {
            return;
        }
        let Some(describer) = self.autoscaler.describer.clone() else {
            return;
        };
        let obsolete = CancellationToken::new();
        let standing_by = StandingBy {
            template,
            _obsolete: obsolete.clone().drop_guard(),
        };
        self.autoscaler.standing_by.insert(row.id, standing_by);
        self.router.describes(row.id, true);
        let (store, router, row) = (self.store.clone(), self.router.clone(), row.clone());
        let shutdown = self.tasks.shutdown();
        self.tasks.spawn("describe", async move {
            tokio::select! {
                () = describer.describe(&store, &router, &row) => {}
                () = obsolete.cancelled() => {}
                () = shutdown.cancelled() => {}
            }
        });
    }

    async fn tell_scaled(&self, row: &DeploymentRow, from: u32, load: Load) {
        let (Some(engine), Some(scaling)) = (&self.events, &row.scaling) else {
            return;
        };
        let topic = "deployment.scaled";
        let event = Publication {
            event_id: EventId::generate(),
            namespace: row.namespace.clone(),
            topic: topic.to_owned(),
            payload: json!({
                "agent": row.agent,
                "alias": row.alias,
                "deployment_id": row.id,
                "from": from,
                "to": scaling.wanted,
                "min_replicas": scaling.bounds.min,
                "max_replicas": scaling.bounds.max,
                "running": load.running,
                "waiting": load.waiting,
                "concurrency_limit": load.limit,
                "reason": scaling.reason,
            }),
            publisher: DECIDER.to_owned(),
            request_id: None,
            depth: 0,
        };
        if let Err(error) = engine.publish(event).await {
            tracing::warn!(deployment = %row.id, %error, topic, "an event was not published");
        }
    }
}
