//! What the deployments of a namespace may come to.

use rune_store_runtime::{
    ApplyDeployment, AutoscaleDeployment, DeploymentFilter, DeploymentId, DeploymentRow,
    DeploymentState, Operation, PageRequest, Quota, Reject, RolloutStrategy, ScaleBounds,
    ScaleDeployment, SetDeploymentState, StartRollout, StoreError, VersionId,
};

use super::fixture::Fixture;
use crate::store::TestStore;

/// A namespace with at most two deployments and five replicas.
struct Limited {
    f: Fixture,
    fixed: VersionId,
    range: VersionId,
}

impl Limited {
    async fn new(test: TestStore) -> Self {
        let f = Fixture::new(test);
        let fixed = f.publish("sha256:1").await.id;
        let bounds = ScaleBounds { min: 2, max: 9 };
        let range = f.publish_with("sha256:2", None, bounds).await.id;
        Self { f, fixed, range }
    }

    async fn write<O: Operation>(&self, op: O) -> Result<O::Reply, StoreError> {
        let quota = Quota {
            deployments: Some(2),
            replicas: Some(5),
        };
        self.f.store.write_within(quota, op, Vec::new()).await
    }

    /// Does it, which is refused for this many of something.
    async fn exceeds<O: Operation<Reply: std::fmt::Debug>>(&self, op: O, told: &str) {
        let before = self.rows().await;
        match self.write(op).await {
            Err(StoreError::Rejected(Reject::QuotaExceeded { message })) => {
                assert!(
                    message.contains(told) && message.contains("admission.max_"),
                    "{message}"
                );
            }
            other => unreachable!("expected a refusal, got {other:?}"),
        }
        assert_eq!(self.rows().await, before, "nothing is written");
    }

    fn apply(&self, alias: &str, version_id: VersionId, replicas: u32) -> ApplyDeployment {
        ApplyDeployment {
            deployment_id: DeploymentId::generate(),
            namespace: "dev".to_owned(),
            agent: "echo".to_owned(),
            alias: alias.to_owned(),
            version_id,
            replicas: Some(replicas),
            env: Default::default(),
            project: None,
        }
    }

    async fn rows(&self) -> Vec<DeploymentRow> {
        let page = PageRequest::first(PageRequest::MAX_LIMIT);
        let filter = DeploymentFilter::default();
        let found = self.f.store.deployments(&filter, &page).await;
        found.unwrap().items
    }

    async fn ready(&self, row: &DeploymentRow) {
        let ready = SetDeploymentState {
            deployment_id: row.id,
            generation: row.generation,
            state: DeploymentState::Ready,
            reason: String::new(),
        };
        self.f.write(ready).await;
    }
}

const fn scale(row: &DeploymentRow, replicas: u32) -> ScaleDeployment {
    ScaleDeployment {
        deployment_id: row.id,
        replicas,
    }
}

pub async fn a_namespace_has_no_more_than_its_quota(test: TestStore) {
    let it = Limited::new(test).await;
    it.exceeds(it.apply("a", it.fixed, 6), "6 replicas").await;
    let a = it.write(it.apply("a", it.fixed, 3)).await.unwrap();
    it.exceeds(it.apply("b", it.fixed, 3), "6 replicas").await;
    let b = it.write(it.apply("b", it.fixed, 2)).await.unwrap();
    it.exceeds(it.apply("c", it.fixed, 0), "3 deployments")
        .await;
    it.exceeds(scale(&b, 3), "6 replicas").await;
    // Another namespace has one of its own.
    let elsewhere = ApplyDeployment {
        namespace: "prod".to_owned(),
        ..it.apply("a", it.fixed, 5)
    };
    it.write(elsewhere).await.unwrap();
    // What is stopped leaves its replicas to others, and begins again where there is room.
    let a = it.write(scale(&a, 0)).await.unwrap();
    let b = it.write(scale(&b, 5)).await.unwrap();
    it.exceeds(scale(&a, 1), "6 replicas").await;
    it.write(scale(&b, 4)).await.unwrap();
    it.write(scale(&a, 1)).await.unwrap();
}

pub async fn a_quota_that_is_exceeded_holds_up_nothing_but_more(test: TestStore) {
    let it = Limited::new(test).await;
    // Who asks without a quota is not held to one.
    let a = it.f.write(it.apply("a", it.fixed, 9)).await;
    for alias in ["b", "c"] {
        it.f.write(it.apply(alias, it.fixed, 1)).await;
    }
    let changed = ApplyDeployment {
        env: [("KEY".to_owned(), "value".to_owned())].into(),
        ..it.apply("a", it.fixed, 9)
    };
    it.write(changed).await.unwrap();
    it.write(scale(&a, 8)).await.unwrap();
    it.exceeds(scale(&a, 9), "11 replicas").await;
}

pub async fn a_decision_and_a_rollout_keep_within_the_quota(test: TestStore) {
    let it = Limited::new(test).await;
    let scaled = it.write(it.apply("a", it.range, 2)).await.unwrap();
    let decide = |of: &DeploymentRow, to| AutoscaleDeployment {
        deployment_id: of.id,
        generation: of.generation,
        from: of.wanted(),
        to,
        reason: "for the load".to_owned(),
    };
    it.exceeds(decide(&scaled, 6), "6 replicas").await;
    let scaled = it.write(decide(&scaled, 4)).await.unwrap();
    // What the daemon has decided for counts, and not what was asked for.
    let other = it.write(it.apply("b", it.fixed, 1)).await.unwrap();
    it.exceeds(decide(&scaled, 5), "6 replicas").await;
    // The new version has at least two.
    it.ready(&other).await;
    let rollout = StartRollout {
        deployment_id: other.id,
        version_id: it.range,
        strategy: RolloutStrategy::Rolling,
        weight: 100,
    };
    it.exceeds(rollout.clone(), "6 replicas").await;
    it.write(decide(&scaled, 3)).await.unwrap();
    assert_eq!(it.write(rollout).await.unwrap().wanted(), 2);
}
