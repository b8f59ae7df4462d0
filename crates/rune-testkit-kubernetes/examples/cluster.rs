//! A cluster of the test kit that stays until it is interrupted, for whoever wants to look at it with `kubectl`, or to run
//! against it what runs against real clusters:
//!
//! ```sh
//! cargo run -p rune-testkit-kubernetes --example cluster -- IMAGE ADDRESS SECCOMP-DIR
//! ```
//!
//! Its pods are containers of Docker Engine; `ADDRESS` is one of this machine that they reach, such as 172.17.0.1. It
//! prints the variables that say where it is.
#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "it is a program for the terminal"
)]

use std::net::{IpAddr, TcpListener};
use std::path::PathBuf;

use rune_testkit_kubernetes::{ApiServer, Controllers, DockerPods, Kubectl, Kubelet, NodeConfig};
use serde_json::json;

#[tokio::main]
async fn main() {
    let mut args = std::env::args().skip(1);
    let image = args.next().unwrap();
    let address: IpAddr = args.next().unwrap().parse().unwrap();
    let profiles = PathBuf::from(args.next().unwrap()).canonicalize().unwrap();
    let server = ApiServer::start_at(address).await.unwrap();
    let volumes = tempfile::tempdir().unwrap();
    let node = NodeConfig {
        cpus: 64,
        volumes: Some(volumes.path().to_owned()),
        ..NodeConfig::default()
    };
    let _kubelet = Kubelet::start(&server, node, DockerPods::with_profiles(profiles));
    let _controllers = Controllers::start(&server).unwrap();
    let kubectl = Kubectl::admin(&server, "default").unwrap().unwrap();
    let claim = json!({
        "apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": "workspaces"},
        "spec": {"accessModes": ["ReadWriteMany"], "resources": {"requests": {"storage": "1Gi"}}},
    });
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(&file, claim.to_string()).unwrap();
    let apply = ["apply", "-f", file.path().to_str().unwrap()];
    let applied = kubectl.run(&apply).await.unwrap();
    assert!(applied.status.success(), "{applied:?}");
    // One that is free now.
    let bound = TcpListener::bind((address, 0)).unwrap();
    let free = bound.local_addr().unwrap();
    drop(bound);
    let kubeconfig = server.kubeconfig("default").unwrap();
    for (name, value) in [
        ("KUBECONFIG", kubeconfig.display().to_string()),
        ("RUNE_TEST_KUBERNETES_IMAGE", image),
        ("RUNE_TEST_KUBERNETES_ADDR", free.to_string()),
        ("RUNE_TEST_KUBERNETES_CLAIM", "workspaces".to_owned()),
        (
            "RUNE_TEST_KUBERNETES_SECCOMP_PROFILE",
            "replica_seccomp.json".to_owned(),
        ),
    ] {
        println!("export {name}={value}");
    }
    tokio::signal::ctrl_c().await.unwrap();
}
