//! Replicas that start, run and stop, and a daemon that starts again.

use std::time::Duration;

use rune_backend::{Backend, ReplicaHealth};
use rune_env::{NetworkPeer, Toleration};
use rune_testkit_kubernetes::{Script, ScriptedPods};
use serde_json::json;

use crate::cluster::{Cluster, NAMESPACE, connect, name_of, spec, started, until, until_health};

async fn cluster() -> Cluster {
    Cluster::start(ScriptedPods::new(Script::Serve)).await
}

#[tokio::test]
async fn a_replica_starts_answers_and_stops() {
    let cluster = cluster().await;
    let (backend, spec) = (cluster.backend().await, spec());
    assert_eq!(
        backend.health(spec.replica_id).await.unwrap(),
        ReplicaHealth::Gone
    );
    let endpoint = started(&backend, &spec).await;
    assert!(
        endpoint.starts_with("http://127.88.") && endpoint.ends_with(":8090"),
        "{endpoint}"
    );
    assert_eq!(
        backend.health(spec.replica_id).await.unwrap(),
        ReplicaHealth::Ready
    );
    assert_eq!(backend.list().await.unwrap(), [spec.replica_id]);
    let log = backend.logs(spec.replica_id, 10).await.unwrap().unwrap();
    assert_eq!(log, format!("{} runs\n", name_of(&spec)));
    assert!(
        backend
            .drain(spec.replica_id, Duration::ZERO)
            .await
            .unwrap()
    );
    for _ in 0..2 {
        backend.stop(spec.replica_id).await.unwrap();
    }
    cluster.empty().await;
    until_health(&backend, spec.replica_id, |health| {
        *health == ReplicaHealth::Gone
    })
    .await;
    assert_eq!(backend.logs(spec.replica_id, 10).await.unwrap(), None);
}

#[tokio::test]
async fn of_a_long_log_the_end_is_read() {
    let cluster = cluster().await;
    let (backend, spec) = (cluster.backend().await, spec());
    started(&backend, &spec).await;
    // Six megabytes, with a character of two bytes wherever it is cut.
    let text: String = (0..1000)
        .map(|n| format!("{} {n}\n", "ä".repeat(3000)))
        .collect();
    cluster.pods.say(&name_of(&spec), &text);
    let log = backend.logs(spec.replica_id, 1000).await.unwrap().unwrap();
    assert!(log.ends_with(" 999\n"), "{}", &log[log.len() - 100..]);
    assert!(log.lines().count() >= 250, "{}", log.lines().count());
}

#[tokio::test]
async fn a_pod_has_what_it_needs_and_no_more() {
    let cluster = cluster().await;
    let (backend, spec) = (cluster.backend().await, spec());
    started(&backend, &spec).await;
    let pods = cluster.server.objects("pods", Some(NAMESPACE));
    let [pod] = pods.as_slice() else {
        panic!("{pods:?}")
    };
    let labels = &pod["metadata"]["labels"];
    assert_eq!(labels["rune.agent"], "echo");
    assert_eq!(labels["rune.deployment"], spec.deployment_id.to_string());
    assert_eq!(labels["rune.replica"], spec.replica_id.to_string());
    assert_eq!(labels["rune.network/bridge"], "member");
    let inner = &pod["spec"];
    assert_eq!(inner["automountServiceAccountToken"], false);
    assert_eq!(inner["securityContext"]["runAsNonRoot"], true);
    assert_eq!(
        inner["securityContext"]["seccompProfile"]["type"],
        "RuntimeDefault"
    );
    let container = &inner["containers"][0];
    assert_eq!(container["image"], "rune:test");
    assert_eq!(container["securityContext"]["readOnlyRootFilesystem"], true);
    assert_eq!(
        container["securityContext"]["allowPrivilegeEscalation"],
        false
    );
    assert_eq!(
        container["securityContext"]["capabilities"]["drop"],
        json!(["ALL"])
    );
    assert_eq!(
        container["resources"]["limits"],
        json!({"cpu": "2", "memory": "2048Mi"})
    );
    assert_eq!(container["readinessProbe"]["httpGet"]["path"], "/health");
    // What is secret is nowhere in the pod.
    assert!(!pod.to_string().contains("secret-token"), "{pod}");

    let secrets = cluster.server.objects("secrets", Some(NAMESPACE));
    let [secret] = secrets.as_slice() else {
        panic!("{secrets:?}")
    };
    assert_eq!(
        secret["metadata"]["ownerReferences"][0]["uid"],
        pod["metadata"]["uid"]
    );
    let keys: Vec<&str> = secret["data"]
        .as_object()
        .unwrap()
        .keys()
        .map(String::as_str)
        .collect();
    assert_eq!(
        keys,
        ["RUNE_REPLICA_TOKEN"],
        "what else it needs it asks the daemon for"
    );

    let policies = cluster.server.objects("networkpolicies", Some(NAMESPACE));
    let [own, policy] = policies.as_slice() else {
        panic!("{policies:?}")
    };
    assert_eq!(own["metadata"]["name"], "rune-test");
    assert_eq!(policy["metadata"]["name"], "rune-test-bridge");
    let members = json!({"rune.daemon": "test", "rune.network/bridge": "member"});
    assert_eq!(policy["spec"]["podSelector"]["matchLabels"], members);
    assert_eq!(
        policy["spec"]["ingress"],
        json!([{
            "from": [{"podSelector": {"matchLabels": members}}],
            "ports": [{"port": 8090, "protocol": "TCP"}],
        }])
    );
}

#[tokio::test]
async fn a_pod_in_no_network_is_shut_to_all_but_the_daemon() {
    let cluster = cluster().await;
    let mut config = cluster.config();
    config.settings.daemon_from = vec![NetworkPeer::Namespace("rune-system".to_owned())];
    let backend = connect(config).await;
    let mut spec = spec();
    spec.networks.clear();
    started(&backend, &spec).await;
    let policies = cluster.server.objects("networkpolicies", Some(NAMESPACE));
    let [policy] = policies.as_slice() else {
        panic!("{policies:?}")
    };
    let namespace = json!({"kubernetes.io/metadata.name": "rune-system"});
    assert_eq!(
        policy["spec"],
        json!({
            "podSelector": {"matchLabels": {"rune.daemon": "test"}},
            "policyTypes": ["Ingress"],
            "ingress": [{
                "from": [{"namespaceSelector": {"matchLabels": namespace}}],
                "ports": [{"port": 8090, "protocol": "TCP"}],
            }],
        })
    );
    let pod = &cluster.server.objects("pods", Some(NAMESPACE))[0];
    assert_eq!(pod["metadata"]["labels"]["rune.daemon"], "test");
}

#[tokio::test]
async fn a_pod_is_as_the_operator_says() {
    let cluster = cluster().await;
    let mut config = cluster.config();
    let text = |text: &str| text.to_owned();
    config.settings.tolerations = vec![
        Toleration {
            key: Some(text("dedicated")),
            value: Some(text("agents")),
            effect: Some(text("NoSchedule")),
        },
        Toleration::default(),
    ];
    let annotations = [(text("example.org/team"), text("a, b"))];
    config.settings.annotations = annotations.into();
    config.settings.service_account = Some(text("rune"));
    config.settings.workspace_claim = Some(text("workspaces"));
    config.settings.seccomp_profile = Some(text("rune/replica.json"));
    let backend = connect(config).await;
    let spec = spec();
    // Whether it ever runs or not.
    tokio::select! {
        _ = backend.start(&spec) => {}
        () = until("there is a pod", async || !cluster.pod_names().is_empty()) => {}
    }
    let pods = cluster.server.objects("pods", Some(NAMESPACE));
    let [pod] = pods.as_slice() else {
        panic!("{pods:?}")
    };
    assert_eq!(pod["metadata"]["annotations"]["example.org/team"], "a, b");
    let inner = &pod["spec"];
    let tolerations = inner["tolerations"].as_array().unwrap();
    assert_eq!(
        tolerations[..2],
        [
            json!({"key": "dedicated", "operator": "Equal", "value": "agents", "effect": "NoSchedule"}),
            json!({"operator": "Exists"}),
        ]
    );
    assert_eq!(inner["serviceAccountName"], "rune");
    assert_eq!(inner["automountServiceAccountToken"], false);
    // What its tools are confined with, in users of its own.
    assert_eq!(inner["hostUsers"], false);
    assert_eq!(
        inner["securityContext"]["seccompProfile"],
        json!({"type": "Localhost", "localhostProfile": "rune/replica.json"})
    );
    assert_eq!(
        inner["securityContext"]["appArmorProfile"],
        json!({"type": "Unconfined"})
    );
    let container = &inner["containers"][0];
    assert_eq!(container["securityContext"]["procMount"], "Unmasked");
    let volumes = inner["volumes"].as_array().unwrap();
    let claim = volumes.iter().find(|it| it["name"] == "workspaces");
    assert_eq!(
        claim.unwrap()["persistentVolumeClaim"]["claimName"],
        "workspaces"
    );
    let mounts = container["volumeMounts"].as_array().unwrap();
    let mounted = mounts.iter().find(|it| it["name"] == "workspaces").unwrap();
    assert_eq!(
        (&mounted["mountPath"], &mounted["subPath"]),
        (&json!("/workspaces/dev/echo"), &json!("dev/echo"))
    );
}

#[tokio::test]
async fn a_start_that_is_tried_again_is_the_same_replica() {
    let cluster = cluster().await;
    let (backend, spec) = (cluster.backend().await, spec());
    // The first is given up on the way.
    let given_up = tokio::time::timeout(Duration::from_millis(50), backend.start(&spec)).await;
    drop(given_up);
    let endpoint = started(&backend, &spec).await;
    assert_eq!(started(&backend, &spec).await, endpoint);
    assert_eq!(cluster.pod_names(), [name_of(&spec)]);
    assert_eq!(cluster.pods.started(), [name_of(&spec)]);
}

#[tokio::test]
async fn the_next_daemon_finds_the_replicas_of_the_last() {
    let cluster = cluster().await;
    let specs = [spec(), spec(), spec()];
    let first = cluster.backend().await;
    let mut endpoints = Vec::new();
    for spec in &specs {
        endpoints.push(started(&first, spec).await);
    }
    drop(first);
    let next = cluster.backend().await;
    let mut found = next.list().await.unwrap();
    found.sort();
    let mut wanted = specs.each_ref().map(|spec| spec.replica_id);
    wanted.sort();
    assert_eq!(found, wanted);
    for (spec, endpoint) in specs.iter().zip(&endpoints) {
        assert_eq!(
            next.health(spec.replica_id).await.unwrap(),
            ReplicaHealth::Ready
        );
        assert_eq!(started(&next, spec).await, *endpoint);
    }
    assert_eq!(cluster.pods.started().len(), 3, "none was started twice");
    // One of which no row speaks is found and ended.
    next.stop(specs[0].replica_id).await.unwrap();
    until_health(&next, specs[0].replica_id, |health| {
        *health == ReplicaHealth::Gone
    })
    .await;
    assert_eq!(next.list().await.unwrap().len(), 2);
}

#[tokio::test]
async fn daemons_of_one_namespace_do_not_see_each_others_replicas() {
    let cluster = cluster().await;
    let one = cluster.backend().await;
    let mut config = cluster.config();
    config.daemon = "other".to_owned();
    let other = crate::cluster::connect(config).await;
    let spec = spec();
    started(&one, &spec).await;
    assert_eq!(other.list().await.unwrap(), []);
}
