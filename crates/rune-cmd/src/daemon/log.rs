//! The log file of a daemon or a replica: it grows to a limit, is put aside, and the oldest one is let go.

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rune_storage::create_private_dir;

use crate::failure::{Failure, Outcome};

/// Size in bytes that a log does not outgrow, but for one line that is longer.
const MAX_BYTES: u64 = 16 * 1024 * 1024;
/// How many full logs are kept beside it: `daemon.log.1` is the newest.
const KEPT: u32 = 4;

/// A log of bounded size. Whoever writes a line writes it in one call.
#[derive(Debug)]
pub(crate) struct RotatingLog {
    path: PathBuf,
    file: File,
    size: u64,
    limit: u64,
    /// Whether what is written to stderr, such as a panic, goes where the log goes.
    is_stderr: bool,
}

/// Opens a log to append to; only its owner can read it.
pub(crate) fn open(path: &Path) -> Outcome<File> {
    append_to(path).map_err(|error| {
        Failure::because(format!("cannot open the log {}", path.display()), &error)
    })
}

/// The same for who knows what to say where it fails.
pub(crate) fn append_to(path: &Path) -> io::Result<File> {
    if let Some(dir) = path.parent().filter(|dir| !dir.as_os_str().is_empty()) {
        create_private_dir(dir)?;
    }
    OpenOptions::new()
        .create(true)
        .append(true)
        .mode(0o600)
        .open(path)
}

impl RotatingLog {
    /// Goes on with the log of an earlier daemon, if one is there. `is_stderr` says that this
    /// process has the log as its stderr.
    pub(crate) fn open(path: &Path, is_stderr: bool) -> Outcome<Self> {
        let file = open(path)?;
        let size = file.metadata().map_or(0, |meta| meta.len());
        Ok(Self {
            path: path.to_owned(),
            file,
            size,
            limit: MAX_BYTES,
            is_stderr,
        })
    }

    /// Puts the file aside and begins a new one.
    fn rotate(&mut self) -> io::Result<()> {
        for n in (1..KEPT).rev() {
            // The first ones are not there yet.
            let _ = std::fs::rename(self.aside(n), self.aside(n + 1));
        }
        std::fs::rename(&self.path, self.aside(1))?;
        self.file = append_to(&self.path)?;
        self.size = 0;
        if self.is_stderr {
            rustix::stdio::dup2_stderr(&self.file)?;
        }
        Ok(())
    }

    fn aside(&self, n: u32) -> PathBuf {
        aside(&self.path, n)
    }

    /// Removes a log and what was put aside of it, as far as it is there.
    pub(crate) fn remove(path: &Path) {
        let all = (1..=KEPT).map(|n| aside(path, n));
        for file in all.chain([path.to_owned()]) {
            let _ = std::fs::remove_file(file);
        }
    }
}

/// The last bytes of a log, at the most so many. Where it was put aside a moment ago they begin in what that is now.
pub(crate) fn tail(path: &Path, most: u64) -> io::Result<Vec<u8>> {
    let newest = end_of(path, most);
    let missing = most - newest.as_ref().map_or(0, |bytes| bytes.len() as u64);
    let before = match missing {
        0 => Vec::new(),
        missing => match end_of(&aside(path, 1), missing) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return newest,
            Err(error) => return Err(error),
        },
    };
    // Between the two files there may be only the older one.
    Ok([before, newest.unwrap_or_default()].concat())
}

/// The last bytes of a file.
fn end_of(path: &Path, most: u64) -> io::Result<Vec<u8>> {
    let mut file = File::open(path)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(most)))?;
    let mut bytes = Vec::new();
    file.take(most).read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn aside(path: &Path, n: u32) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{n}"));
    name.into()
}

impl Write for RotatingLog {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let is_full = self.size > 0 && self.size.saturating_add(line.len() as u64) > self.limit;
        if is_full && let Err(error) = self.rotate() {
            // A log that is too long is better than none; the next try is as far away again.
            self.size = 0;
            writeln!(self.file, "the log was not rotated: {error}")?;
        }
        let written = self.file.write(line)?;
        self.size += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn small(dir: &Path) -> RotatingLog {
        RotatingLog {
            limit: 20,
            ..RotatingLog::open(&dir.join("daemon.log"), false).unwrap()
        }
    }

    #[test]
    fn keeps_the_newest_lines_in_files_of_a_bounded_size() {
        let dir = tempfile::tempdir().unwrap();
        let mut log = small(dir.path());
        for n in 0..100 {
            if n == 50 {
                // A new daemon goes on where the last one was.
                log = small(dir.path());
            }
            log.write_all(format!("line {n:03}\n").as_bytes()).unwrap();
        }
        let mut files: Vec<_> = std::fs::read_dir(dir.path())
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .collect();
        files.sort();
        assert_eq!(files.len(), 1 + KEPT as usize, "{files:?}");
        // `daemon.log`, then `.1` to `.4`: the newest first.
        let texts: Vec<_> = files
            .iter()
            .map(|path| std::fs::read_to_string(path).unwrap())
            .collect();
        assert!(texts.iter().all(|text| text.len() <= 20), "{texts:?}");
        let all: String = texts.into_iter().rev().collect();
        let kept: Vec<_> = all.lines().collect();
        let expected: Vec<_> = (100 - kept.len()..100)
            .map(|n| format!("line {n:03}"))
            .collect();
        assert_eq!(kept, expected);
        // Of the two newest files, across their border.
        let path = dir.path().join("daemon.log");
        let own = std::fs::metadata(&path).unwrap().len();
        let end = tail(&path, own + 9).unwrap();
        assert!(all.ends_with(std::str::from_utf8(&end).unwrap()));
        assert_eq!(end.len() as u64, own + 9);
        assert_eq!(tail(&path, 3).unwrap(), b"99\n");
        RotatingLog::remove(&dir.path().join("daemon.log"));
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn goes_on_where_a_log_cannot_be_put_aside() {
        let dir = tempfile::tempdir().unwrap();
        let mut log = small(dir.path());
        // A directory with a file in it cannot be replaced.
        std::fs::create_dir_all(dir.path().join("daemon.log.1/x")).unwrap();
        std::fs::create_dir_all(dir.path().join("daemon.log.2/x")).unwrap();
        std::fs::create_dir_all(dir.path().join("daemon.log.3/x")).unwrap();
        std::fs::create_dir_all(dir.path().join("daemon.log.4/x")).unwrap();
        for n in 0..10 {
            log.write_all(format!("line {n:03}\n").as_bytes()).unwrap();
        }
        let text = std::fs::read_to_string(dir.path().join("daemon.log")).unwrap();
        assert!(
            text.contains("line 000") && text.contains("line 009"),
            "{text}"
        );
        assert!(text.contains("was not rotated"), "{text}");
    }
}
