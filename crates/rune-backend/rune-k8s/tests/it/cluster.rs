//! A cluster with the service account of a daemon.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Namespace, ServiceAccount};
use k8s_openapi::api::rbac::v1::{PolicyRule, Role, RoleBinding};
use kube::api::PostParams;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Api, Client, Config};
use rune_backend::{Backend, BackendError, ReplicaHealth, ReplicaSpec, Resources};
use rune_k8s::{KubernetesConfig, KubernetesReplicas, Spawn};
use rune_store_runtime::{DeploymentId, ReplicaId, VersionId};
use rune_testkit_kubernetes::{ApiServer, Kubelet, NodeConfig, ScriptedPods};
use serde_json::{Value, json};

/// How long something may take that is on its way.
pub(crate) const LIMIT: Duration = Duration::from_secs(30);
pub(crate) const POLL: Duration = Duration::from_millis(20);
pub(crate) const NAMESPACE: &str = "rune";
pub(crate) const USER: &str = "system:serviceaccount:rune:rune";

/// The role of a daemon with this backend, in the manifests that come with Rune.
const ROLE: &str = "../../../examples/kubernetes/overlays/pods/role.yaml";

/// What the account of the daemon may do.
pub(crate) fn rules() -> Vec<PolicyRule> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(ROLE);
    let text = std::fs::read_to_string(path).unwrap();
    let role: Role = serde_saphyr::from_str(&text).unwrap();
    role.rules.unwrap()
}

pub(crate) struct Cluster {
    pub(crate) server: ApiServer,
    pub(crate) pods: Arc<ScriptedPods>,
    _kubelet: Kubelet,
}

impl Cluster {
    /// A cluster whose account may do what the manifests say.
    pub(crate) async fn start(pods: Arc<ScriptedPods>) -> Self {
        Self::with_rules(pods, rules()).await
    }

    pub(crate) async fn with_rules(pods: Arc<ScriptedPods>, rules: Vec<PolicyRule>) -> Self {
        let server = ApiServer::start().await.unwrap();
        let node = NodeConfig {
            cpus: 64,
            backoff: Duration::from_millis(50),
            ..NodeConfig::default()
        };
        let kubelet = Kubelet::start(&server, node, Arc::clone(&pods) as _);
        let admin = client(&server).await;
        let params = PostParams::default();
        let namespace: Namespace = read_as(json!({"metadata": {"name": NAMESPACE}}));
        Api::all(admin.clone())
            .create(&params, &namespace)
            .await
            .unwrap();
        let account: ServiceAccount = read_as(json!({"metadata": {"name": "rune"}}));
        let accounts = Api::namespaced(admin.clone(), NAMESPACE);
        accounts.create(&params, &account).await.unwrap();
        let mut role: Role = read_as(json!({"metadata": {"name": "rune"}}));
        role.rules = Some(rules);
        let roles = Api::namespaced(admin.clone(), NAMESPACE);
        roles.create(&params, &role).await.unwrap();
        let binding: RoleBinding = read_as(json!({
            "metadata": {"name": "rune"},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "rune"},
            "subjects": [{"kind": "ServiceAccount", "name": "rune", "namespace": NAMESPACE}],
        }));
        let bindings = Api::namespaced(admin, NAMESPACE);
        bindings.create(&params, &binding).await.unwrap();
        Self {
            server,
            pods,
            _kubelet: kubelet,
        }
    }

    pub(crate) fn config(&self) -> KubernetesConfig {
        KubernetesConfig {
            settings: rune_env::KubernetesConfig {
                kubeconfig: Some(self.server.account_kubeconfig(NAMESPACE, "rune").unwrap()),
                namespace: NAMESPACE.to_owned(),
                pod: None,
                daemon_url: None,
                replica_addr: SocketAddr::from(([127, 0, 0, 1], 0)),
                daemon_from: Vec::new(),
                service_account: None,
                workspace_claim: None,
                seccomp_profile: None,
                node_selector: BTreeMap::new(),
                tolerations: Vec::new(),
                annotations: BTreeMap::new(),
                start_timeout: LIMIT,
            },
            daemon: "test".to_owned(),
            image: "rune:test".to_owned(),
        }
    }

    /// The backend of a daemon that has just started.
    pub(crate) async fn backend(&self) -> Arc<KubernetesReplicas> {
        connect(self.config()).await
    }

    /// The pods that are there and not being deleted, by name.
    pub(crate) fn pod_names(&self) -> Vec<String> {
        let pods = self.server.objects("pods", Some(NAMESPACE));
        pods.iter()
            .filter(|pod| pod["metadata"].get("deletionTimestamp").is_none())
            .map(|pod| pod["metadata"]["name"].as_str().unwrap().to_owned())
            .collect()
    }

    /// Waits until nothing of any replica is left.
    pub(crate) async fn empty(&self) {
        until("nothing is left", async || {
            let of = |plural: &str| self.server.objects(plural, Some(NAMESPACE)).len();
            of("pods") == 0 && of("secrets") == 0
        })
        .await;
    }
}

pub(crate) fn read_as<T: serde::de::DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).unwrap()
}

pub(crate) async fn connect(config: KubernetesConfig) -> Arc<KubernetesReplicas> {
    #[expect(
        clippy::disallowed_methods,
        reason = "it ends with the runtime of the test"
    )]
    let spawn: Spawn = Arc::new(|task| {
        tokio::spawn(task);
    });
    KubernetesReplicas::connect(config, &spawn).await.unwrap()
}

/// A client of the administrator.
pub(crate) async fn client(server: &ApiServer) -> Client {
    let path = server.kubeconfig("default").unwrap();
    let read = Kubeconfig::read_from(path).unwrap();
    let options = KubeConfigOptions::default();
    let config = Config::from_custom_kubeconfig(read, &options)
        .await
        .unwrap();
    Client::try_from(config).unwrap()
}

/// A replica to start.
pub(crate) fn spec() -> ReplicaSpec {
    ReplicaSpec {
        replica_id: ReplicaId::generate(),
        deployment_id: DeploymentId::generate(),
        version_id: VersionId::generate(),
        namespace: "dev".to_owned(),
        agent: "echo".to_owned(),
        digest: "sha256:0".to_owned(),
        image: None,
        env: BTreeMap::from([("GREETING".to_owned(), "hello".to_owned())]),
        networks: vec!["bridge".to_owned()],
        reaches_out: true,
        resources: Resources {
            cpus: 2,
            memory_mib: 2048,
        },
        startup: LIMIT,
        launch: BTreeMap::from([("RUNE_REPLICA_TOKEN".to_owned(), "secret-token".to_owned())]),
    }
}

pub(crate) fn name_of(spec: &ReplicaSpec) -> String {
    format!("rune-{}", spec.replica_id).replace('_', "-")
}

pub(crate) async fn started(backend: &KubernetesReplicas, spec: &ReplicaSpec) -> String {
    backend.start(spec).await.unwrap().unwrap()
}

pub(crate) async fn failed(backend: &KubernetesReplicas, spec: &ReplicaSpec) -> BackendError {
    backend.start(spec).await.unwrap_err()
}

/// Waits until the health of a replica is as it should be.
pub(crate) async fn until_health(
    backend: &KubernetesReplicas,
    id: ReplicaId,
    is: impl Fn(&ReplicaHealth) -> bool,
) {
    until("the health", async || {
        backend.health(id).await.is_ok_and(|health| is(&health))
    })
    .await;
}

pub(crate) async fn until(what: &str, is: impl AsyncFn() -> bool) {
    let reached = async {
        while !is().await {
            tokio::time::sleep(POLL).await;
        }
    };
    let reached = tokio::time::timeout(LIMIT, reached).await;
    assert!(reached.is_ok(), "{what} was not reached");
}
