//! The account of the daemon: what it needs, and that it needs all of it.

use std::collections::BTreeSet;

use rune_backend::{Backend, BackendError};
use rune_testkit_kubernetes::{Script, ScriptedPods};

use crate::cluster::{Cluster, USER, failed, rules, spec, started};

#[tokio::test]
async fn every_verb_that_is_granted_is_needed() {
    let cluster = Cluster::start(ScriptedPods::new(Script::Serve)).await;
    let backend = cluster.backend().await;
    let spec = spec();
    started(&backend, &spec).await;
    // Its pod is read where a start is tried again.
    started(&backend, &spec).await;
    backend.logs(spec.replica_id, 1).await.unwrap();
    backend.stop(spec.replica_id).await.unwrap();

    let accesses = cluster.server.accesses(USER);
    assert!(
        accesses.iter().all(|access| access.is_allowed),
        "{accesses:?}"
    );
    assert!(
        accesses.iter().all(|access| access.namespace == "rune"),
        "{accesses:?}"
    );
    let used: BTreeSet<(String, String, String)> = accesses
        .into_iter()
        .map(|access| (access.group, access.resource, access.verb))
        .collect();
    let mut granted = BTreeSet::new();
    for rule in rules() {
        let [group] = <[String; 1]>::try_from(rule.api_groups.unwrap()).unwrap();
        for resource in rule.resources.unwrap() {
            let verbs = rule.verbs.iter().cloned();
            granted.extend(verbs.map(|verb| (group.clone(), resource.clone(), verb)));
        }
    }
    assert_eq!(used, granted);
}

#[tokio::test]
async fn what_is_denied_is_told() {
    let mut rules = rules();
    rules.retain(|rule| {
        !rule
            .resources
            .as_ref()
            .unwrap()
            .contains(&"secrets".to_owned())
    });
    let cluster = Cluster::with_rules(ScriptedPods::new(Script::Serve), rules).await;
    let backend = cluster.backend().await;
    let mut spec = spec();
    spec.networks.clear();
    let BackendError::Unavailable(message) = failed(&backend, &spec).await else {
        panic!()
    };
    let said = "cannot make the secret of a replica: secrets";
    assert!(message.starts_with(said), "{message}");
    assert!(
        message.contains("cannot create resource \"secrets\""),
        "{message}"
    );
    backend.stop(spec.replica_id).await.unwrap();
    cluster.empty().await;
}
