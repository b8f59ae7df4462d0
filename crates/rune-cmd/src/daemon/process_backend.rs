//! The backend `process`: a replica is a process on this machine, `rune replica`.
//!
//! A record beside each replica's log says which process it is, so that the next start of the
//! daemon finds it again.

mod record;

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use rune_backend::{Backend, BackendError, ReplicaHealth, ReplicaSpec};
use rune_env::{
    Config, MACHINE_VARIABLES, REPLICA_ADDR, REPLICA_DATA_DIR, REPLICA_HIDDEN, REPLICA_LOG,
    REPLICA_WORKSPACE_DIR, ReplicaAddr,
};
use rune_runtime::Tasks;
use rune_store_runtime::ReplicaId;
use rustix::process::Signal;
use tokio::process::Command;

use self::record::Record;
use super::log::{self, RotatingLog};
use crate::failure::{Failure, Outcome};

/// The name of the backend.
pub(crate) const NAME: &str = "process";
/// How long a replica gets to end.
const STOP_LIMIT: Duration = Duration::from_secs(10);
/// How long one gets that was killed: the kernel may be waiting for a disk.
const KILL_LIMIT: Duration = Duration::from_secs(5);
/// Longest part of a log that is read.
const MAX_LOG_BYTES: u64 = 4 << 20;

/// Starts replicas as processes.
pub(crate) struct ProcessBackend {
    program: PathBuf,
    dir: PathBuf,
    env: Vec<(String, String)>,
    tasks: Tasks,
    /// Whether no more are started. Held while a process is made, so that each has its record when this is said.
    closing: Mutex<bool>,
}

impl ProcessBackend {
    /// A backend whose replicas run this program. `hidden` is what their tools must not see of the
    /// daemon.
    ///
    /// # Errors
    /// A [`Failure`] where one of these paths cannot be told to a replica.
    pub(crate) fn new(
        program: PathBuf,
        config: &Config,
        hidden: &[PathBuf],
        tasks: Tasks,
    ) -> Outcome<Self> {
        let absolute = |path: &Path| {
            std::path::absolute(path).map_err(|error| {
                Failure::because("cannot tell replicas where the data directory is", &error)
            })
        };
        let hidden = serde_json::to_string(hidden).map_err(|error| {
            Failure::because("cannot tell replicas what they must not see", &error)
        })?;
        let workspaces = config.runtime.workspace_dir.display().to_string();
        let machine = MACHINE_VARIABLES.iter();
        let machine = machine.filter_map(|name| Some((*name, config.variable(name)?)));
        let env = [
            ("RUST_LOG", config.observability.log.clone()),
            (REPLICA_WORKSPACE_DIR, workspaces),
            (REPLICA_HIDDEN, hidden),
        ];
        let env = machine.chain(env);
        Ok(Self {
            program,
            dir: absolute(&config.storage.data_dir.join("replicas"))?,
            env: env.map(|(name, value)| (name.to_owned(), value)).collect(),
            tasks,
            closing: Mutex::default(),
        })
    }

    /// Where the daemon is to listen for its replicas.
    pub(crate) fn daemon_socket(&self) -> std::io::Result<PathBuf> {
        let dir = self.dir.with_file_name("sockets").join("daemon");
        rune_storage::create_private_dir(&dir)?;
        Ok(dir.join("daemon.sock"))
    }

    /// Ends every replica, each in good order: what it runs is noted as interrupted. None is started any more.
    pub(crate) async fn close(&self) {
        *self.closing() = true;
        let ids = match self.list().await {
            Ok(ids) => ids,
            Err(error) => {
                tracing::warn!(%error, "replicas were not ended");
                return;
            }
        };
        for stopped in futures_util::future::join_all(ids.iter().map(|id| self.stop(*id))).await {
            if let Err(error) = stopped {
                tracing::warn!(%error, "a replica was not ended");
            }
        }
    }

    fn closing(&self) -> MutexGuard<'_, bool> {
        self.closing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes the process of a replica, with its record, and answers where it is going to listen.
    fn spawn(&self, spec: &ReplicaSpec) -> std::io::Result<String> {
        let closing = self.closing();
        if *closing {
            return Err(std::io::Error::other("the daemon ends"));
        }
        let id = spec.replica_id;
        let endpoint = ReplicaAddr::Unix(self.path(id, "sock")).to_string();
        let log_path = self.path(id, "log");
        let log = log::append_to(&log_path)?;
        let mut child = Command::new(&self.program)
            .arg("replica")
            .env_clear()
            .envs(spec.launch.iter())
            .envs(self.env.iter().map(|(name, value)| (name, value)))
            .env(REPLICA_ADDR, &endpoint)
            .env(REPLICA_DATA_DIR, self.path(id, "data"))
            .env(REPLICA_LOG, &log_path)
            .current_dir(&self.dir)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            // Signals of the terminal are the daemon's.
            .process_group(0)
            .spawn()?;
        let record = Record::of(child.id().unwrap_or_default(), endpoint.clone());
        let written = record.and_then(|record| self.write(id, &record));
        if written.is_err() {
            // Nobody would find it; it may have ended already.
            let _ = child.start_kill();
        }
        let shutdown = self.tasks.shutdown();
        self.tasks.spawn("reap", async move {
            tokio::select! {
                _ = child.wait() => {}
                () = shutdown.cancelled() => {}
            }
        });
        written.map(|()| endpoint)
    }

    /// Starts a replica and answers where it is going to listen.
    fn begin(&self, spec: &ReplicaSpec) -> Result<String, BackendError> {
        rune_storage::create_private_dir(&self.dir)
            .map_err(|error| BackendError::Unavailable(error.to_string()))?;
        self.spawn(spec).map_err(|error| {
            BackendError::Unavailable(format!("cannot start the process of a replica: {error}"))
        })
    }

    fn path(&self, id: ReplicaId, extension: &str) -> PathBuf {
        self.dir.join(format!("{id}.{extension}"))
    }

    /// What is known of a replica's process; nothing where it has none.
    fn record(&self, id: ReplicaId) -> Result<Option<Record>, BackendError> {
        match std::fs::read(self.path(id, "json")) {
            // A record is written whole. What is left of one after a power cut is of a process that ended with it.
            Ok(text) => Ok(serde_json::from_slice(&text).ok()),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(unknown(&error)),
        }
    }

    /// The same where the process still runs.
    fn live_record(&self, id: ReplicaId) -> Result<Option<Record>, BackendError> {
        let Some(record) = self.record(id)? else {
            return Ok(None);
        };
        let is_alive = record.is_alive().map_err(|error| unknown(&error))?;
        Ok(is_alive.then_some(record))
    }

    fn write(&self, id: ReplicaId, record: &Record) -> std::io::Result<()> {
        let mut file = tempfile::NamedTempFile::new_in(&self.dir)?;
        serde_json::to_writer(&mut file, record)?;
        file.persist(self.path(id, "json"))
            .map_err(|error| error.error)?;
        Ok(())
    }

    /// Removes what belongs to a replica that has ended.
    async fn forget(&self, id: ReplicaId) {
        let [record, log, data, socket] =
            ["json", "log", "data", "sock"].map(|it| self.path(id, it));
        let removed = tokio::task::spawn_blocking(move || {
            // What cannot be removed is tried again when the daemon starts.
            let _ = std::fs::remove_file(record);
            let _ = std::fs::remove_file(socket);
            RotatingLog::remove(&log);
            let _ = std::fs::remove_dir_all(data);
        });
        if let Err(error) = removed.await {
            tracing::warn!(replica = %id, %error, "what belongs to a replica was not removed");
        }
    }
}

#[async_trait]
impl Backend for ProcessBackend {
    fn name(&self) -> &'static str {
        NAME
    }

    async fn start(&self, spec: &ReplicaSpec) -> Result<Option<String>, BackendError> {
        let id = spec.replica_id;
        if let Some(record) = self.live_record(id)? {
            return Ok(Some(record.endpoint));
        }
        let begun = self.begin(spec);
        if *self.closing() {
            // What becomes of a replica while the daemon ends says nothing of its version, and who waits for it ends, too.
            self.tasks.shutdown().cancelled().await;
        }
        begun.map(Some)
    }

    async fn health(&self, id: ReplicaId) -> Result<ReplicaHealth, BackendError> {
        if *self.closing() {
            let message = "the daemon ends, and its replicas with it";
            return Err(BackendError::Unavailable(message.to_owned()));
        }
        Ok(match self.live_record(id)? {
            Some(_) => ReplicaHealth::Ready,
            None => {
                self.forget(id).await;
                ReplicaHealth::Gone
            }
        })
    }

    async fn drain(&self, _: ReplicaId, _: Duration) -> Result<bool, BackendError> {
        // Nothing is known of what it runs; it ends that in good order.
        Ok(true)
    }

    async fn stop(&self, id: ReplicaId) -> Result<(), BackendError> {
        if let Some(record) = self.record(id)?
            && !ends(&record, Signal::INT, STOP_LIMIT).await?
        {
            tracing::warn!(replica = %id, "the process of a replica does not end and is killed");
            if !ends(&record, Signal::KILL, KILL_LIMIT).await? {
                let pid = record.pid;
                return Err(BackendError::Unavailable(format!(
                    "the process {pid} of a replica was killed and does not end"
                )));
            }
        }
        self.forget(id).await;
        Ok(())
    }

    async fn logs(&self, id: ReplicaId, lines: usize) -> Result<Option<String>, BackendError> {
        let path = self.path(id, "log");
        let read = tokio::task::spawn_blocking(move || end_of(&path, lines)).await;
        let read = read.unwrap_or_else(|error| Err(std::io::Error::other(error)));
        match read {
            Ok(text) => Ok(Some(text)),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(BackendError::Unavailable(format!(
                "cannot read the log of a replica: {error}"
            ))),
        }
    }

    async fn list(&self) -> Result<Vec<ReplicaId>, BackendError> {
        let entries = match std::fs::read_dir(&self.dir) {
            Ok(entries) => entries,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => {
                let dir = self.dir.display();
                return Err(BackendError::Unavailable(format!(
                    "cannot read {dir}: {error}"
                )));
            }
        };
        let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
        let ids = names.filter_map(|name| name.strip_suffix(".json")?.parse().ok());
        Ok(ids.collect())
    }
}

async fn ends(record: &Record, signal: Signal, longest: Duration) -> Result<bool, BackendError> {
    let ended = record.ends(signal, longest).await;
    ended.map_err(|error| unknown(&error))
}

/// The process may run, or not.
fn unknown(error: &std::io::Error) -> BackendError {
    BackendError::Unavailable(format!(
        "it is not known whether the process of a replica runs: {error}"
    ))
}

/// The last lines of a log.
fn end_of(path: &Path, lines: usize) -> std::io::Result<String> {
    let bytes = log::tail(path, MAX_LOG_BYTES)?;
    let text = String::from_utf8_lossy(&bytes);
    let all: Vec<&str> = text.lines().collect();
    let last = all.get(all.len().saturating_sub(lines)..);
    Ok(last.unwrap_or_default().join("\n"))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use rune_backend::Resources;
    use rune_env::Overrides;
    use rune_store_runtime::{DeploymentId, VersionId};

    use super::*;

    #[tokio::test]
    async fn a_replica_is_known_from_when_its_process_runs_until_it_has_ended() {
        let dir = tempfile::tempdir().unwrap();
        let program = dir.path().join("program");
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o700);
        std::fs::write(&program, "#!/bin/sh\nexec sleep 600\n").unwrap();
        std::fs::set_permissions(&program, mode).unwrap();
        let own = Overrides::new().with("storage.data_dir", dir.path().to_str());
        let config = Config::without_file(own).unwrap();
        let backend = ProcessBackend::new(program, &config, &[], Tasks::new()).unwrap();
        let spec = ReplicaSpec {
            replica_id: ReplicaId::generate(),
            deployment_id: DeploymentId::generate(),
            version_id: VersionId::generate(),
            namespace: "dev".to_owned(),
            agent: "slow".to_owned(),
            digest: "sha256:0".to_owned(),
            image: None,
            env: BTreeMap::new(),
            networks: Vec::new(),
            reaches_out: false,
            resources: Resources::default(),
            startup: Duration::from_secs(1),
            launch: BTreeMap::new(),
        };
        // Whoever has it started waits for what it says, and counts the time.
        let endpoint = backend.start(&spec).await.unwrap();
        let record = backend.record(spec.replica_id).unwrap().unwrap();
        assert_eq!(endpoint.as_ref(), Some(&record.endpoint));
        assert!(record.is_alive().unwrap());
        assert_eq!(backend.start(&spec).await.unwrap(), endpoint);
        assert_eq!(backend.list().await.unwrap(), [spec.replica_id]);
        backend.stop(spec.replica_id).await.unwrap();
        assert!(!record.is_alive().unwrap());
        assert!(backend.list().await.unwrap().is_empty());
    }
}
