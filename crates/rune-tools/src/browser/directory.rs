//! The directory of a browser: its profile, and the pipes that it is driven through.

use std::fs::{self, File};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, chown};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, FlockOperation, Mode, OFlags, flock, mkfifoat, openat};
use rustix::process::geteuid;
use tempfile::TempDir;

/// What the names of these directories begin with.
const PREFIX: &str = "rune-browser-";
/// Held as long as the daemon lives.
const LOCK: &str = "lock";
/// The account of a browser whose daemon is root: `nobody`.
const NOBODY: u32 = 65534;

/// A directory for one browser, removed when dropped. One that a killed daemon has left is removed by the next.
pub(super) struct Directory {
    dir: TempDir,
    _lock: File,
}

/// Our ends of the pipes.
pub(super) struct Pipes {
    pub(super) input: OwnedFd,
    pub(super) output: OwnedFd,
}

/// In whose account the browser runs, where that is another than the daemon's: never in root's.
pub(super) fn account() -> Option<u32> {
    geteuid().is_root().then_some(NOBODY)
}

impl Directory {
    /// Makes one, and removes those whose daemon is gone.
    pub(super) fn create() -> io::Result<(Self, Pipes)> {
        let base = match account() {
            // One that the other account can get at; the temporary directory of root may be closed to it.
            Some(_) => PathBuf::from("/tmp"),
            None => std::env::temp_dir(),
        };
        sweep(&base);
        let dir = tempfile::Builder::new().prefix(PREFIX).tempdir_in(&base)?;
        let lock = dir.path().join(LOCK);
        let lock = fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(lock)?;
        flock(&lock, FlockOperation::NonBlockingLockExclusive)?;
        let pipes = Pipes {
            input: pipe(&dir.path().join("in"))?,
            output: pipe(&dir.path().join("out"))?,
        };
        let this = Self { dir, _lock: lock };
        fs::create_dir(this.profile())?;
        if let Some(account) = account() {
            let inside = [this.input(), this.output(), this.profile()];
            // The directory last: until then nobody else can put anything into it.
            for path in inside.iter().map(PathBuf::as_path).chain([this.path()]) {
                chown(path, Some(account), Some(account))?;
            }
        }
        Ok((this, pipes))
    }

    pub(super) fn path(&self) -> &Path {
        self.dir.path()
    }

    pub(super) fn profile(&self) -> PathBuf {
        self.path().join("profile")
    }

    /// What the browser reads.
    pub(super) fn input(&self) -> PathBuf {
        self.path().join("in")
    }

    /// What it writes.
    pub(super) fn output(&self) -> PathBuf {
        self.path().join("out")
    }
}

/// Opened for reading and writing, so that neither side waits for the other and none is at its end before the browser is.
fn pipe(path: &Path) -> io::Result<OwnedFd> {
    mkfifoat(CWD, path, Mode::RUSR | Mode::WUSR)?;
    let flags = OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    Ok(openat(CWD, path, flags, Mode::empty())?)
}

/// Removes the directories whose lock nobody holds. What cannot be removed stays.
fn sweep(base: &Path) {
    let own = [geteuid().as_raw(), account().unwrap_or(geteuid().as_raw())];
    let Ok(entries) = fs::read_dir(base) else {
        return;
    };
    for entry in entries.flatten() {
        let is_one = entry.file_name().to_string_lossy().starts_with(PREFIX);
        let is_own = entry
            .metadata()
            .is_ok_and(|meta| meta.is_dir() && own.contains(&meta.uid()));
        if !is_one || !is_own {
            continue;
        }
        let flags = OFlags::RDWR | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
        let Ok(lock) = openat(CWD, entry.path().join(LOCK), flags, Mode::empty()) else {
            continue;
        };
        if flock(&lock, FlockOperation::NonBlockingLockExclusive).is_ok()
            && let Err(error) = fs::remove_dir_all(entry.path())
        {
            tracing::debug!(path = %entry.path().display(), %error, "a directory of a browser stays");
        }
    }
}
