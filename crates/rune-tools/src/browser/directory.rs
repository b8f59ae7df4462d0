//! The directory of a browser: its profile, and the pipes that it is driven through.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{MetadataExt, chown};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{CWD, FlockOperation, Mode, OFlags, flock, fstat, mkfifoat, openat};
use rustix::io::Errno;
use rustix::process::geteuid;
use tempfile::TempDir;
use tokio::time::sleep;

use crate::blocking;

/// What the names of these directories begin with.
const PREFIX: &str = "rune-browser-";
/// The account of a browser whose daemon is root: `nobody`.
const NOBODY: u32 = 65534;

/// How often the removal of a directory is tried whose browser still writes while it dies, and the pause in between.
const REMOVALS: u32 = 10;
const PAUSE: Duration = Duration::from_millis(50);

/// A directory for one browser, removed when dropped. It is locked as long as the daemon lives; one that is not, because its
/// daemon was killed or something was written while it was removed, is removed by the next.
pub(super) struct Directory {
    dir: TempDir,
    _lock: OwnedFd,
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
        let this = Self::locked(&base)?;
        let pipes = Pipes {
            input: pipe(&this.input())?,
            output: pipe(&this.output())?,
        };
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

    /// A new one that nobody else removes.
    fn locked(base: &Path) -> io::Result<Self> {
        loop {
            let dir = tempfile::Builder::new().prefix(PREFIX).tempdir_in(base)?;
            // Another daemon may take it for one that was left, as long as it is not locked.
            if let Some(lock) = lock(dir.path())? {
                return Ok(Self { dir, _lock: lock });
            }
        }
    }

    /// Removes it, as far as that can be done while a browser that ends may still write. Blocks at times.
    pub(super) async fn remove(self) {
        for _ in 0..REMOVALS {
            let path = self.path().to_owned();
            let removed = blocking(move || Ok(remove(&path).is_ok())).await;
            if matches!(removed, Ok(true)) {
                return;
            }
            sleep(PAUSE).await;
        }
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

/// Removes the directories that nobody holds. What cannot be removed stays.
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
        // What somebody holds is in use, and what cannot be opened is not ours.
        if let Ok(Some(_lock)) = lock(&entry.path())
            && let Err(error) = remove(&entry.path())
        {
            tracing::debug!(path = %entry.path().display(), %error, "a directory of a browser stays");
        }
    }
}

/// The lock of a directory; `None` where somebody else holds it, or has removed the directory.
fn lock(path: &Path) -> io::Result<Option<OwnedFd>> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let lock = match openat(CWD, path, flags, Mode::empty()) {
        Ok(lock) => lock,
        Err(Errno::NOENT) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {}
        Err(Errno::WOULDBLOCK) => return Ok(None),
        Err(error) => return Err(error.into()),
    }
    let held = fstat(&lock)?;
    let is_there = fs::symlink_metadata(path)
        .is_ok_and(|found| (found.dev(), found.ino()) == (held.st_dev, held.st_ino));
    Ok(is_there.then_some(lock))
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_without_a_lock_is_removed_and_what_is_held_stays() {
        let base = tempfile::tempdir().unwrap();
        let held = Directory::locked(base.path()).unwrap();
        fs::write(held.path().join("in"), "").unwrap();
        // One of a daemon that was killed, and one of which only the end of a browser is left.
        for left in ["killed/profile/Default", "late"] {
            fs::create_dir_all(base.path().join(format!("{PREFIX}{left}"))).unwrap();
        }
        fs::create_dir(base.path().join("rune-other")).unwrap();
        sweep(base.path());
        let names = fs::read_dir(base.path()).unwrap();
        let mut names: Vec<_> = names.map(|entry| entry.unwrap().path()).collect();
        names.sort();
        let mut expected = vec![held.path().to_owned(), base.path().join("rune-other")];
        expected.sort();
        assert_eq!(names, expected);
    }

    #[tokio::test]
    async fn a_directory_that_is_still_written_to_is_removed_in_the_end() {
        let base = tempfile::tempdir().unwrap();
        let directory = Directory::locked(base.path()).unwrap();
        let path = directory.path().to_owned();
        // A browser that writes for a while, into a directory that it makes again.
        let writing = std::thread::spawn(move || {
            for n in 0..300 {
                let profile = path.join(format!("profile/{n}"));
                if fs::create_dir_all(&profile).is_err() {
                    break;
                }
            }
        });
        directory.remove().await;
        writing.join().unwrap();
        sweep(base.path());
        assert_eq!(fs::read_dir(base.path()).unwrap().count(), 0);
    }
}
