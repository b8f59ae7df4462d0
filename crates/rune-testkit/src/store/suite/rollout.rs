//! Rollouts.

use rune_store_runtime::limits::MAX_RELEASES;
use rune_store_runtime::{
    ApplyDeployment, CompleteRollout, DeploymentId, DeploymentRow, DeploymentState, PromoteRollout,
    PublishVersion, Reject, RollBack, Rollout, RolloutState, RolloutStrategy, ScaleBounds,
    ScaleDeployment, SetDeploymentState, StartRollout, VersionId,
};

use super::fixture::Fixture;
use crate::store::TestStore;

use RolloutState::{Completed, Progressing, RolledBack};
use RolloutStrategy::{Canary, Rolling};

/// A deployment and the versions that it may run.
struct Deployed {
    f: Fixture,
    id: DeploymentId,
    one: VersionId,
    two: VersionId,
}

impl Deployed {
    /// A deployment that runs the first version and serves.
    async fn new(test: TestStore) -> Self {
        let f = Fixture::new(test);
        let one = f.publish("sha256:1").await.id;
        let two = f.publish("sha256:2").await.id;
        let this = Self {
            id: DeploymentId::generate(),
            f,
            one,
            two,
        };
        this.apply(one, 2, "a").await;
        this.observe(DeploymentState::Ready).await;
        this
    }

    async fn apply(&self, version_id: VersionId, replicas: u32, value: &str) -> DeploymentRow {
        let apply = ApplyDeployment {
            deployment_id: self.id,
            namespace: "dev".to_owned(),
            agent: "echo".to_owned(),
            alias: "stable".to_owned(),
            version_id,
            replicas: Some(replicas),
            env: [("KEY".to_owned(), value.to_owned())].into(),
            project: None,
        };
        self.f.write(apply).await
    }

    async fn observe(&self, state: DeploymentState) {
        let generation = self.row().await.generation;
        let seen = SetDeploymentState {
            deployment_id: self.id,
            generation,
            state,
            reason: String::new(),
        };
        self.f.write(seen).await;
    }

    /// The row as the store has it.
    async fn row(&self) -> DeploymentRow {
        let row = self.f.store.deployment(self.id).await.unwrap();
        row.unwrap()
    }

    fn start(&self, version_id: VersionId, weight: u32) -> StartRollout {
        StartRollout {
            deployment_id: self.id,
            version_id,
            strategy: Canary,
            weight,
        }
    }

    async fn promote(&self) -> PromoteRollout {
        PromoteRollout {
            deployment_id: self.id,
            generation: self.row().await.generation,
        }
    }

    fn completion(&self, generation: u64) -> CompleteRollout {
        CompleteRollout {
            deployment_id: self.id,
            generation,
        }
    }

    async fn complete(&self, generation: u64) -> DeploymentRow {
        self.f.write(self.completion(generation)).await
    }

    /// A decision about what is there now.
    async fn go_back(&self) -> RollBack {
        self.back(self.row().await.generation)
    }

    fn back(&self, generation: u64) -> RollBack {
        RollBack {
            deployment_id: self.id,
            generation,
            reason: "it was bad".to_owned(),
        }
    }

    /// Deploys a version to the end.
    async fn roll(&self, version_id: VersionId, value: &str) -> DeploymentRow {
        let begun = self.apply(version_id, 2, value).await;
        let ended = self.complete(begun.generation).await;
        self.observe(DeploymentState::Ready).await;
        ended
    }
}

/// Strategy, weight, state and reason of the rollout.
fn rollout(row: &DeploymentRow) -> (RolloutStrategy, u32, RolloutState, &str) {
    let Rollout {
        strategy,
        weight,
        state,
        reason,
        ..
    } = row.rollout.as_ref().unwrap();
    (*strategy, *weight, *state, reason)
}

fn releases(row: &DeploymentRow) -> Vec<VersionId> {
    row.releases.iter().map(|it| it.version_id).collect()
}

fn conflict(reject: &Reject, with: &str) {
    let is = matches!(reject, Reject::Conflict { message } if message.contains(with));
    assert!(is, "{reject:?}");
}

pub async fn a_version_is_rolled_out_where_another_one_serves(test: TestStore) {
    let it = Deployed::new(test).await;
    let begun = it.apply(it.two, 3, "b").await;
    assert_eq!(begun, it.row().await);
    assert_eq!(
        (begun.version_id, begun.replicas, begun.generation),
        (it.one, 3, 2)
    );
    assert_eq!(rollout(&begun), (Rolling, 100, Progressing, ""));
    let candidate = begun.candidate().unwrap();
    assert_eq!((candidate.version_id, candidate.from), (it.two, it.one));
    assert_eq!(candidate.env["KEY"], "b");
    assert_eq!(candidate.started_at, begun.updated_at);
    assert_eq!(it.apply(it.two, 3, "b").await, begun, "once");

    let old = it.completion(begun.generation - 1);
    conflict(&it.f.rejected(old).await, "changed in the meantime");
    assert_eq!(it.row().await, begun);
    let done = it.complete(begun.generation).await;
    assert_eq!(done, it.row().await);
    assert_eq!((done.version_id, done.generation), (it.two, 2));
    assert_eq!(done.env["KEY"], "b");
    assert_eq!(rollout(&done), (Rolling, 100, Completed, ""));
    let ended = done.rollout.as_ref().unwrap();
    assert!(ended.env.is_empty() && ended.ended_at == Some(done.updated_at));
    assert_eq!(releases(&done), [it.one]);
    assert_eq!(done.releases[0].env["KEY"], "a");
    let twice = it.completion(done.generation);
    conflict(&it.f.rejected(twice).await, "no rollout");
    assert_eq!(it.row().await, done);
}

pub async fn a_version_takes_the_place_of_one_that_does_not_serve(test: TestStore) {
    let it = Deployed::new(test).await;
    it.observe(DeploymentState::Failed).await;
    let moved = it.apply(it.two, 2, "b").await;
    assert_eq!((moved.version_id, moved.generation), (it.two, 2));
    assert_eq!(moved.rollout, None);
    assert_eq!(releases(&moved), [it.one]);
    it.observe(DeploymentState::Ready).await;
    let stopped = it.apply(it.one, 0, "a").await;
    assert_eq!((stopped.version_id, stopped.replicas), (it.one, 0));
    assert_eq!(stopped.rollout, None);
}

pub async fn a_canary_waits_until_it_is_promoted(test: TestStore) {
    let it = Deployed::new(test).await;
    let begun = it.f.write(it.start(it.two, 10)).await;
    assert_eq!(rollout(&begun), (Canary, 10, Progressing, ""));
    assert_eq!((begun.version_id, begun.generation), (it.one, 2));
    assert_eq!(begun.candidate().unwrap().env, begun.env);
    assert_eq!(it.f.write(it.start(it.two, 10)).await, begun);
    let more = it.f.write(it.start(it.two, 50)).await;
    assert_eq!(rollout(&more), (Canary, 50, Progressing, ""));
    assert_eq!(
        more.candidate().unwrap().started_at,
        begun.candidate().unwrap().started_at
    );
    // What runs already is deployed again: nobody decided about the canary.
    let scaled = it.apply(it.one, 4, "a").await;
    assert_eq!(rollout(&scaled), (Canary, 50, Progressing, ""));
    assert_eq!(scaled.replicas, 4);

    let mut stale = it.promote().await;
    stale.generation -= 1;
    conflict(&it.f.rejected(stale).await, "changed in the meantime");
    let promoted = it.f.write(it.promote().await).await;
    assert_eq!(promoted, it.row().await);
    assert_eq!(rollout(&promoted), (Rolling, 100, Progressing, ""));
    assert_eq!(it.f.write(it.promote().await).await, promoted);
    let done = it.complete(promoted.generation).await;
    assert_eq!(done.version_id, it.two);
    conflict(&it.f.rejected(it.promote().await).await, "no rollout");
}

pub async fn a_rollout_that_cannot_be_is_rejected(test: TestStore) {
    let it = Deployed::new(test).await;
    let unknown = it.start(VersionId::generate(), 10);
    assert!(matches!(
        it.f.rejected(unknown).await,
        Reject::NotFound { .. }
    ));
    let nowhere = StartRollout {
        deployment_id: DeploymentId::generate(),
        ..it.start(it.two, 10)
    };
    assert!(matches!(
        it.f.rejected(nowhere).await,
        Reject::NotFound { .. }
    ));
    let too_much = it.f.rejected(it.start(it.two, 101)).await;
    assert!(
        matches!(&too_much, Reject::Invalid { message } if message.contains("101")),
        "{too_much:?}"
    );
    let other = PublishVersion {
        version_id: VersionId::generate(),
        agent: "other".to_owned(),
        version: "1.0.0".to_owned(),
        description: String::new(),
        digest: "sha256:9".to_owned(),
        size: 1,
        image: None,
        scaling: ScaleBounds::default(),
        signature: None,
    };
    let other = it.f.write(other).await.id;
    let of_another = it.f.rejected(it.start(other, 10)).await;
    assert!(
        matches!(&of_another, Reject::Invalid { message } if message.contains("`other`")),
        "{of_another:?}"
    );
    let same = it.f.rejected(it.start(it.one, 10)).await;
    conflict(&same, "already");
    let three = it.f.publish("sha256:3").await.id;
    it.f.write(it.start(it.two, 10)).await;
    let second = it.f.rejected(it.start(three, 10)).await;
    conflict(&second, "promote it or roll it back");
    let scale = ScaleDeployment {
        deployment_id: it.id,
        replicas: 0,
    };
    let stopped = it.f.write(scale).await;
    assert_eq!(
        rollout(&stopped),
        (Canary, 10, RolledBack, "the deployment was stopped")
    );
    let on_none = it.f.rejected(it.start(it.two, 10)).await;
    conflict(&on_none, "stopped");
    let none = it.f.rejected(it.go_back().await).await;
    conflict(&none, "no earlier release");
}

pub async fn a_rollout_ends_without_its_version(test: TestStore) {
    let it = Deployed::new(test).await;
    let begun = it.apply(it.two, 2, "b").await;
    let stale = it.back(begun.generation - 1);
    conflict(&it.f.rejected(stale).await, "changed in the meantime");
    assert_eq!(it.row().await, begun);
    let back = it.f.write(it.back(begun.generation)).await;
    assert_eq!(back, it.row().await);
    assert_eq!(
        (back.version_id, back.generation),
        (it.one, begun.generation + 1)
    );
    assert_eq!(back.env["KEY"], "a");
    assert_eq!(rollout(&back), (Rolling, 100, RolledBack, "it was bad"));
    assert!(back.rollout.as_ref().unwrap().env.is_empty());
    assert!(back.releases.is_empty() && back.candidate().is_none());
    // The same version may be tried again, and what ran before may be deployed in its place.
    let again = it.apply(it.two, 2, "b").await;
    assert_eq!(rollout(&again), (Rolling, 100, Progressing, ""));
    let replaced = it.apply(it.one, 2, "a").await;
    assert_eq!(replaced.version_id, it.one);
    let (.., state, reason) = rollout(&replaced);
    assert_eq!(
        (state, reason),
        (RolledBack, "what ran before was deployed again")
    );
    let told = it.apply(it.one, 2, "a").await;
    assert_eq!(
        (told.rollout.clone(), told.generation),
        (None, replaced.generation + 1)
    );
    assert_eq!(it.apply(it.one, 2, "a").await, told);
    // A later one takes the place of one that is under way.
    let three = it.f.publish("sha256:3").await.id;
    it.apply(it.two, 2, "b").await;
    let later = it.apply(three, 2, "b").await;
    assert_eq!(later.candidate().unwrap().version_id, three);
    assert_eq!(later.version_id, it.one);
}

pub async fn every_release_can_be_gone_back_to_in_its_order(test: TestStore) {
    let it = Deployed::new(test).await;
    let three = it.f.publish("sha256:3").await.id;
    it.roll(it.two, "b").await;
    let last = it.roll(three, "c").await;
    assert_eq!(releases(&last), [it.two, it.one]);
    let back = it.f.write(it.go_back().await).await;
    assert_eq!(back, it.row().await);
    assert_eq!((back.version_id, back.env["KEY"].as_str()), (it.two, "b"));
    assert_eq!(rollout(&back), (Rolling, 100, RolledBack, "it was bad"));
    assert_eq!(releases(&back), [it.one]);
    let first = it.f.write(it.go_back().await).await;
    assert_eq!((first.version_id, first.env["KEY"].as_str()), (it.one, "a"));
    assert_eq!(first.rollout, None);
    let none = it.f.rejected(it.go_back().await).await;
    conflict(&none, "no earlier release");
    for n in 0..MAX_RELEASES + 2 {
        let version = if n % 2 == 0 { it.two } else { it.one };
        it.roll(version, "x").await;
    }
    assert_eq!(it.row().await.releases.len(), MAX_RELEASES);
}
