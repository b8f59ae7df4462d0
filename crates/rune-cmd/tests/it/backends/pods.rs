//! Replicas in pods: an API server of the test kit with `kubectl` as judge, and containers of the real engine, from the
//! image that the Dockerfile of this repository makes.

use std::sync::Arc;

use rune_testkit::{TestDaemon, TestDocker};
use serde_json::{Value, json};

use super::any_cluster::deploy_talker;
use super::cluster::{Cluster, NAMESPACE};
use super::containers;
use super::outside::Orphan;
use super::rig::{Rig, is_here};
use crate::home::RUNE;
use crate::wire::lines_of;

/// A pod with the labels of a replica of the rig's daemon.
pub(super) async fn plant(rig: &Rig, id: &str) -> Orphan {
    let name = format!("rune-{id}").replace('_', "-");
    let mut pod = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name, "labels": {"rune.daemon": rig.id(), "rune.replica": id}},
        "spec": {"terminationGracePeriodSeconds": 0, "containers": [{
            "name": "replica", "command": ["sleep", "600"],
        }]},
    });
    let Some(cluster) = &rig.cluster else {
        return rig.real.as_ref().unwrap().plant(pod, name);
    };
    pod["spec"]["containers"][0]["image"] = json!(containers::image().unwrap());
    pod["metadata"]["namespace"] = json!(NAMESPACE);
    cluster.apply(&pod).await;
    let server = Arc::clone(&cluster.server);
    // What is left goes with the cluster.
    let look = move |_| {
        let pods = server.objects("pods", Some(NAMESPACE));
        pods.iter().any(|pod| pod["metadata"]["name"] == *name)
    };
    Orphan {
        look: Box::new(look),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_tool_whose_files_the_pod_would_not_see_is_refused() {
    if !is_here("kubernetes") {
        return;
    }
    let rig = Rig::daemon("kubernetes", TestDaemon::builder(RUNE)).await;
    let dir = rig.served.0.home().join("boxed");
    std::fs::create_dir_all(dir.join("tools")).unwrap();
    let runefile = "name: boxed\nversion: 0.1.0\ninstructions: Call.\ndefault_model: default\ntoolset: [convert]\n\
                    models: {providers: [offline], model_mapping: {default: offline}}\n";
    std::fs::write(dir.join("Runefile"), runefile).unwrap();
    let yaml = "name: convert\nruntime: container\nimage: busybox\ncapabilities: [filesystem]\n";
    std::fs::write(dir.join("tools/convert.yaml"), yaml).unwrap();
    let ran = rig.served.rune(&["run", "boxed"]);
    let told = format!("{}{}", ran.stdout, ran.stderr);
    assert!(
        told.contains("`convert`") && told.contains("has another workspace"),
        "{told}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_loop_runs_in_a_confined_pod() {
    if !is_here("kubernetes") {
        return;
    }
    let rig = Rig::start("kubernetes", "").await;
    let id = rig.slow().await;
    rig.begun(1).await;
    let found = rig.running();
    assert_eq!(found.len(), 1, "{found:?}");
    // What runs the tool, and what started that, is in the container of the pod.
    let tools = crate::cancel::processes_of(&id);
    assert!(!tools.is_empty());
    for pid in tools {
        let cgroup = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
        assert!(cgroup.contains(found[0].as_str()), "{pid}: {cgroup}");
    }
    let docker = TestDocker::find().unwrap();
    let look = |format: &str| {
        let args = ["inspect", "--format", format, &found[0]];
        docker.run(&args).unwrap().trim().to_owned()
    };
    let held = look(
        "{{.HostConfig.ReadonlyRootfs}} {{.HostConfig.CapDrop}} {{.HostConfig.Memory}} {{.HostConfig.NanoCpus}} \
         {{.Config.User}}",
    );
    assert_eq!(held, "true [ALL] 536870912 1000000000 65532:65532");
    let env = look("{{json .Config.Env}}");
    assert!(!env.contains("a-long-secret"), "{env}");
    let pods = rig.cluster.as_ref().unwrap().pods();
    let text = serde_json::to_string(&pods).unwrap();
    assert!(!text.contains("RUNE_REPLICA_TOKEN"), "{text}");
    rig.go();
    assert_eq!(rig.api.ended(&id).await["status"], "completed");
}

#[tokio::test(flavor = "multi_thread")]
async fn kubectl_sees_what_the_daemon_says() {
    if !is_here("kubernetes") {
        return;
    }
    let rig = Rig::start("kubernetes", "").await;
    let cluster = rig.cluster.as_ref().unwrap();
    let replica = rig.replicas().await[0]["id"].as_str().unwrap().to_owned();
    let label = format!("--selector=rune.replica={replica}");
    let name = cluster
        .kubectl(&["get", "pods", &label, "-o", "name"])
        .await;
    let name = name.trim();
    let shown = cluster.kubectl(&["get", name]).await;
    assert!(
        shown.contains("1/1") && shown.contains("Running"),
        "{shown}"
    );
    let described = cluster.kubectl(&["describe", name]).await;
    for part in [
        "rune.agent=worker",
        "Started container replica",
        "Ready             True",
    ] {
        assert!(described.contains(part), "{part}: {described}");
    }
    let log = cluster.kubectl(&["logs", name]).await;
    assert!(log.contains(&replica) && log.contains("ready"), "{log}");
    // The secret is the pod's, and goes with it.
    let secrets = cluster
        .kubectl(&["get", "secrets", &label, "-o", "name"])
        .await;
    assert_eq!(secrets.lines().count(), 1, "{secrets}");

    let id = rig.slow().await;
    rig.begun(1).await;
    cluster.kubectl(&["delete", name, "--grace-period=1"]).await;
    // Who deletes a pod is nobody to the request in it.
    rig.begun(2).await;
    rig.go();
    let row = rig.api.ended(&id).await;
    assert_eq!(row["status"], "completed", "{row}\n{}", rig.served.0.log());
    rig.until("another one took its place", async || {
        let replicas = rig.replicas().await;
        let ready = replicas.iter().filter(|it| it["state"] == "ready");
        let ready: Vec<&Value> = ready.collect();
        ready.len() == 1 && ready[0]["id"] != replica.as_str() && rig.running().len() == 1
    })
    .await;
    let left = cluster
        .kubectl(&["get", "pods,secrets", &label, "-o", "name"])
        .await;
    assert_eq!(left, "");
    rig.served.rune(&["agent", "stop", "worker"]).ok();
    rig.until("no pod is left", async || cluster.pods().is_empty())
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_that_breaks_and_a_server_that_is_away_lose_and_double_nothing() {
    if !is_here("kubernetes") {
        return;
    }
    let rig = Rig::start("kubernetes", "").await;
    let cluster = rig.cluster.as_ref().unwrap();
    let running = rig.running();
    let id = rig.slow().await;
    rig.begun(1).await;
    cluster.server.down();
    // The daemon and its replicas do not need the server to work.
    let (status, body) = rig.api.ask("worker", &json!({"input": "hello"})).await;
    assert_eq!(status, 200, "{body}");
    cluster.server.forget_the_past();
    cluster.server.up().await.unwrap();
    cluster.server.break_watches();
    rig.go();
    let row = rig.api.ended(&id).await;
    assert_eq!(row["status"], "completed", "{row}");
    assert_eq!(rig.running(), running);
    assert_eq!(lines_of(&rig.served, "worker", "started").len(), 1);
    // It is seen again what becomes of the pod.
    rig.kill(&running[0]);
    rig.until("another one took its place", async || {
        let now = rig.running();
        now.len() == 1 && now != running
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_whose_tools_cannot_be_confined_is_refused_with_the_way_out() {
    if !is_here("kubernetes") {
        return;
    }
    let cluster = Cluster::start().await;
    let builder = cluster.configure_plain(TestDaemon::builder(RUNE));
    let builder = builder.arg("--backend").arg("kubernetes");
    let served = crate::home::Served(builder.start().await.unwrap());
    // One without processes runs as it is.
    deploy_talker(&served, "1");
    let api = crate::wire::Api::of(&served.0);
    let (status, body) = api.ask("talker", &json!({"input": "hello"})).await;
    assert_eq!(
        (status, &body["output"]),
        (200, &json!("Echo: hello")),
        "{body}"
    );

    let example = crate::readme::root().join("examples/python-tool");
    let ran = served.rune(&["run", example.to_str().unwrap()]);
    let told = format!("{}{}", ran.stdout, ran.stderr);
    assert_ne!(ran.code, 0, "{told}");
    for part in [
        "word-count",
        "cannot be confined",
        "namespaces",
        "kubernetes.seccomp_profile",
    ] {
        assert!(told.contains(part), "{part}: {told}\n{}", served.0.log());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_says_where_pods_are_and_what_they_bear() {
    if !is_here("kubernetes") {
        return;
    }
    // The node has this label.
    let builder = TestDaemon::builder(RUNE)
        .env("RUNE_KUBERNETES_NODE_SELECTOR", "pool=agents")
        .env(
            "RUNE_KUBERNETES_TOLERATIONS",
            "dedicated=agents:NoSchedule, *:NoExecute",
        )
        .env(
            "RUNE_KUBERNETES_ANNOTATIONS",
            "example.org/team=desk\nexample.org/notes=a, b=c\n",
        )
        .env("RUNE_KUBERNETES_DAEMON_FROM", "10.1.2.3/24, rune-system");
    let rig = Rig::daemon("kubernetes", builder).await;
    deploy_talker(&rig.served, "1");
    let cluster = rig.cluster.as_ref().unwrap();
    let pods = cluster.pods();
    let [pod] = pods.as_slice() else {
        panic!("{pods:?}")
    };
    assert_eq!(pod["spec"]["nodeSelector"], json!({"pool": "agents"}));
    assert_eq!(pod["spec"]["nodeName"], "node");
    assert_eq!(
        pod["metadata"]["annotations"],
        json!({"example.org/team": "desk", "example.org/notes": "a, b=c"})
    );
    // Behind them are those that every pod has.
    let tolerations = pod["spec"]["tolerations"].as_array().unwrap();
    assert_eq!(
        tolerations[..2],
        [
            json!({"key": "dedicated", "operator": "Equal", "value": "agents", "effect": "NoSchedule"}),
            json!({"operator": "Exists", "effect": "NoExecute"}),
        ]
    );
    let policies = cluster.server.objects("networkpolicies", Some(NAMESPACE));
    let own = format!("rune-{}", rig.id());
    let own = policies.iter().find(|it| it["metadata"]["name"] == *own);
    let namespace = json!({"kubernetes.io/metadata.name": "rune-system"});
    assert_eq!(
        own.unwrap()["spec"]["ingress"][0]["from"],
        json!([
            {"ipBlock": {"cidr": "10.1.2.0/24"}},
            {"namespaceSelector": {"matchLabels": namespace}},
        ])
    );
}

#[tokio::test]
async fn a_setting_of_pods_that_cannot_be_read_is_named() {
    let home = crate::home::Home::new();
    for (variable, value, expected) in [
        ("RUNE_KUBERNETES_NODE_SELECTOR", "agents", "KEY=VALUE"),
        ("RUNE_KUBERNETES_TOLERATIONS", "gpu:Never", "NoSchedule"),
        ("RUNE_KUBERNETES_ANNOTATIONS", "=desk", "KEY=VALUE"),
        ("RUNE_KUBERNETES_DAEMON_FROM", "10.1.2.0/33", "10.1.2.0/24"),
    ] {
        let mut command = home.command(&["config", "show"]);
        let ran = command.env(variable, value).output().unwrap();
        let said = String::from_utf8_lossy(&ran.stderr);
        assert_eq!(ran.status.code(), Some(2), "{said}");
        assert!(said.contains(variable) && said.contains(expected), "{said}");
    }
}

#[tokio::test]
async fn a_daemon_that_pods_could_not_find_does_not_start() {
    let home = crate::home::Home::new();
    let any = [
        "--gateway-addr",
        "127.0.0.1:0",
        "--control-plane-addr",
        "127.0.0.1:0",
    ];
    let args = ["daemon", "start", "--foreground", "--backend", "kubernetes"];
    let ran = home.rune(&[&args[..], &any].concat());
    assert_eq!(ran.code, 2, "{}", ran.stderr);
    assert!(
        ran.stderr.contains("RUNE_KUBERNETES_DAEMON_URL"),
        "{}",
        ran.stderr
    );
}
