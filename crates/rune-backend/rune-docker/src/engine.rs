//! The connection to the engine.

use std::collections::HashMap;
use std::fmt;
use std::future::Future;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bollard::query_parameters::{ListContainersOptionsBuilder, RemoveContainerOptionsBuilder};
use bollard::{API_DEFAULT_VERSION, Docker};
use tokio::sync::{Mutex, MutexGuard, OnceCell};
use tokio::time::sleep;
use uuid::Uuid;

use crate::DockerError;
use crate::{exec, owner};

/// Longest time the engine may take to begin an answer, in seconds.
const ANSWER_SECS: u64 = 30;
/// How often the removal of a container is tried, with a longer pause each time.
const REMOVALS: u32 = 6;
const FIRST_PAUSE: Duration = Duration::from_millis(250);

/// Starts a task that outlives the call it comes from and that shutdown waits for.
pub type Spawn = Arc<dyn Fn(Pin<Box<dyn Future<Output = ()> + Send>>) + Send + Sync>;

/// What an operator says about the engine.
#[derive(Debug, Clone)]
pub struct DockerConfig {
    /// Where it is: `unix:///PATH` or `tcp://HOST:PORT`.
    pub host: String,
    /// Rune's data directory; containers are marked as belonging to it.
    pub data_dir: PathBuf,
    /// Below it every agent has its workspace.
    pub workspaces: PathBuf,
    /// Files and directories besides these two that no container may see.
    pub hidden: Vec<PathBuf>,
    /// Names of the containers that agents may run commands in.
    pub exec_containers: Vec<String>,
    /// The directory of Docker's `config.json`, which has the credentials of registries; absent: none are sent.
    pub credentials: Option<PathBuf>,
}

/// The engine. Cheap to clone; connects when it is first needed.
#[derive(Clone)]
pub struct DockerEngine(Arc<Inner>);

struct Inner {
    config: DockerConfig,
    spawn: Spawn,
    client: OnceCell<Docker>,
    swept: OnceCell<()>,
    daemon: OnceLock<String>,
    networks: Mutex<()>,
}

impl fmt::Debug for DockerEngine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("DockerEngine").field(&self.0.config).finish()
    }
}

/// What an engine says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EngineInfo {
    /// Where it is.
    pub host: String,
    /// Its version.
    pub version: String,
    /// What it confines containers with, such as `seccomp`.
    pub security: Vec<String>,
    /// Limits that the machine cannot keep.
    pub missing: Vec<&'static str>,
}

impl DockerEngine {
    /// The engine of this configuration. `spawn` starts the tasks that remove containers.
    #[must_use]
    pub fn new(config: DockerConfig, spawn: Spawn) -> Self {
        Self(Arc::new(Inner {
            config,
            spawn,
            client: OnceCell::new(),
            swept: OnceCell::new(),
            daemon: OnceLock::new(),
            networks: Mutex::new(()),
        }))
    }

    /// No engine: what needs one says so.
    #[must_use]
    pub fn absent() -> Self {
        let config = DockerConfig {
            host: "unix:///nonexistent/docker.sock".to_owned(),
            data_dir: PathBuf::new(),
            workspaces: PathBuf::new(),
            hidden: Vec::new(),
            exec_containers: Vec::new(),
            credentials: None,
        };
        Self::new(config, Arc::new(|_| ()))
    }

    /// Held while networks are made, joined and removed: the engine takes a second one of the same name, and one that is
    /// about to be joined is not in use.
    pub(crate) async fn networks(&self) -> MutexGuard<'_, ()> {
        self.0.networks.lock().await
    }

    pub(crate) fn config(&self) -> &DockerConfig {
        &self.0.config
    }

    /// Removes what earlier processes of the data directory left, once.
    ///
    /// # Errors
    /// A [`DockerError`] where the engine cannot be asked.
    pub async fn sweep(&self) -> Result<(), DockerError> {
        let sweep = || async {
            let docker = self.client().await?;
            let filters = HashMap::from([(
                "label",
                vec![format!("{}={}", owner::DAEMON, self.daemon())],
            )]);
            let options = ListContainersOptionsBuilder::default()
                .all(true)
                .filters(&filters)
                .build();
            let found = docker.list_containers(Some(options)).await;
            let found = found.map_err(|error| self.error("list containers", &error))?;
            for container in found {
                let labels = container.labels.unwrap_or_default();
                // A replica belongs to no process: the reconcile loop says whether it stays.
                let Some(process) = labels.get(owner::PROCESS) else {
                    continue;
                };
                if let (false, Some(id)) = (owner::is_alive(process), container.id) {
                    tracing::info!(container = id, "a container was left behind; it is removed");
                    self.remove(id, true);
                }
            }
            for name in &self.config().exec_containers {
                // One that is not there, does not run or has no shell has nothing that could be found.
                if let Err(error) = exec::sweep(self, name).await {
                    tracing::debug!(container = name, %error, "commands were not looked for");
                }
            }
            Ok(())
        };
        self.0.swept.get_or_try_init(sweep).await.copied()
    }

    /// What the engine says of itself.
    ///
    /// # Errors
    /// A [`DockerError`] where it cannot be asked.
    pub async fn info(&self) -> Result<EngineInfo, DockerError> {
        let docker = self.client().await?;
        let info = docker.info().await;
        let info = info.map_err(|error| self.error("describe itself", &error))?;
        let limits = [
            (info.memory_limit, "memory"),
            (info.pids_limit, "processes"),
            (info.cpu_cfs_quota, "processor"),
        ];
        let missing = limits
            .into_iter()
            .filter(|(there, _)| *there == Some(false));
        Ok(EngineInfo {
            host: self.0.config.host.clone(),
            version: info.server_version.unwrap_or_default(),
            security: info.security_options.unwrap_or_default(),
            missing: missing.map(|(_, name)| name).collect(),
        })
    }

    /// Starts a task that outlives the call it comes from.
    pub(crate) fn spawn(&self, task: Pin<Box<dyn Future<Output = ()> + Send>>) {
        (self.0.spawn)(task);
    }

    pub(crate) async fn client(&self) -> Result<&Docker, DockerError> {
        let connect = || async {
            let docker = self.connect()?;
            let negotiated = docker.negotiate_version().await;
            negotiated.map_err(|error| self.error("say its version", &error))
        };
        self.0.client.get_or_try_init(connect).await
    }

    fn connect(&self) -> Result<Docker, DockerError> {
        let host = self.0.config.host.as_str();
        let connected = match host.split_once("://") {
            Some(("unix", path)) => {
                Docker::connect_with_unix(path, ANSWER_SECS, API_DEFAULT_VERSION)
            }
            Some(("tcp" | "http", address)) => {
                Docker::connect_with_http(address, ANSWER_SECS, API_DEFAULT_VERSION)
            }
            _ => return Err(DockerError::Host(host.to_owned())),
        };
        connected.map_err(|error| self.error("be connected to", &error))
    }

    /// The socket of an engine on this machine.
    pub(crate) fn socket(&self) -> Option<PathBuf> {
        let path = self.0.config.host.strip_prefix("unix://")?;
        let path = PathBuf::from(path);
        Some(path.canonicalize().unwrap_or(path))
    }

    pub(crate) fn error(
        &self,
        action: &'static str,
        error: &bollard::errors::Error,
    ) -> DockerError {
        DockerError::of(&self.0.config.host, action, error)
    }

    /// What the marks of all commands of this data directory begin with.
    pub(crate) fn mark_of_daemon(&self) -> String {
        format!("{}/", self.daemon())
    }

    /// A mark for a command of this process.
    pub(crate) fn mark(&self) -> String {
        let (daemon, process) = (self.mark_of_daemon(), owner::this_process());
        format!("{daemon}{process}/{};", Uuid::now_v7())
    }

    /// The label of what belongs to this data directory.
    pub(crate) fn label_of_daemon(&self) -> (&'static str, &str) {
        (owner::DAEMON, self.daemon())
    }

    /// The labels of a container that belongs to this process.
    pub(crate) fn labels(&self) -> HashMap<String, String> {
        HashMap::from([
            (owner::DAEMON.to_owned(), self.daemon().to_owned()),
            (owner::PROCESS.to_owned(), owner::this_process()),
        ])
    }

    fn daemon(&self) -> &str {
        let id = || owner::daemon_id(&self.0.config.data_dir);
        self.0.daemon.get_or_init(id)
    }

    /// Kills and removes a container, in a task of its own. Where it may not exist yet, because the engine was still
    /// making it, it is looked for again.
    pub(crate) fn remove(&self, container: String, exists: bool) {
        let engine = self.clone();
        self.spawn(Box::pin(async move {
            let mut pause = FIRST_PAUSE;
            for _ in 0..REMOVALS {
                match engine.try_remove(&container).await {
                    Ok(true) => return,
                    Ok(false) if exists => return,
                    Ok(false) => {}
                    Err(error) => tracing::debug!(container, %error, "a container is still there"),
                }
                sleep(pause).await;
                pause *= 2;
            }
            if exists {
                tracing::warn!(
                    container,
                    "a container cannot be removed; the next start tries again"
                );
            }
        }));
    }

    /// Whether there was one.
    pub(crate) async fn try_remove(&self, container: &str) -> Result<bool, DockerError> {
        let options = RemoveContainerOptionsBuilder::default()
            .force(true)
            .v(true)
            .build();
        let removed = self
            .client()
            .await?
            .remove_container(container, Some(options));
        match removed.await {
            Ok(()) => Ok(true),
            Err(error) if status(&error) == Some(404) => Ok(false),
            Err(error) => Err(self.error("remove a container", &error)),
        }
    }
}

/// The HTTP status that the engine answered.
pub(crate) fn status(error: &bollard::errors::Error) -> Option<u16> {
    match error {
        bollard::errors::Error::DockerResponseServerError { status_code, .. } => Some(*status_code),
        _ => None,
    }
}
