//! What can go wrong when a store is opened, closed or written.

use std::path::PathBuf;

use rune_store_runtime::{Reject, StoreError};

use crate::LogOwner;

/// A store that cannot be opened, closed or maintained.
#[derive(Debug, thiserror::Error)]
pub enum StorageError {
    /// A file operation failed.
    #[error("cannot {action} {path}")]
    Io {
        /// What was tried, such as `create`.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// Another process holds the data directory.
    #[error(
        "data directory {path} is in use by {}; stop it first or choose another directory",
        pid.map_or_else(|| "another process".to_owned(), |pid| format!("process {pid}"))
    )]
    Locked {
        /// The data directory.
        path: PathBuf,
        /// The holder, where it left its process id.
        pid: Option<u32>,
    },
    /// The file is a database of another program.
    #[error("{path} is a database of another program (application id {found:#010x})")]
    Foreign {
        /// The file.
        path: PathBuf,
        /// Its application id.
        found: i64,
    },
    /// The database was written by a newer Rune.
    #[error(
        "{path} has schema version {found}, this rune knows versions up to {supported}; use the newer rune"
    )]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its schema version.
        found: i64,
        /// The newest version this code knows.
        supported: i64,
    },
    /// The linked SQLite has the WAL-reset corruption bug, fixed in 3.51.3.
    #[error("sqlite {0} is too old, 3.51.3 or newer is needed")]
    SqliteVersion(String),
    /// SQLite refused.
    #[error("cannot {action} {path}")]
    Sqlite {
        /// What was tried.
        action: &'static str,
        /// The database file.
        path: PathBuf,
        /// Why.
        #[source]
        source: rusqlite::Error,
    },
    /// A thread could not be started or did not end well.
    #[error("storage thread `{name}` {problem}")]
    Thread {
        /// The thread.
        name: &'static str,
        /// What happened.
        problem: String,
    },
    /// The log is that of another node.
    #[error(
        "{path} is the log of node {} of cluster {}, not of node {} of cluster {}; give this node the data directory \
         that it had, or join it under a new number with an empty one",
        found.node, found.cluster, expected.node, expected.cluster
    )]
    Owner {
        /// The file.
        path: PathBuf,
        /// Whose it is.
        found: LogOwner,
        /// Who opened it.
        expected: LogOwner,
    },
    /// The object store failed.
    #[error("the object store failed")]
    Objects(#[source] crate::ObjectError),
    /// An integrity check found damage.
    #[error("{path} is damaged: {report}")]
    Damaged {
        /// The database file.
        path: PathBuf,
        /// What SQLite reports, first lines.
        report: String,
    },
}

/// Why a command was not applied.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// The present state forbids it. Nothing was written; this is a reply.
    #[error(transparent)]
    Reject(#[from] Reject),
    /// The database failed. The transaction must be rolled back.
    #[error("database failed while a command was applied")]
    Database(#[from] rusqlite::Error),
    /// The command is in a format this code does not know. It was ordered by a
    /// newer version and skipping it would make this state differ from others.
    #[error("command version {found} is not known, this rune knows up to {supported}")]
    UnknownVersion {
        /// The version of the command.
        found: u16,
        /// The newest this code knows.
        supported: u16,
    },
}

impl StorageError {
    /// Whether there is no room on the disk. The same can be tried again later.
    #[must_use]
    pub fn is_full(&self) -> bool {
        match self {
            Self::Io { source, .. } => source.kind() == std::io::ErrorKind::StorageFull,
            Self::Sqlite { source, .. } => is_full(source),
            _ => false,
        }
    }
}

impl ApplyError {
    /// Whether there is no room on the disk. The same can be tried again later.
    #[must_use]
    pub fn is_full(&self) -> bool {
        matches!(self, Self::Database(error) if is_full(error))
    }
}

/// Whether SQLite found no room on the disk; it has made nothing of what it was about to then.
pub(crate) fn is_full(error: &rusqlite::Error) -> bool {
    error.sqlite_error_code() == Some(rusqlite::ErrorCode::DiskFull)
}

/// What a read that failed means for the reader.
pub(crate) fn read_failed(error: &rusqlite::Error) -> StoreError {
    match error {
        rusqlite::Error::FromSqlConversionFailure(..)
        | rusqlite::Error::InvalidColumnType(..)
        | rusqlite::Error::IntegralValueOutOfRange(..)
        | rusqlite::Error::Utf8Error(..) => StoreError::Corrupt {
            what: "row".to_owned(),
            reason: error.to_string(),
        },
        _ => StoreError::Unavailable(format!("read failed: {error}")),
    }
}
