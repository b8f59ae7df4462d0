//! The backend `process`: a replica is a process on this machine, `rune replica`.
//!
//! A record beside each replica's log says which process it is, so that the next start of the
//! daemon finds it again.

use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use async_trait::async_trait;
use rune_backend::{Backend, BackendError, ReplicaHealth, ReplicaSpec};
use rune_env::{
    Config, MACHINE_VARIABLES, REPLICA_ADDR, REPLICA_DATA_DIR, REPLICA_HIDDEN, REPLICA_LOG,
    REPLICA_WORKSPACE_DIR,
};
use rune_runtime::Tasks;
use rune_store_runtime::ReplicaId;
use rustix::process::{Pid, Signal, kill_process};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::Command;
use tokio::time::Instant;

use super::log::{self, RotatingLog};

/// The name of the backend.
pub(crate) const NAME: &str = "process";
/// Longest wait for a replica to say where it listens.
const START_LIMIT: Duration = Duration::from_secs(60);
/// How long a replica gets to end.
const STOP_LIMIT: Duration = Duration::from_secs(10);
/// How often a process that ends is looked at.
const POLL: Duration = Duration::from_millis(20);
/// Longest part of a log that is read.
const MAX_LOG_BYTES: u64 = 4 << 20;
/// Bytes of the end of a log that are shown where a replica does not start.
const SHOWN_LOG_BYTES: u64 = 600;

/// Starts replicas as processes.
pub(crate) struct ProcessBackend {
    program: PathBuf,
    dir: PathBuf,
    env: Vec<(String, String)>,
    tasks: Tasks,
}

/// Which process a replica is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Record {
    pid: i32,
    /// When it began, as the kernel counts: a process id is used again.
    began: u64,
    /// Where it listens, once that is known.
    endpoint: Option<String>,
}

#[derive(Deserialize)]
struct Said {
    listening: String,
}

impl ProcessBackend {
    /// A backend whose replicas run this program. `hidden` is what their tools must not see of the
    /// daemon.
    pub(crate) fn new(program: PathBuf, config: &Config, hidden: &[PathBuf], tasks: Tasks) -> Self {
        let paths = hidden.iter().map(|path| path.display().to_string());
        let workspaces = config.runtime.workspace_dir.display().to_string();
        let machine = MACHINE_VARIABLES.iter();
        let machine = machine.filter_map(|name| Some((*name, config.variable(name)?)));
        let env = [
            ("RUST_LOG", config.observability.log.clone()),
            (REPLICA_WORKSPACE_DIR, workspaces),
            (REPLICA_HIDDEN, paths.collect::<Vec<_>>().join(":")),
            (REPLICA_ADDR, "127.0.0.1:0".to_owned()),
        ];
        let env = machine.chain(env);
        Self {
            program,
            dir: config.storage.data_dir.join("replicas"),
            env: env.map(|(name, value)| (name.to_owned(), value)).collect(),
            tasks,
        }
    }

    /// Ends every replica, each in good order: what it runs is noted as interrupted.
    pub(crate) async fn close(&self) {
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

    fn path(&self, id: ReplicaId, extension: &str) -> PathBuf {
        self.dir.join(format!("{id}.{extension}"))
    }

    fn record(&self, id: ReplicaId) -> Option<Record> {
        let text = std::fs::read(self.path(id, "json")).ok()?;
        serde_json::from_slice(&text).ok()
    }

    fn write(&self, id: ReplicaId, record: &Record) -> std::io::Result<()> {
        let mut file = tempfile::NamedTempFile::new_in(&self.dir)?;
        serde_json::to_writer(&mut file, record)?;
        file.persist(self.path(id, "json"))
            .map_err(|error| error.error)?;
        Ok(())
    }

    fn forget(&self, id: ReplicaId) {
        // What cannot be removed is tried again when the daemon starts.
        let _ = std::fs::remove_file(self.path(id, "json"));
        RotatingLog::remove(&self.path(id, "log"));
        let _ = std::fs::remove_dir_all(self.path(id, "data"));
    }

    /// The last it has logged, for a person.
    fn last_words(&self, id: ReplicaId) -> String {
        let tail = tail(&self.path(id, "log"), SHOWN_LOG_BYTES).unwrap_or_default();
        let text = String::from_utf8_lossy(&tail);
        let lines: Vec<&str> = text.lines().map(str::trim).collect();
        lines.join(" | ")
    }
}

#[async_trait]
impl Backend for ProcessBackend {
    fn name(&self) -> &'static str {
        NAME
    }

    async fn start(&self, spec: &ReplicaSpec) -> Result<Option<String>, BackendError> {
        let id = spec.replica_id;
        if let Some(record) = self.record(id).filter(Record::is_alive)
            && record.endpoint.is_some()
        {
            return Ok(record.endpoint);
        }
        let cannot = |error: std::io::Error| {
            BackendError::Unavailable(format!("cannot start the process of a replica: {error}"))
        };
        rune_storage::create_private_dir(&self.dir)
            .map_err(|error| BackendError::Unavailable(error.to_string()))?;
        let log_path = self.path(id, "log");
        let log = log::append_to(&log_path).map_err(cannot)?;
        let mut child = Command::new(&self.program)
            .arg("replica")
            .env_clear()
            .envs(spec.launch.iter())
            .envs(self.env.iter().map(|(name, value)| (name, value)))
            .env(REPLICA_DATA_DIR, self.path(id, "data"))
            .env(REPLICA_LOG, &log_path)
            .current_dir(&self.dir)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log)
            // Signals of the terminal are the daemon's.
            .process_group(0)
            .spawn()
            .map_err(cannot)?;
        let pid = child.id().unwrap_or_default();
        let mut record = Record::of(pid);
        let stdout = child.stdout.take();
        let shutdown = self.tasks.shutdown();
        self.tasks.spawn("reap", async move {
            tokio::select! {
                _ = child.wait() => {}
                () = shutdown.cancelled() => {}
            }
        });
        self.write(id, &record).map_err(cannot)?;
        let mut line = String::new();
        if let Some(stdout) = stdout {
            let read = BufReader::new(stdout);
            let mut read = tokio::io::AsyncReadExt::take(read, 4096);
            let read = read.read_line(&mut line);
            if tokio::time::timeout(START_LIMIT, read).await.is_err() {
                let words = self.last_words(id);
                return Err(BackendError::Unavailable(format!(
                    "the process of the replica did not say where it listens within {} seconds: {words}",
                    START_LIMIT.as_secs()
                )));
            }
        }
        // One that ends without a word has said nothing; its log says more.
        let Ok(said) = serde_json::from_str::<Said>(&line) else {
            let words = self.last_words(id);
            return Err(BackendError::Unavailable(format!(
                "the process of the replica ended before it was ready: {words}"
            )));
        };
        record.endpoint = Some(said.listening.clone());
        self.write(id, &record).map_err(cannot)?;
        Ok(Some(said.listening))
    }

    async fn health(&self, id: ReplicaId) -> Result<ReplicaHealth, BackendError> {
        Ok(match self.record(id) {
            Some(record) if record.is_alive() => match record.endpoint {
                Some(_) => ReplicaHealth::Ready,
                None => ReplicaHealth::Starting,
            },
            _ => {
                self.forget(id);
                ReplicaHealth::Gone
            }
        })
    }

    async fn drain(&self, _: ReplicaId, _: Duration) -> Result<bool, BackendError> {
        // Nothing is known of what it runs; it ends that in good order.
        Ok(true)
    }

    async fn stop(&self, id: ReplicaId) -> Result<(), BackendError> {
        if let Some(record) = self.record(id) {
            let until = Instant::now() + STOP_LIMIT;
            record.signal(Signal::INT);
            while record.is_alive() && Instant::now() < until {
                tokio::time::sleep(POLL).await;
            }
            if record.is_alive() {
                tracing::warn!(replica = %id, "the process of a replica does not end and is killed");
                record.signal(Signal::KILL);
                while record.is_alive() {
                    tokio::time::sleep(POLL).await;
                }
            }
        }
        self.forget(id);
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

impl Record {
    fn of(pid: u32) -> Self {
        let pid = i32::try_from(pid).unwrap_or_default();
        Self {
            pid,
            began: began(pid).unwrap_or_default(),
            endpoint: None,
        }
    }

    fn is_alive(&self) -> bool {
        began(self.pid) == Some(self.began)
    }

    fn signal(&self, signal: Signal) {
        if !self.is_alive() {
            return;
        }
        if let Some(pid) = Pid::from_raw(self.pid) {
            // It may have ended by now.
            let _ = kill_process(pid, signal);
        }
    }
}

/// The last lines of a file.
fn end_of(path: &Path, lines: usize) -> std::io::Result<String> {
    let bytes = tail(path, MAX_LOG_BYTES)?;
    let text = String::from_utf8_lossy(&bytes);
    let all: Vec<&str> = text.lines().collect();
    let last = all.get(all.len().saturating_sub(lines)..);
    Ok(last.unwrap_or_default().join("\n"))
}

/// The last bytes of a file.
fn tail(path: &Path, most: u64) -> std::io::Result<Vec<u8>> {
    let mut file = File::open(path)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(most)))?;
    let mut bytes = Vec::new();
    file.take(most).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// When a process began; nothing where there is none, or only its remains.
fn began(pid: i32) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name of the program stands in brackets and may hold anything.
    let (_, fields) = stat.rsplit_once(") ")?;
    let mut fields = fields.split(' ');
    if fields.next()? == "Z" {
        return None;
    }
    fields.nth(18)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_told_from_a_later_one_with_its_id() {
        let own = Record::of(std::process::id());
        assert!(own.is_alive());
        let earlier = Record {
            began: own.began.wrapping_sub(1),
            ..own
        };
        assert!(!earlier.is_alive());
    }
}
