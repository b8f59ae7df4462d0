//! The store: its threads, its write method and its maintenance.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use async_trait::async_trait;
use rune_store_runtime::limits::MAX_COMMAND_BYTES;
use rune_store_runtime::{Command, CommandLog, Reject, Reply, StoreError};
use rusqlite::Connection;
use tokio::sync::{mpsc, oneshot};

use crate::apply::Encoded;
use crate::checkpoint::CheckpointHandle;
use crate::health::Health;
use crate::reader::Readers;
use crate::row::get;
use crate::writer::Job;
use crate::{
    DataDirLock, StorageConfig, StorageError, checkpoint, connection, copy, create_private_dir,
    writer,
};

/// A store in one SQLite database, with one process as its only user.
///
/// Retries: a command is recognised by its id for ten minutes of command time;
/// [`rune_store_runtime::AppendEntries`] and [`rune_store_runtime::AcceptRequest`]
/// for as long as no later command of these two kinds was applied to the request.
pub struct SqliteStore {
    pub(crate) readers: Arc<Readers>,
    path: PathBuf,
    log: Log,
}

/// Who orders the commands and applies them.
enum Log {
    /// A thread of this store.
    Writer(Writer),
    /// A log that writes the database beside this store.
    Replicated(Arc<dyn CommandLog>),
}

struct Writer {
    jobs: Mutex<Option<mpsc::Sender<Job>>>,
    threads: Mutex<Option<Threads>>,
    health: Health,
    checkpoint: CheckpointHandle,
}

/// What ends when the store is closed; the lock last.
struct Threads {
    writer: JoinHandle<()>,
    checkpoint: JoinHandle<()>,
    _lock: DataDirLock,
}

/// What a store says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StoreStats {
    /// Bytes of the database file, without the write-ahead log.
    pub database_bytes: u64,
    /// Pages in the write-ahead log; 0 in a replicated store, which has no writer of its own.
    pub wal_pages: u32,
    /// Commands that wait for the writer; 0 likewise.
    pub queue: usize,
}

impl SqliteStore {
    /// Opens the database, creating or migrating it, and starts its threads.
    ///
    /// # Errors
    /// [`StorageError`]; [`StorageError::Locked`] where another process has it open.
    pub fn open(config: StorageConfig) -> Result<Self, StorageError> {
        let StorageConfig {
            path,
            durability,
            readers,
            queue,
        } = config;
        let directory = match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        create_private_dir(directory).map_err(|source| StorageError::Io {
            action: "create",
            path: directory.to_owned(),
            source,
        })?;
        let lock = DataDirLock::acquire(directory)?;
        let health = Health::default();
        let handle = CheckpointHandle::default();
        let connection = connection::writer(&path, durability)?;
        let readers = Arc::new(Readers::start(&path, readers)?);
        let checkpoint = checkpoint::start(&path, durability, health.clone(), handle.clone())?;
        let (jobs, writer) = writer::start(connection, queue, health.clone(), handle.clone())?;
        Ok(Self {
            readers,
            path,
            log: Log::Writer(Writer {
                jobs: Mutex::new(Some(jobs)),
                threads: Mutex::new(Some(Threads {
                    writer,
                    checkpoint,
                    _lock: lock,
                })),
                health,
                checkpoint: handle,
            }),
        })
    }

    /// The store on a database that a replicated log writes, which exists and whose directory is
    /// locked. It reads what was applied here, and gives its commands to the log.
    ///
    /// # Errors
    /// [`StorageError`] where the database cannot be read.
    pub fn replicated(
        path: PathBuf,
        readers: usize,
        log: Arc<dyn CommandLog>,
    ) -> Result<Self, StorageError> {
        Ok(Self {
            readers: Arc::new(Readers::start(&path, readers)?),
            path,
            log: Log::Replicated(log),
        })
    }

    /// The same database, with the same readers, for commands that go to another replicated log.
    #[must_use]
    pub fn ordered_by(&self, log: Arc<dyn CommandLog>) -> Self {
        Self {
            readers: Arc::clone(&self.readers),
            path: self.path.clone(),
            log: Log::Replicated(log),
        }
    }

    /// Takes no more commands, finishes those that wait, moves the write-ahead log
    /// into the database and gives the data directory free. Waits for all of it;
    /// doing it again, or dropping the store afterwards, does nothing.
    ///
    /// # Errors
    /// [`StorageError::Thread`] where a thread panicked.
    pub async fn close(self: &Arc<Self>) -> Result<(), StorageError> {
        let store = Arc::clone(self);
        tokio::task::spawn_blocking(move || store.stop())
            .await
            .map_err(|error| StorageError::Thread {
                name: "close",
                problem: error.to_string(),
            })?
    }

    /// Why the store takes no commands any more; nothing where it works. Of a replicated one its
    /// log says so.
    #[must_use]
    pub fn failure(&self) -> Option<String> {
        match &self.log {
            Log::Writer(writer) => writer.health.failure().map(str::to_owned),
            Log::Replicated(_) => None,
        }
    }

    /// What the store says of itself.
    ///
    /// # Errors
    /// As a read.
    pub async fn stats(&self) -> Result<StoreStats, StoreError> {
        let database_bytes = self
            .readers
            .run(|db| {
                db.query_row(
                    "SELECT page_count * page_size FROM pragma_page_count, pragma_page_size",
                    [],
                    |row| get(row, 0),
                )
            })
            .await?;
        let writer = match &self.log {
            Log::Writer(writer) => Some(writer),
            Log::Replicated(_) => None,
        };
        let queue = writer.and_then(Writer::sender);
        Ok(StoreStats {
            database_bytes,
            wal_pages: writer.map_or(0, |writer| writer.checkpoint.frames()),
            queue: queue.map_or(0, |jobs| jobs.max_capacity() - jobs.capacity()),
        })
    }

    /// Checks every page and index. Takes a time that grows with the database, on
    /// a connection of its own.
    ///
    /// # Errors
    /// [`StorageError::Damaged`] with what was found.
    pub async fn integrity_check(&self) -> Result<(), StorageError> {
        self.maintain("check", |path, db| {
            let report: Vec<String> = db
                .prepare("PRAGMA integrity_check(10)")?
                .query_map([], |row| get(row, 0))?
                .collect::<rusqlite::Result<_>>()?;
            let sound = report.len() == 1 && report.iter().all(|line| line == "ok");
            Ok(if sound {
                Ok(())
            } else {
                Err(StorageError::Damaged {
                    path: path.to_owned(),
                    report: report.join("; "),
                })
            })
        })
        .await
    }

    /// Copies the database as it is now to a new file while it is in use.
    ///
    /// # Errors
    /// [`StorageError::Sqlite`] or [`StorageError::Io`], where the file exists or
    /// cannot be written.
    pub async fn backup(&self, target: PathBuf) -> Result<(), StorageError> {
        self.maintain("back up", move |_, db| Ok(copy::copy(db, &target)))
            .await
    }

    /// Runs long work on a connection of its own, outside the read pool.
    pub(crate) async fn maintain<T: Send + 'static>(
        &self,
        action: &'static str,
        work: impl FnOnce(&Path, &Connection) -> rusqlite::Result<Result<T, StorageError>>
        + Send
        + 'static,
    ) -> Result<T, StorageError> {
        let path = self.path.clone();
        let task = tokio::task::spawn_blocking(move || {
            let result = connection::reader(&path).and_then(|db| work(&path, &db));
            result.map_err(|source| StorageError::Sqlite {
                action,
                path,
                source,
            })?
        });
        task.await.map_err(|error| StorageError::Thread {
            name: action,
            problem: error.to_string(),
        })?
    }

    /// The database file.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    fn stop(&self) -> Result<(), StorageError> {
        let Log::Writer(writer) = &self.log else {
            self.readers.stop();
            return Ok(());
        };
        let Some(threads) = writer.take() else {
            return Ok(());
        };
        let written = join("rune-store-writer", threads.writer);
        self.readers.stop();
        writer.checkpoint.close();
        let moved = join("rune-store-checkpoint", threads.checkpoint);
        written.and(moved)
    }
}

impl Writer {
    fn sender(&self) -> Option<mpsc::Sender<Job>> {
        let jobs = self.jobs.lock();
        jobs.unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Lets the writer end, and gives what has to be waited for, once.
    fn take(&self) -> Option<Threads> {
        let jobs = self.jobs.lock();
        jobs.unwrap_or_else(PoisonError::into_inner).take();
        let threads = self.threads.lock();
        threads.unwrap_or_else(PoisonError::into_inner).take()
    }
}

#[async_trait]
impl CommandLog for SqliteStore {
    async fn submit(&self, command: Command) -> Result<Reply, StoreError> {
        match &self.log {
            Log::Writer(writer) => writer.submit(command).await,
            Log::Replicated(log) => log.submit(command).await,
        }
    }
}

#[async_trait]
impl CommandLog for Writer {
    async fn submit(&self, command: Command) -> Result<Reply, StoreError> {
        self.health.check()?;
        if !command.is_known() {
            // Refused before it is ordered; once ordered it would halt the writer.
            let known = Command::VERSION;
            return Err(Reject::invalid(format!(
                "command version {} is not known, this rune knows {known}",
                command.v
            ))
            .into());
        }
        let encoded = Encoded::of(&command.op)?;
        let bytes = encoded.bytes(&command.op);
        if bytes > MAX_COMMAND_BYTES {
            return Err(Reject::invalid(format!(
                "a command has {bytes} bytes of JSON, the limit is {MAX_COMMAND_BYTES}"
            ))
            .into());
        }
        let closed = || StoreError::Unavailable("the store is closed".to_owned());
        let jobs = self.sender().ok_or_else(closed)?;
        let (answer, answered) = oneshot::channel();
        let job = Job {
            command,
            encoded,
            bytes,
            answer,
        };
        // Outside tokio's budget, which could make the first poll return without
        // having queued the command, and so let a later one overtake it.
        tokio::task::unconstrained(jobs.send(job))
            .await
            .map_err(|_| closed())?;
        drop(jobs);
        answered.await.map_err(|_| {
            StoreError::Unavailable("the writer ended before it answered".to_owned())
        })?
    }
}

impl Drop for SqliteStore {
    fn drop(&mut self) {
        if matches!(self.log, Log::Replicated(_)) {
            // Its readers may be others', too, and end with the last of them.
            return;
        }
        if let Err(error) = self.stop() {
            tracing::error!(%error, "store did not end well");
        }
    }
}

fn join(name: &'static str, thread: JoinHandle<()>) -> Result<(), StorageError> {
    thread.join().map_err(|_| StorageError::Thread {
        name,
        problem: "panicked".to_owned(),
    })
}
