//! A Kubernetes cluster of the test kit, whose pods are containers of the real engine, ready for a daemon.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rune_testkit::{TestDaemonBuilder, TestDocker};
use rune_testkit_kubernetes::{ApiServer, DockerPods, Kubectl, Kubelet, NodeConfig};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::containers;
use crate::readme::root;

/// The namespace of the daemon's account and of its pods.
pub(super) const NAMESPACE: &str = "agents";
const ACCOUNT: &str = "rune";
/// The claim with the workspaces.
const CLAIM: &str = "workspaces";
/// The seccomp profile of the node.
const PROFILE: &str = "rune/replica.json";

/// The role of the daemon's account, as the manifests have it.
pub(crate) fn role() -> Value {
    let path = root().join("examples/kubernetes/overlays/pods/role.yaml");
    serde_saphyr::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

/// A cluster with a node, and what an operator has made in it for the daemon.
pub(crate) struct Cluster {
    pub(super) server: Arc<ApiServer>,
    pub(super) kubectl: Kubectl,
    kubeconfig: PathBuf,
    /// The volumes and the profiles of the node.
    dir: TempDir,
    _kubelet: Kubelet,
}

impl Cluster {
    /// Whether `kubectl` is here; says where it is not.
    pub(super) fn is_here() -> bool {
        Kubectl::find(PathBuf::new()).unwrap().is_some()
    }

    pub(super) async fn start() -> Self {
        let server = Arc::new(ApiServer::start().await.unwrap());
        let dir = TempDir::with_prefix("rune-test-node-").unwrap();
        std::fs::set_permissions(dir.path(), PermissionsExt::from_mode(0o755)).unwrap();
        let profiles = dir.path().join("seccomp");
        let profile = profiles.join(PROFILE);
        std::fs::create_dir_all(profile.parent().unwrap()).unwrap();
        let own = root().join("crates/rune-backend/rune-docker/src/replica_seccomp.json");
        std::fs::copy(own, profile).unwrap();
        let node = NodeConfig {
            labels: vec![("pool".to_owned(), "agents".to_owned())],
            cpus: 64,
            backoff: Duration::from_millis(100),
            volumes: Some(dir.path().to_owned()),
            ..NodeConfig::default()
        };
        let kubelet = Kubelet::start(&server, node, DockerPods::with_profiles(profiles));
        let kubectl = Kubectl::admin(&server, NAMESPACE).unwrap().unwrap();
        let cluster = Self {
            kubeconfig: server.account_kubeconfig(NAMESPACE, ACCOUNT).unwrap(),
            server,
            kubectl,
            dir,
            _kubelet: kubelet,
        };
        cluster.make_account().await;
        cluster
    }

    /// The namespace with the daemon's account, its rights, and the volume of the workspaces.
    async fn make_account(&self) {
        let named = |name: &str| json!({"name": name, "namespace": NAMESPACE});
        let mut role = role();
        role["metadata"] = named(ACCOUNT);
        for object in [
            json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}}),
            json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": named(ACCOUNT)}),
            role,
            json!({
                "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding", "metadata": named(ACCOUNT),
                "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": ACCOUNT},
                "subjects": [{"kind": "ServiceAccount", "name": ACCOUNT, "namespace": NAMESPACE}],
            }),
            json!({
                "apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": named(CLAIM),
                "spec": {"accessModes": ["ReadWriteMany"], "resources": {"requests": {"storage": "1Gi"}}},
            }),
        ] {
            self.apply(&object).await;
        }
    }

    /// What a daemon outside the cluster has to know, with a place where pods reach it.
    pub(super) fn configure(&self, builder: TestDaemonBuilder) -> TestDaemonBuilder {
        self.configure_plain(builder)
            .env("RUNE_KUBERNETES_SECCOMP_PROFILE", PROFILE)
    }

    /// The same on a node without a profile.
    pub(super) fn configure_plain(&self, builder: TestDaemonBuilder) -> TestDaemonBuilder {
        let addr = Self::address();
        builder
            .arg("--k8s-namespace")
            .arg(NAMESPACE)
            .env("RUNE_KUBECONFIG", &self.kubeconfig)
            .env("RUNE_KUBERNETES_REPLICA_ADDR", addr.to_string())
            .env("RUNE_KUBERNETES_DAEMON_URL", format!("http://{addr}"))
            .env("RUNE_KUBERNETES_WORKSPACE_CLAIM", CLAIM)
            .env("RUNE_REPLICA_IMAGE", containers::image().unwrap())
    }

    /// An address of this machine that pods reach, and that is free.
    pub(crate) fn address() -> SocketAddr {
        let docker = TestDocker::find().unwrap();
        let format = "{{(index .IPAM.Config 0).Subnet}}";
        let subnet = docker.run(&["network", "inspect", "--format", format, "bridge"]);
        let subnet = subnet.unwrap();
        let (net, _) = subnet.trim().split_once('/').unwrap();
        // This machine is the first in the network of the engine.
        let host = Ipv4Addr::from_bits(net.parse::<Ipv4Addr>().unwrap().to_bits() + 1);
        let free = TcpListener::bind((host, 0)).unwrap();
        free.local_addr().unwrap()
    }

    /// Where the volume of the workspaces is on this machine.
    pub(super) fn workspaces(&self) -> PathBuf {
        self.dir.path().join(NAMESPACE).join(CLAIM)
    }

    /// Runs `kubectl`, which succeeds; answers what it printed.
    pub(super) async fn kubectl(&self, args: &[&str]) -> String {
        let output = self.kubectl.run(args).await.unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{args:?}: {said}");
        String::from_utf8(output.stdout).unwrap()
    }

    pub(super) async fn apply(&self, object: &Value) {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(&file, object.to_string()).unwrap();
        let path: &Path = file.path();
        self.kubectl(&["apply", "-f", path.to_str().unwrap()]).await;
    }

    /// The pods that are there.
    pub(super) fn pods(&self) -> Vec<Value> {
        self.server.objects("pods", Some(NAMESPACE))
    }
}
