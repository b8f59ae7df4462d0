//! One process per data directory.

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, Write};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

use crate::StorageError;

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
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(Errno::WOULDBLOCK) => return Err(held(directory.to_owned(), &mut file)),
            Err(error) => return Err(io("lock")(error.into())),
        }
        file.set_len(0)
            .and_then(|()| file.rewind())
            .and_then(|()| writeln!(file, "{}", std::process::id()))
            .map_err(io("write"))?;
        Ok(Self { _file: file })
    }
}

fn held(path: PathBuf, file: &mut File) -> StorageError {
    let mut text = String::new();
    let pid = match file.read_to_string(&mut text) {
        Ok(_) => text.trim().parse().ok(),
        Err(_) => None,
    };
    StorageError::Locked { path, pid }
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
}
