//! `examples/kubernetes`, applied with `kubectl` to the cluster of the test kit: an API server on the wire, whose kubelet
//! runs the pod in a container of the image that the Dockerfile makes. No other cluster is here.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;

use rune_testkit::TestDocker;
use rune_testkit_kubernetes::{
    ApiServer, Controllers, DockerPods, Kubectl, Kubelet, NodeConfig, PodRuntime, Script,
    ScriptedPods,
};
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};

use crate::backends::cluster::{Cluster, role};
use crate::backends::containers::image;
use crate::readme::{Tour, root, shell};

const NAMESPACE: &str = "rune";
/// The overlays, in a copy of the examples: replicas in the daemon, and in pods of their own.
const SINGLE: &str = "examples/kubernetes/overlays/single";
const PODS: &str = "examples/kubernetes/overlays/pods";
/// Three daemons that are one cluster.
const CLUSTER: &str = "examples/kubernetes/overlays/cluster";

/// A cluster, and a home with the examples.
struct Rig {
    server: Arc<ApiServer>,
    kubectl: Kubectl,
    tour: Tour,
    _kubelet: Kubelet,
    _controllers: Controllers,
}

impl Rig {
    /// A cluster whose pods run so, where `kubectl` is here.
    async fn start(pods: Arc<dyn PodRuntime>) -> Option<Self> {
        Self::start_at(IpAddr::from([127, 0, 0, 1]), pods).await
    }

    /// One whose server is at this address.
    async fn start_at(address: IpAddr, pods: Arc<dyn PodRuntime>) -> Option<Self> {
        let server = Arc::new(ApiServer::start_at(address).await.unwrap());
        let kubectl = Kubectl::admin(&server, NAMESPACE).unwrap()?;
        if !knows_kustomize(&kubectl).await {
            return None;
        }
        Some(Self {
            _kubelet: Kubelet::start(&server, NodeConfig::default(), pods),
            _controllers: Controllers::start(&server).unwrap(),
            tour: Tour::new(),
            kubectl,
            server,
        })
    }

    fn path(&self, overlay: &str) -> PathBuf {
        self.tour.path().join(overlay)
    }

    /// Says in an overlay where the image is.
    fn take_image(&self, overlay: &str, image: &str) {
        let file = self.path(overlay).join("kustomization.yaml");
        let text = std::fs::read_to_string(&file).unwrap();
        let (name, tag) = image.split_once(':').unwrap();
        let text = text.replace("newName: rune", &format!("newName: {name}"));
        let text = text.replace("newTag: 0.1.0", &format!("newTag: \"{tag}\""));
        std::fs::write(&file, text).unwrap();
    }

    async fn apply(&self, overlay: &str) {
        let path = self.path(overlay);
        self.ok(&["apply", "-k", path.to_str().unwrap()]).await;
    }

    async fn ok(&self, args: &[&str]) -> String {
        let output = self.kubectl.run(args).await.unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{args:?}: {said}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// Runs a block of the page as it stands there, with this cluster's kubeconfig.
    fn run(&self, block: &str) -> String {
        let kubeconfig = self.server.kubeconfig(NAMESPACE).unwrap();
        let block = self.tour.adapt(block);
        let lines = block.lines();
        // The test kit has none; `forward` takes its place.
        let lines: Vec<&str> = lines
            .filter(|line| !line.contains("port-forward"))
            .collect();
        let script = lines.join("\n");
        self.tour.run(&format!(
            "export KUBECONFIG={}\n{script}",
            kubeconfig.display()
        ))
    }

    /// Where a pod is.
    fn address(server: &ApiServer, name: &str) -> Option<String> {
        let pods = server.objects("pods", Some(NAMESPACE));
        let pod = pods.iter().find(|pod| pod["metadata"]["name"] == name)?;
        Some(pod["status"]["podIP"].as_str()?.to_owned())
    }

    /// Runs commands with the key that the page has made.
    fn with_key(&self, commands: &str) -> String {
        let key = "export RUNE_API_KEY=\"$(sed -n 's/^RUNE_API_KEY=//p' examples/kubernetes/overlays/single/rune.env)\"";
        self.run(&format!("{key}\n{commands}"))
    }

    /// What `kubectl port-forward` does: connections to the ports of this machine are made to the pod.
    async fn forward(&self, pod: &'static str) {
        for (here, there) in self.tour.ports().into_iter().zip([8080, 8081]) {
            let listener = TcpListener::bind(("127.0.0.1", here)).await.unwrap();
            let server = Arc::clone(&self.server);
            #[expect(
                clippy::disallowed_methods,
                reason = "it ends with the runtime of the test"
            )]
            tokio::spawn(async move {
                while let Ok((mut near, _)) = listener.accept().await {
                    let Some(address) = Self::address(&server, pod) else {
                        continue;
                    };
                    tokio::spawn(async move {
                        if let Ok(mut far) = TcpStream::connect((address, there)).await {
                            // Either side may break off.
                            let _ = tokio::io::copy_bidirectional(&mut near, &mut far).await;
                        }
                    });
                }
            });
        }
    }
}

/// Whether `kubectl` is not older than 1.22, whose kustomize knows replacements.
#[expect(clippy::print_stderr, reason = "a test that is skipped says so")]
async fn knows_kustomize(kubectl: &Kubectl) -> bool {
    let output = kubectl
        .run(&["version", "--client", "-o", "json"])
        .await
        .unwrap();
    let version: Value = serde_json::from_slice(&output.stdout).unwrap();
    let minor = version["clientVersion"]["minor"].as_str().unwrap();
    let digits: String = minor.chars().take_while(char::is_ascii_digit).collect();
    let is_known = digits.parse::<u32>().unwrap() >= 22;
    if !is_known {
        eprintln!("skipped: kubectl 1.{minor} is older than the manifests need (1.22)");
    }
    is_known
}

#[tokio::test(flavor = "multi_thread")]
async fn the_service_account_may_do_what_the_backend_does_and_nothing_else() {
    let Some(rig) = Rig::start(ScriptedPods::new(Script::Serve)).await else {
        return;
    };
    std::fs::write(rig.path(SINGLE).join("rune.env"), "RUNE_API_KEY=a-key\n").unwrap();
    rig.apply(SINGLE).await;
    // Where replicas run in the daemon there is nothing to ask of the cluster.
    assert_eq!(allowed(&rig).await, BTreeSet::new());
    rig.apply(PODS).await;
    let mut expected = BTreeSet::new();
    for rule in role()["rules"].as_array().unwrap() {
        let words = |field: &str| -> Vec<String> {
            let words = rule[field].as_array().unwrap().iter();
            words
                .map(|word| word.as_str().unwrap().to_owned())
                .collect()
        };
        let [group] = words("apiGroups").try_into().unwrap();
        for name in words("resources") {
            let verbs = words("verbs").into_iter();
            expected.extend(verbs.map(|verb| (group.clone(), name.clone(), verb)));
        }
    }
    assert_eq!(allowed(&rig).await, expected);
}

/// What the service account may do in its namespace: group, resource, verb. Asserts that it may do nothing elsewhere.
async fn allowed(rig: &Rig) -> BTreeSet<(String, String, String)> {
    let config = rig.server.account_kubeconfig(NAMESPACE, "rune").unwrap();
    let config: Value = serde_json::from_slice(&std::fs::read(config).unwrap()).unwrap();
    let token = config["users"][0]["user"]["token"]
        .as_str()
        .unwrap()
        .to_owned();
    let authority = reqwest::Certificate::from_pem(rig.server.authority_pem().as_bytes()).unwrap();
    let client = reqwest::Client::builder()
        .tls_certs_only([authority])
        .build()
        .unwrap();
    let get = async |path: &str| -> Value {
        let asked = client
            .get(format!("{}{path}", rig.server.url()))
            .bearer_auth(&token);
        asked.send().await.unwrap().json().await.unwrap()
    };
    let may = async |namespace: &str, group: &str, resource: &str, verb: &str| -> bool {
        let (resource, part) = resource.split_once('/').unwrap_or((resource, ""));
        let review = json!({
            "apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectAccessReview",
            "spec": {"resourceAttributes": {
                "namespace": namespace, "group": group, "resource": resource, "subresource": part, "verb": verb,
            }},
        });
        let path = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews";
        let asked = client
            .post(format!("{}{path}", rig.server.url()))
            .bearer_auth(&token);
        let answer: Value = asked
            .json(&review)
            .send()
            .await
            .unwrap()
            .json()
            .await
            .unwrap();
        answer["status"]["allowed"].as_bool().unwrap()
    };
    let groups = get("/apis").await;
    let groups = groups["groups"].as_array().unwrap().iter();
    let named = groups.map(|group| {
        let version = group["preferredVersion"]["groupVersion"].as_str().unwrap();
        (
            group["name"].as_str().unwrap().to_owned(),
            format!("/apis/{version}"),
        )
    });
    let mut asked = 0;
    let mut allowed = BTreeSet::new();
    for (group, path) in named.chain([(String::new(), "/api/v1".to_owned())]) {
        let kinds = get(&path).await;
        for kind in kinds["resources"].as_array().unwrap() {
            let name = kind["name"].as_str().unwrap();
            for verb in [
                "get",
                "list",
                "watch",
                "create",
                "update",
                "patch",
                "delete",
                "deletecollection",
            ] {
                asked += 1;
                if may(NAMESPACE, &group, name, verb).await {
                    allowed.insert((group.clone(), name.to_owned(), verb.to_owned()));
                }
                for elsewhere in ["", "default"] {
                    let is_allowed = may(elsewhere, &group, name, verb).await;
                    assert!(!is_allowed, "{verb} {name} in `{elsewhere}`");
                }
            }
        }
    }
    assert!(asked > 200, "{asked}");
    allowed
}

#[tokio::test(flavor = "multi_thread")]
async fn the_gateway_answers_from_the_container_that_the_pod_runs_in() {
    let Some(image) = image() else { return };
    let pods = DockerPods::new();
    let label = pods.label();
    // Where the daemon in its pod reaches it.
    let address = Cluster::address().ip();
    let Some(rig) = Rig::start_at(address, pods).await else {
        return;
    };
    let docker = TestDocker::find().unwrap();
    rig.take_image(SINGLE, image);
    let page = std::fs::read_to_string(root().join("examples/kubernetes/README.md")).unwrap();
    let blocks = shell(&page);
    let [build, apply, use_it, look, change, pods, remove, ..] = blocks.as_slice() else {
        panic!("the page has {} blocks", blocks.len());
    };
    rig.run(build);
    let applied = rig.run(apply);
    assert!(
        applied.contains("statefulset.apps/rune created"),
        "{applied}"
    );
    rig.forward("rune-0").await;
    let answers = rig.run(use_it);
    assert_eq!(answers.matches("UTC").count(), 2, "{answers}");

    // Who answers is in the container of the pod.
    let container = || {
        let found = docker.containers(&label).unwrap();
        assert_eq!(found.len(), 1, "{found:?}");
        found[0].clone()
    };
    let first = container();
    let inspect = |format: &str| {
        docker
            .run(&["inspect", "--format", format, &first])
            .unwrap()
    };
    let address = Rig::address(&rig.server, "rune-0").unwrap();
    assert_eq!(
        inspect("{{.NetworkSettings.Networks.bridge.IPAddress}}").trim(),
        address
    );
    let held = inspect("{{.Config.User}} {{.HostConfig.ReadonlyRootfs}} {{.HostConfig.CapDrop}}");
    assert_eq!(held.trim(), "65532:65532 true [ALL]");
    let processes = docker.run(&["top", &first, "-o", "pid,args"]).unwrap();
    assert!(
        processes.contains("rune daemon start --foreground"),
        "{processes}"
    );
    let path = "jsonpath={.subsets[*].addresses[*].ip}";
    assert_eq!(
        rig.ok(&["get", "endpoints", "rune", "-o", path]).await,
        address
    );
    let status = |key: Option<&str>| {
        let asked = reqwest::Client::new().get(format!("http://{address}:8080/v1/agents"));
        key.into_iter()
            .fold(asked, reqwest::RequestBuilder::bearer_auth)
            .send()
    };
    assert_eq!(status(None).await.unwrap().status(), 401);
    assert_eq!(status(Some("wrong")).await.unwrap().status(), 401);

    let looked = rig.run(look);
    assert!(
        looked.contains("1/1") && looked.contains("Bound"),
        "{looked}"
    );
    let logged = looked
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok());
    assert!(logged.count() > 0, "config.toml is not read: {looked}");

    // Another secret is another pod, on the same volume.
    let changed = rig.run(change);
    assert!(
        changed.contains("statefulset.apps/rune configured"),
        "{changed}"
    );
    assert_ne!(container(), first);
    let kept = rig.with_key("rune requests ls\nrune run --agent hello 'What time is it?'");
    assert_eq!(kept.matches("completed").count(), 2, "{kept}");
    assert!(kept.contains("UTC"), "{kept}");

    rig.run(pods);
    replicas_in_pods(&rig, docker).await;

    rig.run(remove);
    assert!(docker.containers(&label).unwrap().is_empty());
    for plural in ["pods", "persistentvolumeclaims", "secrets"] {
        let left = rig.server.objects(plural, Some(NAMESPACE));
        assert!(left.is_empty(), "{plural}: {left:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn three_daemons_in_pods_are_one_cluster() {
    let Some(image) = image() else { return };
    let pods = DockerPods::new();
    let label = pods.label();
    let address = Cluster::address().ip();
    let Some(rig) = Rig::start_at(address, pods).await else {
        return;
    };
    let docker = TestDocker::find().unwrap();
    rig.take_image(CLUSTER, image);
    let page = std::fs::read_to_string(root().join("examples/kubernetes/README.md")).unwrap();
    let blocks = shell(&page);
    let [.., apply, begin] = blocks.as_slice() else {
        panic!("the page has {} blocks", blocks.len());
    };
    // There is no bucket here, and no node is lost.
    let apply: Vec<&str> = apply
        .lines()
        .filter(|line| !line.contains("s3://"))
        .collect();
    let applied = rig.run(&apply.join("\n"));
    assert!(
        applied.contains("statefulset.apps/rune created"),
        "{applied}"
    );
    for (kind, name, field, expected) in [
        (
            "statefulset",
            "rune",
            "/spec/podManagementPolicy",
            json!("Parallel"),
        ),
        ("statefulset", "rune", "/spec/ordinals/start", json!(1)),
        (
            "statefulset",
            "rune",
            "/spec/serviceName",
            json!("rune-nodes"),
        ),
        ("service", "rune-nodes", "/spec/clusterIP", json!("None")),
        (
            "service",
            "rune-nodes",
            "/spec/publishNotReadyAddresses",
            json!(true),
        ),
        (
            "networkpolicy",
            "rune-nodes",
            "/spec/ingress/0/ports/0/port",
            json!("raft"),
        ),
        (
            "poddisruptionbudget",
            "rune",
            "/spec/maxUnavailable",
            json!(1),
        ),
    ] {
        let said = rig
            .ok(&["-n", NAMESPACE, "get", kind, name, "-o", "json"])
            .await;
        let object: Value = serde_json::from_str(&said).unwrap();
        assert_eq!(
            object.pointer(field),
            Some(&expected),
            "{kind} {name}: {said}"
        );
    }
    rig.forward("rune-1").await;
    let printed = rig.run(begin);
    assert!(
        printed.contains("quorum   yes") && printed.contains("UTC"),
        "{printed}"
    );
    assert!(printed.contains("rune-3.rune-nodes:9000"), "{printed}");
    assert_eq!(docker.containers(&label).unwrap().len(), 3);

    // The service leads to all three, and each of them answers.
    let path = "jsonpath={.subsets[*].addresses[*].ip}";
    let behind = rig
        .ok(&["-n", NAMESPACE, "get", "endpoints", "rune", "-o", path])
        .await;
    let behind: Vec<&str> = behind.split_whitespace().collect();
    assert_eq!(behind.len(), 3, "{behind:?}");
    let env = std::fs::read_to_string(rig.path(CLUSTER).join("rune.env")).unwrap();
    let key = env
        .lines()
        .find_map(|line| line.strip_prefix("RUNE_API_KEY="));
    for address in behind {
        let url = format!("http://{address}:8080/v1/agents/hello/invoke");
        let asked = reqwest::Client::new().post(url).bearer_auth(key.unwrap());
        let answer = asked
            .json(&json!({"input": "What time is it?"}))
            .send()
            .await;
        let answer = answer.unwrap();
        assert_eq!(answer.status(), 200, "{address}");
        assert!(answer.text().await.unwrap().contains("UTC"), "{address}");
    }
}

/// The daemon runs its replicas in pods of their own, and the gateway answers from them.
async fn replicas_in_pods(rig: &Rig, docker: TestDocker) {
    let answer = rig.with_key("rune run --agent hello 'What time is it?' -o json");
    let row: Value = serde_json::from_str(&answer).unwrap();
    assert!(row["output"].to_string().contains("UTC"), "{answer}");
    let id = row["request_id"].as_str().unwrap();
    let shown = rig.with_key(&format!("rune requests show {id} -o json"));
    let request: Value = serde_json::from_str(&shown).unwrap();
    let replica = request["replica_id"].as_str().unwrap();
    let label = format!("--selector=rune.replica={replica}");
    let said = rig
        .ok(&["-n", NAMESPACE, "get", "pods", &label, "-o", "json"])
        .await;
    let list: Value = serde_json::from_str(&said).unwrap();
    let pods = list["items"].as_array().unwrap();
    assert_eq!(pods.len(), 1, "{said}");
    let pod = &pods[0];
    assert_eq!(pod["metadata"]["labels"]["rune.agent"], "hello");
    assert_eq!(
        pod["status"]["containerStatuses"][0]["ready"], true,
        "{pod}"
    );
    // It goes with the daemon, and may ask nothing of the cluster itself.
    let owner = &pod["metadata"]["ownerReferences"][0];
    assert_eq!(
        (&owner["kind"], &owner["name"]),
        (&json!("StatefulSet"), &json!("rune"))
    );
    assert_eq!(pod["spec"]["automountServiceAccountToken"], false);
    let name = pod["metadata"]["name"].as_str().unwrap();
    let filter = format!("label=pod={name}");
    let found = docker.run(&["ps", "--quiet", "--filter", &filter]).unwrap();
    let container = found.trim();
    let processes = docker.run(&["top", container, "-o", "pid,args"]).unwrap();
    assert!(processes.contains("rune replica"), "{processes}");
    let format = ["inspect", "--format", "{{json .Mounts}}", container];
    let mounts = docker.run(&format).unwrap();
    assert!(!mounts.contains("serviceaccount"), "{mounts}");
    // All that the daemon has asked for was allowed.
    let accesses = rig.server.accesses("system:serviceaccount:rune:rune");
    let is_allowed = accesses.iter().all(|access| access.is_allowed);
    assert!(!accesses.is_empty() && is_allowed, "{accesses:?}");
}
