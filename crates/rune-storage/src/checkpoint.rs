//! Checkpoints: moving the write-ahead log into the database, off the hot path.
//!
//! Under load a passive checkpoint runs whenever the log has grown by
//! [`STEP`]; it does not stop the writer. Where the log keeps growing beyond
//! [`CEILING`], because the writer never paused, the writer is made to wait for the
//! rest. In a store that has been idle for [`IDLE`] all of the log is moved.
//!
//! The file of the log stays, because a commit that writes over a log of which
//! everything was moved costs half of one that makes the file longer. So a checkpoint
//! that is only a few commits behind when it ends is followed by another at once.
//!
//! What a reader still sees cannot be moved, however often that is tried. While a long
//! read goes on, a backup above all, the log grows, and the writer waits for nobody.

use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rusqlite::{Connection, ErrorCode};

use crate::health::Health;
use crate::{Durability, StorageError, connection, metrics};

/// Pages of log after which a passive checkpoint runs: 16 MiB.
const STEP: u32 = 4096;

/// Pages of log beyond which the writer has to wait: 128 MiB.
const CEILING: u32 = 32_768;

/// Pages that commits may have added during a checkpoint for it to be followed by
/// another at once: few, so that the second one ends before the next commit.
const NEARLY_ALL: u32 = 64;

/// How often in a row.
const CHASES: u32 = 4;

/// Without a commit for this long the store counts as idle.
const IDLE: Duration = Duration::from_secs(2);

/// How long after a checkpoint that met a reader the next one is tried.
const HELD: Duration = Duration::from_secs(1);

const NAME: &str = "rune-store-checkpoint";

#[derive(Clone, Copy)]
enum Mode {
    Passive,
    Restart,
    Truncate,
}

impl Mode {
    const fn sql(self) -> &'static str {
        match self {
            Self::Passive => "PRAGMA wal_checkpoint(PASSIVE)",
            Self::Restart => "PRAGMA wal_checkpoint(RESTART)",
            Self::Truncate => "PRAGMA wal_checkpoint(TRUNCATE)",
        }
    }
}

#[derive(Default)]
struct State {
    /// Pages in the log.
    frames: u32,
    /// Pages of it that a checkpoint has moved.
    moved: u32,
    /// Checkpoints since the log was last longer than [`STEP`] that nearly caught up.
    chases: u32,
    /// Whether a reader kept the last checkpoint from moving anything.
    held: bool,
    commits: u64,
    closing: bool,
}

impl State {
    const fn pending(&self) -> u32 {
        self.frames.saturating_sub(self.moved)
    }

    /// Notes the length of the log after a commit. Every commit makes it longer, unless
    /// it begins the log anew.
    const fn grown_to(&mut self, frames: u32) {
        if frames <= self.frames {
            self.moved = 0;
        }
        self.frames = frames;
        self.commits += 1;
    }
}

/// How the writer and the store talk to the checkpoint thread.
#[derive(Clone, Default)]
pub(crate) struct CheckpointHandle(Arc<(Mutex<State>, Condvar)>);

impl CheckpointHandle {
    /// Called by the writer after each commit with the pages in the log.
    pub(crate) fn committed(&self, frames: u32) {
        let mut state = self.lock();
        let was = state.pending();
        state.grown_to(frames);
        let wakes = was == 0 || (was < STEP && state.pending() >= STEP);
        drop(state);
        if wakes {
            self.0.1.notify_all();
        }
    }

    /// Pages in the log.
    pub(crate) fn frames(&self) -> u32 {
        self.lock().frames
    }

    /// Lets the thread empty the log and end.
    pub(crate) fn close(&self) {
        self.lock().closing = true;
        self.0.1.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for work: the mode of the next checkpoint, or nothing at the end.
    fn next(&self) -> Option<Mode> {
        let mut state = self.lock();
        loop {
            if state.closing {
                return None;
            }
            if state.pending() >= STEP && state.held {
                let signal = &self.0.1;
                let waited = signal.wait_timeout_while(state, HELD, |state| !state.closing);
                state = waited.unwrap_or_else(PoisonError::into_inner).0;
                if !state.closing {
                    return Some(Mode::Passive);
                }
                continue;
            }
            if state.pending() >= STEP {
                state.chases = 0;
                let over = state.frames >= CEILING;
                return Some(if over { Mode::Restart } else { Mode::Passive });
            }
            if state.pending() == 0 {
                state = self.0.1.wait(state).unwrap_or_else(PoisonError::into_inner);
                continue;
            }
            if state.moved > 0 && state.pending() <= NEARLY_ALL && state.chases < CHASES {
                state.chases += 1;
                return Some(Mode::Passive);
            }
            let commits = state.commits;
            let (after, timeout) = self
                .0
                .1
                .wait_timeout(state, IDLE)
                .unwrap_or_else(PoisonError::into_inner);
            state = after;
            if timeout.timed_out() && state.commits == commits {
                return Some(Mode::Passive);
            }
        }
    }

    /// Notes what a checkpoint found and moved, unless a commit came meanwhile. `busy`: it
    /// gave up on a reader.
    fn done(&self, commits: u64, frames: u32, moved: u32, busy: bool) {
        let mut state = self.lock();
        state.held = busy || moved <= state.moved;
        if state.commits == commits {
            state.frames = frames;
        }
        // Shorter than what was moved: a commit has begun it anew in the meantime.
        state.moved = if moved <= state.frames { moved } else { 0 };
    }
}

/// Starts the thread. Its connection is opened with the first checkpoint, so that a start
/// does not wait for one more reading of the schema.
pub(crate) fn start(
    path: &Path,
    durability: Durability,
    health: Health,
    handle: CheckpointHandle,
) -> Result<JoinHandle<()>, StorageError> {
    let path = path.to_owned();
    std::thread::Builder::new()
        .name(NAME.to_owned())
        .spawn(move || {
            if let Err(error) = run(&path, durability, &health, &handle) {
                health.fail(format!("cannot open the database for checkpoints: {error}"));
            }
        })
        .map_err(|error| StorageError::Thread {
            name: NAME,
            problem: format!("cannot start: {error}"),
        })
}

fn run(
    path: &Path,
    durability: Durability,
    health: &Health,
    handle: &CheckpointHandle,
) -> rusqlite::Result<()> {
    let mut next = handle.next();
    let connection = connection::checkpointer(path, durability)?;
    while let Some(mode) = next {
        checkpoint(&connection, health, handle, mode);
        next = handle.next();
    }
    if health.failure().is_none() {
        checkpoint(&connection, health, handle, Mode::Truncate);
    }
    Ok(())
}

fn checkpoint(connection: &Connection, health: &Health, handle: &CheckpointHandle, mode: Mode) {
    let commits = handle.lock().commits;
    let start = Instant::now();
    let result = connection.query_row(mode.sql(), [], |row| {
        Ok((row.get::<_, bool>(0)?, row.get(1)?, row.get(2)?))
    });
    metrics::checkpoint(start.elapsed());
    match result {
        Ok((busy, frames, moved)) => {
            let count = |pages: i64| u32::try_from(pages).unwrap_or(0);
            handle.done(commits, count(frames), count(moved), busy);
        }
        Err(rusqlite::Error::SqliteFailure(error, _))
            if matches!(
                error.code,
                ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked | ErrorCode::DiskFull
            ) =>
        {
            // The log keeps everything; the next step tries again.
            let frames = handle.frames();
            handle.done(commits, frames, frames, false);
            tracing::warn!(%error, "checkpoint put off");
        }
        Err(error) => {
            let frames = handle.frames();
            handle.done(commits, frames, frames, false);
            health.fail(format!("checkpoint failed: {error}"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_that_was_begun_anew_counts_from_its_beginning() {
        let mut state = State::default();
        state.grown_to(300);
        state.moved = 300;
        assert_eq!(state.pending(), 0);
        state.grown_to(14);
        assert_eq!(state.pending(), 14);
        state.grown_to(400);
        assert_eq!(state.pending(), 400);
    }

    #[test]
    fn a_checkpoint_that_the_writer_overtook_does_not_hide_what_is_pending() {
        let handle = CheckpointHandle::default();
        handle.committed(300);
        let commits = handle.lock().commits;
        handle.committed(14);
        handle.done(commits, 300, 300, false);
        assert_eq!(handle.lock().pending(), 14);
    }
}
