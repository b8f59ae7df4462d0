//! A real cluster, where `KUBECONFIG` names one, ready for a daemon outside of it.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rune_testkit::TestDaemonBuilder;
use rune_testkit_kubernetes::Kubectl;
use rustix::fs::{FlockOperation, flock};
use serde_json::{Value, json};
use tempfile::NamedTempFile;

use super::outside::Orphan;

/// What is said where there is none.
pub(super) const SKIPPED: &str = "skipped: no cluster; KUBECONFIG names one, RUNE_TEST_KUBERNETES_IMAGE an image that it can \
    run, RUNE_TEST_KUBERNETES_ADDR an IP:PORT of this machine that its pods reach, and RUNE_TEST_KUBERNETES_NAMESPACE a \
    namespace (default). The suite of backends also needs RUNE_TEST_KUBERNETES_CLAIM, a claim for workspaces, and \
    RUNE_TEST_KUBERNETES_SECCOMP_PROFILE, the profile of replicas on the nodes";
/// Held while a test has the cluster: all of them listen at one address, and use one claim.
const LOCK: &str = "rune-test-real-cluster.lock";
/// Hands out the files of a workspace.
const FILES: &str = r#"
import http.server, os
class Files(http.server.BaseHTTPRequestHandler):
    def answer(self, data=b""):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(data)
    def do_GET(self):
        path = "/files" + self.path
        self.answer(open(path, "rb").read() if os.path.exists(path) else b"")
    def do_PUT(self):
        open("/files" + self.path, "wb").close()
        self.answer()
    def do_DELETE(self):
        for name in os.listdir("/files"):
            os.remove("/files/" + name)
        self.answer()
    def log_message(self, *_):
        pass
http.server.HTTPServer(("", 8000), Files).serve_forever()
"#;
const FILES_PORT: u16 = 8000;

/// Where a daemon is tried.
pub(super) struct Place {
    pub(super) kubeconfig: PathBuf,
    pub(super) namespace: String,
    pub(super) image: String,
    /// An address of this machine that pods reach.
    pub(super) addr: SocketAddr,
}

impl Place {
    /// The real cluster, where there is one.
    pub(super) fn real() -> Option<Self> {
        Some(Self {
            kubeconfig: variable("KUBECONFIG")?.into(),
            namespace: variable("RUNE_TEST_KUBERNETES_NAMESPACE")
                .unwrap_or_else(|| "default".to_owned()),
            image: needed("RUNE_TEST_KUBERNETES_IMAGE"),
            addr: needed("RUNE_TEST_KUBERNETES_ADDR").parse().unwrap(),
        })
    }

    /// What a daemon has to know that runs its replicas here.
    pub(super) fn configure(&self, builder: TestDaemonBuilder) -> TestDaemonBuilder {
        let url = format!("http://{}", self.addr);
        builder
            .arg("--k8s-namespace")
            .arg(&self.namespace)
            .env("RUNE_KUBECONFIG", &self.kubeconfig)
            .env("RUNE_KUBERNETES_REPLICA_ADDR", self.addr.to_string())
            .env("RUNE_KUBERNETES_DAEMON_URL", url)
            .env("RUNE_REPLICA_IMAGE", &self.image)
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "which cluster there is, is of the machine that runs the tests"
)]
fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

fn needed(name: &str) -> String {
    let value = variable(name);
    value
        .ok_or_else(|| format!("KUBECONFIG needs {name}, too"))
        .unwrap()
}

/// Waits until no other test has the cluster.
pub(super) fn alone() -> File {
    let lock = File::create(std::env::temp_dir().join(LOCK)).unwrap();
    flock(&lock, FlockOperation::LockExclusive).unwrap();
    lock
}

/// The cluster, with a pod that shows the workspace of the agent `worker`.
pub(super) struct RealCluster {
    place: Place,
    kubectl: Arc<Kubectl>,
    claim: String,
    files: SocketAddr,
    /// Its name.
    pod: String,
    _alone: File,
}

impl RealCluster {
    /// The cluster of this machine, which there is.
    pub(super) fn start() -> Self {
        let alone = alone();
        let place = Place::real().unwrap();
        let kubectl = Kubectl::find(place.kubeconfig.clone()).unwrap().unwrap();
        let mut cluster = Self {
            claim: needed("RUNE_TEST_KUBERNETES_CLAIM"),
            pod: format!("rune-test-files-{}", std::process::id()),
            files: SocketAddr::from(([0, 0, 0, 0], FILES_PORT)),
            place,
            kubectl: Arc::new(kubectl),
            _alone: alone,
        };
        let pod = json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": {"name": cluster.pod},
            "spec": {
                "terminationGracePeriodSeconds": 0, "restartPolicy": "Never",
                "securityContext": {"runAsUser": 65532, "runAsGroup": 65532, "fsGroup": 65532},
                "containers": [{
                    "name": "files", "image": cluster.place.image, "command": ["python3", "-c", FILES],
                    "readinessProbe": {"tcpSocket": {"port": FILES_PORT}, "periodSeconds": 1},
                    "volumeMounts": [{"name": "workspaces", "mountPath": "/files", "subPath": "dev/worker"}],
                }],
                "volumes": [{"name": "workspaces", "persistentVolumeClaim": {"claimName": cluster.claim}}],
            },
        });
        cluster.apply(&pod);
        let pod = format!("pod/{}", cluster.pod);
        cluster.kubectl(&["wait", "--for=condition=Ready", &pod, "--timeout=120s"]);
        let address = cluster.kubectl(&["get", &pod, "-o", "jsonpath={.status.podIP}"]);
        cluster.files.set_ip(address.trim().parse().unwrap());
        // What a test before has left.
        cluster.ask("DELETE", "/");
        cluster
    }

    pub(super) fn configure(&self, builder: TestDaemonBuilder) -> TestDaemonBuilder {
        let profile = needed("RUNE_TEST_KUBERNETES_SECCOMP_PROFILE");
        let builder = self.place.configure(builder);
        builder
            .env("RUNE_KUBERNETES_WORKSPACE_CLAIM", &self.claim)
            .env("RUNE_KUBERNETES_SECCOMP_PROFILE", profile)
    }

    fn kubectl(&self, args: &[&str]) -> String {
        run(&self.kubectl, &self.place.namespace, args)
    }

    fn apply(&self, object: &Value) {
        let file = NamedTempFile::new().unwrap();
        std::fs::write(&file, object.to_string()).unwrap();
        let path: &Path = file.path();
        self.kubectl(&["apply", "-f", path.to_str().unwrap()]);
    }

    /// Makes a pod that is of no deployment.
    pub(super) fn plant(&self, mut pod: Value, name: String) -> Orphan {
        pod["spec"]["containers"][0]["image"] = json!(self.place.image);
        self.apply(&pod);
        let (kubectl, namespace) = (Arc::clone(&self.kubectl), self.place.namespace.clone());
        let look = move |end: bool| {
            let command: &[&str] = match end {
                true => &["delete", "--force", "--grace-period=0"],
                false => &["get"],
            };
            let of = ["pod", &name, "--ignore-not-found", "-o", "name"];
            !run(&kubectl, &namespace, &[command, &of].concat()).is_empty()
        };
        Orphan {
            look: Box::new(look),
        }
    }

    fn ask(&self, method: &str, path: &str) -> String {
        let mut stream = TcpStream::connect(self.files).unwrap();
        write!(stream, "{method} {path} HTTP/1.0\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        assert!(head.contains(" 200 "), "{method} {path}: {head}");
        body.to_owned()
    }

    /// The lines of a file of the workspace.
    pub(super) fn lines(&self, file: &str) -> Vec<String> {
        let text = self.ask("GET", &format!("/{file}"));
        text.lines().map(str::to_owned).collect()
    }

    /// Makes an empty file in the workspace.
    pub(super) fn make(&self, file: &str) {
        self.ask("PUT", &format!("/{file}"));
    }

    /// The pods of the agent of a daemon, without those that end.
    pub(super) fn running(&self, daemon: &str) -> Vec<String> {
        let label = format!("--selector=rune.daemon={daemon},rune.agent=worker");
        let format = "-o=jsonpath={range .items[*]}{.metadata.name} {.metadata.deletionTimestamp}{\"\\n\"}{end}";
        let listed = self.kubectl(&["get", "pods", &label, format]);
        let pods = listed.lines().map(|line| line.split_once(' ').unwrap());
        let live = pods.filter(|(_, deleted)| deleted.is_empty());
        live.map(|(name, _)| name.to_owned()).collect()
    }

    /// The command line of the pod of a replica.
    pub(super) fn command(&self, replica: &str) -> String {
        let pod = format!("rune-{replica}").replace('_', "-");
        let format = "-o=jsonpath={.spec.containers[0].command[*]}";
        self.kubectl(&["get", "pod", &pod, format])
    }

    /// Ends a pod at once.
    pub(super) fn kill(&self, pod: &str) {
        self.kubectl(&[
            "delete",
            "pod",
            pod,
            "--force",
            "--grace-period=0",
            "--wait=false",
        ]);
    }

    /// Removes what a daemon that was killed has left.
    pub(super) fn clear(&self, daemon: &str) {
        let label = format!("--selector=rune.daemon={daemon}");
        self.kubectl(&[
            "delete",
            "pods,networkpolicies",
            &label,
            "--force",
            "--grace-period=0",
            "--wait=false",
        ]);
    }
}

/// Runs `kubectl`, which succeeds; answers what it printed.
fn run(kubectl: &Kubectl, namespace: &str, args: &[&str]) -> String {
    let args = [&["--namespace", namespace], args].concat();
    let ran = kubectl.start(&args).unwrap().wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&ran.stderr);
    assert!(ran.status.success(), "{args:?}: {said}");
    String::from_utf8(ran.stdout).unwrap()
}

impl Drop for RealCluster {
    fn drop(&mut self) {
        let args = [
            "--namespace",
            &self.place.namespace,
            "delete",
            "pod",
            &self.pod,
        ];
        let args = [&args[..], &["--force", "--grace-period=0", "--wait=false"]].concat();
        // Nobody is left to tell.
        let _ = self
            .kubectl
            .start(&args)
            .and_then(std::process::Child::wait_with_output);
    }
}
