//! What there is to do for a deployment, and which agent it is for while no replica of it runs.

use std::sync::Arc;

use rune_store_runtime::{DeploymentId, ReplicaId, VersionId};

use super::{Pool, ReplicaRouter};
use crate::agent::Agent;
use crate::replica::Replica;

/// How much there is to do for a deployment, and what does it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Load {
    /// Requests that run on replicas which take more.
    pub running: u32,
    /// Requests that wait for a place.
    pub waiting: u32,
    /// Requests that have not ended and are not parked, with those that wait for other agents or run on a replica that
    /// takes nothing new.
    pub open: u32,
    /// Requests that have begun since this process began, also those that have ended between two looks.
    pub opened: u64,
    /// Replicas with something that goes on beside requests and ends with them.
    pub pinned: u32,
    /// Requests one replica runs at a time, where that is known.
    pub limit: Option<u32>,
}

/// An agent that takes requests, and the version of it that does.
#[derive(Clone)]
pub struct ReadyAgent {
    version_id: VersionId,
    agent: Arc<Agent>,
}

/// Says that a request of a deployment has not ended, as long as it lives.
pub(crate) struct OpenRequest {
    _counted: Arc<()>,
}

impl ReadyAgent {
    /// The version.
    #[must_use]
    pub const fn version_id(&self) -> VersionId {
        self.version_id
    }

    /// What is known of it here.
    #[must_use]
    pub const fn agent(&self) -> &Arc<Agent> {
        &self.agent
    }
}

impl From<&Arc<Replica>> for ReadyAgent {
    fn from(replica: &Arc<Replica>) -> Self {
        Self {
            version_id: replica.version_id(),
            agent: Arc::clone(replica.agent()),
        }
    }
}

impl ReplicaRouter {
    /// What there is to do for a deployment; nothing where it is not known.
    #[must_use]
    pub fn load(&self, id: DeploymentId) -> Load {
        let mut state = self.lock();
        state.pools.get_mut(&id).map(Pool::load).unwrap_or_default()
    }

    /// The agent of a deployment: that of its newest replica, or the one that stands by while none runs.
    #[must_use]
    pub fn agent(&self, id: DeploymentId) -> Option<Arc<Agent>> {
        let state = self.lock();
        let pool = state.pools.get(&id)?;
        let newest = pool.replicas.last().map(|replica| replica.agent());
        let standing_by = || pool.standing_by().map(ReadyAgent::agent);
        newest.or_else(standing_by).cloned()
    }

    /// The agent of one version, where it runs or stands by.
    pub(crate) fn agent_of(&self, id: DeploymentId, version: VersionId) -> Option<Arc<Agent>> {
        let state = self.lock();
        let pool = state.pools.get(&id)?;
        let mut replicas = pool.replicas.iter();
        let running = replicas.find(|replica| replica.version_id() == version);
        let running = running.map(|replica| replica.agent());
        let standing_by = || {
            let standing_by = pool.standing_by()?;
            (standing_by.version_id == version).then_some(&standing_by.agent)
        };
        running.or_else(standing_by).cloned()
    }

    /// Says whether what stands by is on its way; whoever asks for it waits, and starts no replica.
    pub(crate) fn describes(&self, id: DeploymentId, is_described: bool) {
        if let Some(pool) = self.lock().pools.get_mut(&id) {
            pool.is_described = is_described;
            pool.ready.send_replace(());
        }
    }

    /// Says what a deployment is while none of its replicas runs: by that its requests are checked and accepted before one
    /// is started for them.
    pub(crate) fn stand_by(&self, id: DeploymentId, version_id: VersionId, agent: Arc<Agent>) {
        if let Some(pool) = self.lock().pools.get_mut(&id) {
            pool.standby = Some(ReadyAgent { version_id, agent });
            pool.is_described = false;
            pool.ready.send_replace(());
        }
        self.changes.send_replace(());
    }

    /// Counts a request as open until the answer is dropped.
    pub(crate) fn opens(&self, id: DeploymentId) -> Option<OpenRequest> {
        let mut state = self.lock();
        let pool = state.pools.get_mut(&id)?;
        pool.opened += 1;
        Some(OpenRequest {
            _counted: Arc::clone(&pool.open),
        })
    }

    /// Returns once somebody begins to wait who may need another replica.
    pub(crate) async fn demand(&self) {
        self.demands.notified().await;
    }

    /// How much is lost by ending a replica, for choosing the one that goes: what goes on beside its requests, its requests,
    /// then the sessions that go on there.
    pub(crate) fn weight_of(&self, id: ReplicaId) -> (bool, u32, usize) {
        let state = self.lock();
        let mut found = (false, 0, 0);
        for pool in state.pools.values() {
            if let Some(replica) = pool.replicas.iter().find(|replica| replica.id() == id) {
                let sessions = pool.sticky.iter().filter(|(_, known)| **known == id);
                found = (replica.holds(), replica.in_flight(), sessions.count());
            }
        }
        found
    }

    /// Sets the gauges of every deployment.
    pub(crate) fn observe(&self) {
        let mut state = self.lock();
        for pool in state.pools.values_mut() {
            let load = pool.load();
            let ready = u32::try_from(pool.live_of(None).count()).unwrap_or(u32::MAX);
            let wanted = pool.deployment.wanted();
            pool.show([wanted, ready, load.running, load.waiting]);
        }
    }
}

impl Pool {
    /// Sets the gauges: replicas that are wanted and ready, requests that run and wait.
    fn show(&self, [wanted, ready, running, waiting]: [u32; 4]) {
        let row = &self.deployment;
        let labels = [
            ("namespace", row.namespace.clone()),
            ("agent", row.agent.clone()),
            ("alias", row.alias.clone()),
        ];
        metrics::gauge!("rune_replicas_wanted", &labels).set(wanted);
        metrics::gauge!("rune_replicas_ready", &labels).set(ready);
        metrics::gauge!("rune_requests_running", &labels).set(running);
        metrics::gauge!("rune_requests_waiting", &labels).set(waiting);
    }

    /// Says that there is nothing of it any more: a gauge keeps what it was set to last.
    pub(super) fn show_gone(&self) {
        self.show([0; 4]);
    }

    fn load(&mut self) -> Load {
        self.waiting.retain(|waiter| !waiter.place.is_closed());
        let count = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
        let others = |counted: &Arc<()>| count(Arc::strong_count(counted) - 1);
        let running = self.live_of(None).map(|replica| replica.in_flight()).sum();
        let newest = self.replicas.last().map(|replica| replica.limit());
        let standing_by = || Some(self.standing_by()?.agent.concurrency_limit());
        Load {
            running,
            waiting: count(self.waiting.len()).saturating_add(others(&self.asking)),
            open: others(&self.open),
            opened: self.opened,
            pinned: count(self.live_of(None).filter(|replica| replica.holds()).count()),
            limit: newest.or_else(standing_by),
        }
    }

    /// The agent that stands by, where it is the one that is deployed.
    pub(super) fn standing_by(&self) -> Option<&ReadyAgent> {
        let standby = self.standby.as_ref();
        standby.filter(|it| it.version_id == self.deployment.version_id)
    }

    /// Whether nothing takes requests.
    pub(super) fn is_empty(&self) -> bool {
        self.live_of(None).next().is_none()
    }
}
