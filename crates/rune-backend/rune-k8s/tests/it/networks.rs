//! Networks of daemons that share a namespace.

use k8s_openapi::api::core::v1::{ConfigMap, Pod};
use kube::Api;
use kube::api::{DeleteParams, PostParams};
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
        "metadata": {"name": format!("{daemon}-0"), "ownerReferences": [{
            "apiVersion": "v1", "kind": "ConfigMap", "name": daemon, "uid": owner.metadata.uid, "controller": true,
        }]},
        "spec": {"containers": [{"name": "rune", "image": "rune:test"}]},
    }));
    let pods: Api<Pod> = Api::namespaced(admin, NAMESPACE);
    pods.create(&params, &pod).await.unwrap();
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
    let policies = || cluster.server.objects("networkpolicies", Some(NAMESPACE));
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
    let expected = [("rune-one-bridge", 0), ("rune-other-bridge", 1)];
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
        policies.len() == 1 && !left.contains(&name_of(&specs[0]))
    })
    .await;
    assert_eq!(name(&policies()[0]), "rune-other-bridge");
    assert!(cluster.pod_names().contains(&name_of(&specs[1])));
}
