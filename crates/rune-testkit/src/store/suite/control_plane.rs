//! Versions, deployments and replicas.

use rune_store_runtime::{
    ApplyDeployment, DeleteDeployment, DeploymentFilter, DeploymentId, DeploymentState,
    PageRequest, ProjectRef, PutReplica, Reject, RemoveReplica, ReplicaFilter, ReplicaId,
    ReplicaState, ScaleDeployment, SetDeploymentState, VersionFilter, VersionId, VersionRow,
};

use super::fixture::Fixture;
use crate::store::TestStore;

fn deployment(version_id: VersionId, alias: &str) -> ApplyDeployment {
    ApplyDeployment {
        deployment_id: DeploymentId::generate(),
        namespace: "dev".to_owned(),
        agent: "echo".to_owned(),
        alias: alias.to_owned(),
        version_id,
        replicas: Some(1),
        env: [("KEY".to_owned(), "value".to_owned())].into(),
        project: None,
    }
}

pub async fn a_version_is_published_once(test: TestStore) {
    let f = Fixture::new(test);
    let first = f.publish("sha256:1").await;
    assert_eq!(f.publish("sha256:1").await, first);
    let second = f.publish("sha256:2").await;
    assert_ne!(second.id, first.id);
    assert_eq!(
        f.store.version(first.id).await.unwrap(),
        Some(first.clone())
    );
    let all = f
        .store
        .versions(&VersionFilter::default(), &PageRequest::default())
        .await
        .unwrap();
    assert_eq!(all.items, [second, first.clone()]);
    let filter = VersionFilter {
        agent: None,
        digest: Some(first.digest.clone()),
    };
    let found = f
        .store
        .versions(&filter, &PageRequest::default())
        .await
        .unwrap();
    assert_eq!(found.items, std::slice::from_ref(&first));
    // A signature may come later, and does not go away.
    let signed = VersionRow {
        signature: Some("by me".to_owned()),
        ..first
    };
    let later = f.publish_signed("sha256:1", Some("by me")).await;
    assert_eq!(later, signed);
    assert_eq!(f.publish("sha256:1").await, signed);
    assert_eq!(
        f.store.version(signed.id).await.unwrap(),
        Some(signed.clone())
    );
}

pub async fn deployments_count_their_changes(test: TestStore) {
    let f = Fixture::new(test);
    let version = f.publish("sha256:1").await.id;
    let unknown = deployment(VersionId::generate(), "stable");
    assert!(matches!(f.rejected(unknown).await, Reject::NotFound { .. }));
    let first = f.write(deployment(version, "stable")).await;
    assert_eq!(
        (first.generation, first.state),
        (1, DeploymentState::Pending)
    );
    let same = f.write(deployment(version, "stable")).await;
    assert_eq!(same, first);
    let newer = f.publish("sha256:2").await.id;
    let moved = f.write(deployment(newer, "stable")).await;
    assert_eq!(
        (moved.id, moved.generation, moved.version_id),
        (first.id, 2, newer)
    );
    let scale = ScaleDeployment {
        deployment_id: first.id,
        replicas: 3,
    };
    assert_eq!(f.write(scale.clone()).await.generation, 3);
    assert_eq!(f.write(scale).await.generation, 3);
    assert_eq!(
        f.store
            .deployment(first.id)
            .await
            .unwrap()
            .unwrap()
            .replicas,
        3
    );
    f.write(deployment(version, "canary")).await;
    let filter = DeploymentFilter {
        agent: Some("echo".to_owned()),
        ..DeploymentFilter::default()
    };
    let mut page = PageRequest::first(1);
    let one = f.store.deployments(&filter, &page).await.unwrap();
    page.cursor = one.next;
    let two = f.store.deployments(&filter, &page).await.unwrap();
    assert_eq!(
        (one.items[0].alias.as_str(), two.items[0].alias.as_str()),
        ("canary", "stable")
    );
    assert_eq!(two.next, None);
    f.write(DeleteDeployment {
        deployment_id: first.id,
    })
    .await;
    let gone = ScaleDeployment {
        deployment_id: first.id,
        replicas: 3,
    };
    assert!(matches!(f.rejected(gone).await, Reject::NotFound { .. }));
}

pub async fn a_deployment_belongs_to_one_project(test: TestStore) {
    let f = Fixture::new(test);
    let version = f.publish("sha256:1").await.id;
    let of = |project: &str, alias: &str| ApplyDeployment {
        project: Some(ProjectRef {
            name: project.to_owned(),
            agent: "front".to_owned(),
        }),
        ..deployment(version, alias)
    };
    f.write(deployment(version, "stable")).await;
    let taken = f.write(of("shop", "stable")).await;
    assert_eq!(
        (taken.generation, taken.project.clone()),
        (1, of("shop", "stable").project)
    );
    let refused = f.rejected(of("office", "stable")).await;
    assert!(
        matches!(&refused, Reject::Conflict { message } if message.contains("`shop`")),
        "{refused:?}"
    );
    let kept = f.write(deployment(version, "stable")).await;
    assert_eq!(kept, taken);
    f.write(of("office", "canary")).await;
    let filter = DeploymentFilter {
        project: Some("shop".to_owned()),
        ..DeploymentFilter::default()
    };
    let found = f.store.deployments(&filter, &PageRequest::default()).await;
    assert_eq!(found.unwrap().items, [taken]);
}

pub async fn an_observation_of_an_older_generation_is_ignored(test: TestStore) {
    let f = Fixture::new(test);
    let version = f.publish("sha256:1").await.id;
    let id = f.write(deployment(version, "stable")).await.id;
    f.write(ScaleDeployment {
        deployment_id: id,
        replicas: 2,
    })
    .await;
    let observe = |generation, state| SetDeploymentState {
        deployment_id: id,
        generation,
        state,
        reason: "seen".to_owned(),
    };
    f.write(observe(2, DeploymentState::Ready)).await;
    f.write(observe(1, DeploymentState::Failed)).await;
    let row = f.store.deployment(id).await.unwrap().unwrap();
    assert_eq!((row.state, row.generation), (DeploymentState::Ready, 2));
    let unknown = SetDeploymentState {
        deployment_id: DeploymentId::generate(),
        ..observe(1, DeploymentState::Ready)
    };
    assert!(matches!(f.rejected(unknown).await, Reject::NotFound { .. }));
}

pub async fn replicas_belong_to_a_deployment(test: TestStore) {
    let f = Fixture::new(test);
    let version_id = f.publish("sha256:1").await.id;
    let deployment_id = f.write(deployment(version_id, "stable")).await.id;
    let put = |replica_id, state| PutReplica {
        replica_id,
        deployment_id,
        version_id,
        state,
        reason: String::new(),
        backend: "wasm".to_owned(),
        endpoint: None,
    };
    let (a, b) = (ReplicaId::generate(), ReplicaId::generate());
    f.write(put(a, ReplicaState::Starting)).await;
    f.write(put(b, ReplicaState::Starting)).await;
    f.write(put(a, ReplicaState::Ready)).await;
    let row = f.store.replica(a).await.unwrap().unwrap();
    assert_eq!(row.state, ReplicaState::Ready);
    assert!(row.updated_at > row.created_at);
    let filter = ReplicaFilter {
        deployment_id: Some(deployment_id),
    };
    let list = async || {
        let rows = f
            .store
            .replicas(&filter, &PageRequest::default())
            .await
            .unwrap();
        rows.items.iter().map(|row| row.id).collect::<Vec<_>>()
    };
    assert_eq!(list().await, [a, b]);
    f.write(RemoveReplica { replica_id: a }).await;
    f.write(RemoveReplica { replica_id: a }).await;
    assert_eq!(list().await, [b]);
    // One that is deleted has its replicas drain, and nothing more is said of them.
    f.write(DeleteDeployment { deployment_id }).await;
    let row = f.store.replica(b).await.unwrap().unwrap();
    assert_eq!(row.state, ReplicaState::Draining);
    assert!(row.updated_at > row.created_at);
    let late = put(b, ReplicaState::Ready);
    assert!(matches!(f.rejected(late).await, Reject::NotFound { .. }));
    f.write(RemoveReplica { replica_id: b }).await;
    assert!(list().await.is_empty());
    let orphan = put(a, ReplicaState::Ready);
    assert!(matches!(f.rejected(orphan).await, Reject::NotFound { .. }));
}
