//! Containers of Docker Engine, by its command line.

use std::path::PathBuf;
use std::process::{Output, Stdio};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::{Child, Command};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::runtime::{ContainerRequest, PodRuntime, Running, StartFailure};
use crate::logs::ContainerLog;
use crate::object::{self, list, text};
use crate::task;

/// The label of the containers of one kubelet.
const LABEL: &str = "rune-test-kubelet";
/// How long the log of a container that has ended is read.
const LOG_LIMIT: Duration = Duration::from_secs(10);

/// Runs pods as containers; those that are left are removed when this is dropped. Nothing is pulled: an image is there
/// or not.
#[derive(Debug)]
pub struct DockerPods {
    id: String,
    /// Where seccomp profiles are that pods name.
    profiles: Option<PathBuf>,
    stop: CancellationToken,
}

impl DockerPods {
    /// Nothing runs yet.
    #[must_use]
    pub fn new() -> Arc<Self> {
        Self::of(None)
    }

    /// Nothing runs yet. The node has seccomp profiles in this directory.
    #[must_use]
    pub fn with_profiles(dir: PathBuf) -> Arc<Self> {
        Self::of(Some(dir))
    }

    fn of(profiles: Option<PathBuf>) -> Arc<Self> {
        Arc::new(Self {
            id: Uuid::new_v4().simple().to_string(),
            profiles,
            stop: CancellationToken::new(),
        })
    }

    /// What all its containers are labelled with.
    #[must_use]
    pub fn label(&self) -> String {
        format!("{LABEL}={}", self.id)
    }

    fn arguments(&self, request: &ContainerRequest) -> Vec<String> {
        let mut args: Vec<String> = vec!["create".to_owned()];
        let mut flag = |name: &str, value: String| args.extend([name.to_owned(), value]);
        flag("--label", self.label());
        flag("--label", format!("pod={}", object::name(&request.pod)));
        match &request.network_of {
            Some(id) => flag("--network", format!("container:{id}")),
            None => {
                flag("--hostname", object::name(&request.pod).to_owned());
            }
        }
        for (name, value) in &request.env {
            flag("--env", format!("{name}={value}"));
        }
        for mount in &request.mounts {
            let mode = if mount.read_only { ",readonly" } else { "" };
            let source = mount.source.display();
            flag(
                "--mount",
                format!("type=bind,source={source},target={}{mode}", mount.target),
            );
        }
        let (pod, container) = (&request.pod, &request.container);
        let security = |field: &str| {
            let own = container.pointer(&format!("/securityContext/{field}"));
            own.or_else(|| pod.pointer(&format!("/spec/securityContext/{field}")))
        };
        if let Some(user) = security("runAsUser").and_then(Value::as_u64) {
            let group = security("runAsGroup").and_then(Value::as_u64);
            flag("--user", format!("{user}:{}", group.unwrap_or(user)));
        }
        // The group of the pod's volumes.
        if let Some(group) = pod.pointer("/spec/securityContext/fsGroup") {
            flag("--group-add", group.to_string());
        }
        for capability in list(container, "/securityContext/capabilities/drop") {
            flag(
                "--cap-drop",
                capability.as_str().unwrap_or_default().to_owned(),
            );
        }
        if security("allowPrivilegeEscalation") == Some(&Value::Bool(false)) {
            flag("--security-opt", "no-new-privileges".to_owned());
        }
        for option in self.confinement(security("seccompProfile"), security("procMount")) {
            flag("--security-opt", option);
        }
        if let Some(memory) = limit(container, "memory") {
            flag("--memory", format!("{}", memory / 1000));
        }
        if let Some(cpus) = limit(container, "cpu") {
            flag("--cpus", format!("{}.{:03}", cpus / 1000, cpus % 1000));
        }
        if let Some(dir) = container.get("workingDir").and_then(Value::as_str) {
            flag("--workdir", dir.to_owned());
        }
        let words = |field: &str| list(container, field).iter().filter_map(Value::as_str);
        let mut command = words("/command");
        if let Some(program) = command.next() {
            flag("--entrypoint", program.to_owned());
        }
        if security("readOnlyRootFilesystem") == Some(&Value::Bool(true)) {
            args.push("--read-only".to_owned());
        }
        args.push(text(container, "/image").to_owned());
        args.extend(command.chain(words("/args")).map(str::to_owned));
        args
    }
}

impl DockerPods {
    /// What the engine is told of a container's seccomp profile and its `/proc`. It has no users of a pod's own, so
    /// `hostUsers: false` means nothing to it.
    fn confinement(&self, seccomp: Option<&Value>, proc: Option<&Value>) -> Vec<String> {
        let kind = seccomp.map_or("", |profile| text(profile, "/type"));
        let profile = match (kind, &self.profiles) {
            ("Unconfined", _) => Some("unconfined".to_owned()),
            // One that is not there is refused by the engine, as by a kubelet.
            ("Localhost", dir) => {
                let name = seccomp.map_or("", |profile| text(profile, "/localhostProfile"));
                let dir = dir.clone().unwrap_or_default();
                Some(dir.join(name).display().to_string())
            }
            _ => None,
        };
        let unmasked = proc.and_then(Value::as_str) == Some("Unmasked");
        let seccomp = profile.map(|profile| format!("seccomp={profile}"));
        let proc = unmasked.then(|| "systempaths=unconfined".to_owned());
        seccomp.into_iter().chain(proc).collect()
    }
}

fn limit(container: &Value, what: &str) -> Option<u128> {
    crate::validate::quantity(text(container, &format!("/resources/limits/{what}")))
}

impl Drop for DockerPods {
    fn drop(&mut self) {
        self.stop.cancel();
        let filter = format!("label={}", self.label());
        let args = ["ps", "--all", "--quiet", "--filter", &filter];
        let listed = std::process::Command::new("docker").args(args).output();
        let listed = listed.map(|output| output.stdout).unwrap_or_default();
        let ids = String::from_utf8_lossy(&listed);
        let mut remove = std::process::Command::new("docker");
        remove
            .args(["rm", "--force", "--volumes"])
            .args(ids.lines());
        if ids.lines().next().is_some() {
            // Where the engine is gone, so are they.
            let _ = remove.output();
        }
    }
}

#[async_trait]
impl PodRuntime for DockerPods {
    async fn start(&self, request: &ContainerRequest) -> Result<Box<dyn Running>, StartFailure> {
        let image = text(&request.container, "/image");
        let inspect = ["image", "inspect", "--format", "{{.Config.User}}", image];
        let user = docker(&inspect).await.map_err(|said| StartFailure {
            reason: "ErrImagePull",
            message: format!("Failed to pull image \"{image}\": {said}"),
        })?;
        root(request, &user)?;
        let failed = |message| StartFailure {
            reason: "RunContainerError",
            message,
        };
        let args = self.arguments(request);
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        let id = docker(&args).await.map_err(failed)?;
        docker(&["start", &id]).await.map_err(failed)?;
        let address = match &request.network_of {
            Some(other) => address(other).await,
            None => address(&id).await,
        };
        let log = self.read_log(&id, &request.log).map_err(failed)?;
        Ok(Box::new(DockerContainer {
            address: address.map_err(failed)?,
            id,
            log,
        }))
    }
}

/// Refuses root where it is refused.
fn root(request: &ContainerRequest, image_user: &str) -> Result<(), StartFailure> {
    let get = |field: &str| {
        let own = request
            .container
            .pointer(&format!("/securityContext/{field}"));
        own.or_else(|| {
            request
                .pod
                .pointer(&format!("/spec/securityContext/{field}"))
        })
    };
    let is_root = match get("runAsUser").and_then(Value::as_u64) {
        Some(user) => user == 0,
        None => matches!(image_user.split(':').next(), None | Some("" | "0" | "root")),
    };
    if is_root && get("runAsNonRoot") == Some(&Value::Bool(true)) {
        return Err(StartFailure {
            reason: "CreateContainerConfigError",
            message: "container has runAsNonRoot and image will run as root".to_owned(),
        });
    }
    Ok(())
}

async fn address(id: &str) -> Result<String, String> {
    let format = "{{range .NetworkSettings.Networks}}{{.IPAddress}} {{end}}";
    let found = docker(&["inspect", "--format", format, id]).await?;
    let first = found.split_whitespace().next();
    Ok(first.unwrap_or_default().to_owned())
}

impl DockerPods {
    /// Copies what a container says. What is answered is closed once all of it was read.
    fn read_log(&self, id: &str, log: &Arc<ContainerLog>) -> Result<watch::Receiver<()>, String> {
        let mut child = command(&["logs", "--follow", id])
            .kill_on_drop(true)
            .spawn()
            .map_err(|error| error.to_string())?;
        let (out, err) = (child.stdout.take(), child.stderr.take());
        let log = Arc::clone(log);
        let (reads, is_read) = watch::channel(());
        task::spawn_until(self.stop.clone(), async move {
            tokio::join!(copy(out, &log), copy(err, &log));
            drop(reads);
            reap(child).await;
        });
        Ok(is_read)
    }
}

async fn reap(mut child: Child) {
    // It has closed its output, so it has ended.
    let _ = child.wait().await;
}

async fn copy(from: Option<impl AsyncRead + Unpin>, to: &ContainerLog) {
    let Some(mut from) = from else { return };
    let mut bytes = vec![0_u8; 8192];
    while let Ok(read) = from.read(&mut bytes).await {
        match bytes.get(..read) {
            Some(some) if read > 0 => to.append(some),
            _ => return,
        }
    }
}

struct DockerContainer {
    id: String,
    address: String,
    /// Closed once all that it said was read.
    log: watch::Receiver<()>,
}

#[async_trait]
impl Running for DockerContainer {
    fn id(&self) -> &str {
        &self.id
    }

    fn address(&self) -> &str {
        &self.address
    }

    async fn ended(&self) -> i32 {
        let code = docker(&["wait", &self.id]).await;
        // One that is gone was killed.
        code.ok()
            .and_then(|code| code.trim().parse().ok())
            .unwrap_or(137)
    }

    async fn stop(&self, grace: Duration) {
        let seconds = grace.as_secs().to_string();
        // It may have ended by itself.
        let _ = docker(&["stop", "--time", &seconds, &self.id]).await;
    }

    async fn remove(&self) {
        // Docker reads no log of a container that is being removed.
        let _ = tokio::time::timeout(LOG_LIMIT, self.log.clone().changed()).await;
        // What cannot be removed now is removed with the kubelet.
        let _ = docker(&["rm", "--force", "--volumes", &self.id]).await;
    }
}

fn command(args: &[&str]) -> Command {
    let mut command = Command::new("docker");
    command.args(args).stdin(Stdio::null());
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// Runs `docker`; answers what it printed, or what it said.
async fn docker(args: &[&str]) -> Result<String, String> {
    let output = command(args).kill_on_drop(true).output().await;
    let Output {
        status,
        stdout,
        stderr,
    } = output.map_err(|error| error.to_string())?;
    let said = if status.success() { stdout } else { stderr };
    let said = String::from_utf8_lossy(&said).trim().to_owned();
    if status.success() {
        Ok(said)
    } else {
        Err(said)
    }
}
