//! Stateful sets with their volumes and services, judged by `kubectl`.

use std::sync::Arc;
use std::time::Duration;

use rune_testkit::TestDocker;
use rune_testkit_kubernetes::{Controllers, DockerPods, Kubelet, NodeConfig, Script, ScriptedPods};
use serde_json::{Value, json};

use crate::client::{Judged, LIMIT, namespace};

fn node() -> NodeConfig {
    NodeConfig {
        backoff: Duration::from_millis(100),
        ..NodeConfig::default()
    }
}

/// A service without an address and a set of pods that claim volumes.
fn set(replicas: u32) -> Value {
    let service = json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": "web", "labels": {"app": "web"}},
        "spec": {
            "clusterIP": "None", "selector": {"app": "web"}, "ports": [{"name": "http", "port": 80, "targetPort": "http"}],
        },
    });
    let probe = json!({"httpGet": {"path": "/", "port": "http"}, "periodSeconds": 1, "failureThreshold": 1});
    let set = json!({
        "apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": {"name": "web"},
        "spec": {
            "replicas": replicas, "serviceName": "web", "selector": {"matchLabels": {"app": "web"}},
            "template": {
                "metadata": {"labels": {"app": "web"}},
                "spec": {
                    "terminationGracePeriodSeconds": 1,
                    "containers": [{
                        "name": "main", "image": "web:1", "ports": [{"name": "http", "containerPort": 8080}],
                        "readinessProbe": probe, "volumeMounts": [{"name": "data", "mountPath": "/data"}],
                    }],
                },
            },
            "volumeClaimTemplates": [{
                "metadata": {"name": "data"},
                "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}},
            }],
        },
    });
    json!({"apiVersion": "v1", "kind": "List", "items": [service, set]})
}

/// The set of a manifest of [`set`].
fn spec(manifest: &mut Value) -> &mut Value {
    &mut manifest["items"][1]["spec"]
}

async fn rolled_out(judged: &Judged) {
    judged
        .ok(&["rollout", "status", "sts/web", "--timeout=60s"])
        .await;
}

async fn names(judged: &Judged, kind: &str) -> Vec<String> {
    let path = "jsonpath={.items[*].metadata.name}";
    let listed = judged.ok(&["get", kind, "-o", path]).await;
    listed.split_whitespace().map(str::to_owned).collect()
}

/// The pods that endpoints have, ready or not.
async fn behind(judged: &Judged, field: &str) -> Vec<String> {
    let path = format!("jsonpath={{.subsets[*].{field}[*].targetRef.name}}");
    let listed = judged.ok(&["get", "endpoints", "web", "-o", &path]).await;
    listed.split_whitespace().map(str::to_owned).collect()
}

async fn until(what: &str, is: impl AsyncFn() -> bool) {
    let reached = async {
        while !is().await {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    let reached = tokio::time::timeout(LIMIT, reached).await;
    assert!(reached.is_ok(), "{what}: not reached");
}

#[tokio::test]
async fn a_stateful_set_has_pods_with_names_in_order_and_volumes_that_stay() {
    let Some(judged) = Judged::start().await else {
        return;
    };
    let pods = ScriptedPods::new(Script::Serve);
    let _kubelet = Kubelet::start(&judged.server, node(), Arc::clone(&pods) as _);
    let _controllers = Controllers::start(&judged.server).unwrap();
    judged.apply(&set(3)).await;
    rolled_out(&judged).await;
    assert_eq!(pods.started(), ["web-0", "web-1", "web-2"]);
    assert_eq!(names(&judged, "pods").await, ["web-0", "web-1", "web-2"]);
    let claims = ["data-web-0", "data-web-1", "data-web-2"];
    assert_eq!(names(&judged, "pvc").await, claims);
    let shown = judged.ok(&["get", "pvc,pv,sts"]).await;
    assert_eq!(shown.matches("Bound").count(), 6, "{shown}");
    assert!(shown.contains("default/data-web-1"), "{shown}");
    assert!(shown.contains("3/3"), "{shown}");
    until("three endpoints", async || {
        behind(&judged, "addresses").await == ["web-0", "web-1", "web-2"]
    })
    .await;
    let read = judged.read("endpoints", "web").await;
    assert_eq!(read["subsets"][0]["ports"][0]["port"], 8080, "{read}");
    assert_eq!(
        read["subsets"][0]["addresses"][1]["hostname"], "web-1",
        "{read}"
    );
    // The same again changes nothing.
    judged.apply(&set(3)).await;
    rolled_out(&judged).await;
    assert_eq!(pods.started().len(), 3);

    // One that goes comes back under its name, with its volume.
    let before = judged.read("pod", "web-1").await;
    let volume = judged.read("pvc", "data-web-1").await["spec"]["volumeName"].clone();
    judged.ok(&["delete", "pod", "web-1"]).await;
    until("it is there again", async || pods.started().len() == 4).await;
    rolled_out(&judged).await;
    let after = judged.read("pod", "web-1").await;
    assert_ne!(before["metadata"]["uid"], after["metadata"]["uid"]);
    assert_eq!(
        after["spec"]["volumes"][0]["persistentVolumeClaim"]["claimName"],
        "data-web-1"
    );
    assert_eq!(
        judged.read("pvc", "data-web-1").await["spec"]["volumeName"],
        volume
    );

    judged.apply(&set(1)).await;
    until("one pod", async || {
        names(&judged, "pods").await == ["web-0"]
    })
    .await;
    judged.ok(&["delete", "sts", "web"]).await;
    until("no pod", async || names(&judged, "pods").await.is_empty()).await;
    assert_eq!(names(&judged, "pvc").await, claims);
    judged.ok(&["delete", "pvc", "--all"]).await;
    until("no volume", async || names(&judged, "pv").await.is_empty()).await;
}

#[tokio::test]
async fn a_changed_template_replaces_the_pods_from_the_last_to_the_first() {
    let Some(judged) = Judged::start().await else {
        return;
    };
    let pods = ScriptedPods::new(Script::Serve);
    let _kubelet = Kubelet::start(&judged.server, node(), Arc::clone(&pods) as _);
    let _controllers = Controllers::start(&judged.server).unwrap();
    judged.apply(&set(2)).await;
    rolled_out(&judged).await;
    let first = judged.read("sts", "web").await["status"].clone();
    assert_eq!(first["currentRevision"], first["updateRevision"], "{first}");
    let mut changed = set(2);
    spec(&mut changed)["template"]["spec"]["containers"][0]["image"] = json!("web:2");
    judged.apply(&changed).await;
    rolled_out(&judged).await;
    assert_eq!(pods.started(), ["web-0", "web-1", "web-1", "web-0"]);
    let path = "jsonpath={.items[*].spec.containers[0].image}";
    assert_eq!(judged.ok(&["get", "pods", "-o", path]).await, "web:2 web:2");
    let second = judged.read("sts", "web").await["status"].clone();
    assert_ne!(first["currentRevision"], second["currentRevision"]);
    assert_eq!(
        second["currentRevision"], second["updateRevision"],
        "{second}"
    );
    judged.ok(&["rollout", "restart", "sts/web"]).await;
    rolled_out(&judged).await;
    assert_eq!(pods.started().len(), 6);
}

#[tokio::test]
async fn a_pod_that_is_not_ready_holds_up_the_others_and_is_not_behind_the_service() {
    let Some(judged) = Judged::start().await else {
        return;
    };
    let pods = ScriptedPods::by(|pod| match pod["metadata"]["name"].as_str() {
        Some("web-1") => Script::Unwell,
        _ => Script::Serve,
    });
    let _kubelet = Kubelet::start(&judged.server, node(), Arc::clone(&pods) as _);
    let _controllers = Controllers::start(&judged.server).unwrap();
    judged.apply(&set(3)).await;
    until("web-1 is known", async || {
        behind(&judged, "notReadyAddresses").await == ["web-1"]
    })
    .await;
    assert_eq!(behind(&judged, "addresses").await, ["web-0"]);
    assert_eq!(names(&judged, "pods").await, ["web-0", "web-1"]);
    // Where they need not wait, they do not.
    judged.ok(&["delete", "sts", "web"]).await;
    until("no pod", async || names(&judged, "pods").await.is_empty()).await;
    let mut parallel = set(3);
    spec(&mut parallel)["podManagementPolicy"] = json!("Parallel");
    judged.apply(&parallel).await;
    until("all pods", async || names(&judged, "pods").await.len() == 3).await;
    judged.ok(&["delete", "svc", "web"]).await;
    until("no endpoints", async || {
        names(&judged, "endpoints").await.is_empty()
    })
    .await;
}

#[tokio::test]
async fn what_keeps_a_set_from_its_pods_is_told() {
    let Some(judged) = Judged::start().await else {
        return;
    };
    let _kubelet = Kubelet::start(&judged.server, node(), ScriptedPods::new(Script::Serve));
    let _controllers = Controllers::start(&judged.server).unwrap();
    let mut wrong = set(1);
    spec(&mut wrong)["template"]["spec"]["serviceAccountName"] = json!("nobody");
    judged.apply(&wrong).await;
    until("it is told", async || {
        let described = judged.ok(&["describe", "sts", "web"]).await;
        described.contains("FailedCreate")
            && described.contains("serviceaccount \"nobody\" not found")
    })
    .await;
    judged.ok(&["delete", "sts", "web"]).await;
    // A class that nobody has: the claim waits, and the pod with it.
    let mut classed = set(1);
    let claims = &mut spec(&mut classed)["volumeClaimTemplates"];
    claims[0]["metadata"]["name"] = json!("fast");
    claims[0]["spec"]["storageClassName"] = json!("fast");
    let mounts = &mut spec(&mut classed)["template"]["spec"]["containers"][0]["volumeMounts"];
    mounts[0]["name"] = json!("fast");
    judged.apply(&classed).await;
    until("the pod waits", async || {
        let listed = judged.ok(&["get", "pods", "-o", "name"]).await;
        listed.contains("web-0")
            && judged
                .ok(&["describe", "pod", "web-0"])
                .await
                .contains("unbound immediate PersistentVolumeClaims")
    })
    .await;
    let described = judged.ok(&["describe", "pvc", "fast-web-0"]).await;
    assert!(described.contains("\"fast\" not found"), "{described}");
}

#[tokio::test]
async fn what_of_a_set_is_fixed_or_not_here_is_refused() {
    let Some(judged) = Judged::start().await else {
        return;
    };
    judged.apply(&set(1)).await;
    for (field, value, expected) in [
        ("serviceName", json!("other"), "are forbidden"),
        (
            "updateStrategy",
            json!({"type": "RollingUpdate", "rollingUpdate": {"partition": 1}}),
            "spec.updateStrategy.rollingUpdate.partition: Forbidden",
        ),
    ] {
        let mut changed = set(1);
        spec(&mut changed)[field] = value;
        let file = crate::client::manifest_file(&changed);
        let args = ["apply", "-f", crate::client::path(file.path())];
        let said = judged.fails(&args).await;
        assert!(said.contains(expected), "{field}: {said}");
    }
}

#[tokio::test]
async fn a_namespace_goes_with_its_volumes_once_no_pod_uses_them() {
    let Some(judged) = Judged::start().await else {
        return;
    };
    let _kubelet = Kubelet::start(&judged.server, node(), ScriptedPods::new(Script::Serve));
    let _controllers = Controllers::start(&judged.server).unwrap();
    judged.apply(&namespace("shop")).await;
    let mut manifest = set(1);
    for item in manifest["items"].as_array_mut().unwrap() {
        item["metadata"]["namespace"] = json!("shop");
    }
    judged.apply(&manifest).await;
    let args = [
        "rollout",
        "status",
        "sts/web",
        "-n",
        "shop",
        "--timeout=60s",
    ];
    judged.ok(&args).await;
    // A claim in use is held.
    let claim = ["delete", "pvc", "data-web-0", "-n", "shop", "--wait=false"];
    judged.ok(&claim).await;
    let held = judged
        .server
        .objects("persistentvolumeclaims", Some("shop"));
    assert!(
        held[0]["metadata"]["deletionTimestamp"].is_string(),
        "{held:?}"
    );
    judged.ok(&["delete", "ns", "shop", "--timeout=60s"]).await;
    for plural in ["pods", "persistentvolumeclaims", "persistentvolumes"] {
        assert!(judged.server.objects(plural, None).is_empty(), "{plural}");
    }
}

#[tokio::test]
async fn what_a_pod_writes_on_its_volume_is_there_for_the_next_one() {
    let Some(docker) = TestDocker::find() else {
        return;
    };
    docker.image("rune-test-shell:1", &[]).unwrap();
    let Some(judged) = Judged::start().await else {
        return;
    };
    let _kubelet = Kubelet::start(&judged.server, node(), DockerPods::new());
    let _controllers = Controllers::start(&judged.server).unwrap();
    let mut manifest = set(1);
    let pod = &mut spec(&mut manifest)["template"]["spec"];
    pod["securityContext"] = json!({"runAsUser": 1234, "runAsGroup": 1234, "fsGroup": 5678});
    let container = &mut pod["containers"][0];
    container["image"] = json!("rune-test-shell:1");
    // A line for every start.
    let script = "echo $(id -u) >> /data/starts && mkdir /tmp/www && cp /data/starts /tmp/www/index.html && \
                  exec httpd -f -p 8080 -h /tmp/www";
    container["command"] = json!(["/bin/sh", "-c", script]);
    container["securityContext"] = json!({"readOnlyRootFilesystem": true});
    let mounts =
        json!([{"name": "data", "mountPath": "/data"}, {"name": "tmp", "mountPath": "/tmp"}]);
    container["volumeMounts"] = mounts;
    pod["volumes"] = json!([{"name": "tmp", "emptyDir": {}}]);
    judged.apply(&manifest).await;
    rolled_out(&judged).await;
    judged.ok(&["delete", "pod", "web-0"]).await;
    rolled_out(&judged).await;
    let path = [
        "get",
        "endpoints",
        "web",
        "-o",
        "jsonpath={.subsets[0].addresses[0].ip}",
    ];
    until("it answers", async || {
        let address = judged.ok(&path).await;
        !address.is_empty()
            && match reqwest::get(format!("http://{address}:8080/")).await {
                Ok(answer) => answer.text().await.unwrap() == "1234\n1234\n",
                Err(_) => false,
            }
    })
    .await;
}
