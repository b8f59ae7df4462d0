//! How many replicas of a deployment are to run.

use rune_store_runtime::{
    ApplyDeployment, AutoscaleDeployment, CompleteRollout, DeploymentId, DeploymentRow,
    DeploymentState, Reject, RollBack, ScaleBounds, ScaleDeployment, SetDeploymentState, VersionId,
};

use super::fixture::Fixture;
use crate::store::TestStore;

/// A deployment of a version with 0 to 3 replicas, and one with exactly one.
struct Scaled {
    f: Fixture,
    id: DeploymentId,
    range: VersionId,
    fixed: VersionId,
}

impl Scaled {
    async fn new(test: TestStore) -> Self {
        let f = Fixture::new(test);
        let bounds = ScaleBounds { min: 0, max: 3 };
        let range = f.publish_with("sha256:1", None, bounds).await;
        assert_eq!(range.scaling, bounds);
        let fixed = f.publish("sha256:2").await.id;
        Self {
            id: DeploymentId::generate(),
            f,
            range: range.id,
            fixed,
        }
    }

    async fn apply(
        &self,
        version_id: VersionId,
        replicas: impl Into<Option<u32>>,
    ) -> DeploymentRow {
        let apply = ApplyDeployment {
            deployment_id: self.id,
            namespace: "dev".to_owned(),
            agent: "echo".to_owned(),
            alias: "stable".to_owned(),
            version_id,
            replicas: replicas.into(),
            env: Default::default(),
            project: None,
        };
        let row = self.f.write(apply).await;
        self.seen(row).await
    }

    async fn scale(&self, replicas: u32) -> DeploymentRow {
        let scale = ScaleDeployment {
            deployment_id: self.id,
            replicas,
        };
        let row = self.f.write(scale).await;
        self.seen(row).await
    }

    async fn decide(&self, of: &DeploymentRow, to: u32) -> DeploymentRow {
        let row = self.f.write(self.decision(of, to)).await;
        self.seen(row).await
    }

    fn decision(&self, of: &DeploymentRow, to: u32) -> AutoscaleDeployment {
        AutoscaleDeployment {
            deployment_id: self.id,
            generation: of.generation,
            from: of.wanted(),
            to,
            reason: format!("for the load: {to}"),
        }
    }

    /// The row, which is what a reader of the store gets.
    async fn seen(&self, row: DeploymentRow) -> DeploymentRow {
        let read = self.f.store.deployment(self.id).await.unwrap();
        assert_eq!(read.as_ref(), Some(&row));
        row
    }
}

/// What was asked for, what is to run, and why.
fn counts(row: &DeploymentRow) -> (u32, u32, &str) {
    let reason = row.scaling.as_ref().map_or("", |it| it.reason.as_str());
    (row.replicas, row.wanted(), reason)
}

pub async fn a_deployment_is_scaled_within_the_bounds_of_its_version(test: TestStore) {
    let it = Scaled::new(test).await;
    let row = it.apply(it.range, 1).await;
    assert_eq!(counts(&row), (1, 1, "1 replica was asked for"));
    let row = it.decide(&row, 3).await;
    assert_eq!(counts(&row), (1, 3, "for the load: 3"));
    assert_eq!(row.generation, 1, "what was asked for did not change");
    let row = it.decide(&row, 0).await;
    assert_eq!(counts(&row), (1, 0, "for the load: 0"));
    assert!(row.is_asleep());
    let too_many = it.f.rejected(it.decision(&row, 4)).await;
    assert!(
        matches!(&too_many, Reject::Invalid { message } if message.contains("0 to 3")),
        "{too_many:?}"
    );
    // The same again, without a number, changes nothing.
    assert_eq!(it.apply(it.range, None).await, row);

    // Another version, other bounds; a rollout that has not ended is on its way to them already.
    let row = it.decide(&row, 3).await;
    let ready = SetDeploymentState {
        deployment_id: it.id,
        generation: row.generation,
        state: DeploymentState::Ready,
        reason: String::new(),
    };
    it.f.write(ready).await;
    let row = it.apply(it.fixed, 1).await;
    assert_eq!((counts(&row), &row.scaling), ((1, 1, ""), &None));
    assert!(row.candidate().is_some());
    let fixed = it.f.rejected(it.decision(&row, 2)).await;
    assert!(matches!(fixed, Reject::Conflict { .. }), "{fixed:?}");
    let back = RollBack {
        deployment_id: it.id,
        generation: row.generation,
        reason: "it was bad".to_owned(),
    };
    let row = it.f.write(back).await;
    assert_eq!(counts(&row), (1, 1, "1 replica was asked for"));
    let row = it.apply(it.fixed, 1).await;
    let complete = CompleteRollout {
        deployment_id: it.id,
        generation: row.generation,
    };
    let row = it.f.write(complete).await;
    assert_eq!((row.version_id, &row.scaling), (it.fixed, &None));
}

pub async fn a_decision_about_another_state_is_rejected(test: TestStore) {
    let it = Scaled::new(test).await;
    let first = it.apply(it.range, 1).await;
    let second = it.decide(&first, 2).await;
    let conflict =
        |reject: Reject| assert!(matches!(reject, Reject::Conflict { .. }), "{reject:?}");
    conflict(it.f.rejected(it.decision(&first, 3)).await);
    it.scale(3).await;
    let of_an_older_generation = AutoscaleDeployment {
        from: 3,
        ..it.decision(&second, 1)
    };
    conflict(it.f.rejected(of_an_older_generation).await);
    let stopped = it.scale(0).await;
    conflict(it.f.rejected(it.decision(&stopped, 1)).await);
    let nowhere = AutoscaleDeployment {
        deployment_id: DeploymentId::generate(),
        ..it.decision(&second, 1)
    };
    let nowhere = it.f.rejected(nowhere).await;
    assert!(matches!(nowhere, Reject::NotFound { .. }), "{nowhere:?}");
}

pub async fn what_a_person_asks_for_is_where_scaling_goes_on(test: TestStore) {
    let it = Scaled::new(test).await;
    let row = it.apply(it.range, 1).await;
    let asked = it.scale(3).await;
    assert_eq!(counts(&asked), (3, 3, "3 replicas were asked for"));
    assert_eq!(asked.generation, row.generation + 1);
    assert_eq!(it.scale(3).await, asked, "it is so already");
    let decided = it.decide(&asked, 2).await;
    let row = it.scale(2).await;
    assert_eq!(counts(&row), (2, 2, "2 replicas were asked for"));
    assert_eq!(row.generation, decided.generation + 1, "it is held anew");
    let stopped = it.scale(0).await;
    assert_eq!((stopped.wanted(), stopped.is_asleep()), (0, false));
    let row = it.scale(2).await;
    assert_eq!(counts(&row), (2, 2, "2 replicas were asked for"));
    // What is deployed with another number, is one that was asked for as well.
    let row = it.apply(it.range, 1).await;
    assert_eq!(counts(&row), (1, 1, "1 replica was asked for"));
}

pub async fn who_deploys_and_names_no_number_leaves_how_many_run(test: TestStore) {
    let it = Scaled::new(test).await;
    let row = it.apply(it.range, None).await;
    assert_eq!(counts(&row), (1, 1, "1 replica was asked for"));
    let decided = it.decide(&row, 3).await;
    assert_eq!(it.apply(it.range, None).await, decided);
    // A number that differs from those that run is what somebody wants, whatever it was before.
    let row = it.apply(it.range, 1).await;
    assert_eq!(counts(&row), (1, 1, "1 replica was asked for"));
    let asleep = it.decide(&row, 0).await;
    assert_eq!(it.apply(it.range, None).await, asleep);
    let stopped = it.apply(it.range, 0).await;
    assert_eq!((stopped.replicas, stopped.is_asleep()), (0, false));
    let begun = it.apply(it.range, None).await;
    assert_eq!(begun.wanted(), 1);
    // A version without a range goes on with as many as there are, and keeps what it is scaled to.
    it.decide(&begun, 3).await;
    let fixed = it.apply(it.fixed, None).await;
    assert_eq!((fixed.replicas, fixed.scaling), (3, None));
    let scaled = it.scale(2).await;
    assert_eq!(it.apply(it.fixed, None).await, scaled);
    let ranged = it.apply(it.range, None).await;
    assert_eq!(counts(&ranged), (2, 2, "2 replicas were asked for"));
}
