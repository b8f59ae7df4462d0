//! Rollouts, and replicas that end again and again.

use std::collections::HashSet;

use rune_store_runtime::{
    AuditFilter, PromoteRollout, PutReplica, RollBack, RolloutState, RolloutStrategy, StartRollout,
};

use super::*;

impl FakeBackend {
    fn set(&self, change: impl FnOnce(&mut Fake)) {
        change(&mut self.state.lock().unwrap());
    }

    /// When it was asked to start something, in seconds from the first time.
    fn pauses(&self) -> Vec<u64> {
        let starts = self.state.lock().unwrap().starts.clone();
        let pairs = starts.windows(2);
        pairs.map(|pair| (pair[1] - pair[0]).as_secs()).collect()
    }
}

impl Plane {
    /// A deployment that runs the first of two versions.
    async fn deployed(backend: &Arc<FakeBackend>, replicas: u32) -> (Self, VersionId, VersionId) {
        let plane = Self::start(|_| Arc::clone(backend) as Arc<_>);
        let one = plane.publish("1.0.0", &digest(1)).await;
        let two = plane.publish("2.0.0", &digest(2)).await;
        plane.apply(one, replicas).await;
        plane.ready(replicas as usize).await;
        (plane, one, two)
    }

    async fn canary(&self, version_id: VersionId, weight: u32) {
        let start = StartRollout {
            deployment_id: self.id,
            version_id,
            strategy: RolloutStrategy::Canary,
            weight,
        };
        self.store.write(start).await.unwrap();
        self.handle.wake();
    }

    /// Deploys it with another variable.
    async fn change_variables(&self, version_id: VersionId, replicas: u32) {
        let apply = ApplyDeployment {
            deployment_id: self.id,
            namespace: "dev".to_owned(),
            agent: "bot".to_owned(),
            alias: "stable".to_owned(),
            version_id,
            replicas: Some(replicas),
            env: BTreeMap::from([("KEY".to_owned(), "new".to_owned())]),
            project: None,
        };
        self.store.write(apply).await.unwrap();
        self.handle.wake();
    }

    async fn back(&self) {
        let back = RollBack {
            deployment_id: self.id,
            generation: self.row().await.generation,
            reason: "by me".to_owned(),
        };
        self.store.write(back).await.unwrap();
    }

    /// Waits until so many ready replicas of a version are all that there is.
    async fn only(&self, version: VersionId, count: usize) {
        self.settles("only one version", |row, replicas| {
            let is_new = |replica: &ReplicaRow| {
                replica.version_id == version && replica.state == ReplicaState::Ready
            };
            replicas.len() == count
                && replicas.iter().all(is_new)
                && row.is_some_and(|row| row.state == DeploymentState::Ready)
        })
        .await;
    }

    async fn ended(&self) -> (VersionId, RolloutState, String) {
        let row = self.row().await;
        let rollout = row.rollout.unwrap();
        (row.version_id, rollout.state, rollout.reason)
    }

    async fn audit(&self, kind: &str) -> Vec<String> {
        let filter = AuditFilter {
            kind: Some(kind.to_owned()),
            ..AuditFilter::default()
        };
        let page = PageRequest::first(PageRequest::MAX_LIMIT);
        let rows = self.store.audit(&filter, &page).await.unwrap().items;
        let shown = rows.iter();
        shown
            .map(|row| format!("{} {} {}", row.caller, row.resource, row.reason))
            .collect()
    }
}

#[tokio::test(start_paused = true)]
async fn a_new_version_takes_over_without_fewer_replicas_than_are_wanted() {
    let backend = Arc::new(FakeBackend::default());
    let (plane, _, two) = Plane::deployed(&backend, 4).await;
    plane.apply(two, 4).await;
    plane.only(two, 4).await;
    let (version, state, _) = plane.ended().await;
    assert_eq!((version, state), (two, RolloutState::Completed));
    let mut live = HashSet::new();
    let mut counts = Vec::new();
    for (what, id) in backend.state.lock().unwrap().log.clone() {
        match what {
            "start" => live.insert(id),
            _ => live.remove(&id),
        };
        counts.push(live.len());
    }
    assert!(
        counts[3..].iter().all(|count| (4..=5).contains(count)),
        "{counts:?}"
    );
    let told = plane.audit("deployment.complete").await;
    assert_eq!(told.len(), 1, "{told:?}");
}

#[tokio::test(start_paused = true)]
async fn going_back_leaves_as_many_replicas_as_are_wanted() {
    let backend = Arc::new(FakeBackend::default());
    let (plane, one, two) = Plane::deployed(&backend, 4).await;
    plane.apply(two, 4).await;
    plane.only(two, 4).await;
    backend.set(|fake| {
        fake.log.clear();
        fake.starts_left = Some(1);
    });
    plane.back().await;
    plane.handle.wake();
    plane
        .settles("one is back", |_, replicas| {
            let of_one = |row: &&ReplicaRow| row.version_id == one;
            let mut back = replicas.iter().filter(of_one);
            back.any(|row| row.state == ReplicaState::Ready)
        })
        .await;
    tokio::time::sleep(Duration::from_secs(30)).await;
    backend.set(|fake| fake.starts_left = None);
    plane.only(one, 4).await;
    let mut live = 4;
    for (what, id) in backend.state.lock().unwrap().log.clone() {
        match what {
            "start" => live += 1,
            "drain" => live -= 1,
            _ => {}
        }
        assert!(live >= 4, "{live} are left at {what} {id}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_backend_that_does_not_answer_completes_no_rollout_of_variables() {
    let backend = Arc::new(FakeBackend::default());
    let (plane, one, _) = Plane::deployed(&backend, 2).await;
    backend.set(|fake| {
        fake.away = true;
        fake.starts_left = Some(0);
    });
    plane.change_variables(one, 2).await;
    tokio::time::sleep(Duration::from_secs(30)).await;
    let row = plane.row().await;
    assert!(row.candidate().is_some(), "{:?}", row.rollout);
    assert_eq!(plane.audit("deployment.complete").await.len(), 0);
    backend.set(|fake| {
        fake.away = false;
        fake.starts_left = None;
    });
    plane.only(one, 2).await;
    assert_eq!(plane.row().await.env["KEY"], "new");
}

#[tokio::test(start_paused = true)]
async fn nothing_is_done_while_a_replica_of_an_earlier_process_is_not_known() {
    let backend = Arc::new(FakeBackend::default());
    let (plane, one, _) = Plane::deployed(&backend, 1).await;
    let earlier = PutReplica {
        replica_id: ReplicaId::generate(),
        deployment_id: plane.id,
        version_id: one,
        state: ReplicaState::Ready,
        reason: String::new(),
        backend: "fake".to_owned(),
        endpoint: Some("http://127.0.0.1:1".to_owned()),
    };
    plane.store.write(earlier).await.unwrap();
    backend.set(|fake| {
        fake.away = true;
        fake.log.clear();
    });
    plane.scale(3).await;
    tokio::time::sleep(Duration::from_secs(30)).await;
    assert_eq!(backend.state.lock().unwrap().log, []);
    backend.set(|fake| fake.away = false);
    plane.ready(3).await;
}

#[tokio::test(start_paused = true)]
async fn a_version_that_does_not_start_is_rolled_back() {
    let backend = Arc::new(FakeBackend::default());
    let (plane, one, two) = Plane::deployed(&backend, 2).await;
    let old: Vec<ReplicaId> = plane.replicas().await.iter().map(|row| row.id).collect();
    let error = BackendError::Unavailable("no room".to_owned());
    backend.set(|fake| {
        fake.bad = Some((two, error));
        fake.starts.clear();
    });
    plane.apply(two, 2).await;
    plane
        .settles("rolled back", |row, _| {
            row.is_some_and(|row| row.candidate().is_none() && row.state == DeploymentState::Ready)
        })
        .await;
    let reason = "2.0.0: given up after 3 attempts: no room";
    assert_eq!(
        plane.ended().await,
        (one, RolloutState::RolledBack, reason.to_owned())
    );
    assert_eq!(plane.row().await.reason, format!("rolled back: {reason}"));
    assert_eq!(backend.pauses(), [1, 2]);
    assert_eq!(
        plane.audit("deployment.rollback").await,
        [format!("rune dev/bot:stable {reason}")]
    );
    // What cannot start as it is, is not tried again.
    let error = BackendError::Invalid("no such tool".to_owned());
    backend.set(|fake| {
        fake.bad = Some((two, error));
        fake.starts.clear();
    });
    plane.apply(two, 2).await;
    plane
        .settles("rolled back again", |row, _| {
            row.is_some_and(|row| row.reason.contains("no such tool"))
        })
        .await;
    let (version, state, reason) = plane.ended().await;
    assert_eq!((version, state), (one, RolloutState::RolledBack));
    assert_eq!(reason, "2.0.0: no such tool");
    assert_eq!(backend.state.lock().unwrap().starts.len(), 1);
    let now: Vec<ReplicaId> = plane.replicas().await.iter().map(|row| row.id).collect();
    assert_eq!(now, old, "the old ones served all the time");
}

#[tokio::test(start_paused = true)]
async fn a_version_whose_replicas_end_again_and_again_is_rolled_back() {
    let backend = Arc::new(FakeBackend::default());
    let (plane, one, two) = Plane::deployed(&backend, 1).await;
    backend.set(|fake| fake.dying = Some(two));
    plane.canary(two, 10).await;
    plane
        .settles("rolled back", |row, _| {
            row.is_some_and(|row| row.candidate().is_none() && row.state == DeploymentState::Ready)
        })
        .await;
    let (version, state, reason) = plane.ended().await;
    assert_eq!((version, state), (one, RolloutState::RolledBack));
    assert!(
        reason.starts_with("2.0.0: given up after 3 attempts: crash loop:"),
        "{reason}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_version_that_dies_when_it_has_taken_over_is_rolled_back() {
    let backend = Arc::new(FakeBackend::default());
    let (plane, one, two) = Plane::deployed(&backend, 1).await;
    plane.apply(two, 1).await;
    plane.only(two, 1).await;
    assert_eq!(plane.ended().await.1, RolloutState::Completed);
    backend.set(|fake| fake.dying = Some(two));
    plane.handle.wake();
    plane.only(one, 1).await;
    let (version, state, reason) = plane.ended().await;
    assert_eq!((version, state), (one, RolloutState::RolledBack));
    assert!(
        reason.starts_with("2.0.0: given up after 3 attempts: crash loop:"),
        "{reason}"
    );
}

#[tokio::test(start_paused = true)]
async fn replicas_that_end_again_and_again_are_started_with_growing_pauses_and_it_says_so() {
    let backend = Arc::new(FakeBackend::default());
    let plane = Plane::start(|_| Arc::clone(&backend) as Arc<_>);
    let version = plane.publish("1.0.0", &digest(1)).await;
    backend.set(|fake| fake.dying = Some(version));
    plane.apply(version, 1).await;
    tokio::time::sleep(Duration::from_secs(60)).await;
    let row = plane.row().await;
    assert_eq!(row.state, DeploymentState::Failed);
    assert!(row.reason.starts_with("crash loop:"), "{}", row.reason);
    let pauses = backend.pauses();
    assert!(pauses.len() >= 4, "{pauses:?}");
    assert!(pauses.is_sorted(), "{pauses:?}");
    assert!(pauses[0] == 0 && pauses[3] >= 4, "{pauses:?}");
    backend.set(|fake| fake.dying = None);
    plane.ready(1).await;
    assert_eq!(plane.row().await.reason, "");
}

#[tokio::test(start_paused = true)]
async fn a_canary_runs_beside_until_it_is_promoted() {
    let backend = Arc::new(FakeBackend::default());
    let (plane, one, two) = Plane::deployed(&backend, 4).await;
    plane.canary(two, 30).await;
    let count = |replicas: &[ReplicaRow], version| {
        let ready =
            |row: &&ReplicaRow| row.version_id == version && row.state == ReplicaState::Ready;
        replicas.iter().filter(ready).count()
    };
    plane
        .settles("both run", |row, replicas| {
            (count(replicas, one), count(replicas, two)) == (4, 2)
                && row.is_some_and(|row| row.state == DeploymentState::Ready)
        })
        .await;
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(plane.replicas().await.len(), 6, "it waits");
    assert_eq!(plane.row().await.version_id, one);
    let promote = PromoteRollout {
        deployment_id: plane.id,
        generation: plane.row().await.generation,
    };
    plane.store.write(promote).await.unwrap();
    plane.handle.wake();
    plane.only(two, 4).await;
    assert_eq!(plane.ended().await.1, RolloutState::Completed);
}

#[tokio::test(start_paused = true)]
async fn going_back_takes_one_look() {
    let backend = Arc::new(FakeBackend::default());
    let (plane, one, two) = Plane::deployed(&backend, 2).await;
    let looked = async |what: &str| {
        // Whatever the loop has to do is done.
        tokio::time::sleep(Duration::from_millis(100)).await;
        plane.back().await;
        let pass = plane.handle.next_pass();
        plane.handle.wake();
        assert!(pass.await, "{what}");
        let row = plane.row().await;
        assert_eq!(
            (row.version_id, row.state),
            (one, DeploymentState::Ready),
            "{what}"
        );
        let running = backend.state.lock().unwrap().running.clone();
        let ready = running.values().filter(|(version, _)| *version == one);
        assert_eq!(ready.count(), 2, "{what}");
        plane.only(one, 2).await;
    };
    plane.canary(two, 50).await;
    plane
        .settles("a canary", |_, replicas| replicas.len() == 3)
        .await;
    looked("a rollout that is under way").await;
    plane.apply(two, 2).await;
    plane.only(two, 2).await;
    looked("a release that is there").await;
    assert_eq!(
        plane.ended().await,
        (one, RolloutState::RolledBack, "by me".to_owned())
    );
}

#[tokio::test(start_paused = true)]
async fn a_rollout_is_not_complete_while_the_backend_does_not_say_how_replicas_are() {
    let backend = Arc::new(FakeBackend::default());
    let (plane, _, two) = Plane::deployed(&backend, 2).await;
    backend.set(|state| state.starts_left = Some(1));
    plane.apply(two, 2).await;
    plane
        .settles("the first is ready", |_, replicas| {
            let new = replicas.iter().filter(|it| it.version_id == two);
            new.filter(|it| it.state == ReplicaState::Ready).count() == 1
        })
        .await;
    backend.set(|state| state.away = true);
    // A look that began before has seen all of them.
    tokio::time::sleep(Duration::from_secs(10)).await;
    backend.set(|state| state.starts_left = None);
    plane
        .settles("the second is ready", |_, replicas| {
            let new = replicas.iter().filter(|it| it.version_id == two);
            new.filter(|it| it.state == ReplicaState::Ready).count() == 2
        })
        .await;
    tokio::time::sleep(Duration::from_secs(20)).await;
    assert_eq!(plane.ended().await.1, RolloutState::Progressing);
    backend.set(|state| state.away = false);
    plane.only(two, 2).await;
    assert_eq!(plane.ended().await.1, RolloutState::Completed);
}

impl Plane {
    /// A deployment of a version that may sleep, and does.
    async fn asleep(backend: &Arc<FakeBackend>) -> (Self, VersionId, VersionId) {
        let plane = Self::start(|_| Arc::clone(backend) as Arc<_>);
        let range = ScaleBounds { min: 0, max: 2 };
        let one = plane.publish_with("1.0.0", &digest(1), range).await;
        let two = plane.publish_with("2.0.0", &digest(2), range).await;
        plane.apply(one, 1).await;
        plane.ready(1).await;
        tokio::time::sleep(Duration::from_secs(310)).await;
        plane
            .settles("asleep", |row, replicas| {
                replicas.is_empty() && row.is_some_and(DeploymentRow::is_asleep)
            })
            .await;
        (plane, one, two)
    }
}

#[tokio::test(start_paused = true)]
async fn a_rollout_to_what_sleeps_starts_only_the_new_version() {
    let backend = Arc::new(FakeBackend::default());
    let (plane, one, two) = Plane::asleep(&backend).await;
    let error = BackendError::Unavailable("the old image is gone".to_owned());
    backend.set(|state| state.bad = Some((one, error)));
    plane.apply(two, 1).await;
    plane.only(two, 1).await;
    let (version, state, _) = plane.ended().await;
    assert_eq!((version, state), (two, RolloutState::Completed));
    assert_eq!(backend.state.lock().unwrap().starts.len(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_new_version_that_does_not_start_is_no_failure_of_what_sleeps() {
    let backend = Arc::new(FakeBackend::default());
    let (plane, one, two) = Plane::asleep(&backend).await;
    let error = BackendError::Unavailable("no image".to_owned());
    backend.set(|state| state.bad = Some((two, error)));
    plane.apply(two, 1).await;
    plane
        .settles("it says why", |row, _| {
            row.is_some_and(|row| row.reason == "the new version: no image")
        })
        .await;
    // Requests are accepted: what runs them can be started.
    assert_eq!(plane.row().await.state, DeploymentState::Degraded);
    plane
        .settles("rolled back", |row, _| {
            let rollout = row.and_then(|row| row.rollout.as_ref());
            rollout.is_some_and(|it| it.state == RolloutState::RolledBack)
        })
        .await;
    plane.only(one, 1).await;
}
