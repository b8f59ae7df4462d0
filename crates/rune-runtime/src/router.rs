//! The replica router: which replica takes a request.
//!
//! While a deployment changes its version, a session belongs to one of the two (`router/version.rs`). Of that
//! a request gets the replica its session used before, else the least loaded one
//! with room; where none has room it waits in line, up to a deadline. The router
//! knows only what the reconcile loop tells it.

mod load;
mod outcomes;
mod place;
mod version;

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hashlink::LruCache;
use rune_network::{AgentAddress, Peer, PeerRegistry};
use rune_store_runtime::{
    DeploymentId, DeploymentRow, DeploymentState, ReplicaId, SessionId, VersionId,
};
use tokio::sync::{Notify, oneshot, watch};
use tokio::time::Instant;

use crate::replica::Replica;

pub use load::{Load, ReadyAgent};
pub use outcomes::Tally;
pub(crate) use place::Place;

use outcomes::Outcomes;

/// Requests that wait for one deployment at the most.
const MAX_WAITING: usize = 10_000;
/// Sessions whose replica is remembered per deployment at the most.
const MAX_STICKY: usize = 10_000;

/// Why a request got no replica.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RouteError {
    /// No deployment has the name.
    #[error("agent `{namespace}/{agent}:{alias}` is not deployed")]
    NotDeployed {
        /// Namespace that was asked for.
        namespace: String,
        /// Name that was asked for.
        agent: String,
        /// Alias that was asked for.
        alias: String,
    },
    /// The deployment went away while the request waited.
    #[error("the deployment was removed while the request waited for a replica")]
    Removed,
    /// Every replica is busy and the line is full.
    #[error("all replicas are busy and {0} requests wait already")]
    QueueFull(usize),
    /// No replica had room in time.
    #[error("no replica became free within {} ms", .0.as_millis())]
    Deadline(Duration),
    /// No replica was there in time.
    #[error("no replica of the deployment was ready within {} ms", .0.as_millis())]
    NotStarted(Duration),
    /// The deployment is scaled to zero by a person.
    #[error("the deployment is stopped: it is scaled to 0 replicas")]
    Stopped,
    /// No replica of the deployment can be started.
    #[error("no replica of the deployment can be started: {0}")]
    Failed(String),
}

/// Where requests for a name go.
#[derive(Debug, Clone)]
pub struct Route {
    /// The deployment as the reconcile loop last saw it.
    pub deployment: Arc<DeploymentRow>,
}

/// Chooses replicas. Cheap to clone.
#[derive(Clone, Default)]
pub struct ReplicaRouter {
    state: Arc<Mutex<State>>,
    peers: PeerRegistry,
    /// Changes with every deployment and replica.
    changes: Arc<watch::Sender<()>>,
    /// Fires when a replica does not answer.
    suspicions: Arc<Notify>,
    /// Fires when somebody begins to wait who may need another replica.
    demands: Arc<Notify>,
}

#[derive(Default)]
struct State {
    pools: HashMap<DeploymentId, Pool>,
    names: HashMap<(String, String, String), DeploymentId>,
    /// Replicas of deployments that are gone, which finish what they have.
    leaving: Vec<Arc<Replica>>,
}

struct Pool {
    deployment: Arc<DeploymentRow>,
    replicas: Vec<Arc<Replica>>,
    waiting: VecDeque<Waiter>,
    /// The replica of the sessions that were used last.
    sticky: LruCache<SessionId, ReplicaId>,
    /// Fires whenever a replica becomes ready, for those who need the agent itself.
    ready: watch::Sender<()>,
    /// What is known of the agent while no replica runs.
    standby: Option<ReadyAgent>,
    /// Whether that is on its way, so that nobody has to be woken to know it.
    is_described: bool,
    /// Held by every request that has not ended.
    open: Arc<()>,
    /// How many there were.
    opened: u64,
    /// Held by everybody who waits for the agent itself.
    asking: Arc<()>,
    outcomes: Outcomes,
    /// When this process learned of the deployment.
    since: Instant,
    /// The versions of which it has had a replica since.
    seen: HashSet<VersionId>,
}

/// Who waits for a place.
struct Waiter {
    /// The version that it is for, as long as that has replicas.
    version: Option<VersionId>,
    place: oneshot::Sender<Lease>,
}

impl ReplicaRouter {
    /// A router that knows nothing yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Where requests for a name go.
    ///
    /// # Errors
    /// [`RouteError::NotDeployed`].
    pub fn route(&self, namespace: &str, agent: &str, alias: &str) -> Result<Route, RouteError> {
        let state = self.lock();
        let key = (namespace.to_owned(), agent.to_owned(), alias.to_owned());
        match state.names.get(&key).and_then(|id| state.pools.get(id)) {
            Some(pool) => Ok(Route {
                deployment: Arc::clone(&pool.deployment),
            }),
            None => Err(RouteError::NotDeployed {
                namespace: key.0,
                agent: key.1,
                alias: key.2,
            }),
        }
    }

    /// Tells the router about a deployment, new or changed.
    pub fn set_deployment(&self, deployment: DeploymentRow) {
        let id = deployment.id;
        let mut state = self.lock();
        let key = (
            deployment.namespace.clone(),
            deployment.agent.clone(),
            deployment.alias.clone(),
        );
        state.names.insert(key, deployment.id);
        let deployment = Arc::new(deployment);
        match state.pools.get_mut(&deployment.id) {
            Some(pool) => {
                pool.outcomes.changes(&pool.deployment, &deployment);
                pool.deployment = deployment;
                if pool.deployment.replicas == 0 {
                    // Nobody will serve those who wait; they are told.
                    pool.waiting.clear();
                }
                pool.ready.send_replace(());
            }
            None => {
                let pool = Pool {
                    deployment: Arc::clone(&deployment),
                    replicas: Vec::new(),
                    waiting: VecDeque::new(),
                    sticky: LruCache::new(MAX_STICKY),
                    ready: watch::Sender::new(()),
                    standby: None,
                    is_described: false,
                    open: Arc::default(),
                    opened: 0,
                    asking: Arc::default(),
                    outcomes: Outcomes::default(),
                    since: Instant::now(),
                    seen: HashSet::new(),
                };
                state.pools.insert(deployment.id, pool);
            }
        }
        drop(state);
        // Whoever waited for a version that is not to run any more takes another one.
        self.serve_waiting(id);
        self.changes.send_replace(());
    }

    /// Forgets a deployment; those who wait for it are told. Its replicas take nothing new, and are known until each is removed.
    pub fn remove_deployment(&self, id: DeploymentId) {
        let mut state = self.lock();
        if let Some(pool) = state.pools.remove(&id) {
            pool.show_gone();
            pool.replicas.iter().for_each(|replica| replica.drain());
            state.leaving.extend(pool.replicas);
        }
        state.names.retain(|_, deployment| *deployment != id);
        drop(state);
        self.peers.leave(id);
        self.changes.send_replace(());
    }

    /// Changes whenever a deployment or a replica is new, changed or gone.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<()> {
        self.changes.subscribe()
    }

    /// Says that a replica does not answer, so that somebody looks whether it is there.
    pub(crate) fn suspect(&self) {
        self.suspicions.notify_one();
    }

    /// Returns once a replica does not answer.
    pub(crate) async fn suspicion(&self) {
        self.suspicions.notified().await;
    }

    /// The agents that have run here, for the network rule.
    #[must_use]
    pub const fn peers(&self) -> &PeerRegistry {
        &self.peers
    }

    /// The deployments the router knows.
    #[must_use]
    pub fn deployments(&self) -> Vec<Arc<DeploymentRow>> {
        self.lock()
            .pools
            .values()
            .map(|pool| Arc::clone(&pool.deployment))
            .collect()
    }

    /// One deployment by its id.
    #[must_use]
    pub fn deployment(&self, id: DeploymentId) -> Option<Arc<DeploymentRow>> {
        let state = self.lock();
        state
            .pools
            .get(&id)
            .map(|pool| Arc::clone(&pool.deployment))
    }

    /// Adds a ready replica; waiting requests go to it at once.
    pub fn add_replica(&self, replica: Arc<Replica>) {
        let id = replica.deployment_id();
        if let Some(pool) = self.lock().pools.get_mut(&id) {
            self.peers.join(Peer {
                address: AgentAddress {
                    namespace: pool.deployment.namespace.clone(),
                    name: pool.deployment.agent.clone(),
                    alias: pool.deployment.alias.clone(),
                },
                networks: replica.agent().spec().networks.clone(),
                deployment_id: id,
            });
            pool.seen.insert(replica.version_id());
            pool.replicas.push(replica);
            pool.ready.send_replace(());
        }
        self.serve_waiting(id);
        self.changes.send_replace(());
    }

    /// Removes a replica; what it runs goes on.
    pub fn remove_replica(&self, deployment_id: DeploymentId, id: ReplicaId) {
        let mut state = self.lock();
        state.leaving.retain(|replica| replica.id() != id);
        if let Some(pool) = state.pools.get_mut(&deployment_id) {
            pool.replicas.retain(|replica| replica.id() != id);
            pool.sticky.retain(|_, replica| *replica != id);
        }
        drop(state);
        self.serve_waiting(deployment_id);
        self.changes.send_replace(());
    }

    /// Has a replica take nothing new; those who waited for its version alone take any other.
    pub(crate) fn drain(&self, id: ReplicaId) {
        if let Some(replica) = self.replica(id) {
            replica.drain();
            self.serve_waiting(replica.deployment_id());
        }
    }

    /// The replicas of a deployment.
    #[must_use]
    pub fn replicas(&self, id: DeploymentId) -> Vec<Arc<Replica>> {
        self.lock()
            .pools
            .get(&id)
            .map(|pool| pool.replicas.clone())
            .unwrap_or_default()
    }

    /// One replica by its id.
    #[must_use]
    pub fn replica(&self, id: ReplicaId) -> Option<Arc<Replica>> {
        let state = self.lock();
        state
            .pools
            .values()
            .flat_map(|pool| &pool.replicas)
            .chain(&state.leaving)
            .find(|r| r.id() == id)
            .cloned()
    }

    /// Waits until the deployment takes requests and answers the agent that does, without taking a place. Of one that
    /// sleeps it is the agent that stands by: a request wakes it.
    ///
    /// # Errors
    /// Any [`RouteError`] but `QueueFull`.
    pub async fn ready(
        &self,
        id: DeploymentId,
        deadline: Duration,
    ) -> Result<ReadyAgent, RouteError> {
        self.ready_as(id, deadline, |_| None).await
    }

    /// [`ReplicaRouter::ready`] of the version that requests of a session are for; `pinned` is that of its last request.
    ///
    /// # Errors
    /// Any [`RouteError`] but `QueueFull`.
    pub(crate) async fn ready_for(
        &self,
        id: DeploymentId,
        session: &SessionId,
        pinned: Option<VersionId>,
        deadline: Duration,
    ) -> Result<ReadyAgent, RouteError> {
        let version = |pool: &Pool| pool.version_for(session, pinned);
        self.ready_as(id, deadline, version).await
    }

    async fn ready_as(
        &self,
        id: DeploymentId,
        deadline: Duration,
        version: impl Fn(&Pool) -> Option<VersionId> + Send,
    ) -> Result<ReadyAgent, RouteError> {
        let wait = async {
            let mut asking = None;
            loop {
                let mut changed = {
                    let state = self.lock();
                    let pool = state.pools.get(&id).ok_or(RouteError::Removed)?;
                    if pool.deployment.replicas == 0 {
                        return Err(RouteError::Stopped);
                    }
                    if let Some(replica) = pool.newest(version(pool)) {
                        return Ok(ReadyAgent::from(&replica));
                    }
                    if let Some(failed) = pool.failed() {
                        return Err(failed);
                    }
                    if let Some(standing_by) = pool.standing_by() {
                        return Ok(standing_by.clone());
                    }
                    if asking.is_none() && !pool.is_described {
                        asking = Some(Arc::clone(&pool.asking));
                        self.demands.notify_one();
                    }
                    pool.ready.subscribe()
                };
                changed.changed().await.map_err(|_| RouteError::Removed)?;
            }
        };
        tokio::time::timeout(deadline, wait)
            .await
            .unwrap_or(Err(RouteError::Deadline(deadline)))
    }

    /// A place on a replica of a version, at once or after waiting in line; on any where that has none, or none is named.
    ///
    /// # Errors
    /// Any [`RouteError`].
    pub async fn lease(
        &self,
        id: DeploymentId,
        session: &SessionId,
        version: Option<VersionId>,
        deadline: Duration,
    ) -> Result<Lease, RouteError> {
        let mut waiting = match self.line_up(id, session, version, MAX_WAITING)? {
            Leased::Now(lease) => return Ok(lease),
            Leased::Later(waiting) => waiting,
        };
        let deadline = deadline + self.start_time(id);
        match tokio::time::timeout(deadline, &mut waiting).await {
            Ok(lease) => lease.map_err(|_| self.gone(id)),
            Err(_) => Err(self.late(id, deadline)),
        }
    }

    /// [`ReplicaRouter::lease`] for a request that was taken before: it waits as long as
    /// replicas are busy, however long the line is, and up to `deadline` for one to be there.
    ///
    /// # Errors
    /// Any [`RouteError`] but `QueueFull`.
    pub(crate) async fn lease_taken_up(
        &self,
        id: DeploymentId,
        session: &SessionId,
        version: Option<VersionId>,
        deadline: Duration,
    ) -> Result<Lease, RouteError> {
        let mut waiting = match self.line_up(id, session, version, usize::MAX)? {
            Leased::Now(lease) => return Ok(lease),
            Leased::Later(waiting) => waiting,
        };
        let deadline = deadline + self.start_time(id);
        loop {
            match tokio::time::timeout(deadline, &mut waiting).await {
                Ok(lease) => return lease.map_err(|_| self.gone(id)),
                Err(_) if self.is_served(id) => {}
                Err(_) => return Err(self.late(id, deadline)),
            }
        }
    }

    fn line_up(
        &self,
        id: DeploymentId,
        session: &SessionId,
        version: Option<VersionId>,
        most: usize,
    ) -> Result<Leased, RouteError> {
        let mut state = self.lock();
        let pool = state.pools.get_mut(&id).ok_or(RouteError::Removed)?;
        if pool.deployment.replicas == 0 {
            return Err(RouteError::Stopped);
        }
        if let Some(replica) = pool.choose(session, version) {
            return Ok(Leased::Now(self.lease_on(replica)));
        }
        pool.waiting.retain(|waiter| !waiter.place.is_closed());
        if pool.waiting.len() >= most {
            return Err(RouteError::QueueFull(pool.waiting.len()));
        }
        let (place, receiver) = oneshot::channel();
        // Of those who wait already the loop knows, and looks at them at its own pace.
        let is_first = pool.waiting.is_empty();
        pool.waiting.push_back(Waiter { version, place });
        if is_first {
            self.demands.notify_one();
        }
        Ok(Leased::Later(receiver))
    }

    /// How much longer than for a busy replica a request waits for one that has to be started first.
    fn start_time(&self, id: DeploymentId) -> Duration {
        let state = self.lock();
        let pool = state.pools.get(&id).filter(|pool| pool.is_empty());
        let standing_by = pool.and_then(Pool::standing_by);
        standing_by.map_or(Duration::ZERO, |it| {
            it.agent().spec().runtime.startup_timeout
        })
    }

    /// Whether a replica takes requests, now or once it is less busy.
    fn is_served(&self, id: DeploymentId) -> bool {
        let state = self.lock();
        let pool = state.pools.get(&id);
        pool.is_some_and(|pool| pool.replicas.iter().any(|replica| !replica.is_draining()))
    }

    /// Why nobody gives a place any more.
    fn gone(&self, id: DeploymentId) -> RouteError {
        if self.lock().pools.contains_key(&id) {
            RouteError::Stopped
        } else {
            RouteError::Removed
        }
    }

    /// Why no replica can be started, where the reconcile loop found so.
    pub(crate) fn trouble(&self, id: DeploymentId) -> Option<RouteError> {
        self.lock().pools.get(&id).and_then(Pool::failed)
    }

    /// Why there was no place in time.
    fn late(&self, id: DeploymentId, deadline: Duration) -> RouteError {
        // What is accepted already gets all of its time; a start is tried again.
        if let Some(trouble) = self.trouble(id) {
            return trouble;
        }
        let state = self.lock();
        match state.pools.get(&id) {
            Some(pool) if pool.is_empty() => RouteError::NotStarted(deadline),
            _ => RouteError::Deadline(deadline),
        }
    }

    /// A place for a request that has begun already, ahead of those who have not. `None`
    /// where the deployment is gone or stopped: nobody gives places then.
    async fn lease_again(&self, id: DeploymentId, version: Option<VersionId>) -> Option<Lease> {
        let waiting = {
            let mut state = self.lock();
            let pool = state.pools.get_mut(&id)?;
            if let Some(replica) = pool.least_loaded(version) {
                return Some(self.lease_on(replica));
            }
            if pool.deployment.replicas == 0 {
                return None;
            }
            let (place, receiver) = oneshot::channel();
            pool.waiting.push_front(Waiter { version, place });
            self.demands.notify_one();
            receiver
        };
        waiting.await.ok()
    }

    /// A place on a replica whether or not it has room: for what runs there already.
    pub(crate) fn lease_on(&self, replica: Arc<Replica>) -> Lease {
        replica.take();
        Lease {
            replica,
            router: self.clone(),
        }
    }

    /// Hands free places to those who wait, first come first served.
    fn serve_waiting(&self, id: DeploymentId) {
        loop {
            let unclaimed = {
                let mut state = self.lock();
                let Some(pool) = state.pools.get_mut(&id) else {
                    return;
                };
                pool.waiting.retain(|waiter| !waiter.place.is_closed());
                let Some((waiter, replica)) = pool.next_waiting() else {
                    return;
                };
                waiter.place.send(self.lease_on(replica)).err()
            };
            // Whoever waited is gone: dropping the lease, outside the lock, gives the place back.
            drop(unclaimed);
        }
    }

    fn release(&self, replica: &Replica) {
        replica.give_back();
        self.serve_waiting(replica.deployment_id());
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A place, or where it will be handed out.
enum Leased {
    Now(Lease),
    Later(oneshot::Receiver<Lease>),
}

impl Pool {
    /// Why none of its replicas can be started, where the reconcile loop found so.
    fn failed(&self) -> Option<RouteError> {
        let failed = self.deployment.state == DeploymentState::Failed;
        failed.then(|| RouteError::Failed(self.deployment.reason.clone()))
    }

    fn choose(&mut self, session: &SessionId, version: Option<VersionId>) -> Option<Arc<Replica>> {
        // Nobody comes before those who wait for the same.
        let is_before = |waiter: &Waiter| {
            let same = waiter.version.is_none() || version.is_none() || waiter.version == version;
            same && !waiter.place.is_closed()
        };
        if self.waiting.iter().any(is_before) {
            return None;
        }
        if self.replicas.len() < 2 {
            return self.least_loaded(version);
        }
        let sticky = self.sticky.get(session).copied();
        let is_known = |r: &&Arc<Replica>| Some(r.id()) == sticky && r.has_room();
        let known = self.live_of(version).find(is_known).cloned();
        if known.is_some() {
            return known;
        }
        let chosen = self.least_loaded(version)?;
        self.sticky.insert(session.clone(), chosen.id());
        Some(chosen)
    }

    fn least_loaded(&self, version: Option<VersionId>) -> Option<Arc<Replica>> {
        let free = self
            .live_of(version)
            .filter(|replica| replica.has_room())
            .min_by_key(|replica| replica.in_flight());
        free.cloned()
    }

    /// The first of those who wait for whom there is a place, taken out of the line.
    fn next_waiting(&mut self) -> Option<(Waiter, Arc<Replica>)> {
        // Few versions, but many who wait.
        let mut full: Vec<Option<VersionId>> = Vec::new();
        let found = self.waiting.iter().enumerate().find_map(|(at, waiter)| {
            if full.contains(&waiter.version) {
                return None;
            }
            let free = self.least_loaded(waiter.version);
            if free.is_none() {
                full.push(waiter.version);
            }
            free.map(|replica| (at, replica))
        });
        let (at, replica) = found?;
        self.waiting.remove(at).map(|waiter| (waiter, replica))
    }
}

/// A place on a replica; given back when dropped.
pub struct Lease {
    replica: Arc<Replica>,
    router: ReplicaRouter,
}

impl Lease {
    /// The replica.
    #[must_use]
    pub const fn replica(&self) -> &Arc<Replica> {
        &self.replica
    }
}

impl std::fmt::Debug for Lease {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Lease({})", self.replica.id())
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.router.release(&self.replica);
    }
}
