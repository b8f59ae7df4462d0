//! The store of one node of a cluster: the same database, written by a log that is kept
//! elsewhere.
//!
//! The log is what lasts. This database says how far it was applied in the transaction that
//! applies it, so that a crash can neither lose nor repeat a command, and need not be synced with
//! every commit: after a power loss it is a little older, knows how old, and is given the rest of
//! the log again.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rune_store_runtime::{Reject, Reply, Timestamp};
use rusqlite::{Connection, OpenFlags, OptionalExtension, TransactionBehavior, params};

use crate::migration::STATE;
use crate::row::get;
use crate::{
    ApplyError, Digest, Durability, Ordered, StorageError, apply, connection, copy, migration,
};

/// Pages of write-ahead log, 16 MiB, after which a commit also moves them into the database.
const CHECKPOINT_PAGES: u32 = 4096;

/// So often, and with this pause, a checkpoint that another one stands in the way of is tried
/// again: ten seconds in all.
const SYNC_TRIES: u32 = 1000;
const SYNC_PAUSE: Duration = Duration::from_millis(10);

/// The writing side of a replicated store.
#[derive(Debug)]
pub struct Replica {
    db: Connection,
    path: PathBuf,
}

/// A snapshot of a replicated store that is a file on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Copied {
    /// Its length.
    pub bytes: u64,
    /// The digest of its bytes.
    pub digest: Digest,
}

impl Replica {
    /// Opens the database, creating or migrating it.
    ///
    /// # Errors
    /// Those of opening a store.
    pub fn open(path: &Path) -> Result<Self, StorageError> {
        let db = connection::writer(path, Durability::Normal)?;
        db.pragma_update(None, "wal_autocheckpoint", CHECKPOINT_PAGES)
            .map_err(|source| sqlite("open", path, source))?;
        Ok(Self {
            db,
            path: path.to_owned(),
        })
    }

    /// How far the log was applied, in the words of the last [`Replica::apply`].
    ///
    /// # Errors
    /// [`StorageError::Sqlite`].
    pub fn position(&self) -> Result<Option<String>, StorageError> {
        position(&self.db).map_err(|source| sqlite("read", &self.path, source))
    }

    /// Applies commands in their order and notes the position, in one transaction. The answers
    /// are in the order of the commands; one that came before gets the answer of then.
    ///
    /// # Errors
    /// [`ApplyError`], never [`ApplyError::Reject`]: nothing was applied, and nothing may be
    /// applied any more by this value but the same, where the disk [is full](ApplyError::is_full).
    pub fn apply(
        &mut self,
        commands: &[Ordered],
        position: &str,
    ) -> Result<Vec<Result<Reply, Reject>>, ApplyError> {
        let transaction = self
            .db
            .transaction_with_behavior(TransactionBehavior::Immediate)?;
        let mut clock = state_clock(&transaction)?;
        let answers = commands
            .iter()
            .map(|ordered| {
                clock = apply::clock(clock, &ordered.command);
                apply::apply_ordered(&transaction, ordered, clock)
            })
            .collect::<Result<_, _>>()?;
        transaction
            .prepare_cached(
                "INSERT INTO replication (id, position, clock) VALUES (1, ?1, ?2)
                 ON CONFLICT (id) DO UPDATE SET position = excluded.position, clock = excluded.clock",
            )?
            .execute(params![position, clock.as_millis()])?;
        transaction.commit()?;
        Ok(answers)
    }

    /// What takes snapshots of this store while it is written.
    #[must_use]
    pub fn copier(&self) -> Copier {
        Copier {
            path: self.path.clone(),
        }
    }

    /// Replaces everything by a snapshot that [`examine`] has seen. Whoever reads the database
    /// sees the old state or the new one, and so does whoever opens it after a crash in between:
    /// it is one transaction, so that readers stay as they are. It is on disk when this returns.
    ///
    /// # Errors
    /// [`StorageError::Sqlite`]; the old state is still there.
    pub fn install(&mut self, snapshot: &Path) -> Result<(), StorageError> {
        let source = open_snapshot(snapshot)?;
        copy::fill(&source, &mut self.db)
            .map_err(|source| sqlite("install a snapshot in", &self.path, source))?;
        // One of an older version.
        migration::migrate(&mut self.db, &self.path, STATE)?;
        sync(&self.db).map_err(|source| sqlite("sync", &self.path, source))
    }
}

/// Takes snapshots of a store beside the one that writes it.
#[derive(Debug, Clone)]
pub struct Copier {
    path: PathBuf,
}

impl Copier {
    /// Copies the store as it is at one moment to a new file, and has everything up to that moment
    /// on disk in the store itself. Gives the position of that moment, too.
    ///
    /// # Errors
    /// [`StorageError::Io`] where the file exists or cannot be written, [`StorageError::Sqlite`].
    pub fn copy_to(&self, target: &Path) -> Result<(Copied, Option<String>), StorageError> {
        let source =
            connection::reader(&self.path).map_err(|source| sqlite("open", &self.path, source))?;
        copy::copy(&source, target)?;
        drop(source);
        let copied = measure(target)?;
        let copy = open_snapshot(target)?;
        let position = position(&copy).map_err(|source| sqlite("read", target, source))?;
        connection::checkpointer(&self.path, Durability::Full)
            .and_then(|db| sync(&db))
            .map_err(|source| sqlite("sync", &self.path, source))?;
        Ok((copied, position))
    }
}

/// Looks at a snapshot that came from elsewhere: that it is a whole store of a version that is
/// known. Gives its position.
///
/// # Errors
/// [`StorageError::Damaged`], [`StorageError::Foreign`], [`StorageError::Newer`] or
/// [`StorageError::Sqlite`]: it must not be installed.
pub fn examine(snapshot: &Path) -> Result<Option<String>, StorageError> {
    let db = open_snapshot(snapshot)?;
    let failed = |source| sqlite("read", snapshot, source);
    migration::check(&db, snapshot, STATE)?;
    let report: Vec<String> = db
        .prepare("PRAGMA quick_check(10)")
        .and_then(|mut check| check.query_map([], |row| get(row, 0))?.collect())
        .map_err(failed)?;
    if report.iter().any(|line| line != "ok") {
        return Err(StorageError::Damaged {
            path: snapshot.to_owned(),
            report: report.join("; "),
        });
    }
    position(&db).map_err(failed)
}

/// The length and the digest of a file.
///
/// # Errors
/// [`StorageError::Io`].
pub fn measure(file: &Path) -> Result<Copied, StorageError> {
    let io = |source| StorageError::Io {
        action: "read",
        path: file.to_owned(),
        source,
    };
    let mut open = File::open(file).map_err(io)?;
    let bytes = open.metadata().map_err(io)?.len();
    let digest = Digest::of_reader(&mut open).map_err(io)?;
    Ok(Copied { bytes, digest })
}

fn open_snapshot(path: &Path) -> Result<Connection, StorageError> {
    Connection::open_with_flags(
        path,
        OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX,
    )
    .map_err(|source| sqlite("open", path, source))
}

pub(crate) fn position(db: &Connection) -> rusqlite::Result<Option<String>> {
    db.prepare_cached("SELECT position FROM replication")?
        .query_row([], |row| get(row, 0))
        .optional()
}

/// The time of the state, see [`apply::clock`].
fn state_clock(db: &Connection) -> rusqlite::Result<Timestamp> {
    let clock = db
        .prepare_cached("SELECT clock FROM replication")?
        .query_row([], |row| get(row, 0))
        .optional()?;
    Ok(Timestamp::from_millis(clock.unwrap_or(0)))
}

/// Has everything that was committed before now on disk: a checkpoint syncs the write-ahead log
/// first. Waits for one that is under way, which may have begun too early, and not for the writer.
fn sync(db: &Connection) -> rusqlite::Result<()> {
    for _ in 0..SYNC_TRIES {
        let busy: bool = db.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |row| get(row, 0))?;
        if !busy {
            return Ok(());
        }
        std::thread::park_timeout(SYNC_PAUSE);
    }
    Err(rusqlite::Error::SqliteFailure(
        rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_BUSY),
        None,
    ))
}

fn sqlite(action: &'static str, path: &Path, source: rusqlite::Error) -> StorageError {
    StorageError::Sqlite {
        action,
        path: path.to_owned(),
        source,
    }
}
