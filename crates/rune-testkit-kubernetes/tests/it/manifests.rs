//! `examples/kubernetes`: every object is taken by the server, and read back as its type.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{
    ConfigMap, Container, EnvVar, Namespace, PodSpec, Probe, Secret, Service, ServiceAccount,
};
use k8s_openapi::api::networking::v1::{NetworkPolicy, NetworkPolicyIngressRule};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::api::rbac::v1::{Role, RoleBinding};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use rune_testkit_kubernetes::{Controllers, Kubelet, NodeConfig, Script, ScriptedPods};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::client::{Judged, path};

/// A copy of the manifests, so that the key of the test is not in the source tree.
fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap().map(Result::unwrap) {
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}

/// Whether `kubectl` is not older than 1.22, whose kustomize knows replacements.
async fn knows_kustomize(judged: &Judged) -> bool {
    let said = judged.ok(&["version", "--client", "-o", "json"]).await;
    let version: Value = serde_json::from_str(&said).unwrap();
    let minor = version["clientVersion"]["minor"].as_str().unwrap();
    let digits: String = minor.chars().take_while(char::is_ascii_digit).collect();
    digits.parse::<u32>().unwrap() >= 22
}

/// An object as its type has it, which is all of it.
fn typed<T: Serialize + DeserializeOwned>(object: &Value) -> T {
    let read: T = serde_json::from_value(object.clone()).unwrap();
    assert_eq!(&serde_json::to_value(&read).unwrap(), object);
    read
}

/// A cluster and a copy of the manifests; nothing where they cannot be applied.
#[expect(clippy::print_stderr, reason = "a test that is skipped says so")]
async fn start() -> Option<(Judged, tempfile::TempDir)> {
    let judged = Judged::start().await?;
    if !knows_kustomize(&judged).await {
        eprintln!("skipped: kubectl is older than the manifests need (1.22)");
        return None;
    }
    let dir = tempfile::tempdir().unwrap();
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/kubernetes");
    copy(&source, dir.path());
    Some((judged, dir))
}

/// Applies an overlay with this `rune.env`, twice, and answers its objects, each read back as its type.
async fn applied(judged: &Judged, overlay: &str, env: &str) -> Vec<Value> {
    let applied = judged.ok(&["apply", "-k", overlay]).await;
    let rolled_out = [
        "rollout",
        "status",
        "sts/rune",
        "-n",
        "rune",
        "--timeout=60s",
    ];
    judged.ok(&rolled_out).await;
    let said = judged.ok(&["get", "-k", overlay, "-o", "json"]).await;
    let mut list: Value = serde_json::from_str(&said).unwrap();
    let items: Vec<Value> = serde_json::from_value(list["items"].take()).unwrap();
    assert_eq!(items.len(), applied.lines().count(), "{applied}");
    for item in &items {
        let kind = item["kind"].as_str().unwrap();
        if kind != "Namespace" {
            assert_eq!(item["metadata"]["namespace"], "rune", "{item}");
        }
        match kind {
            "Namespace" => {
                let labels = typed::<Namespace>(item).metadata.labels.unwrap();
                assert_eq!(labels["pod-security.kubernetes.io/enforce"], "restricted");
            }
            "ServiceAccount" => {
                let account = typed::<ServiceAccount>(item);
                assert_eq!(account.metadata.name.unwrap(), "rune");
                assert_eq!(account.automount_service_account_token, Some(false));
            }
            "Role" => assert_eq!(typed::<Role>(item).rules.unwrap().len(), 4),
            "RoleBinding" => {
                let subjects = typed::<RoleBinding>(item).subjects.unwrap();
                assert_eq!(subjects[0].namespace.as_deref(), Some("rune"));
            }
            "ConfigMap" => {
                let data = typed::<ConfigMap>(item).data.unwrap();
                assert!(data["config.toml"].contains("drain_grace_secs"), "{data:?}");
            }
            "Secret" => {
                let data = typed::<Secret>(item).data.unwrap();
                let data = data.into_iter().map(|(name, value)| (name, value.0));
                let lines = env.lines().map(|line| line.split_once('=').unwrap());
                let lines = lines.map(|(name, value)| (name.to_owned(), value.into()));
                assert!(data.eq(lines.collect::<BTreeMap<String, Vec<u8>>>()));
            }
            "Service" => drop(typed::<Service>(item)),
            "StatefulSet" => stateful_set(typed(item)),
            "NetworkPolicy" => drop(typed::<NetworkPolicy>(item)),
            "PodDisruptionBudget" => drop(typed::<PodDisruptionBudget>(item)),
            other => panic!("a kind that is not read back: {other}"),
        }
    }
    // The same again changes nothing.
    let again = judged.ok(&["apply", "-k", overlay]).await;
    let changed = again.lines().filter(|line| !line.ends_with("unchanged"));
    // To kubectl a list of claims is one value, and so is the selector of a disruption budget: it always sends them.
    let sent = ["statefulset.", "poddisruptionbudget."];
    let mut other = changed.filter(|line| !sent.iter().any(|kind| line.starts_with(kind)));
    assert!(other.next().is_none(), "{again}");
    items
}

fn kinds(items: &[Value]) -> BTreeSet<&str> {
    let kinds = items.iter().map(|item| item["kind"].as_str().unwrap());
    kinds.collect()
}

fn find<T: DeserializeOwned>(items: &[Value], kind: &str, name: &str) -> T {
    let is = |item: &&Value| item["kind"] == kind && item["metadata"]["name"] == name;
    let found = items.iter().find(is).unwrap();
    serde_json::from_value(found.clone()).unwrap()
}

#[tokio::test]
async fn every_manifest_is_applied_and_read_back_as_its_type() {
    let Some((judged, dir)) = start().await else {
        return;
    };
    let node = NodeConfig::default();
    let _kubelet = Kubelet::start(&judged.server, node, ScriptedPods::new(Script::Serve));
    let _controllers = Controllers::start(&judged.server).unwrap();
    let single = dir.path().join("overlays/single");
    // Without a key there is nothing to apply.
    let said = judged.fails(&["apply", "-k", path(&single)]).await;
    assert!(said.contains("rune.env"), "{said}");
    assert!(judged.server.objects("statefulsets", None).is_empty());

    let env = "RUNE_API_KEY=a-key\n";
    std::fs::write(single.join("rune.env"), env).unwrap();
    let items = applied(&judged, path(&single), env).await;
    assert_eq!(kinds(&items).len(), 7, "{:?}", kinds(&items));
    assert_eq!(
        port(&find(&items, "Service", "rune")),
        (8080, "gateway".to_owned())
    );
    let policy = find::<NetworkPolicy>(&items, "NetworkPolicy", "rune")
        .spec
        .unwrap();
    assert_eq!(policy.policy_types.unwrap(), ["Ingress"]);
    let [rule] = policy.ingress.unwrap().try_into().unwrap();
    assert_eq!(rule.from, None);
    assert_eq!(ports(&rule), ["gateway"]);
    let (replicas, pod) = set_of(&items);
    assert_eq!(replicas, Some(1));
    assert_eq!(pod.automount_service_account_token, Some(false));
    let set = &judged.server.objects("statefulsets", Some("rune"))[0];
    assert_eq!(set["metadata"]["generation"], 1, "{set}");

    // The same daemon with replicas in pods: it may ask the cluster, and they reach it.
    let overlay = dir.path().join("overlays/pods");
    let items = applied(&judged, path(&overlay), env).await;
    assert_eq!(kinds(&items).len(), 9, "{:?}", kinds(&items));
    let service: Service = find(&items, "Service", "rune-replicas");
    assert_eq!(port(&service), (8082, "replicas".to_owned()));
    let policy = find::<NetworkPolicy>(&items, "NetworkPolicy", "rune-replicas");
    let [rule] = policy.spec.unwrap().ingress.unwrap().try_into().unwrap();
    assert_eq!(ports(&rule), ["replicas"]);
    let from = rule.from.unwrap().remove(0).pod_selector.unwrap();
    let is = from.match_expressions.unwrap().remove(0);
    assert_eq!(
        (is.key.as_str(), is.operator.as_str()),
        ("rune.daemon", "Exists")
    );
    let (_, pod) = set_of(&items);
    assert_eq!(pod.automount_service_account_token, Some(true));
    let container = &pod.containers[0];
    let args = container.args.clone().unwrap();
    assert_eq!(args.last().unwrap(), "--backend=kubernetes");
    let variable = |name: &str| variable(container, name);
    let url = variable("RUNE_KUBERNETES_DAEMON_URL").value.unwrap();
    assert_eq!(url, "http://rune-replicas:8082");
    let image = variable("RUNE_REPLICA_IMAGE").value;
    assert_eq!(
        (&image, image.as_deref()),
        (&container.image, Some("rune:0.1.0"))
    );
}

#[tokio::test]
async fn the_manifests_of_a_cluster_are_applied_and_read_back_as_their_types() {
    let Some((judged, dir)) = start().await else {
        return;
    };
    let node = NodeConfig::default();
    let _kubelet = Kubelet::start(&judged.server, node, ScriptedPods::new(Script::Serve));
    let _controllers = Controllers::start(&judged.server).unwrap();
    let overlay = dir.path().join("overlays/cluster");
    let env = "RUNE_API_KEY=a-key\nRUNE_CLUSTER_SECRET=a-secret\n";
    std::fs::write(overlay.join("rune.env"), env).unwrap();
    let items = applied(&judged, path(&overlay), env).await;
    assert_eq!(kinds(&items).len(), 8, "{:?}", kinds(&items));

    let (replicas, pod) = set_of(&items);
    assert_eq!(replicas, Some(3));
    let set: StatefulSet = find(&items, "StatefulSet", "rune");
    let spec = set.spec.unwrap();
    assert_eq!(spec.ordinals.unwrap().start, Some(1));
    assert_eq!(spec.pod_management_policy.as_deref(), Some("Parallel"));
    let container = &pod.containers[0];
    let node = variable(container, "RUNE_NODE").value_from.unwrap();
    assert_eq!(
        node.field_ref.unwrap().field_path,
        "metadata.labels['apps.kubernetes.io/pod-index']"
    );
    // Each node knows the others by the names that the service gives to their pods.
    let service: Service = find(&items, "Service", "rune-nodes");
    assert_eq!(port(&service), (9000, "raft".to_owned()));
    let of_service = service.spec.unwrap();
    assert_eq!(of_service.cluster_ip.as_deref(), Some("None"));
    assert_eq!(of_service.publish_not_ready_addresses, Some(true));
    assert_eq!(spec.service_name.as_deref(), Some("rune-nodes"));
    let pods = judged.server.objects("pods", Some("rune"));
    let names = pods
        .iter()
        .map(|pod| pod["metadata"]["name"].as_str().unwrap());
    let peers = names.enumerate();
    let peers = peers.map(|(at, name)| format!("{}@{name}.rune-nodes:9000", at + 1));
    let peers = format!("--peers={}", peers.collect::<Vec<_>>().join(","));
    let args = container.args.clone().unwrap();
    assert!(args.contains(&peers), "{peers}: {args:?}");
    assert!(
        args.contains(&"--node-id=$(RUNE_NODE)".to_owned()),
        "{args:?}"
    );

    let labels = spec.template.metadata.unwrap().labels;
    let policy: NetworkPolicy = find(&items, "NetworkPolicy", "rune-nodes");
    let [rule] = policy.spec.unwrap().ingress.unwrap().try_into().unwrap();
    assert_eq!(ports(&rule), ["raft"]);
    let from = rule.from.unwrap().remove(0).pod_selector.unwrap();
    assert_eq!(from.match_labels, labels);
    let budget: PodDisruptionBudget = find(&items, "PodDisruptionBudget", "rune");
    let budget = budget.spec.unwrap();
    assert_eq!(budget.max_unavailable, Some(IntOrString::Int(1)));
    assert_eq!(budget.selector.unwrap().match_labels, labels);
}

fn variable(container: &Container, name: &str) -> EnvVar {
    let mut env = container.env.iter().flatten();
    env.find(|is| is.name == name).unwrap().clone()
}

fn port(service: &Service) -> (i32, String) {
    let spec = service.spec.clone().unwrap();
    assert_eq!(spec.type_.as_deref(), Some("ClusterIP"));
    let [port] = spec.ports.unwrap().try_into().unwrap();
    match port.target_port {
        Some(IntOrString::String(name)) => (port.port, name),
        other => panic!("{other:?}"),
    }
}

fn ports(rule: &NetworkPolicyIngressRule) -> Vec<String> {
    let ports = rule.ports.iter().flatten();
    let names = ports.map(|port| match &port.port {
        Some(IntOrString::String(name)) => name.clone(),
        other => panic!("{other:?}"),
    });
    names.collect()
}

/// How many daemons there are to be, and the pod of each.
fn set_of(items: &[Value]) -> (Option<i32>, PodSpec) {
    let set: StatefulSet = find(items, "StatefulSet", "rune");
    let spec = set.spec.unwrap();
    (spec.replicas, spec.template.spec.unwrap())
}

/// The pod asks for nothing that the standard `restricted` forbids, and says how it is.
fn stateful_set(set: StatefulSet) {
    let spec = set.spec.unwrap();
    let claim = spec.volume_claim_templates.unwrap().remove(0);
    assert_eq!(claim.spec.unwrap().access_modes.unwrap(), ["ReadWriteOnce"]);
    let pod = spec.template.spec.unwrap();
    assert_eq!(pod.enable_service_links, Some(false));
    let security = pod.security_context.unwrap();
    assert_eq!(security.run_as_non_root, Some(true));
    assert_eq!(
        (security.run_as_user, security.fs_group),
        (Some(65_532), Some(65_532))
    );
    assert_eq!(security.seccomp_profile.unwrap().type_, "RuntimeDefault");
    assert_eq!(pod.containers.len(), 1);
    let container = &pod.containers[0];
    let security = container.security_context.clone().unwrap();
    assert_eq!(security.read_only_root_filesystem, Some(true));
    assert_eq!(security.allow_privilege_escalation, Some(false));
    assert_eq!(security.capabilities.unwrap().drop.unwrap(), ["ALL"]);
    let path = |probe: &Option<Probe>| {
        let get = probe.clone().unwrap().http_get.unwrap();
        get.path.unwrap()
    };
    assert_eq!(path(&container.startup_probe), "/health");
    assert_eq!(path(&container.readiness_probe), "/ready");
    assert_eq!(path(&container.liveness_probe), "/health");
    let resources = container.resources.clone().unwrap();
    assert!(resources.limits.unwrap().contains_key("memory"));
    assert!(resources.requests.unwrap().contains_key("cpu"));
    // Its environment is the secret's, whose name follows from what is in it.
    let from = container.env_from.clone().unwrap();
    let secret = from[0].secret_ref.clone().unwrap().name;
    assert!(secret.starts_with("rune-"), "{secret}");
}
