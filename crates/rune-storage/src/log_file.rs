//! The log of a cluster's node: one file, written by one owner in one order.
//!
//! It knows nothing of the protocol. What it promises is what the protocol builds on: changes are
//! made in the order in which they are given, several in one transaction with one full fsync, and
//! what [`LogFile::write`] has returned for is on disk.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rusqlite::{Connection, OptionalExtension, Row, TransactionBehavior, params};

use crate::error::is_full;
use crate::migration::LOG;
use crate::row::get;
use crate::{Durability, StorageError, connection};

/// Pages of write-ahead log, 16 MiB, after which a commit also moves them into the file.
const CHECKPOINT_PAGES: u32 = 4096;

/// Whose log a file is. A node with another log is another node: it would break the promises of
/// the first one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogOwner {
    /// The cluster.
    pub cluster: String,
    /// The node in it.
    pub node: u64,
}

/// An entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogRow {
    /// Its place.
    pub index: u64,
    /// The term in which it was made.
    pub term: u64,
    /// The node that made it.
    pub leader: u64,
    /// What the payload is.
    pub kind: u8,
    /// The entry.
    pub payload: Arc<str>,
}

/// One change of the log.
#[derive(Debug, Clone)]
pub enum LogChange {
    /// Adds entries behind the last one.
    Append(Vec<LogRow>),
    /// Drops the entry at this index and all behind it.
    TruncateFrom(u64),
    /// Drops the entry at this index and all before it, and keeps the text that says so.
    PurgeTo(u64, String),
    /// Keeps a vote.
    Vote(String),
    /// Keeps how far the log is known to be committed.
    Committed(String),
}

/// What a log holds when it is opened.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LogStart {
    /// The vote.
    pub vote: Option<String>,
    /// How far it was known to be committed.
    pub committed: Option<String>,
    /// How far it was purged.
    pub purged: Option<String>,
    /// The last entry.
    pub last: Option<LogRow>,
    /// How large it is, near enough.
    pub bytes: u64,
}

/// Changes that were not made.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// There is no room on the disk. Nothing was changed, and the same changes can be made later.
    #[error("the disk is full")]
    Full,
    /// What is on disk is not known. The file must not be written again before it is opened anew.
    #[error("the log cannot be written: {0}")]
    Failed(#[source] rusqlite::Error),
}

/// A log that is open for writing.
#[derive(Debug)]
pub struct LogFile {
    db: Connection,
}

impl LogFile {
    /// Opens a log, or makes an empty one for its owner.
    ///
    /// # Errors
    /// [`StorageError::Owner`] where it is the log of another node; those of opening a database.
    pub fn open(path: &Path, owner: &LogOwner) -> Result<(Self, LogStart), StorageError> {
        let sqlite = |source| StorageError::Sqlite {
            action: "open",
            path: path.to_owned(),
            source,
        };
        let db = connection::writer_of(path, Durability::Full, LOG)?;
        db.pragma_update(None, "wal_autocheckpoint", CHECKPOINT_PAGES)
            .map_err(sqlite)?;
        db.execute(
            "INSERT INTO state (id, cluster, node) VALUES (1, ?1, ?2) ON CONFLICT (id) DO NOTHING",
            params![owner.cluster, owner.node],
        )
        .map_err(sqlite)?;
        let (found, mut start) = db
            .query_row(
                "SELECT cluster, node, vote, committed, purged FROM state",
                [],
                |row| {
                    let found = LogOwner {
                        cluster: get(row, 0)?,
                        node: get(row, 1)?,
                    };
                    let start = LogStart {
                        vote: get(row, 2)?,
                        committed: get(row, 3)?,
                        purged: get(row, 4)?,
                        last: None,
                        bytes: 0,
                    };
                    Ok((found, start))
                },
            )
            .map_err(sqlite)?;
        if found != *owner {
            return Err(StorageError::Owner {
                path: path.to_owned(),
                found,
                expected: owner.clone(),
            });
        }
        start.last = db
            .query_row(
                "SELECT id, term, leader, kind, payload FROM entries ORDER BY id DESC LIMIT 1",
                [],
                entry,
            )
            .optional()
            .map_err(sqlite)?;
        let size = |pragma| db.pragma_query_value(None, pragma, |row| get::<u64>(row, 0));
        let used = || Ok((size("page_count")? - size("freelist_count")?) * size("page_size")?);
        start.bytes = used().map_err(sqlite)?;
        Ok((Self { db }, start))
    }

    /// Makes changes in their order, all or none, and returns when they are on disk.
    ///
    /// # Errors
    /// [`LogError`].
    pub fn write(&mut self, changes: &[LogChange]) -> Result<(), LogError> {
        self.commit(changes).map_err(|error| {
            if is_full(&error) {
                LogError::Full
            } else {
                LogError::Failed(error)
            }
        })
    }

    fn commit(&mut self, changes: &[LogChange]) -> rusqlite::Result<()> {
        let transaction = self
            .db
            .transaction_with_behavior(TransactionBehavior::Immediate)?;
        for change in changes {
            change.make(&transaction)?;
        }
        transaction.commit()
    }
}

impl LogChange {
    fn make(&self, db: &Connection) -> rusqlite::Result<()> {
        match self {
            Self::Append(rows) => {
                let mut insert = db.prepare_cached(
                    "INSERT INTO entries (id, term, leader, kind, payload)
                     VALUES (?1, ?2, ?3, ?4, ?5)",
                )?;
                for row in rows {
                    insert.execute(params![
                        row.index,
                        row.term,
                        row.leader,
                        row.kind,
                        row.payload
                    ])?;
                }
            }
            Self::TruncateFrom(index) => {
                db.prepare_cached("DELETE FROM entries WHERE id >= ?1")?
                    .execute([index])?;
            }
            Self::PurgeTo(index, text) => {
                db.prepare_cached("DELETE FROM entries WHERE id <= ?1")?
                    .execute([index])?;
                db.prepare_cached("UPDATE state SET purged = ?1")?
                    .execute([text])?;
            }
            Self::Vote(text) => {
                db.prepare_cached("UPDATE state SET vote = ?1")?
                    .execute([text])?;
            }
            Self::Committed(text) => {
                db.prepare_cached("UPDATE state SET committed = ?1")?
                    .execute([text])?;
            }
        }
        Ok(())
    }
}

/// A log that is open for reading, beside the one that writes it.
#[derive(Debug)]
pub struct LogReader {
    db: Connection,
    path: PathBuf,
}

impl LogReader {
    /// Opens a log that exists.
    ///
    /// # Errors
    /// [`StorageError::Sqlite`].
    pub fn open(path: &Path) -> Result<Self, StorageError> {
        let db = connection::reader(path).map_err(|source| StorageError::Sqlite {
            action: "open",
            path: path.to_owned(),
            source,
        })?;
        Ok(Self {
            db,
            path: path.to_owned(),
        })
    }

    /// Entries from `from` to before `to`, in order: as many as have `max_bytes` of payload, and
    /// one at the least.
    ///
    /// # Errors
    /// [`StorageError::Sqlite`].
    pub fn read(&self, from: u64, to: u64, max_bytes: usize) -> Result<Vec<LogRow>, StorageError> {
        self.rows(from, to, max_bytes)
            .map_err(|source| StorageError::Sqlite {
                action: "read",
                path: self.path.clone(),
                source,
            })
    }

    fn rows(&self, from: u64, to: u64, max_bytes: usize) -> rusqlite::Result<Vec<LogRow>> {
        let mut statement = self.db.prepare_cached(
            "SELECT id, term, leader, kind, payload FROM entries
             WHERE id >= ?1 AND id < ?2 ORDER BY id",
        )?;
        // No entry has an index that SQLite cannot count.
        let last = u64::try_from(i64::MAX).unwrap_or(u64::MAX);
        let mut rows = statement.query(params![from.min(last), to.min(last)])?;
        let mut read = Vec::new();
        let mut bytes = 0usize;
        while let Some(row) = rows.next()? {
            let row = entry(row)?;
            bytes = bytes.saturating_add(row.payload.len());
            if bytes > max_bytes && !read.is_empty() {
                break;
            }
            read.push(row);
        }
        Ok(read)
    }
}

fn entry(row: &Row<'_>) -> rusqlite::Result<LogRow> {
    Ok(LogRow {
        index: get(row, 0)?,
        term: get(row, 1)?,
        leader: get(row, 2)?,
        kind: get(row, 3)?,
        payload: get(row, 4)?,
    })
}
