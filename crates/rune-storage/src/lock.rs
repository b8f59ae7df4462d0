//! One process per data directory.

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, Write};
use std::path::Path;
use std::time::Duration;

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use rustix::process::{Pid, test_kill_process};

use crate::StorageError;

/// A process that was killed leaves the lock to a child that was about to become another
/// program; it goes with that. So often, and with this pause, the lock of a dead process is
/// looked at again: two seconds in all.
const RELEASE_LOOKS: u32 = 200;
const RELEASE_POLL: Duration = Duration::from_millis(10);

/// The exclusive right to a data directory, held until it is dropped or the
/// process ends. The lock file stays; only the kernel's lock on it counts.
#[derive(Debug)]
pub struct DataDirLock {
    _file: File,
}

impl DataDirLock {
    /// Name of the lock file in the data directory.
    pub const FILE_NAME: &'static str = "rune.lock";

    /// Locks `directory`, which must exist.
    ///
    /// # Errors
    /// [`StorageError::Locked`] with the holder's process id where another open
    /// store has it; [`StorageError::Io`] where the lock file cannot be used.
    pub fn acquire(directory: &Path) -> Result<Self, StorageError> {
        let path = directory.join(Self::FILE_NAME);
        let io = |action| {
            let path = path.clone();
            move |source| StorageError::Io {
                action,
                path,
                source,
            }
        };
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .map_err(io("open"))?;
        let mut looks = 0;
        loop {
            match flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => break,
                Err(Errno::WOULDBLOCK) => {
                    let pid = holder(&mut file);
                    looks += 1;
                    if looks > RELEASE_LOOKS || pid.is_none_or(is_alive) {
                        let path = directory.to_owned();
                        return Err(StorageError::Locked { path, pid });
                    }
                    std::thread::park_timeout(RELEASE_POLL);
                }
                Err(error) => return Err(io("lock")(error.into())),
            }
        }
        // Over what is there: a file that is made empty first gives its block back and takes another.
        let line = format!("{}\n", std::process::id());
        file.rewind()
            .and_then(|()| file.write_all(line.as_bytes()))
            .and_then(|()| file.set_len(line.len() as u64))
            .map_err(io("write"))?;
        Ok(Self { _file: file })
    }
}

/// The process that wrote itself into the file.
fn holder(file: &mut File) -> Option<u32> {
    let mut text = String::new();
    file.rewind().ok()?;
    file.read_to_string(&mut text).ok()?;
    text.trim().parse().ok()
}

/// Whether a process exists, ours or somebody else's.
fn is_alive(pid: u32) -> bool {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
    pid.is_none_or(|pid| !matches!(test_kill_process(pid), Err(Errno::SRCH)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_holder_is_told_the_process_of_the_first() {
        let directory = tempfile::tempdir().unwrap();
        let lock = DataDirLock::acquire(directory.path()).unwrap();
        let error = DataDirLock::acquire(directory.path()).unwrap_err();
        assert!(
            error
                .to_string()
                .contains(&format!("process {}", std::process::id()))
        );
        drop(lock);
        DataDirLock::acquire(directory.path()).unwrap();
    }

    #[test]
    fn the_lock_of_a_dead_process_is_waited_for() {
        let directory = tempfile::tempdir().unwrap();
        let lock = DataDirLock::acquire(directory.path()).unwrap();
        // A process that has ended, as the one that wrote the file.
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let dead = child.id();
        child.wait().unwrap();
        let file = directory.path().join(DataDirLock::FILE_NAME);
        std::fs::write(file, dead.to_string()).unwrap();
        let path = directory.path().to_owned();
        let waiting = std::thread::spawn(move || DataDirLock::acquire(&path).map(drop));
        std::thread::park_timeout(RELEASE_POLL * 5);
        drop(lock);
        waiting.join().unwrap().unwrap();
    }
}
