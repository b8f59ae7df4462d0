//! Replicas that are told to end before they run anything, and what is left of those that were killed.

use std::process::{Command, Stdio};

use rune_store_runtime::{DeploymentId, ReplicaId};
use rustix::process::{Pid, Signal, kill_process};

use super::{Killed, Rig, builder};
use crate::home::{RUNE, write_plain};
use crate::remote_agents::server::{Reply, Scripted};
use crate::wire::{LIMIT, POLL};

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_that_starts_ends_well_when_it_is_told_to() {
    for signal in [Signal::TERM, Signal::INT] {
        // Its daemon does not say what it is to run.
        let daemon = Scripted::start(|_, _| Reply::Hang).await;
        let data = tempfile::tempdir().unwrap();
        let mut command = Command::new(RUNE);
        command
            .arg("replica")
            .env_clear()
            .env("RUNE_REPLICA_ID", ReplicaId::generate().to_string())
            .env(
                "RUNE_REPLICA_DEPLOYMENT",
                DeploymentId::generate().to_string(),
            )
            .env("RUNE_REPLICA_CONTROL_PLANE", &daemon.base)
            .env("RUNE_REPLICA_TOKEN", "token")
            .env("RUNE_REPLICA_KEY", "key")
            .env("RUNE_REPLICA_FINGERPRINT", "fingerprint")
            .env("RUNE_REPLICA_DATA_DIR", data.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null());
        let mut replica = Killed(command.spawn().unwrap());
        let asks = async {
            while daemon.seen().is_empty() {
                tokio::time::sleep(POLL).await;
            }
        };
        tokio::time::timeout(LIMIT, asks).await.unwrap();
        kill_process(Pid::from_child(&replica.0), signal).unwrap();
        assert!(replica.ended().await.success(), "{signal:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_that_was_killed_leaves_no_temporary_directory() {
    let rig = Rig::start(builder()).await;
    write_plain(&rig.served.0.home().join("plain"));
    rig.served.rune(&["run", "plain"]).ok();
    let first = rig.process().pid;
    kill_process(first, Signal::KILL).unwrap();
    let replaced = async {
        loop {
            let mut processes = rig.processes().into_values();
            if processes.next().is_some_and(|process| process.pid != first) {
                return;
            }
            tokio::time::sleep(POLL).await;
        }
    };
    let replaced = tokio::time::timeout(LIMIT, replaced).await;
    assert!(replaced.is_ok(), "{}", rig.served.0.log());
    let left = std::fs::read_dir(rig.served.0.home().join("tmp")).unwrap();
    let left: Vec<_> = left.map(|entry| entry.unwrap().file_name()).collect();
    let of_replicas = |name: &std::ffi::OsString| name.to_string_lossy().contains("replica");
    assert!(!left.iter().any(of_replicas), "{left:?}");
}
