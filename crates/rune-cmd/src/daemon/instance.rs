//! The files by which a running daemon is found, and the lock that says whether it runs.
//!
//! The kernel's lock on the data directory is the truth: it ends with the process, whatever a file says. `daemon.json`
//! and the pid file are only written by the process that holds it, and only that process removes them.

use std::io::Write;
use std::path::{Path, PathBuf};

use rune_storage::{DataDirLock, StorageError};
use rustix::process::{Pid, test_kill_process};
use serde::{Deserialize, Serialize};

use crate::commands::daemon::StartOptions;
use crate::failure::{Failure, Outcome, chain};

/// Where a running daemon can be reached: the content of `daemon.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Address {
    /// Its process.
    pub(crate) pid: u32,
    /// Base URL of the gateway, where one is in this process.
    pub(crate) gateway: Option<String>,
    /// Base URL of the control plane, be it this process or another one.
    pub(crate) control_plane: String,
    /// Version of Rune.
    pub(crate) version: String,
    /// When it was started, RFC 3339.
    pub(crate) started_at: String,
    /// The flags it was started with, for a restart.
    #[serde(default)]
    pub(crate) options: StartOptions,
}

impl Address {
    /// Name of the file in the data directory.
    pub(crate) const FILE_NAME: &'static str = "daemon.json";

    /// What the daemon of this data directory wrote, if one is there.
    pub(crate) fn read(data_dir: &Path) -> Option<Self> {
        let text = std::fs::read(data_dir.join(Self::FILE_NAME)).ok()?;
        serde_json::from_slice(&text).ok()
    }
}

/// The process that holds a data directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Holder {
    /// Nobody: no daemon runs here.
    Nobody,
    /// This process.
    Process(Option<u32>),
}

impl Holder {
    /// Who holds the data directory now.
    pub(crate) fn of(data_dir: &Path) -> Outcome<Self> {
        let file = data_dir.join(DataDirLock::FILE_NAME);
        let Ok(text) = std::fs::read_to_string(&file) else {
            return Ok(Self::Nobody);
        };
        // A holder that is dead needs no look at the lock. That matters: looking means to take it for a moment, in
        // which a daemon that starts would find it taken.
        let pid: Option<i32> = text.trim().parse().ok();
        if !pid.and_then(Pid::from_raw).is_some_and(is_alive) {
            return Ok(Self::Nobody);
        }
        match DataDirLock::acquire(data_dir) {
            Ok(_) => Ok(Self::Nobody),
            Err(StorageError::Locked { pid, .. }) => Ok(Self::Process(pid)),
            Err(error) => Err(Failure::because(
                "cannot look at the data directory",
                &error,
            )),
        }
    }
}

/// Whether a process exists, ours or somebody else's.
pub(crate) fn is_alive(pid: Pid) -> bool {
    !matches!(test_kill_process(pid), Err(rustix::io::Errno::SRCH))
}

/// The files of this process; removed when it is dropped.
#[derive(Debug)]
pub(crate) struct InstanceFiles {
    address: PathBuf,
    pid_file: PathBuf,
    pid: u32,
}

impl InstanceFiles {
    /// Writes both files, over those of a daemon that is gone. Only for the holder of the data directory's lock.
    pub(crate) fn write(data_dir: &Path, pid_file: &Path, address: &Address) -> Outcome<Self> {
        let files = Self {
            address: data_dir.join(Address::FILE_NAME),
            pid_file: pid_file.to_owned(),
            pid: address.pid,
        };
        let json = serde_json::to_string_pretty(address)
            .map_err(|error| Failure::because("cannot write daemon.json", &error))?;
        replace(&files.pid_file, &format!("{}\n", address.pid))?;
        replace(&files.address, &format!("{json}\n"))?;
        Ok(files)
    }
}

impl Drop for InstanceFiles {
    fn drop(&mut self) {
        let own_pid = self.pid.to_string();
        let is_ours = |text: String| text.trim() == own_pid;
        // What cannot be removed is stale, and the next start replaces it.
        if std::fs::read_to_string(&self.pid_file).is_ok_and(is_ours) {
            let _ = std::fs::remove_file(&self.pid_file);
        }
        let _ = std::fs::remove_file(&self.address);
    }
}

/// Writes a file so that a reader sees the old or the new content, never a part.
fn replace(path: &Path, content: &str) -> Outcome<()> {
    let write = || {
        let dir = match path.parent() {
            Some(dir) if !dir.as_os_str().is_empty() => dir,
            _ => Path::new("."),
        };
        std::fs::create_dir_all(dir)?;
        let mut file = tempfile::NamedTempFile::new_in(dir)?;
        file.write_all(content.as_bytes())?;
        file.persist(path).map_err(|error| error.error)?;
        Ok(())
    };
    write().map_err(|error: std::io::Error| {
        Failure::new(
            crate::failure::Exit::Failed,
            format!("cannot write {}: {}", path.display(), chain(&error)),
        )
    })
}
