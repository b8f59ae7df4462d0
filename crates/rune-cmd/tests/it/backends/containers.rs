//! Replicas in containers, on the real engine, from the image that the Dockerfile of this repository makes.

use std::collections::BTreeMap;
use std::collections::hash_map::DefaultHasher;
use std::fs::File;
use std::hash::{Hash as _, Hasher as _};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::LazyLock;

use rune_testkit::TestDocker;
use rustix::fs::{FlockOperation, flock};
use serde_json::{Value, json};

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
/// What Python and the certificates may take in the image, beside the base and the binary.
const MOST_ADDED: u64 = 96 << 20;
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
    let size = docker.run(&["image", "inspect", "--format", "{{.Size}}", &IMAGE]);
    let base = docker.run(&["image", "inspect", "--format", "{{.Size}}", BASE]);
    let bytes = |text: Result<String, _>| text.unwrap().trim().parse::<u64>().unwrap();
    let binary = std::fs::metadata(context.path().join("rune"))
        .unwrap()
        .len();
    let added = bytes(size) - bytes(base) - binary;
    assert!(
        added < MOST_ADDED,
        "the recipe adds {added} bytes to its base and the binary"
    );
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

/// The labels of a replica's container are those that it is found by, and no other ones of Rune's.
async fn labelled(rig: &Rig, container: &str, labels: &str) {
    let list = async |path: &str| {
        let url = format!("{}{path}", rig.served.0.control_plane());
        let page = reqwest::get(url).await.unwrap();
        let page: Value = page.json().await.unwrap();
        page["items"][0]["id"].as_str().unwrap().to_owned()
    };
    let labels: BTreeMap<String, String> = serde_json::from_str(labels).unwrap();
    let own: Vec<(&str, &str)> = labels
        .iter()
        .filter(|(name, _)| name.starts_with("rune."))
        .map(|(name, value)| (name.as_str(), value.as_str()))
        .collect();
    let daemon = label_of(container);
    let replica = list("/v1/replicas").await;
    let deployment = list("/v1/deployments?agent=worker").await;
    let expected = [
        ("rune.agent", "worker"),
        ("rune.daemon", daemon.split_once('=').unwrap().1),
        ("rune.deployment", &deployment),
        ("rune.replica", &replica),
    ];
    assert_eq!(own, expected);
    assert!(!expected[1].1.is_empty());
}

/// Nothing in it gains rights, and the kernel is asked for what is in Rune's own list and nothing else.
fn secured(options: &str) {
    let options: Vec<String> = serde_json::from_str(options).unwrap();
    let (profiles, others): (Vec<&String>, Vec<&String>) =
        options.iter().partition(|it| it.starts_with("seccomp="));
    assert!(
        others.iter().any(|it| *it == "no-new-privileges:true"),
        "{others:?}"
    );
    let known = ["no-new-privileges:true", "apparmor=unconfined"];
    let is_known = |it: &&&String| known.contains(&it.as_str());
    assert_eq!(
        others.iter().filter(is_known).count(),
        others.len(),
        "{others:?}"
    );
    assert_eq!(profiles.len(), 1);
    let profile: Value = serde_json::from_str(profiles[0].trim_start_matches("seccomp=")).unwrap();
    let own = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../rune-backend/rune-docker/src/replica_seccomp.json");
    let own: Value = serde_json::from_slice(&std::fs::read(own).unwrap()).unwrap();
    assert_eq!(profile, own);
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
    labelled(&rig, container, &look("{{json .Config.Labels}}")).await;
    let held = look(
        "{{.HostConfig.ReadonlyRootfs}} {{.HostConfig.CapDrop}} {{.HostConfig.PidsLimit}} {{.HostConfig.Memory}} \
         {{.HostConfig.MemorySwap}} {{.HostConfig.NanoCpus}} {{.Config.User}} {{.HostConfig.Privileged}}",
    );
    // As much memory with swap as without: there is no swap.
    assert_eq!(
        held.trim(),
        "true [ALL] 1024 536870912 536870912 1000000000 65532:65532 false"
    );
    let scratch: Value = serde_json::from_str(&look("{{json .HostConfig.Tmpfs}}")).unwrap();
    let options = "rw,exec,nosuid,nodev,size=268435456";
    let expected = json!({
        "/tmp": format!("{options},mode=1777"),
        "/var/lib/rune": format!("{options},mode=0700,uid=65532,gid=65532"),
    });
    assert_eq!(scratch, expected);
    secured(&look("{{json .HostConfig.SecurityOpt}}"));
    // What the kernel holds the first process of the replica to: no capability, no way to one, and a filter.
    let status = docker
        .run(&["exec", container, "cat", "/proc/1/status"])
        .unwrap();
    for line in [
        "CapEff:\t0000000000000000",
        "CapBnd:\t0000000000000000",
        "NoNewPrivs:\t1",
        "Seccomp:\t2",
    ] {
        assert!(status.lines().any(|it| it == line), "{line}: {status}");
    }
    // Its agent has no use for a network.
    let networks = look("{{range $name, $_ := .NetworkSettings.Networks}}{{$name}} {{end}}");
    assert_eq!(networks.trim(), "none");
    // Nothing of the daemon's own variables, and none of the deployment's secrets, is in what the engine keeps.
    let env = look("{{json .Config.Env}}");
    assert!(!env.contains("a-long-secret"), "{env}");
    rig.go();
    assert_eq!(rig.api.ended(&id).await["status"], "completed");
}
