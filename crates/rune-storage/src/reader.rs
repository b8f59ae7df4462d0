//! The read pool: threads with a read-only connection each. They see what is
//! committed, in a snapshot of their own, and never wait for the writer.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rune_store_runtime::{Page, PageRequest, StoreError};
use rusqlite::{Connection, Row};
use serde::Serialize;
use tokio::sync::oneshot;

use crate::error::read_failed;
use crate::query::Query;
use crate::{StorageError, connection, cursor};

/// How long one read may take. A longer one would keep the write-ahead log from
/// being reused.
const MAX_READ: Duration = Duration::from_secs(5);

/// How often a running read looks at the clock, in steps of SQLite's machine.
const STEPS_PER_LOOK: i32 = 20_000;

const NAME: &str = "rune-store-reader";

type Job = Box<dyn FnOnce(&Connection) + Send>;

/// The pool. Dropping the last sender ends the threads.
pub(crate) struct Readers {
    jobs: Mutex<Option<mpsc::Sender<Job>>>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl Readers {
    /// Starts `count` readers on a database that exists.
    pub(crate) fn start(path: &Path, count: usize) -> Result<Self, StorageError> {
        let (sender, receiver) = mpsc::channel();
        let receiver = Arc::new(Mutex::new(receiver));
        let mut threads = Vec::new();
        for number in 0..count.max(1) {
            let connection = connection::reader(path).map_err(|source| StorageError::Sqlite {
                action: "open",
                path: path.to_owned(),
                source,
            })?;
            let receiver = Arc::clone(&receiver);
            let thread = std::thread::Builder::new()
                .name(NAME.to_owned())
                .spawn(move || serve(connection, number == 0, &receiver))
                .map_err(|error| StorageError::Thread {
                    name: NAME,
                    problem: format!("cannot start: {error}"),
                })?;
            threads.push(thread);
        }
        Ok(Self {
            jobs: Mutex::new(Some(sender)),
            threads: Mutex::new(threads),
        })
    }

    /// Runs a read on one of the connections.
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        read: impl FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, StoreError> {
        let stopped = || StoreError::Unavailable("the store is closed".to_owned());
        let (sender, receiver) = oneshot::channel();
        let job: Job = Box::new(move |db| {
            // Nobody waits for the answer any more where this fails.
            let _ = sender.send(read(db));
        });
        {
            let jobs = self.jobs.lock().map_err(|_| stopped())?;
            let jobs = jobs.as_ref().ok_or_else(stopped)?;
            jobs.send(job).map_err(|_| stopped())?;
        }
        let result = receiver
            .await
            .map_err(|_| StoreError::Unavailable("the read ended without an answer".to_owned()))?;
        result.map_err(|error| read_failed(&error))
    }

    /// One page of a list: rows of `query` after its cursor that `keep` wants.
    pub(crate) async fn page<K, T>(
        &self,
        list: &'static str,
        page: &PageRequest,
        query: Query,
        map: fn(&Row<'_>) -> rusqlite::Result<(K, T)>,
        keep: impl Fn(&T) -> bool + Send + 'static,
    ) -> Result<Page<T>, StoreError>
    where
        K: Serialize + Send + 'static,
        T: Send + 'static,
    {
        let limit = limit(page);
        let (items, last) = self
            .run(move |db| query.collect(db, limit, map, keep))
            .await?;
        let next = last.map(|key| cursor::encode(list, &key)).transpose()?;
        Ok(Page { items, next })
    }

    /// Ends the threads after the reads that run.
    pub(crate) fn stop(&self) {
        if let Ok(mut jobs) = self.jobs.lock() {
            jobs.take();
        }
        let threads = self
            .threads
            .lock()
            .map(|mut threads| std::mem::take(&mut *threads));
        for thread in threads.into_iter().flatten() {
            // A reader that panicked took its read with it; nothing else depends on it.
            let _ = thread.join();
        }
    }
}

impl Drop for Readers {
    fn drop(&mut self) {
        self.stop();
    }
}

/// The rows of a page.
pub(crate) fn limit(page: &PageRequest) -> usize {
    page.limit.clamp(1, PageRequest::MAX_LIMIT) as usize
}

/// `at_once` reads the schema before there is a read, beside whatever else a start does.
fn serve(mut connection: Connection, mut at_once: bool, jobs: &Mutex<mpsc::Receiver<Job>>) {
    let epoch = Instant::now();
    let deadline = Arc::new(AtomicU64::new(u64::MAX));
    let seen = Arc::clone(&deadline);
    let look = move || elapsed(epoch) > seen.load(Ordering::Relaxed);
    if let Err(error) = connection.progress_handler(STEPS_PER_LOOK, Some(look)) {
        tracing::warn!(%error, "reads run without a time limit");
    }
    loop {
        // The lock is held while waiting, so that one idle reader waits for the
        // channel and the others for the lock.
        let Ok(waiting) = jobs.lock() else { return };
        if std::mem::take(&mut at_once) {
            // What is wrong with the database is told to whoever reads first.
            let _ = connection.prepare("SELECT 1 FROM sqlite_schema");
        }
        let Ok(job) = waiting.recv() else { return };
        drop(waiting);
        let limit = u64::try_from(MAX_READ.as_millis()).unwrap_or(u64::MAX);
        deadline.store(elapsed(epoch).saturating_add(limit), Ordering::Relaxed);
        // A read that panics fails alone: its caller is told, and the next one finds this reader.
        if catch_unwind(AssertUnwindSafe(|| job(&connection))).is_err() {
            tracing::error!("a read panicked");
        }
    }
}

fn elapsed(epoch: Instant) -> u64 {
    u64::try_from(epoch.elapsed().as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_read_that_panics_fails_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("rune.db");
        let db = Connection::open(&path).unwrap();
        db.execute_batch("CREATE TABLE t (n); INSERT INTO t VALUES (7)")
            .unwrap();
        let readers = Readers::start(&path, 1).unwrap();
        let broken = readers
            .run(|_| -> rusqlite::Result<i64> { panic!("broken") })
            .await;
        assert!(
            matches!(broken, Err(StoreError::Unavailable(_))),
            "{broken:?}"
        );
        let read =
            readers.run(|db| db.query_row("SELECT n FROM t", [], |row| row.get::<_, i64>(0)));
        assert_eq!(read.await.unwrap(), 7);
    }
}
