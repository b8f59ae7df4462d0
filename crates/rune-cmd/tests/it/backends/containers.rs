//! Replicas in containers, on the real engine, from the image that the Dockerfile of this repository makes.

use std::fs::File;
use std::path::Path;
use std::process::Command;

use rune_testkit::TestDocker;
use rustix::fs::{FlockOperation, flock};
use serde_json::json;

use super::{Rig, settled};
use crate::home::RUNE;
use crate::wire::{Api, LIMIT, POLL, assert_no_panic, lines_of};

/// The name that the Dockerfile builds on.
const BASE: &str = "debian:bookworm-slim";
/// The image with the binary under test.
const IMAGE: &str = "rune-test-replica:1";
/// Held while the image is made.
const LOCK: &str = "rune-test-replica-image.lock";

/// The image of replicas, made of the binary under test; nothing where the machine has no engine or no base for it.
#[expect(clippy::print_stderr, reason = "a test that is skipped says so")]
pub(super) fn image() -> Option<&'static str> {
    let docker = TestDocker::find()?;
    if docker.run(&["image", "inspect", BASE]).is_err() {
        eprintln!("skipped: the engine has no image {BASE} (`docker pull`, or .ci/base-image)");
        return None;
    }
    let lock = File::create(std::env::temp_dir().join(LOCK)).unwrap();
    flock(&lock, FlockOperation::LockExclusive).unwrap();
    let binary = std::fs::metadata(RUNE).unwrap();
    let written = binary
        .modified()
        .unwrap()
        .duration_since(std::time::UNIX_EPOCH);
    let stamp = format!("{RUNE} {} {:?}", binary.len(), written.unwrap());
    let label = [
        "image",
        "inspect",
        "--format",
        "{{index .Config.Labels \"of\"}}",
        IMAGE,
    ];
    if docker.run(&label).is_ok_and(|found| found.trim() == stamp) {
        return Some(IMAGE);
    }
    let context = tempfile::tempdir().unwrap();
    let stripped = Command::new("strip")
        .args(["--strip-debug", "-o"])
        .arg(context.path().join("rune"))
        .arg(RUNE)
        .status();
    assert!(stripped.unwrap().success(), "strip");
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../Dockerfile");
    let file = file.to_str().unwrap();
    let label = format!("of={stamp}");
    let dir = context.path().to_str().unwrap();
    docker
        .run(&[
            "build",
            "--quiet",
            "--tag",
            IMAGE,
            "--label",
            &label,
            "--file",
            file,
            "--build-arg",
            "BINARY=rune",
            dir,
        ])
        .unwrap();
    Some(IMAGE)
}

/// Containers that see the workspace of a data directory.
pub(super) fn of_agent(data_dir: &Path) -> Vec<String> {
    let workspaces = data_dir.join("workspaces/dev/worker");
    let Ok(workspaces) = workspaces.canonicalize() else {
        return Vec::new();
    };
    let filter = format!("volume={}", workspaces.display());
    let listed = Command::new("docker")
        .args(["ps", "--all", "--quiet", "--no-trunc", "--filter", &filter])
        .output();
    let listed = listed.map(|it| it.stdout).unwrap_or_default();
    let listed = String::from_utf8_lossy(&listed);
    listed.lines().map(str::to_owned).collect()
}

/// Removes the containers and networks of a data directory.
pub(super) fn remove(data_dir: &Path) {
    let docker = |args: &[&str]| {
        let ran = Command::new("docker").args(args).output();
        ran.map(|it| String::from_utf8_lossy(&it.stdout).trim().to_owned())
            .unwrap_or_default()
    };
    let format = "{{index .Config.Labels \"rune.daemon\"}}";
    let mut daemon = String::new();
    for id in of_agent(data_dir) {
        daemon = docker(&["inspect", "--format", format, &id]);
        docker(&["rm", "--force", "--volumes", &id]);
    }
    if !daemon.is_empty() {
        let filter = format!("label=rune.daemon={daemon}");
        for network in docker(&["network", "ls", "--quiet", "--filter", &filter]).lines() {
            docker(&["network", "rm", network]);
        }
    }
}

fn available() -> bool {
    image().is_some()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_loop_runs_in_a_confined_container() {
    if !available() {
        return;
    }
    let rig = Rig::start("docker", "").await;
    let id = rig.slow().await;
    rig.begun(1).await;
    let found = of_agent(&rig.served.0.data_dir());
    assert_eq!(found.len(), 1, "{found:?}");
    let container = &found[0];
    let tools = crate::cancel::processes_of(&id);
    assert!(!tools.is_empty());
    for pid in tools {
        let cgroup = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
        assert!(cgroup.contains(container.as_str()), "{pid}: {cgroup}");
    }
    let docker = TestDocker::find().unwrap();
    let look = |format: &str| {
        docker
            .run(&["inspect", "--format", format, container])
            .unwrap()
    };
    let labels = look("{{index .Config.Labels \"rune.agent\"}}");
    assert_eq!(labels.trim(), "worker");
    let held = look(
        "{{.HostConfig.ReadonlyRootfs}} {{.HostConfig.CapDrop}} {{.HostConfig.PidsLimit}} {{.HostConfig.Memory}} \
         {{.HostConfig.NanoCpus}} {{.Config.User}}",
    );
    assert_eq!(
        held.trim(),
        "true [ALL] 1024 536870912 1000000000 65532:65532"
    );
    // It has the network of the agent, and one where it is alone with the daemon.
    let networks = look("{{range $name, $_ := .NetworkSettings.Networks}}{{$name}} {{end}}");
    let names: Vec<&str> = networks.split_whitespace().collect();
    assert_eq!(names.len(), 2, "{networks}");
    assert!(
        names.iter().any(|name| name.ends_with("-bridge")),
        "{networks}"
    );
    // Nothing of the daemon's own variables, and none of the deployment's secrets, is in what the engine keeps.
    let env = look("{{json .Config.Env}}");
    assert!(!env.contains("a-long-secret"), "{env}");
    rig.go();
    assert_eq!(rig.api.ended(&id).await["status"], "completed");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_goes_on_in_another_container_when_its_own_is_killed() {
    if !available() {
        return;
    }
    let rig = Rig::start("docker", "").await;
    let id = rig.slow().await;
    rig.begun(1).await;
    let first = of_agent(&rig.served.0.data_dir());
    let docker = TestDocker::find().unwrap();
    docker
        .run(&["kill", "--signal", "KILL", &first[0]])
        .unwrap();
    // The tool is idempotent, so it is run again.
    rig.begun(2).await;
    rig.go();
    let row = rig.api.ended(&id).await;
    assert_eq!(
        (&row["status"], &row["attempts"]),
        (&json!("completed"), &json!(2)),
        "{row}\n{}",
        rig.served.0.log()
    );
    let gone = async {
        while of_agent(&rig.served.0.data_dir()).contains(&first[0]) {
            tokio::time::sleep(POLL).await;
        }
    };
    tokio::time::timeout(LIMIT, gone).await.unwrap();
    assert_no_panic(&rig.served);
}

#[tokio::test(flavor = "multi_thread")]
async fn containers_are_adopted_by_the_next_daemon_and_not_doubled() {
    if !available() {
        return;
    }
    let mut rig = settled("docker").await;
    let id = rig.slow().await;
    rig.begun(1).await;
    let first = of_agent(&rig.served.0.data_dir());
    let docker = TestDocker::find().unwrap();
    let label = [
        "inspect",
        "--format",
        "{{index .Config.Labels \"rune.daemon\"}}",
        &first[0],
    ];
    let daemon = docker.run(&label).unwrap();
    rig.served.0.kill9().unwrap();
    // One of no deployment, as a start that was cut short leaves it.
    let orphan = "rune-replica-rep_019f000000007000800000000000000a";
    let labels = [
        format!("rune.daemon={}", daemon.trim()),
        "rune.replica=rep_019f000000007000800000000000000a".to_owned(),
    ];
    let image = image().unwrap();
    docker
        .run(&[
            "run",
            "--detach",
            "--name",
            orphan,
            "--network",
            "none",
            "--label",
            &labels[0],
            "--label",
            &labels[1],
            "--entrypoint",
            "sleep",
            image,
            "600",
        ])
        .unwrap();
    rig.served.0.restart().await.unwrap();
    rig.api = Api::of(&rig.served.0);
    rig.ready().await;
    assert_eq!(
        of_agent(&rig.served.0.data_dir()),
        first,
        "{}",
        rig.served.0.log()
    );
    rig.go();
    let row = rig.api.ended(&id).await;
    assert_eq!(
        (&row["status"], &row["attempts"]),
        (&json!("completed"), &json!(1)),
        "{row}\n{}",
        rig.served.0.log()
    );
    assert_eq!(lines_of(&rig.served, "worker", "started").len(), 1);
    let gone = async {
        while docker.run(&["inspect", orphan]).is_ok() {
            tokio::time::sleep(POLL).await;
        }
    };
    let gone = tokio::time::timeout(LIMIT, gone).await;
    if gone.is_err() {
        let _ = docker.run(&["rm", "--force", orphan]);
    }
    assert!(
        gone.is_ok(),
        "the orphan is still there\n{}",
        rig.served.0.log()
    );
}
