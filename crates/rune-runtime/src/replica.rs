//! A replica as the router knows it: one running copy of a deployment, with its own
//! concurrency limit, in this process or behind a connection.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use rune_store_runtime::{DeploymentId, ReplicaId, VersionId};
use tokio::sync::watch;

use crate::agent::Agent;
use crate::remote::{ReplicaClient, ReplicaStatus, ReplicaUsage};

/// A running copy of a deployment.
pub struct Replica {
    id: ReplicaId,
    deployment_id: DeploymentId,
    version_id: VersionId,
    agent: Arc<Agent>,
    /// What reaches it, where it is not in this process.
    client: Option<ReplicaClient>,
    limit: u32,
    in_flight: watch::Sender<u32>,
    draining: AtomicBool,
    usage: Mutex<Option<ReplicaUsage>>,
    holds: AtomicBool,
}

impl Replica {
    /// A replica in this process that takes requests at once.
    #[must_use]
    pub fn local(
        id: ReplicaId,
        deployment_id: DeploymentId,
        version_id: VersionId,
        agent: Arc<Agent>,
    ) -> Arc<Self> {
        Self::new(id, deployment_id, version_id, agent, None)
    }

    /// A replica elsewhere that takes requests at once. `agent` is what is known of it here:
    /// what it may be asked and who may call it; its tools and models are not used.
    #[must_use]
    pub fn remote(
        id: ReplicaId,
        deployment_id: DeploymentId,
        version_id: VersionId,
        agent: Arc<Agent>,
        client: ReplicaClient,
    ) -> Arc<Self> {
        Self::new(id, deployment_id, version_id, agent, Some(client))
    }

    fn new(
        id: ReplicaId,
        deployment_id: DeploymentId,
        version_id: VersionId,
        agent: Arc<Agent>,
        client: Option<ReplicaClient>,
    ) -> Arc<Self> {
        let limit = agent.concurrency_limit();
        Arc::new(Self {
            id,
            deployment_id,
            version_id,
            agent,
            client,
            limit,
            in_flight: watch::Sender::new(0),
            draining: AtomicBool::new(false),
            usage: Mutex::default(),
            holds: AtomicBool::new(false),
        })
    }

    /// The replica.
    #[must_use]
    pub const fn id(&self) -> ReplicaId {
        self.id
    }

    /// Its deployment.
    #[must_use]
    pub const fn deployment_id(&self) -> DeploymentId {
        self.deployment_id
    }

    /// The version it runs.
    #[must_use]
    pub const fn version_id(&self) -> VersionId {
        self.version_id
    }

    /// What it runs.
    #[must_use]
    pub const fn agent(&self) -> &Arc<Agent> {
        &self.agent
    }

    /// What reaches it, where it is not in this process.
    #[must_use]
    pub const fn client(&self) -> Option<&ReplicaClient> {
        self.client.as_ref()
    }

    /// Requests it runs at the most.
    #[must_use]
    pub const fn limit(&self) -> u32 {
        self.limit
    }

    /// Requests it runs now.
    #[must_use]
    pub fn in_flight(&self) -> u32 {
        *self.in_flight.borrow()
    }

    /// What it used when it was asked last; nothing of one in this process.
    #[must_use]
    pub fn usage(&self) -> Option<ReplicaUsage> {
        *self.usage.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes in what it has said of itself.
    pub(crate) fn note(&self, status: &ReplicaStatus) {
        *self.usage.lock().unwrap_or_else(PoisonError::into_inner) = status.usage;
        self.holds.store(status.held > 0, Ordering::Relaxed);
    }

    /// Whether something goes on in it beside requests that ends with it, when it was asked last.
    pub(crate) fn holds(&self) -> bool {
        self.holds.load(Ordering::Relaxed)
    }

    /// Whether it finishes what it has and takes nothing new.
    #[must_use]
    pub fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }

    /// Returns once it runs nothing.
    pub(crate) async fn idle(&self) {
        let mut in_flight = self.in_flight.subscribe();
        // The sender lives as long as `self`, so this cannot fail.
        let _ = in_flight.wait_for(|n| *n == 0).await;
    }

    pub(crate) fn drain(&self) {
        self.draining.store(true, Ordering::Relaxed);
    }

    /// Whether it can take one more.
    pub(crate) fn has_room(&self) -> bool {
        !self.is_draining() && self.in_flight() < self.limit
    }

    pub(crate) fn take(&self) {
        self.in_flight.send_modify(|n| *n += 1);
    }

    pub(crate) fn give_back(&self) {
        self.in_flight.send_modify(|n| *n -= 1);
    }
}
