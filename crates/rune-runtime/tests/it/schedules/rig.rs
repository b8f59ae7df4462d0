//! A store and a clock that outlive the daemons on them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use rune_runtime::{
    Agent, Engine, Recurrence, Replica, ReplicaRouter, Scheduler, SchedulerHandle, Tasks,
};
use rune_store_runtime::*;
use rune_testkit::VirtualClock;
use rune_testkit::store::FakeStore;
use serde_json::json;
use tempfile::TempDir;

use crate::harness::{Bot, Spy, loader};

/// Longer than the scheduler ever waits before it looks at the clock.
pub(super) const A_LOOK: Duration = Duration::from_secs(6);

/// What stays when a daemon ends.
pub(super) struct World {
    pub(super) clock: VirtualClock,
    disk: Arc<FakeStore>,
    agent: Arc<Agent>,
    deployment_id: DeploymentId,
    version_id: VersionId,
    _home: TempDir,
}

/// One daemon: from its start to its end, orderly or not.
pub(super) struct Life {
    pub(super) engine: Engine,
    pub(super) store: Store,
    pub(super) spy: Arc<Spy>,
    pub(super) scheduler: SchedulerHandle,
}

/// A runtime whose time passes only where everything waits for it. Dropping it ends
/// everything on it at the next point of waiting, as a crash does.
pub(super) fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .start_paused(true)
        .build()
        .unwrap()
}

impl World {
    pub(super) fn new(bot: &Bot, now: Timestamp) -> Self {
        let home = TempDir::new().unwrap();
        let package = home.path().join("package");
        bot.write(&package);
        let agent = loader(home.path())
            .load(&package, "dev", &BTreeMap::new())
            .unwrap();
        std::fs::create_dir_all(agent.workspace()).unwrap();
        Self {
            clock: VirtualClock::at(now),
            disk: Arc::new(FakeStore::new()),
            agent: Arc::new(agent),
            deployment_id: DeploymentId::generate(),
            version_id: VersionId::generate(),
            _home: home,
        }
    }

    /// Another store, as if nothing had happened.
    pub(super) fn wipe(&mut self, now: Timestamp) {
        self.clock.set(now);
        self.disk = Arc::new(FakeStore::new());
    }

    /// Starts a daemon. A schedule is looked at for the first time when somebody waits.
    pub(super) async fn start(&self) -> Life {
        self.start_with(|_| ()).await
    }

    /// As [`World::start`], with a store that will misbehave.
    pub(super) async fn start_with(&self, plan: impl FnOnce(&Spy)) -> Life {
        let tasks = Tasks::new();
        let spy = Spy::over(Arc::clone(&self.disk), &tasks);
        plan(&spy);
        let store = Store::new(Arc::clone(&spy) as Arc<_>, Arc::new(self.clock.clone()));
        let router = ReplicaRouter::new();
        let now = self.clock.now();
        router.set_deployment(DeploymentRow {
            id: self.deployment_id,
            namespace: "dev".to_owned(),
            agent: "bot".to_owned(),
            alias: "stable".to_owned(),
            version_id: self.version_id,
            replicas: 1,
            scaling: None,
            env: BTreeMap::new(),
            rollout: None,
            releases: Vec::new(),
            project: None,
            generation: 1,
            state: DeploymentState::Ready,
            reason: String::new(),
            created_at: now,
            updated_at: now,
        });
        let (id, version) = (self.deployment_id, self.version_id);
        let agent = Arc::clone(&self.agent);
        router.add_replica(Replica::local(ReplicaId::generate(), id, version, agent));
        let engine = Engine::new(store.clone(), router, tasks.clone());
        let (scheduler, handle) = Scheduler::new(engine.clone(), tasks.clone());
        let recovering = engine.clone();
        tasks.spawn("scheduler", async move {
            // A store that crashed does not answer this either.
            let _ = recovering.recover().await;
            scheduler.run().await;
        });
        Life {
            engine,
            store,
            spy,
            scheduler: handle,
        }
    }
}

impl Life {
    /// Lets everything happen that happens by itself, also what waits for the next look.
    pub(super) async fn settle(&self) {
        tokio::time::sleep(A_LOOK).await;
    }

    /// Creates a schedule. Its id is always the same, because the jitter follows from it.
    pub(super) async fn put(&self, spec: ScheduleSpec) -> ScheduleId {
        let schedule_id = ScheduleId::from_bytes([7; 16]);
        let recurrence = Recurrence::new(&spec.kind).unwrap();
        let next_fire_at = recurrence.next_after(self.store.now());
        let put = PutSchedule {
            schedule_id,
            spec,
            paused: false,
            next_fire_at,
        };
        self.store.write(put).await.unwrap();
        self.scheduler.wake();
        schedule_id
    }

    pub(super) async fn row(&self, id: ScheduleId) -> ScheduleRow {
        self.store.schedule(id).await.unwrap().unwrap()
    }

    /// Every fire, oldest planned time first.
    pub(super) async fn fires(&self, id: ScheduleId) -> Vec<ScheduleFireRow> {
        let filter = FireFilter {
            schedule_id: Some(id),
            state: None,
        };
        let mut page = PageRequest::first(PageRequest::MAX_LIMIT);
        let mut fires = Vec::new();
        loop {
            let part = self.store.schedule_fires(&filter, &page).await.unwrap();
            fires.extend(part.items);
            page.cursor = part.next;
            if page.cursor.is_none() {
                fires.reverse();
                return fires;
            }
        }
    }

    pub(super) async fn requests(&self) -> Vec<RequestRow> {
        let mut page = PageRequest::first(PageRequest::MAX_LIMIT);
        let mut rows = Vec::new();
        loop {
            let filter = RequestFilter::default();
            let part = self.store.requests(&filter, &page).await.unwrap();
            rows.extend(part.items);
            page.cursor = part.next;
            if page.cursor.is_none() {
                return rows;
            }
        }
    }
}

pub(super) fn spec(kind: ScheduleKind) -> ScheduleSpec {
    ScheduleSpec {
        namespace: "dev".to_owned(),
        name: "tick".to_owned(),
        agent: "bot".to_owned(),
        alias: "stable".to_owned(),
        input: json!("report"),
        session_id: None,
        kind,
        catch_up: CatchUp::One,
        overlap: Overlap::Allow,
        jitter_ms: 0,
        created_by: None,
    }
}

pub(super) fn cron(expression: &str, timezone: &str) -> ScheduleKind {
    ScheduleKind::Cron {
        expression: expression.to_owned(),
        timezone: timezone.to_owned(),
    }
}

pub(super) fn every(every: Duration, anchor: Timestamp) -> ScheduleKind {
    ScheduleKind::Interval {
        every_ms: u64::try_from(every.as_millis()).unwrap(),
        anchor,
    }
}

pub(super) fn at(text: &str) -> Timestamp {
    serde_json::from_value(json!(text)).unwrap()
}
