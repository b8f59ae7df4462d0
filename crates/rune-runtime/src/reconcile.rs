//! The reconcile loop: makes what runs match what is deployed.
//!
//! It looks at every deployment when it is woken and at an interval, starts what is
//! missing, replaces what is outdated or unhealthy, takes rollouts on and ends them, decides how many replicas are to run
//! where that is its to decide, drains before it stops, and writes what it saw, with the reason, into the deployment's row. A failing start is tried
//! again with growing pauses, at once when the deployment changes.

mod autoscale;
mod backoff;
mod replicas;
mod rollout;
mod scaling;
mod start;

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rune_backend::{Backend, BackendError, ReplicaSpec};
use rune_env::ScalingConfig;
use rune_store_runtime::{
    DeploymentFilter, DeploymentId, DeploymentRow, DeploymentState, PageRequest, Quota, ReplicaId,
    RolloutStrategy, SetDeploymentState, Store, StoreError, VersionId, VersionRow,
};
use tokio::sync::{Notify, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use self::autoscale::Autoscaler;
use self::backoff::Backoffs;
use self::replicas::Found;
use self::rollout::{Goals, is_final, judge, wanted};
use self::start::{Ended, StartError, Starts};
use crate::agent::AgentLoader;
use crate::engine::Engine;
use crate::package_cache::PackageCache;
use crate::router::ReplicaRouter;
use crate::task::Tasks;

/// How often the loop looks without being woken.
const INTERVAL: Duration = Duration::from_secs(5);
/// How long a look waits for the starts it made. What takes longer goes on beside the loop
/// and wakes it.
const START_PATIENCE: Duration = Duration::from_secs(1);
/// How often it is looked how much there is to do for deployments that are scaled by that.
const LOAD_INTERVAL: Duration = Duration::from_secs(1);

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
    /// Where it is told that a rollout has ended.
    events: Option<Engine>,
    /// The replicas of this process.
    started_from: HashMap<ReplicaId, Started>,
    /// Shared with the tasks that drain.
    draining: Arc<Mutex<HashSet<ReplicaId>>>,
    backoffs: Backoffs,
    starts: Starts,
    autoscaler: Autoscaler,
}

/// A replica that this process has started or taken over.
struct Started {
    /// What it was made from.
    template: Template,
    /// Since when it is known to be ready.
    since: Instant,
}

/// What was found of a deployment.
struct Look {
    deployment: DeploymentRow,
    stable: Group,
    /// While a rollout is under way.
    candidate: Option<Group>,
    /// All others that live.
    outdated: Vec<ReplicaId>,
    /// Whether the backend did not say of every replica of an earlier process what it is.
    is_partial: bool,
    /// Whether the backend did not say of every replica how it is.
    is_unsure: bool,
    /// Whether a rolling update has nothing of the version before to replace, and nobody needs that.
    is_rested: bool,
}

/// Which version of a deployment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Role {
    /// The one that it runs.
    Stable,
    /// The one that is rolled out.
    Candidate,
}

/// The replicas of one version that are as they should be.
struct Group {
    role: Role,
    template: Template,
    current: Vec<ReplicaId>,
    /// Why no replica is to be started.
    failure: Option<String>,
    /// Whether none ever can be.
    is_hopeless: bool,
}

/// The part of a deployment that a replica is made from: a replica with another one is
/// outdated.
#[derive(Clone, PartialEq, Eq)]
struct Template {
    version_id: VersionId,
    env: BTreeMap<String, String>,
}

impl Look {
    fn new(deployment: DeploymentRow) -> Self {
        let group = |role, version_id, env: &BTreeMap<_, _>| Group {
            role,
            template: Template {
                version_id,
                env: env.clone(),
            },
            current: Vec::new(),
            failure: None,
            is_hopeless: false,
        };
        let candidate = deployment.candidate();
        Self {
            stable: group(Role::Stable, deployment.version_id, &deployment.env),
            candidate: candidate.map(|it| group(Role::Candidate, it.version_id, &it.env)),
            outdated: Vec::new(),
            is_partial: false,
            is_unsure: false,
            is_rested: false,
            deployment,
        }
    }

    /// Adds a replica that was made from a template.
    fn add(&mut self, id: ReplicaId, template: &Template) {
        match self.group(template) {
            Some(group) => group.current.push(id),
            None => self.outdated.push(id),
        }
    }

    /// The replicas that are made from a template.
    fn group(&mut self, template: &Template) -> Option<&mut Group> {
        let mut groups = [Some(&mut self.stable), self.candidate.as_mut()]
            .into_iter()
            .flatten();
        groups.find(|group| group.template == *template)
    }

    fn goals(&self) -> Goals {
        let ready = self.candidate.as_ref().map_or(0, |it| it.current.len());
        let goals = Goals::of(&self.deployment, ready);
        match self.is_rested {
            true => Goals { stable: 0, ..goals },
            false => goals,
        }
    }

    /// Sorts what was found by the deployment as it is now.
    fn resort(&mut self, deployment: DeploymentRow) {
        let old = std::mem::replace(self, Self::new(deployment));
        self.outdated = old.outdated;
        for group in [Some(old.stable), old.candidate].into_iter().flatten() {
            match self.group(&group.template) {
                Some(now) => {
                    now.current = group.current;
                    now.failure = group.failure;
                }
                None => self.outdated.extend(group.current),
            }
        }
    }
}

impl Template {
    /// A replica that is made from it.
    fn spec(&self, id: ReplicaId, deployment: &DeploymentRow, version: &VersionRow) -> ReplicaSpec {
        ReplicaSpec {
            env: self.env.clone(),
            ..ReplicaSpec::new(id, deployment, version)
        }
    }
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
            events: None,
            started_from: HashMap::new(),
            draining: Arc::default(),
            backoffs: Backoffs::default(),
            starts,
            autoscaler: Autoscaler::default(),
        };
        (this, handle)
    }

    /// Publishes in the engine's namespaces that rollouts have ended.
    #[must_use]
    pub fn announcing(self, engine: Engine) -> Self {
        Self {
            events: Some(engine),
            ..self
        }
    }

    /// Scales in this way within a quota of each namespace, and loads agents that sleep from their packages. Without it requests for these are accepted once
    /// a replica runs.
    #[must_use]
    pub fn scaling(
        self,
        config: ScalingConfig,
        quota: Quota,
        loader: Arc<AgentLoader>,
        packages: PackageCache,
    ) -> Self {
        Self {
            autoscaler: Autoscaler::new(config, quota, loader, packages),
            ..self
        }
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
            if !self.waits(&shutdown).await {
                return;
            }
        }
    }

    /// Returns when it is time to look; `false` where the process ends.
    async fn waits(&mut self, shutdown: &CancellationToken) -> bool {
        let until = Instant::now() + self.pause();
        loop {
            let measures = self.autoscaler.is_needed();
            tokio::select! {
                () = shutdown.cancelled() => return false,
                () = self.wake.notified() => return true,
                () = self.router.suspicion() => return true,
                () = tokio::time::sleep_until(until) => return true,
                () = self.router.demand() => {}
                () = tokio::time::sleep(LOAD_INTERVAL), if measures => {}
            }
            if self.is_to_scale() {
                return true;
            }
        }
    }

    /// Until the next look: the interval, or less where a start is to be tried again.
    fn pause(&self) -> Duration {
        self.backoffs.next().unwrap_or(INTERVAL).min(INTERVAL)
    }

    async fn pass(&mut self) -> Result<(), StoreError> {
        let mut deployments = self.deployments().await?;
        self.rescale(&mut deployments).await?;
        let wanted: HashSet<DeploymentId> = deployments.iter().map(|d| d.id).collect();
        for known in self.router.deployments() {
            if !wanted.contains(&known.id) {
                self.router.remove_deployment(known.id);
                self.backoffs.forget(known.id);
                self.autoscaler.forget(known.id);
            }
        }
        let mut new = Vec::new();
        for deployment in &deployments {
            let mut seen = deployment.clone();
            if seen.state == DeploymentState::Failed && !self.backoffs.knows(seen.id) {
                // That it failed is what an earlier process found; this one has not tried.
                seen.state = DeploymentState::Pending;
            }
            self.tell(&seen).await;
            if self.router.deployment(seen.id).is_none() {
                new.push(deployment);
            }
            self.router.set_deployment(seen);
            self.stand_by(deployment);
        }
        self.known.send_replace(true);
        for deployment in new {
            if let Err(error) = self.recall(deployment).await {
                tracing::warn!(deployment = %deployment.id, %error, "how its requests ended is not known");
            }
        }
        let mut replicas = self.find_replicas().await?;
        let mut looks = Vec::with_capacity(deployments.len());
        for deployment in deployments {
            let id = deployment.id;
            let found = replicas.remove(&id).unwrap_or_default();
            match self.look(deployment, found).await {
                Ok(look) => looks.push(look),
                Err(error) => tracing::warn!(deployment = %id, %error, "reconcile failed"),
            }
        }
        // Those of deployments that are gone finish what they have.
        for left in replicas.into_values().flatten() {
            self.retire_within(left.id(), self.unhurried(left.id()));
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
    async fn look(
        &mut self,
        deployment: DeploymentRow,
        replicas: Vec<Found>,
    ) -> Result<Look, StoreError> {
        let mut look = Look::new(deployment);
        self.sort_replicas(&mut look, replicas).await?;
        if look.is_partial {
            return Ok(look);
        }
        look.is_rested = self.is_rested(&look);
        let goals = look.goals();
        let row = &look.deployment;
        self.pursue(row, &mut look.stable, goals.stable).await?;
        match &mut look.candidate {
            Some(candidate) => self.pursue(row, candidate, goals.candidate).await?,
            None => self.backoffs.remove(row.id, Role::Candidate),
        }
        Ok(look)
    }

    /// Whether a scaled deployment slept when its version began to be replaced, and still has nothing to do: then only the new
    /// one is to be seen running.
    fn is_rested(&self, look: &Look) -> bool {
        let row = &look.deployment;
        let rolling = row.candidate().map(|it| it.strategy) == Some(RolloutStrategy::Rolling);
        let runs = !look.stable.current.is_empty() || !look.outdated.is_empty();
        let is_there = runs || self.starts.count(row.id, &look.stable.template) > 0;
        let load = self.router.load(row.id);
        let is_idle = load.running == 0 && load.waiting == 0;
        let may_sleep = row.scaling.as_ref().is_some_and(|it| it.bounds.min == 0);
        rolling && may_sleep && !is_there && is_idle
    }

    /// Lets go of what a version has too much of, and begins to start what is missing.
    async fn pursue(
        &mut self,
        deployment: &DeploymentRow,
        group: &mut Group,
        goal: usize,
    ) -> Result<(), StoreError> {
        self.trim(deployment, group, goal);
        let missing = goal - group.current.len();
        if missing == 0 {
            self.backoffs.rest(deployment.id, group.role);
            return Ok(());
        }
        let under_way = self.starts.count(deployment.id, &group.template);
        let more = missing.saturating_sub(under_way);
        if let Some(reason) = self.backoffs.holds(deployment, group.role, more > 0) {
            group.failure = Some(reason.to_owned());
            return Ok(());
        }
        let id = group.template.version_id;
        let Some(version) = self.store.version(id).await? else {
            group.failure = Some(format!("version `{id}` does not exist"));
            return Ok(());
        };
        for _ in 0..more {
            self.starts.begin(deployment, &version, &group.template);
        }
        Ok(())
    }

    fn trim(&mut self, deployment: &DeploymentRow, group: &mut Group, goal: usize) {
        if group.current.len() <= goal {
            return;
        }
        // What runs most, and has the most sessions that go on, stays; of equals the oldest.
        let weight = |id: &ReplicaId| Reverse(self.router.weight_of(*id));
        group.current.sort_by_cached_key(weight);
        // Nothing is in a hurry that is only not needed any more.
        let is_scaled = deployment.scaling.is_some() && deployment.candidate().is_none();
        for id in group.current.split_off(goal) {
            let grace = match is_scaled {
                true => self.unhurried(id),
                false => self.drain_grace,
            };
            self.retire_within(id, grace);
        }
    }

    /// How long a replica gets for what it runs where nobody waits for its end.
    fn unhurried(&self, id: ReplicaId) -> Duration {
        let replica = self.router.replica(id);
        let longest = replica.map_or(Duration::ZERO, |it| it.agent().timeout());
        self.drain_grace.max(longest)
    }

    /// Adds what came of the starts to what was found before they ended.
    fn take_in(&mut self, ended: Vec<Ended>, looks: &mut Vec<Look>) {
        let mut failed: HashMap<(DeploymentId, Role), (String, bool)> = HashMap::new();
        for start in ended {
            let look = looks
                .iter_mut()
                .find(|look| look.deployment.id == start.deployment_id);
            match start.result {
                Ok(()) => {
                    let id = start.replica_id;
                    if let Some(look) = look {
                        // One too many is let go when everything is known.
                        look.add(id, &start.template);
                    }
                    let started = Started {
                        template: start.template,
                        since: Instant::now(),
                    };
                    self.started_from.insert(id, started);
                }
                Err(StartError::Backend(error)) => {
                    let look = look.filter(|look| look.deployment.generation == start.generation);
                    if let Some(group) = look.and_then(|look| look.group(&start.template)) {
                        let key = (start.deployment_id, group.role);
                        failed.insert(key, (error.to_string(), is_final(&error)));
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
            let groups = [Some(&mut look.stable), look.candidate.as_mut()];
            for group in groups.into_iter().flatten() {
                let key = (look.deployment.id, group.role);
                if let Some((reason, is_final)) = failed.remove(&key) {
                    self.backoffs.failed(&look.deployment, group.role, &reason);
                    group.failure = Some(reason);
                    group.is_hopeless = is_final;
                }
            }
        }
    }

    /// Takes a rollout on, lets go of what is replaced and writes what was found.
    async fn settle(&mut self, mut look: Look) -> Result<(), StoreError> {
        if look.is_partial {
            // What was found last holds until the backend answers.
            return Ok(());
        }
        self.conclude(&mut look).await?;
        let goals = look.goals();
        self.trim(&look.deployment, &mut look.stable, goals.stable);
        if let Some(candidate) = &mut look.candidate {
            self.trim(&look.deployment, candidate, goals.candidate);
        }
        let wanted = wanted(&look.deployment);
        let stable = look.stable.current.len();
        let new = look.candidate.as_ref().map_or(0, |it| it.current.len());
        // As many as are missing of the others take requests meanwhile.
        let kept = wanted.saturating_sub(stable + new);
        for id in look.outdated.iter().skip(kept) {
            self.retire(*id);
        }
        if stable >= goals.stable {
            self.backoffs.rest(look.deployment.id, Role::Stable);
        }
        let (state, reason) = judge(&look);
        let deployment = look.deployment;
        if deployment.state != state || deployment.reason != reason {
            let seen = SetDeploymentState {
                deployment_id: deployment.id,
                generation: deployment.generation,
                state,
                reason: reason.clone(),
            };
            self.store.write(seen).await?;
        }
        self.tell(&deployment).await;
        // Whoever waits for a replica is told now, not at the next look.
        self.router.set_deployment(DeploymentRow {
            state,
            reason,
            ..deployment
        });
        Ok(())
    }
}
