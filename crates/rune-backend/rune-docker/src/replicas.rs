//! Replicas in containers: one container each, from the package's image or the stock one.
//!
//! A container outlives the daemon: the next one finds it by its labels and takes it over.

use std::collections::HashMap;
use std::path::PathBuf;
use std::time::Duration;

use async_trait::async_trait;
use bollard::container::LogOutput;
use bollard::models::{
    ContainerCreateBody, ContainerState, ContainerStateStatusEnum, HostConfig, HostConfigLogConfig,
    Mount, ResourcesUlimits,
};
use bollard::query_parameters::{
    CreateContainerOptionsBuilder, InspectContainerOptions, ListContainersOptionsBuilder,
    LogsOptionsBuilder, RemoveContainerOptionsBuilder, StopContainerOptionsBuilder,
};
use futures_util::StreamExt;
use rune_backend::{Backend, BackendError, ReplicaHealth, ReplicaSpec};
use rune_env::{REPLICA_ADDR, REPLICA_DATA_DIR, REPLICA_HIDDEN, REPLICA_WORKSPACE_DIR};
use rune_store_runtime::ReplicaId;
use rustix::process::geteuid;
use tokio::sync::{OnceCell, RwLock, RwLockReadGuard, RwLockWriteGuard};

use crate::engine::{DockerEngine, status};
use crate::image::Image;
use crate::mounts::bind;
use crate::pull::Pulls;
use crate::sockets::{self, Sockets};
use crate::{DockerError, network};

/// Labels that containers and pods of replicas carry.
const AGENT: &str = "rune.agent";
const DEPLOYMENT: &str = "rune.deployment";
const REPLICA: &str = "rune.replica";
/// Where a replica keeps what it needs while it lives, such as its package.
const DATA_DIR: &str = "/var/lib/rune";
/// Where it finds the workspace of its agent, which is the machine's.
const WORKSPACE_DIR: &str = "/workspaces";
/// The network of a container that has none.
const NO_NETWORK: &str = "none";
/// What each of the writable directories may hold; it counts as memory, too. Tools are programs of the package, which is
/// unpacked here, so files can be run.
const SCRATCH: &str = "rw,exec,nosuid,nodev,size=268435456";
/// Processes and threads of a replica with all its tools.
const PROCESSES: i64 = 1024;
/// What the engine keeps of a replica's log.
const LOG_SIZE: &str = "10m";
/// How long a replica may take to end before it is killed, in seconds. It was drained before.
const STOP_SECS: i32 = 5;
/// Longest part of a log that is read.
const MAX_LOG_BYTES: usize = 4 << 20;
/// What its tools must not see, as a list in JSON.
const HIDDEN: &str = "[\"/run/rune\"]";
/// What a replica's processes may ask of the kernel. The engine's own list forbids the namespaces that a tool is confined
/// with; this one forbids what reaches beyond a container, and leaves these.
const SECCOMP: &str = include_str!("replica_seccomp.json");

/// Networks of the engine by their names, and what keeps them from being removed.
type Joined<'a> = (Vec<String>, Option<RwLockReadGuard<'a, ()>>);
/// What a container is made with.
type Needed<'a> = (Joined<'a>, Image);

/// Runs replicas in containers.
#[derive(Debug)]
pub struct DockerReplicas {
    engine: DockerEngine,
    sockets: Sockets,
    /// The image of agents that name none.
    image: String,
    /// Read while a container is made and started: until it runs the engine takes it for nobody in its networks. Written
    /// while those are removed that nobody is in.
    networks: RwLock<()>,
    pulls: Pulls,
    /// Whether the engine confines containers with AppArmor, once it was asked.
    apparmor: OnceCell<bool>,
}

impl DockerReplicas {
    /// A backend on this engine. Agents that name no image run in `image`.
    #[must_use]
    pub fn new(engine: DockerEngine, image: String) -> Self {
        Self {
            sockets: Sockets::new(&engine.config().data_dir),
            engine,
            image,
            networks: RwLock::const_new(()),
            pulls: Pulls::default(),
            apparmor: OnceCell::const_new(),
        }
    }

    /// Where replicas in containers find the daemon.
    pub const CONTROL_PLANE: &str = sockets::DAEMON_INSIDE;

    /// Removes what earlier processes have left, networks that nobody is in and sockets of replicas that are gone, and
    /// answers the path of the socket that the daemon is to listen on, for whoever is let to it.
    ///
    /// # Errors
    /// A [`DockerError`] where the engine does not answer or there can be no sockets.
    pub async fn prepare(&self) -> Result<PathBuf, DockerError> {
        let _nobody_starts = self.networks.write().await;
        network::remove_unused(&self.engine).await?;
        let there = self.find().await?;
        self.with_sockets(move |sockets| sockets.prepare(&there))
            .await
    }

    /// Does what blocks as the file system does.
    async fn with_sockets<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Sockets) -> std::io::Result<T> + Send + 'static,
    ) -> Result<T, DockerError> {
        let sockets = self.sockets.clone();
        let done = tokio::task::spawn_blocking(move || work(&sockets)).await;
        let done = done.unwrap_or_else(|error| Err(std::io::Error::other(error)));
        done.map_err(|error| sockets::refused(&error))
    }

    /// Removes the sockets of a replica that is gone.
    async fn forget(&self, id: ReplicaId) {
        let removed = self.with_sockets(move |sockets| sockets.remove(id)).await;
        if let Err(error) = removed {
            tracing::warn!(replica = %id, %error, "its sockets are removed by the next start");
        }
    }

    /// The engine's networks of a replica, none of which is removed while the guard is there. One whose agent has no use for
    /// a network gets none: that leaves nothing open, and making one takes a part of the start that is felt.
    async fn networks_of(&self, spec: &ReplicaSpec) -> Result<Joined<'_>, DockerError> {
        if !spec.reaches_out || spec.networks.is_empty() {
            if spec.reaches_out {
                tracing::warn!(
                    agent = spec.agent,
                    "the agent is in no network (`networks: []`): its models and tools reach nothing outside its container"
                );
            }
            return Ok((Vec::new(), None));
        }
        let needed = self.networks.read().await;
        let error = match network::of_replica(&self.engine, &spec.networks).await {
            Ok(names) => return Ok((names, Some(needed))),
            Err(error) => error,
        };
        drop(needed);
        // Making one takes long, so they are kept until the engine has no addresses for another one.
        tracing::debug!(%error, "networks that nobody is in are removed");
        let alone = self.networks.write().await;
        network::remove_unused(&self.engine).await?;
        let names = network::of_replica(&self.engine, &spec.networks).await?;
        Ok((names, Some(RwLockWriteGuard::downgrade(alone))))
    }

    /// What a container is made with. An image that is missing is pulled first, while nobody is kept from the networks.
    async fn needed(&self, spec: &ReplicaSpec) -> Result<Needed<'_>, DockerError> {
        match self.look_up(spec).await {
            Err(DockerError::NoImage(name)) => {
                let id = spec.replica_id;
                self.pulls.pull(&self.engine, id, &name).await?;
                self.look_up(spec).await
            }
            looked => looked,
        }
    }

    async fn look_up(&self, spec: &ReplicaSpec) -> Result<Needed<'_>, DockerError> {
        tokio::try_join!(self.networks_of(spec), self.image_of(spec))
    }

    /// The image of a replica, which is there.
    async fn image_of(&self, spec: &ReplicaSpec) -> Result<Image, DockerError> {
        let name = spec.image.as_ref().unwrap_or(&self.image);
        Image::find(&self.engine, name).await?.of_replica(name)
    }

    async fn create(
        &self,
        spec: &ReplicaSpec,
        image: &Image,
        networks: &[String],
    ) -> Result<(), DockerError> {
        let docker = self.engine.client().await?;
        let workspace = self.workspace(spec, image).await?;
        let (id, owner) = (spec.replica_id, image.user.number());
        let owner = owner.filter(|_| geteuid().is_root());
        self.with_sockets(move |sockets| sockets.make(id, owner))
            .await?;
        let seen = format!("{WORKSPACE_DIR}/{}/{}", spec.namespace, spec.agent);
        let mut mounts = vec![bind(&workspace, &seen, false)];
        mounts.extend(self.sockets.mounts(id)?);
        let apparmor = self.apparmor().await?;
        let (first, others) = networks.split_first().unzip();
        let body = self.body(spec, image, first.cloned(), mounts, apparmor);
        let container = name_of(spec.replica_id);
        let options = CreateContainerOptionsBuilder::default()
            .name(&container)
            .build();
        match docker.create_container(Some(options), body).await {
            Ok(_) => {}
            // An earlier try made it; it is the same one, for an id has one specification.
            Err(error) if status(&error) == Some(409) => {}
            Err(error) => return Err(self.engine.error("make the container of a replica", &error)),
        }
        for name in others.into_iter().flatten() {
            network::join(&self.engine, &container, name).await?;
        }
        Ok(())
    }

    /// The workspace of the agent, which the user of the container may write to.
    async fn workspace(&self, spec: &ReplicaSpec, image: &Image) -> Result<PathBuf, DockerError> {
        let root = &self.engine.config().workspaces;
        let path = root.join(&spec.namespace).join(&spec.agent);
        let owner = image.user.ids().filter(|_| geteuid().is_root());
        let made = tokio::task::spawn_blocking(move || {
            std::fs::create_dir_all(&path)?;
            if let Some((user, group)) = owner {
                std::os::unix::fs::lchown(&path, Some(user), Some(group))?;
            }
            path.canonicalize()
        });
        let made = made
            .await
            .unwrap_or_else(|error| Err(std::io::Error::other(error)));
        made.map_err(|error| DockerError::Refused {
            action: "be given the workspace of the agent",
            reason: error.to_string(),
        })
    }

    /// Whether the engine would confine containers with AppArmor, whose usual profile forbids the mounts that a tool is
    /// confined with.
    async fn apparmor(&self) -> Result<bool, DockerError> {
        let ask = || async {
            let info = self.engine.info().await?;
            Ok(info.security.iter().any(|part| part.contains("apparmor")))
        };
        self.apparmor.get_or_try_init(ask).await.copied()
    }

    fn body(
        &self,
        spec: &ReplicaSpec,
        image: &Image,
        network: Option<String>,
        mounts: Vec<Mount>,
        apparmor: bool,
    ) -> ContainerCreateBody {
        let (daemon, daemon_id) = self.engine.label_of_daemon();
        let labels = [
            (daemon, daemon_id.to_owned()),
            (AGENT, spec.agent.clone()),
            (DEPLOYMENT, spec.deployment_id.to_string()),
            (REPLICA, spec.replica_id.to_string()),
        ];
        let labels = labels.map(|(name, value)| (name.to_owned(), value));
        let place = [
            (REPLICA_ADDR, sockets::REPLICA_INSIDE),
            (REPLICA_DATA_DIR, DATA_DIR),
            (REPLICA_WORKSPACE_DIR, WORKSPACE_DIR),
            (REPLICA_HIDDEN, HIDDEN),
        ];
        let place = place.map(|(name, value)| format!("{name}={value}"));
        // The deployment's variables come from the daemon when the replica starts.
        let launch = spec.launch.iter();
        let launch = launch.map(|(name, value)| format!("{name}={value}"));
        let env = launch.chain(place).collect();
        let owner = image.user.ids().map_or_else(
            || ",mode=1777".to_owned(),
            |(user, group)| format!(",mode=0700,uid={user},gid={group}"),
        );
        let scratch = [
            (DATA_DIR, format!("{SCRATCH}{owner}")),
            ("/tmp", format!("{SCRATCH},mode=1777")),
        ];
        let scratch = scratch.map(|(path, options)| (path.to_owned(), options));
        let memory = i64::from(spec.resources.memory_mib) << 20;
        let mut security = vec![
            "no-new-privileges:true".to_owned(),
            format!("seccomp={SECCOMP}"),
        ];
        if apparmor {
            security.push("apparmor=unconfined".to_owned());
        }
        let log = [("max-size", LOG_SIZE), ("max-file", "2")];
        let log = log.map(|(name, value)| (name.to_owned(), value.to_owned()));
        ContainerCreateBody {
            image: Some(image.id.clone()),
            user: Some(image.user.to_argument()),
            entrypoint: Some(vec!["rune".to_owned(), "replica".to_owned()]),
            cmd: Some(Vec::new()),
            env: Some(env),
            labels: Some(HashMap::from(labels)),
            working_dir: Some("/".to_owned()),
            host_config: Some(HostConfig {
                network_mode: Some(network.unwrap_or_else(|| NO_NETWORK.to_owned())),
                readonly_rootfs: Some(true),
                tmpfs: Some(HashMap::from(scratch)),
                mounts: Some(mounts),
                cap_drop: Some(vec!["ALL".to_owned()]),
                security_opt: Some(security),
                // A tool gets a `/proc` of its own, which the kernel only gives where nothing of this one is hidden.
                masked_paths: Some(Vec::new()),
                readonly_paths: Some(Vec::new()),
                privileged: Some(false),
                init: Some(true),
                ipc_mode: Some("private".to_owned()),
                pids_limit: Some(PROCESSES),
                memory: Some(memory),
                // With as much swap as memory there is none.
                memory_swap: Some(memory),
                nano_cpus: Some(i64::from(spec.resources.cpus) * 1_000_000_000),
                ulimits: Some(vec![ResourcesUlimits {
                    name: Some("core".to_owned()),
                    soft: Some(0),
                    hard: Some(0),
                }]),
                log_config: Some(HostConfigLogConfig {
                    typ: Some("json-file".to_owned()),
                    config: Some(HashMap::from(log)),
                }),
                auto_remove: Some(false),
                ..HostConfig::default()
            }),
            ..ContainerCreateBody::default()
        }
    }

    async fn begin(&self, spec: &ReplicaSpec) -> Result<String, DockerError> {
        let docker = self.engine.client().await?;
        let name = name_of(spec.replica_id);
        let ((networks, needed), image) = self.needed(spec).await?;
        self.create(spec, &image, &networks).await?;
        let started = docker.start_container(&name, None).await;
        drop(needed);
        started.map_err(|error| {
            self.engine
                .error("start the container of a replica", &error)
        })?;
        self.sockets.endpoint(spec.replica_id)
    }

    async fn look(&self, id: ReplicaId) -> Result<ReplicaHealth, DockerError> {
        let docker = self.engine.client().await?;
        let found = docker
            .inspect_container(&name_of(id), None::<InspectContainerOptions>)
            .await;
        match found {
            Ok(found) => Ok(health(&found.state.unwrap_or_default())),
            Err(error) if status(&error) == Some(404) => {
                self.forget(id).await;
                Ok(ReplicaHealth::Gone)
            }
            Err(error) => Err(self.engine.error("look at a container", &error)),
        }
    }

    async fn end(&self, id: ReplicaId) -> Result<(), DockerError> {
        let docker = self.engine.client().await?;
        let name = name_of(id);
        let options = StopContainerOptionsBuilder::default().t(STOP_SECS).build();
        match docker.stop_container(&name, Some(options)).await {
            Ok(()) => {}
            // It has ended, or there is none.
            Err(error) if matches!(status(&error), Some(304 | 404)) => {}
            Err(error) => tracing::debug!(%error, container = name, "it is killed"),
        }
        let options = RemoveContainerOptionsBuilder::default()
            .force(true)
            .v(true)
            .build();
        match docker.remove_container(&name, Some(options)).await {
            Ok(()) => {}
            // There is none, or somebody else is removing it.
            Err(error) if matches!(status(&error), Some(404 | 409)) => {}
            Err(error) => return Err(self.engine.error("remove a container", &error)),
        }
        self.forget(id).await;
        Ok(())
    }

    async fn find(&self) -> Result<Vec<ReplicaId>, DockerError> {
        let docker = self.engine.client().await?;
        let (daemon, id) = self.engine.label_of_daemon();
        let filters =
            HashMap::from([("label", vec![format!("{daemon}={id}"), REPLICA.to_owned()])]);
        let options = ListContainersOptionsBuilder::default()
            .all(true)
            .filters(&filters)
            .build();
        let found = docker.list_containers(Some(options)).await;
        let found = found.map_err(|error| self.engine.error("list containers", &error))?;
        let ids = found.into_iter().filter_map(|container| {
            let labels = container.labels.unwrap_or_default();
            labels.get(REPLICA).and_then(|id| id.parse().ok())
        });
        Ok(ids.collect())
    }

    async fn read_log(&self, id: ReplicaId, lines: usize) -> Result<Option<String>, DockerError> {
        let docker = self.engine.client().await?;
        let options = LogsOptionsBuilder::default()
            .stdout(true)
            .stderr(true)
            .tail(&lines.to_string())
            .build();
        let mut parts = Box::pin(docker.logs(&name_of(id), Some(options)));
        let mut text = Vec::new();
        while let Some(part) = parts.next().await {
            match part.map(LogOutput::into_bytes) {
                Ok(bytes) => text.extend_from_slice(&bytes),
                Err(error) if status(&error) == Some(404) => return Ok(self.pulls.log(id, lines)),
                Err(error) => return Err(self.engine.error("read the log of a replica", &error)),
            }
            // Not for every part: what is left is moved.
            if text.len() > 2 * MAX_LOG_BYTES {
                keep_end(&mut text, MAX_LOG_BYTES);
            }
        }
        keep_end(&mut text, MAX_LOG_BYTES);
        Ok(Some(String::from_utf8_lossy(&text).into_owned()))
    }
}

/// Leaves so many bytes of a text that is longer, and of those the whole lines: they come in the order of time, and the last
/// ones are asked for.
fn keep_end(text: &mut Vec<u8>, most: usize) {
    let Some(over) = text.len().checked_sub(most).filter(|over| *over > 0) else {
        return;
    };
    text.drain(..over);
    let line = text.iter().position(|byte| *byte == b'\n');
    text.drain(..line.map_or(0, |end| end + 1));
}

/// The name of a replica's container.
fn name_of(id: ReplicaId) -> String {
    format!("rune-replica-{id}")
}

fn health(state: &ContainerState) -> ReplicaHealth {
    use ContainerStateStatusEnum as Status;
    match state.status {
        Some(Status::RUNNING) => ReplicaHealth::Ready,
        Some(Status::CREATED | Status::RESTARTING) => ReplicaHealth::Starting,
        Some(Status::STOPPING) => ReplicaHealth::Unhealthy("its container is ending".to_owned()),
        Some(Status::PAUSED) => ReplicaHealth::Unhealthy("its container is paused".to_owned()),
        Some(Status::EXITED | Status::DEAD | Status::REMOVING | Status::EMPTY) | None => {
            let why = if state.oom_killed == Some(true) {
                "it used more memory than its `resource_profile` gives and was killed".to_owned()
            } else {
                format!(
                    "its container has ended with exit code {}",
                    state.exit_code.unwrap_or_default()
                )
            };
            ReplicaHealth::Unhealthy(why)
        }
    }
}

impl From<DockerError> for BackendError {
    fn from(error: DockerError) -> Self {
        if error.is_transient() {
            Self::Unavailable(error.to_string())
        } else {
            Self::Invalid(error.to_string())
        }
    }
}

#[async_trait]
impl Backend for DockerReplicas {
    fn name(&self) -> &'static str {
        "docker"
    }

    async fn start(&self, spec: &ReplicaSpec) -> Result<Option<String>, BackendError> {
        Ok(Some(self.begin(spec).await?))
    }

    async fn health(&self, id: ReplicaId) -> Result<ReplicaHealth, BackendError> {
        Ok(self.look(id).await?)
    }

    /// The replica itself is told by its protocol.
    async fn drain(&self, _id: ReplicaId, _grace: Duration) -> Result<bool, BackendError> {
        Ok(true)
    }

    async fn stop(&self, id: ReplicaId) -> Result<(), BackendError> {
        Ok(self.end(id).await?)
    }

    async fn list(&self) -> Result<Vec<ReplicaId>, BackendError> {
        Ok(self.find().await?)
    }

    async fn logs(&self, id: ReplicaId, lines: usize) -> Result<Option<String>, BackendError> {
        Ok(self.read_log(id, lines).await?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_log_that_is_too_long_the_last_whole_lines_are_kept() {
        let kept = |most| {
            let mut text = b"one\ntwo\nthree\n".to_vec();
            keep_end(&mut text, most);
            String::from_utf8(text).unwrap()
        };
        assert_eq!(kept(14), "one\ntwo\nthree\n");
        assert_eq!(kept(13), "two\nthree\n");
        assert_eq!(kept(8), "three\n");
        assert_eq!(kept(3), "");
    }
}
