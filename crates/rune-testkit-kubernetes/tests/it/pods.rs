//! Pods that run: in containers of Docker Engine, and by a script, judged by `kubectl`.

use std::sync::Arc;
use std::time::Duration;

use rune_testkit::TestDocker;
use rune_testkit_kubernetes::{DockerPods, Kubelet, NodeConfig, Script, ScriptedPods};
use serde_json::{Value, json};

use crate::client::{Judged, LIMIT, config_map};

/// An image with a shell and a web server.
const IMAGE: &str = "rune-test-shell:1";
const RESTARTS: &str = ".status.containerStatuses[0].restartCount";

fn node() -> NodeConfig {
    NodeConfig {
        labels: vec![("disk".to_owned(), "fast".to_owned())],
        cpus: 4,
        backoff: Duration::from_millis(100),
        ..NodeConfig::default()
    }
}

/// A pod whose container runs a script.
fn shell(name: &str, script: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name},
        "spec": {"terminationGracePeriodSeconds": 1, "containers": [{
            "name": "main", "image": IMAGE, "command": ["/bin/sh", "-c", script],
            "ports": [{"name": "http", "containerPort": 8080}],
        }]},
    })
}

/// With a probe of its readiness.
fn probed(name: &str) -> Value {
    let mut pod = shell(name, "");
    pod["spec"]["containers"][0]["readinessProbe"] =
        json!({"httpGet": {"path": "/health", "port": "http"}, "periodSeconds": 1});
    pod
}

async fn wait(judged: &Judged, pod: &str, condition: &str) {
    let what = format!("--for={condition}");
    let pod = format!("pod/{pod}");
    judged.ok(&["wait", &what, &pod, "--timeout=60s"]).await;
}

/// Waits until a field of a pod is as it should be; older `kubectl` cannot.
async fn field(judged: &Judged, pod: &str, path: &str, is: impl Fn(&str) -> bool) {
    let path = format!("jsonpath={{{path}}}");
    let reached = async {
        while !is(&judged.ok(&["get", "pod", pod, "-o", &path]).await) {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    let reached = tokio::time::timeout(LIMIT, reached).await;
    let seen = judged.read("pod", pod).await;
    assert!(reached.is_ok(), "{path} is something else: {seen}");
}

#[tokio::test]
async fn a_pod_runs_in_a_container() {
    let Some(docker) = TestDocker::find() else {
        return;
    };
    docker.image(IMAGE, &[]).unwrap();
    let Some(judged) = Judged::start().await else {
        return;
    };
    let pods = DockerPods::new();
    let _kubelet = Kubelet::start(&judged.server, node(), Arc::clone(&pods) as _);
    let secret = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s"},
                        "stringData": {"token": "abc"}});
    judged.apply(&secret).await;
    judged
        .apply(&config_map("c", &json!({"greeting": "hello\n"})))
        .await;
    let script = "mkdir /tmp/www && echo fine > /tmp/www/health && cat /etc/conf/greeting && echo $TOKEN $(id -u) && \
                  touch /no || echo read-only; exec httpd -f -p 8080 -h /tmp/www";
    let mut pod = shell("web", script);
    let container = &mut pod["spec"]["containers"][0];
    container["env"] =
        json!([{"name": "TOKEN", "valueFrom": {"secretKeyRef": {"name": "s", "key": "token"}}}]);
    container["readinessProbe"] =
        json!({"httpGet": {"path": "/health", "port": "http"}, "periodSeconds": 1});
    container["volumeMounts"] =
        json!([{"name": "conf", "mountPath": "/etc/conf"}, {"name": "tmp", "mountPath": "/tmp"}]);
    container["securityContext"] = json!({"readOnlyRootFilesystem": true, "runAsNonRoot": true, "runAsUser": 1234,
        "allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}});
    pod["spec"]["volumes"] =
        json!([{"name": "conf", "configMap": {"name": "c"}}, {"name": "tmp", "emptyDir": {}}]);
    judged.apply(&pod).await;
    wait(&judged, "web", "condition=Ready").await;
    let shown = judged.ok(&["get", "pods"]).await;
    assert!(
        shown.contains("1/1") && shown.contains("Running"),
        "{shown}"
    );
    let said = judged.ok(&["logs", "web"]).await;
    assert!(
        said.contains("hello") && said.contains("abc 1234"),
        "{said}"
    );
    assert!(said.contains("read-only"), "{said}");
    let described = judged.ok(&["describe", "pod", "web"]).await;
    assert!(
        described.contains("Successfully assigned to node"),
        "{described}"
    );
    assert!(described.contains("Started container main"), "{described}");
    let address = judged.read("pod", "web").await["status"]["podIP"].clone();
    let url = format!("http://{}:8080/health", address.as_str().unwrap());
    assert_eq!(
        reqwest::get(url).await.unwrap().text().await.unwrap(),
        "fine\n"
    );
    judged.ok(&["delete", "pod", "web"]).await;
    assert_eq!(
        docker.containers(&pods.label()).unwrap(),
        Vec::<String>::new()
    );
}

#[tokio::test]
async fn a_container_that_ends_starts_again_or_not() {
    let Some(docker) = TestDocker::find() else {
        return;
    };
    docker.image(IMAGE, &[]).unwrap();
    let Some(judged) = Judged::start().await else {
        return;
    };
    let _kubelet = Kubelet::start(&judged.server, node(), DockerPods::new());
    judged.apply(&shell("crashes", "echo once; exit 3")).await;
    let mut once = shell("once", "echo done");
    once["spec"]["restartPolicy"] = json!("Never");
    judged.apply(&once).await;
    field(&judged, "once", ".status.phase", |is| is == "Succeeded").await;
    field(&judged, "crashes", RESTARTS, |is| is >= "2").await;
    let read = judged.read("pod", "crashes").await;
    let last = &read["status"]["containerStatuses"][0]["lastState"]["terminated"];
    assert_eq!(last["exitCode"], 3);
    let said = judged.ok(&["logs", "crashes"]).await;
    assert!(said.starts_with("once\nonce\n"), "{said}");
    assert_eq!(judged.ok(&["logs", "-f", "once"]).await, "done\n");
    let mut absent = shell("absent", "");
    absent["spec"]["containers"][0]["image"] = json!("rune-test-nowhere:1");
    judged.apply(&absent).await;
    let reason = ".status.containerStatuses[0].state.waiting.reason";
    field(&judged, "absent", reason, |is| is == "ImagePullBackOff").await;
    let shown = judged.ok(&["get", "pods"]).await;
    assert!(shown.contains("ImagePullBackOff"), "{shown}");
}

#[tokio::test]
async fn a_pod_that_no_node_takes_says_why() {
    let Some(judged) = Judged::start().await else {
        return;
    };
    let _kubelet = Kubelet::start(&judged.server, node(), ScriptedPods::new(Script::Serve));
    let mut picky = shell("picky", "");
    picky["spec"]["nodeSelector"] = json!({"disk": "slow"});
    judged.apply(&picky).await;
    let mut large = shell("large", "");
    large["spec"]["containers"][0]["resources"] = json!({"requests": {"cpu": "5"}});
    judged.apply(&large).await;
    let mut fits = shell("fits", "");
    fits["spec"]["nodeSelector"] = json!({"disk": "fast"});
    judged.apply(&fits).await;
    wait(&judged, "fits", "condition=Ready").await;
    for (pod, why) in [
        ("picky", "node affinity/selector"),
        ("large", "Insufficient cpu"),
    ] {
        let described = judged.ok(&["describe", "pod", pod]).await;
        assert!(described.contains("FailedScheduling"), "{described}");
        assert!(described.contains(why), "{described}");
    }
}

#[tokio::test]
async fn probes_decide_who_is_ready() {
    let Some(judged) = Judged::start().await else {
        return;
    };
    let scripted = ScriptedPods::by(|pod| match pod["metadata"]["name"].as_str() {
        Some("unwell") => Script::Unwell,
        _ => Script::Serve,
    });
    let _kubelet = Kubelet::start(&judged.server, node(), Arc::clone(&scripted) as _);
    judged.apply(&probed("unwell")).await;
    judged.apply(&probed("well")).await;
    wait(&judged, "well", "condition=Ready").await;
    let unwell = judged.read("pod", "unwell").await;
    assert_eq!(unwell["status"]["containerStatuses"][0]["ready"], false);
    scripted.make_unwell("well");
    wait(&judged, "well", "condition=Ready=False").await;

    let mut mortal = probed("mortal");
    mortal["spec"]["containers"][0]["livenessProbe"] = json!({"httpGet": {"path": "/health", "port": "http"}, "periodSeconds": 1, "failureThreshold": 1});
    judged.apply(&mortal).await;
    wait(&judged, "mortal", "condition=Ready").await;
    scripted.make_unwell("mortal");
    field(&judged, "mortal", RESTARTS, |is| is == "1").await;
    let described = judged.ok(&["describe", "pod", "mortal"]).await;
    assert!(described.contains("failed liveness probe"), "{described}");
}

#[tokio::test]
async fn logs_are_followed_while_they_come() {
    let Some(docker) = TestDocker::find() else {
        return;
    };
    docker.image(IMAGE, &[]).unwrap();
    let Some(judged) = Judged::start().await else {
        return;
    };
    let _kubelet = Kubelet::start(&judged.server, node(), DockerPods::new());
    let mut talks = shell(
        "talks",
        "echo one; while [ ! -e /tmp/go ]; do sleep 0.1; done; echo two",
    );
    talks["spec"]["restartPolicy"] = json!("Never");
    talks["spec"]["containers"][0]["volumeMounts"] = json!([{"name": "tmp", "mountPath": "/tmp"}]);
    talks["spec"]["volumes"] = json!([{"name": "tmp", "emptyDir": {}}]);
    judged.apply(&talks).await;
    wait(&judged, "talks", "condition=Ready").await;
    let mut child = judged
        .kubectl
        .start(&["logs", "-f", "--tail=1", "talks"])
        .unwrap();
    let mut out = std::io::BufReader::new(child.stdout.take().unwrap());
    let read = tokio::task::spawn_blocking(move || {
        let mut line = String::new();
        std::io::BufRead::read_line(&mut out, &mut line).unwrap();
        (line, out)
    });
    let (line, mut out) = read.await.unwrap();
    assert_eq!(line, "one\n");
    let id = docker.containers("pod=talks").unwrap();
    docker
        .run(&["exec", id.first().unwrap(), "touch", "/tmp/go"])
        .unwrap();
    let rest = tokio::task::spawn_blocking(move || {
        let mut rest = String::new();
        std::io::Read::read_to_string(&mut out, &mut rest).unwrap();
        rest
    });
    assert_eq!(rest.await.unwrap(), "two\n");
    assert!(child.wait().unwrap().success());
}
