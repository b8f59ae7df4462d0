//! The reconcile loop on a backend that does as it is told.

mod rollouts;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use rune_backend::{Backend, BackendError, ReplicaHealth, ReplicaSpec};
use rune_runtime::Ending;
use rune_runtime::{
    Engine, LocalBackend, PackageCache, ReconcileHandle, ReconcileLoop, ReplicaRouter, Tasks,
};
use rune_store_runtime::{
    ApplyDeployment, BlobStore, DeleteDeployment, DeploymentId, DeploymentRow, DeploymentState,
    PageRequest, PublishVersion, ReplicaFilter, ReplicaId, ReplicaRow, ReplicaState, ScaleBounds,
    ScaleDeployment, Store, SystemClock, VersionId,
};
use rune_testkit::{ModelScript, ModelServer, Protocol};
use tokio::time::Instant;

use super::harness::{Bot, MemoryBlobs, Spy, call, loader, soon};

/// Starts whatever it is told to, or nothing.
#[derive(Default)]
struct FakeBackend {
    state: Mutex<Fake>,
}

#[derive(Default)]
struct Fake {
    running: BTreeMap<ReplicaId, (VersionId, ReplicaHealth)>,
    failing: bool,
    /// Starts of this version do not come to an end.
    stuck: Option<VersionId>,
    /// Starts of this version fail.
    bad: Option<(VersionId, BackendError)>,
    /// Replicas of this version are gone as soon as somebody looks.
    dying: Option<VersionId>,
    /// It does not say how replicas are.
    away: bool,
    /// How many more starts come to an end; the others wait.
    starts_left: Option<u32>,
    stop_fails: u32,
    starts: Vec<Instant>,
    log: Vec<(&'static str, ReplicaId)>,
}

#[async_trait]
impl Backend for FakeBackend {
    fn name(&self) -> &'static str {
        "fake"
    }

    async fn start(&self, spec: &ReplicaSpec) -> Result<Option<String>, BackendError> {
        if self.state.lock().unwrap().stuck == Some(spec.version_id) {
            std::future::pending::<()>().await;
        }
        while self.state.lock().unwrap().starts_left == Some(0) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let mut state = self.state.lock().unwrap();
        state.starts_left = state.starts_left.map(|left| left.saturating_sub(1));
        state.starts.push(Instant::now());
        if state.failing {
            return Err(BackendError::Unavailable("no room".to_owned()));
        }
        if let Some((version, error)) = &state.bad
            && *version == spec.version_id
        {
            return Err(error.clone());
        }
        state.log.push(("start", spec.replica_id));
        state
            .running
            .insert(spec.replica_id, (spec.version_id, ReplicaHealth::Ready));
        Ok(Some("http://127.0.0.1:1".to_owned()))
    }

    async fn health(&self, id: ReplicaId) -> Result<ReplicaHealth, BackendError> {
        let mut state = self.state.lock().unwrap();
        if state.away {
            return Err(BackendError::Unavailable("no answer".to_owned()));
        }
        let dying = state.dying;
        state
            .running
            .retain(|known, (version, _)| *known != id || Some(*version) != dying);
        let known = state.running.get(&id);
        Ok(known.map_or(ReplicaHealth::Gone, |(_, health)| health.clone()))
    }

    async fn drain(&self, id: ReplicaId, _: Duration) -> Result<bool, BackendError> {
        self.state.lock().unwrap().log.push(("drain", id));
        Ok(true)
    }

    async fn stop(&self, id: ReplicaId) -> Result<(), BackendError> {
        let mut state = self.state.lock().unwrap();
        if state.stop_fails > 0 {
            state.stop_fails -= 1;
            return Err(BackendError::Unavailable("busy".to_owned()));
        }
        state.running.remove(&id);
        state.log.push(("stop", id));
        Ok(())
    }
}

struct Plane {
    store: Store,
    router: ReplicaRouter,
    tasks: Tasks,
    handle: ReconcileHandle,
    id: DeploymentId,
}

impl Plane {
    fn start(backend: impl FnOnce(&ReplicaRouter) -> Arc<dyn Backend>) -> Self {
        let (tasks, router) = (Tasks::new(), ReplicaRouter::new());
        let store = Store::new(Spy::new(&tasks), Arc::new(SystemClock));
        let backend = backend(&router);
        let (work, handle) = ReconcileLoop::new(
            store.clone(),
            backend,
            router.clone(),
            tasks.clone(),
            Duration::from_secs(1),
        );
        tasks.spawn("reconcile", work.run());
        let id = DeploymentId::generate();
        Self {
            store,
            router,
            tasks,
            handle,
            id,
        }
    }

    async fn publish(&self, version: &str, digest: &str) -> VersionId {
        self.publish_with(version, digest, ScaleBounds::default())
            .await
    }

    async fn publish_with(&self, version: &str, digest: &str, scaling: ScaleBounds) -> VersionId {
        let version_id = VersionId::generate();
        let publish = PublishVersion {
            version_id,
            agent: "bot".to_owned(),
            version: version.to_owned(),
            description: String::new(),
            digest: digest.to_owned(),
            size: 1,
            image: None,
            scaling,
            signature: None,
        };
        self.store.write(publish).await.unwrap();
        version_id
    }

    async fn apply(&self, version_id: VersionId, replicas: u32) {
        self.apply_as(self.id, "stable", version_id, replicas).await;
    }

    async fn apply_as(&self, id: DeploymentId, alias: &str, version_id: VersionId, replicas: u32) {
        let apply = ApplyDeployment {
            deployment_id: id,
            namespace: "dev".to_owned(),
            agent: "bot".to_owned(),
            alias: alias.to_owned(),
            version_id,
            replicas: Some(replicas),
            env: BTreeMap::new(),
            project: None,
        };
        self.store.write(apply).await.unwrap();
        self.handle.wake();
    }

    async fn scale(&self, replicas: u32) {
        let scale = ScaleDeployment {
            deployment_id: self.id,
            replicas,
        };
        self.store.write(scale).await.unwrap();
        self.handle.wake();
    }

    async fn row(&self) -> DeploymentRow {
        self.store.deployment(self.id).await.unwrap().unwrap()
    }

    async fn replicas(&self) -> Vec<ReplicaRow> {
        let page = PageRequest::first(PageRequest::MAX_LIMIT);
        let filter = ReplicaFilter::default();
        self.store.replicas(&filter, &page).await.unwrap().items
    }

    /// Waits until the rows are as wanted; the loop is woken in between.
    async fn settles(
        &self,
        what: &str,
        is: impl Fn(Option<&DeploymentRow>, &[ReplicaRow]) -> bool,
    ) {
        for _ in 0..2000 {
            let row = self.store.deployment(self.id).await.unwrap();
            let replicas = self.replicas().await;
            if is(row.as_ref(), &replicas) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!(
            "{what}: {:?}\n{:?}",
            self.row().await,
            self.replicas().await
        );
    }

    async fn ready(&self, count: usize) {
        self.settles(&format!("{count} ready"), |row, replicas| {
            replicas.len() == count
                && replicas
                    .iter()
                    .all(|replica| replica.state == ReplicaState::Ready)
                && row.is_some_and(|row| row.state == DeploymentState::Ready)
        })
        .await;
    }
}

fn digest(n: u8) -> String {
    format!("sha256:{}", n.to_string().repeat(64))
}

#[tokio::test(start_paused = true)]
async fn what_is_missing_is_started_and_what_is_too_much_stopped() {
    let backend = Arc::new(FakeBackend::default());
    let plane = Plane::start(|_| Arc::clone(&backend) as Arc<_>);
    let version = plane.publish("1.0.0", &digest(1)).await;
    plane.apply(version, 3).await;
    plane.ready(3).await;
    plane.scale(1).await;
    plane.ready(1).await;
    plane.scale(0).await;
    plane
        .settles("stopped", |row, replicas| {
            replicas.is_empty() && row.is_some_and(|row| row.state == DeploymentState::Stopped)
        })
        .await;
    assert!(backend.state.lock().unwrap().running.is_empty());
    plane.scale(2).await;
    plane.ready(2).await;
    plane
        .store
        .write(DeleteDeployment {
            deployment_id: plane.id,
        })
        .await
        .unwrap();
    plane.handle.wake();
    plane
        .settles("removed", |row, replicas| {
            row.is_none() && replicas.is_empty()
        })
        .await;
}

#[tokio::test(start_paused = true)]
async fn a_failing_start_is_tried_again_with_growing_pauses_and_says_why() {
    let backend = Arc::new(FakeBackend::default());
    backend.state.lock().unwrap().failing = true;
    let plane = Plane::start(|_| Arc::clone(&backend) as Arc<_>);
    let version = plane.publish("1.0.0", &digest(1)).await;
    plane.apply(version, 1).await;
    tokio::time::sleep(Duration::from_secs(20)).await;
    let row = plane.row().await;
    assert_eq!(
        (row.state, row.reason.as_str()),
        (DeploymentState::Failed, "no room")
    );
    assert!(plane.replicas().await.is_empty());
    let starts = backend.state.lock().unwrap().starts.clone();
    let pauses: Vec<u64> = starts
        .windows(2)
        .map(|pair| (pair[1] - pair[0]).as_secs())
        .collect();
    assert_eq!(pauses, [1, 2, 4, 8]);
    // A change is tried at once.
    backend.state.lock().unwrap().failing = false;
    let changed = Instant::now();
    let next = plane.publish("2.0.0", &digest(2)).await;
    plane.apply(next, 1).await;
    plane.ready(1).await;
    assert!(changed.elapsed() < Duration::from_secs(1));
}

#[tokio::test(start_paused = true)]
async fn a_start_that_takes_for_ever_holds_up_nobody_else() {
    let backend = Arc::new(FakeBackend::default());
    let plane = Plane::start(|_| Arc::clone(&backend) as Arc<_>);
    let slow = plane.publish("1.0.0", &digest(1)).await;
    backend.state.lock().unwrap().stuck = Some(slow);
    let other = DeploymentId::generate();
    plane.apply_as(other, "slow", slow, 2).await;
    let pending = async || {
        let row = plane.store.deployment(other).await.unwrap().unwrap();
        (row.state, row.reason)
    };
    tokio::time::sleep(Duration::from_secs(60)).await;
    let starting = (DeploymentState::Pending, "replicas are starting".to_owned());
    assert_eq!(pending().await, starting);
    assert_eq!(plane.replicas().await.len(), 2, "and it is not begun anew");
    let version = plane.publish("2.0.0", &digest(2)).await;
    plane.apply(version, 2).await;
    plane
        .settles("ready beside it", |row, _| {
            row.is_some_and(|row| row.state == DeploymentState::Ready)
        })
        .await;
    assert_eq!(pending().await, starting);
    // Not even another version of the same deployment.
    plane.apply_as(other, "slow", version, 1).await;
    let ready = async {
        while pending().await.0 != DeploymentState::Ready {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    soon("ready", ready).await;
}

#[tokio::test(start_paused = true)]
async fn the_old_is_drained_after_the_new_is_ready() {
    let backend = Arc::new(FakeBackend::default());
    let plane = Plane::start(|_| Arc::clone(&backend) as Arc<_>);
    let one = plane.publish("1.0.0", &digest(1)).await;
    plane.apply(one, 1).await;
    plane.ready(1).await;
    let old = plane.replicas().await[0].id;
    let two = plane.publish("2.0.0", &digest(2)).await;
    plane.apply(two, 1).await;
    plane
        .settles("new only", |_, replicas| {
            replicas.len() == 1
                && replicas[0].version_id == two
                && replicas[0].state == ReplicaState::Ready
        })
        .await;
    let new = plane.replicas().await[0].id;
    let log = backend.state.lock().unwrap().log.clone();
    assert_eq!(
        log,
        [
            ("start", old),
            ("start", new),
            ("drain", old),
            ("stop", old)
        ]
    );
}

#[tokio::test(start_paused = true)]
async fn unhealthy_and_lost_replicas_are_replaced() {
    let backend = Arc::new(FakeBackend::default());
    let plane = Plane::start(|_| Arc::clone(&backend) as Arc<_>);
    let version = plane.publish("1.0.0", &digest(1)).await;
    plane.apply(version, 2).await;
    plane.ready(2).await;
    let old: Vec<ReplicaId> = plane.replicas().await.iter().map(|row| row.id).collect();
    {
        let mut state = backend.state.lock().unwrap();
        state.running.remove(&old[0]);
        state.running.get_mut(&old[1]).unwrap().1 = ReplicaHealth::Unhealthy("stuck".to_owned());
        // The first attempt to stop it fails.
        state.stop_fails = 1;
    }
    plane.handle.wake();
    plane
        .settles("two new", |_, replicas| {
            replicas.len() == 2
                && replicas
                    .iter()
                    .all(|row| !old.contains(&row.id) && row.state == ReplicaState::Ready)
        })
        .await;
    assert!(
        backend
            .state
            .lock()
            .unwrap()
            .log
            .contains(&("stop", old[1]))
    );
}

#[tokio::test]
async fn a_redeploy_leaves_running_requests_alone() {
    let server = ModelServer::start(ModelScript::new().latency(Duration::from_millis(300)))
        .await
        .unwrap();
    let home = tempfile::TempDir::new().unwrap();
    let blobs = Arc::new(MemoryBlobs::default());
    let mut digests = Vec::new();
    for version in ["1.0.0", "2.0.0"] {
        let dir = home.path().join(version);
        let bot = Bot::on(&[(&server, Protocol::Openai)]).set("version", version.into());
        bot.write(&dir);
        let packed = rune_spec::package::pack(&dir).unwrap();
        digests.push(blobs.put(packed.bytes.into()).await.unwrap());
    }
    let packages = PackageCache::new(blobs, home.path().join("cache"));
    let loader = Arc::new(loader(home.path()));
    let plane =
        Plane::start(|router| Arc::new(LocalBackend::new(loader, packages, router.clone())));
    let engine = Engine::new(
        plane.store.clone(),
        plane.router.clone(),
        plane.tasks.clone(),
    );
    let one = plane.publish("1.0.0", &digests[0]).await;
    plane.apply(one, 1).await;
    plane.ready(1).await;
    let running = soon("invoke", engine.invoke(call("old"))).await.unwrap();
    server.wait_for_requests(1).await.unwrap();
    let two = plane.publish("2.0.0", &digests[1]).await;
    plane.apply(two, 1).await;
    plane
        .settles("the new version alone", |_, replicas| {
            let is = |version, state| {
                let mut of = replicas.iter().filter(move |row| row.version_id == version);
                of.any(|row: &ReplicaRow| row.state == state)
            };
            is(two, ReplicaState::Ready) && !is(one, ReplicaState::Ready)
        })
        .await;
    let next = soon("invoke", engine.invoke(call("new"))).await.unwrap();
    let (old_id, new_id) = (running.request_id, next.request_id);
    for invoked in [running, next] {
        let ending = soon("the end", invoked.events.ending()).await.unwrap();
        assert!(matches!(ending, Ending::Ended(last) if last.name() == "done"));
    }
    assert_eq!(engine.request(old_id).await.unwrap().version_id, one);
    assert_eq!(engine.request(new_id).await.unwrap().version_id, two);
    plane.ready(1).await;
}
