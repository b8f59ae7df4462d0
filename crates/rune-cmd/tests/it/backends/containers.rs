//! Replicas in containers, on the real engine, from the image that the Dockerfile of this repository makes.

use std::collections::hash_map::DefaultHasher;
use std::fs::File;
use std::hash::{Hash as _, Hasher as _};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::LazyLock;

use rune_testkit::TestDocker;
use rustix::fs::{FlockOperation, flock};

use super::outside::Orphan;
use super::rig::Rig;
use crate::home::RUNE;

/// The name that the Dockerfile builds on.
const BASE: &str = "debian:bookworm-slim";
/// What the image is made of: the binary under test and the recipe. It stands in its name, so that nobody who builds
/// another one at the same time has this one replaced.
static IMAGE: LazyLock<String> = LazyLock::new(|| {
    let binary = std::fs::metadata(RUNE).unwrap();
    let mut of = DefaultHasher::new();
    (RUNE, binary.len(), binary.modified().unwrap()).hash(&mut of);
    std::fs::read(recipe()).unwrap().hash(&mut of);
    format!("{REPOSITORY}:{:016x}", of.finish())
});
const REPOSITORY: &str = "rune-test-replica";
/// Label: the binary that an image is made of, by its path.
const OF: &str = "rune-test-replica.of";
/// Held while the image is made.
const LOCK: &str = "rune-test-replica-image.lock";

fn recipe() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../Dockerfile")
}

/// The image of replicas, made of the binary under test; nothing where the machine has no engine or no base for it.
pub(crate) fn image() -> Option<&'static str> {
    let docker = TestDocker::find()?;
    if docker.run(&["image", "inspect", BASE]).is_err() {
        rune_testkit::skip(&format!(
            "the engine has no image {BASE} (`docker pull`, or .ci/base-image)"
        ));
        return None;
    }
    let lock = File::create(std::env::temp_dir().join(LOCK)).unwrap();
    flock(&lock, FlockOperation::LockExclusive).unwrap();
    if docker.run(&["image", "inspect", &IMAGE]).is_ok() {
        return Some(&IMAGE);
    }
    let context = tempfile::tempdir().unwrap();
    let stripped = Command::new("strip")
        .args(["--strip-debug", "-o"])
        .arg(context.path().join("rune"))
        .arg(RUNE)
        .status();
    assert!(stripped.unwrap().success(), "strip");
    let label = format!("{OF}={RUNE}");
    let filter = format!("label={label}");
    let earlier = docker.run(&["images", "--quiet", "--filter", &filter]);
    docker
        .run(&[
            "build",
            "--quiet",
            "--tag",
            &IMAGE,
            "--label",
            &label,
            "--file",
            recipe().to_str().unwrap(),
            "--build-arg",
            "BINARY=rune",
            context.path().to_str().unwrap(),
        ])
        .unwrap();
    for old in earlier.unwrap_or_default().lines() {
        // A test may still have a container of it.
        let _ = docker.run(&["rmi", old]);
    }
    Some(&IMAGE)
}

/// Containers that see the workspace of an agent in a data directory.
pub(crate) fn of_agent(data_dir: &Path, agent: &str) -> Vec<String> {
    let workspaces = data_dir.join("workspaces/dev").join(agent);
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

/// What the containers and networks of the daemon are labelled with that a container is of.
pub(crate) fn label_of(container: &str) -> String {
    let format = "rune.daemon={{index .Config.Labels \"rune.daemon\"}}";
    let docker = TestDocker::find().unwrap();
    let label = docker.run(&["inspect", "--format", format, container]);
    label.unwrap().trim().to_owned()
}

/// Removes the containers and networks with a label.
pub(crate) fn remove(label: &str) {
    let docker = |args: &[&str]| {
        let ran = Command::new("docker").args(args).output();
        ran.map(|it| String::from_utf8_lossy(&it.stdout).into_owned())
            .unwrap_or_default()
    };
    let filter = format!("label={label}");
    for id in docker(&["ps", "--all", "--quiet", "--filter", &filter]).lines() {
        docker(&["rm", "--force", "--volumes", id]);
    }
    for id in docker(&["network", "ls", "--quiet", "--filter", &filter]).lines() {
        docker(&["network", "rm", id]);
    }
}

/// A container with the labels of a replica of the daemon that `like` is of.
pub(super) fn plant(like: &str, id: &str) -> Orphan {
    let docker = TestDocker::find().unwrap();
    let name = format!("rune-replica-{id}");
    let labels = [label_of(like), format!("rune.replica={id}")];
    let mut args = vec!["run", "--detach", "--name", &name, "--network", "none"];
    args.extend(labels.iter().flat_map(|label| ["--label", label]));
    args.extend(["--entrypoint", "sleep", image().unwrap(), "600"]);
    docker.run(&args).unwrap();
    let look = move |end: bool| {
        if end {
            // It may be gone by now.
            let _ = docker.run(&["rm", "--force", &name]);
        }
        docker.run(&["inspect", &name]).is_ok()
    };
    Orphan {
        look: Box::new(look),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_loop_runs_in_a_confined_container() {
    if image().is_none() {
        return;
    }
    let rig = Rig::start("docker", "").await;
    let id = rig.slow().await;
    rig.begun(1).await;
    let found = of_agent(&rig.served.0.data_dir(), "worker");
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
    // Its agent has no use for a network.
    let networks = look("{{range $name, $_ := .NetworkSettings.Networks}}{{$name}} {{end}}");
    assert_eq!(networks.trim(), "none");
    // Nothing of the daemon's own variables, and none of the deployment's secrets, is in what the engine keeps.
    let env = look("{{json .Config.Env}}");
    assert!(!env.contains("a-long-secret"), "{env}");
    rig.go();
    assert_eq!(rig.api.ended(&id).await["status"], "completed");
}
