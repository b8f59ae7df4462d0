//! Who reaches replicas: their daemon, wherever it is, and members of their networks.

use k8s_openapi::api::core::v1::{ConfigMap, Pod};
use kube::Api;
use kube::api::{DeleteParams, PostParams};
use rune_backend::Backend;
use rune_env::NetworkPeer;
use rune_testkit_kubernetes::{Script, ScriptedPods};
use serde_json::{Value, json};

use crate::cluster::{Cluster, NAMESPACE, client, connect, name_of, read_as, spec, started, until};

/// The pod of a daemon, with something that owns it.
async fn daemon_pod(cluster: &Cluster, daemon: &str) {
    let (admin, params) = (client(&cluster.server).await, PostParams::default());
    let owner: ConfigMap = read_as(json!({"metadata": {"name": daemon}}));
    let owners: Api<ConfigMap> = Api::namespaced(admin.clone(), NAMESPACE);
    let owner = owners.create(&params, &owner).await.unwrap();
    let pod: Pod = read_as(json!({
        "metadata": {"name": format!("{daemon}-0"), "labels": {"app.kubernetes.io/name": daemon}, "ownerReferences": [{
            "apiVersion": "v1", "kind": "ConfigMap", "name": daemon, "uid": owner.metadata.uid, "controller": true,
        }]},
        "spec": {"containers": [{"name": "rune", "image": "rune:test"}]},
    }));
    let pods: Api<Pod> = Api::namespaced(admin, NAMESPACE);
    pods.create(&params, &pod).await.unwrap();
}

/// The policies that are there.
fn policies(cluster: &Cluster) -> Vec<Value> {
    cluster.server.objects("networkpolicies", Some(NAMESPACE))
}

/// Whom the policy of a daemon lets in; nothing where that is everybody.
fn let_in(cluster: &Cluster) -> Option<Value> {
    let policies = policies(cluster);
    let own = policies.iter().find(|policy| name(policy) == "rune-test");
    own.unwrap()["spec"]["ingress"][0].get("from").cloned()
}

fn name(object: &Value) -> &str {
    object["metadata"]["name"].as_str().unwrap()
}

#[tokio::test]
async fn daemons_of_one_namespace_share_no_network() {
    let cluster = Cluster::start(ScriptedPods::new(Script::Serve)).await;
    let mut backends = Vec::new();
    for daemon in ["one", "other"] {
        daemon_pod(&cluster, daemon).await;
        let mut config = cluster.config();
        config.daemon = daemon.to_owned();
        config.settings.pod = Some(format!("{daemon}-0"));
        backends.push(connect(config).await);
    }
    let specs = [spec(), spec()];
    for (backend, spec) in backends.iter().zip(&specs) {
        started(backend, spec).await;
    }
    let policies = || policies(&cluster);
    let pods = cluster.server.objects("pods", Some(NAMESPACE));
    let mut of = Vec::new();
    for policy in policies() {
        let wanted = policy["spec"]["podSelector"]["matchLabels"].as_object();
        let is_wanted = |pod: &&Value| {
            let labels = &pod["metadata"]["labels"];
            wanted
                .unwrap()
                .iter()
                .all(|(key, value)| labels.get(key) == Some(value))
        };
        let selected = pods.iter().filter(is_wanted).map(name);
        let selected: Vec<String> = selected.map(str::to_owned).collect();
        of.push((name(&policy).to_owned(), selected));
    }
    of.sort();
    let expected = [
        ("rune-one", 0),
        ("rune-one-bridge", 0),
        ("rune-other", 1),
        ("rune-other-bridge", 1),
    ];
    let expected = expected.map(|(policy, at)| (policy.to_owned(), vec![name_of(&specs[at])]));
    assert_eq!(of, expected);

    // What is of one daemon goes with it, and nothing of the other.
    let owners: Api<ConfigMap> = Api::namespaced(client(&cluster.server).await, NAMESPACE);
    owners
        .delete("one", &DeleteParams::default())
        .await
        .unwrap();
    until("what is of the daemon is gone", async || {
        let policies = policies();
        let left = cluster.pod_names();
        policies.len() == 2 && !left.contains(&name_of(&specs[0]))
    })
    .await;
    let left = policies();
    let left: Vec<&str> = left.iter().map(name).collect();
    assert_eq!(left, ["rune-other", "rune-other-bridge"]);
    assert!(cluster.pod_names().contains(&name_of(&specs[1])));
}

#[tokio::test]
async fn a_daemon_is_let_in_from_where_it_is() {
    let cluster = Cluster::start(ScriptedPods::new(Script::Serve)).await;
    daemon_pod(&cluster, "desk").await;
    let net = || NetworkPeer::Net("10.1.2.0/24".parse().unwrap());
    let namespace = || NetworkPeer::Namespace("rune-system".to_owned());
    let pods = json!({"podSelector": {"matchLabels": {"app.kubernetes.io/name": "desk"}}});
    let block = json!({"ipBlock": {"cidr": "10.1.2.0/24"}});
    let labels = json!({"kubernetes.io/metadata.name": "rune-system"});
    let others = json!({"namespaceSelector": {"matchLabels": labels}});
    // Each is the same daemon, configured anew.
    for (pod, from, expected) in [
        (None, vec![], None),
        (Some("desk-0"), vec![], Some(json!([pods]))),
        (None, vec![net()], Some(json!([block]))),
        (
            Some("desk-0"),
            vec![net(), namespace()],
            Some(json!([pods, block, others])),
        ),
        (None, vec![namespace()], Some(json!([others]))),
        (None, vec![], None),
    ] {
        let mut config = cluster.config();
        config.settings.pod = pod.map(str::to_owned);
        config.settings.daemon_from = from;
        let backend = connect(config).await;
        let spec = spec();
        started(&backend, &spec).await;
        assert_eq!(let_in(&cluster), expected);
    }
}

#[tokio::test]
async fn policies_go_with_the_last_replica_that_needs_them() {
    let cluster = Cluster::start(ScriptedPods::new(Script::Serve)).await;
    let backend = cluster.backend().await;
    let (bridge, mut back) = ([spec(), spec()], spec());
    back.networks = vec!["back".to_owned(), "bridge".to_owned()];
    for spec in bridge.iter().chain([&back]) {
        started(&backend, spec).await;
    }
    let versions = || {
        let policies = policies(&cluster);
        let versions = policies
            .iter()
            .map(|policy| policy["metadata"]["generation"].clone());
        versions.collect::<Vec<_>>()
    };
    assert_eq!(
        versions(),
        [1, 1, 1],
        "what is the same is not written again"
    );
    for (spec, left) in [
        (
            &bridge[0],
            &["rune-test", "rune-test-back", "rune-test-bridge"][..],
        ),
        (&back, &["rune-test", "rune-test-bridge"]),
        (&bridge[1], &[]),
    ] {
        backend.stop(spec.replica_id).await.unwrap();
        until("what is not needed is gone", async || {
            let there = cluster.server.objects("pods", Some(NAMESPACE));
            let is_gone = !there.iter().any(|pod| name(pod) == name_of(spec));
            let policies = policies(&cluster);
            let policies: Vec<&str> = policies.iter().map(name).collect();
            is_gone && policies == left
        })
        .await;
    }
    // And come again with the next.
    started(&backend, &spec()).await;
    assert_eq!(policies(&cluster).len(), 2);
}
