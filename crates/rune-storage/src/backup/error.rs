//! What can go wrong with backups.

use std::path::PathBuf;

use crate::{ObjectError, StorageError};

/// A backup that was not made, is not whole, or was not restored.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// What is to hold the backups cannot be opened.
    #[error("cannot open the place of the backups")]
    Open(#[source] ObjectError),
    /// The directory holds something else.
    #[error("{0} holds other files and no backups; choose a directory of its own")]
    Occupied(PathBuf),
    /// It would be among the objects that are backed up, which are removed when nothing refers to them.
    #[error("{0} is where the objects of the daemon are; choose a place of its own")]
    Own(String),
    /// There is no such backup.
    #[error("there is no backup {}in {place}", id.as_deref().map(|id| format!("`{id}` ")).unwrap_or_default())]
    Unknown {
        /// Where it was looked for.
        place: String,
        /// Which one, where one was named.
        id: Option<String>,
    },
    /// What a backup consists of cannot be told any more.
    #[error("{path} is damaged: {reason}")]
    Damaged {
        /// The list of the backup.
        path: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The backup was made by a newer Rune.
    #[error(
        "{path} has format {found}, this rune knows formats up to {supported}; use the newer rune"
    )]
    Newer {
        /// The list of the backup.
        path: String,
        /// Its format.
        found: u32,
        /// The newest that this code knows.
        supported: u32,
    },
    /// A part of a backup is missing, or is not what it was, or could not be written.
    #[error("the part {path} of the backup cannot be used")]
    Part {
        /// The part.
        path: String,
        /// Why.
        #[source]
        source: Box<ObjectError>,
    },
    /// The object store that is backed up, or restored, failed.
    #[error("the object store failed")]
    Objects(#[source] ObjectError),
    /// The list of the backup cannot be written down.
    #[error("cannot write down what the backup consists of")]
    Encode(#[from] serde_json::Error),
    /// The place of the backups failed.
    #[error("cannot {action} {path}")]
    Place {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: String,
        /// Why.
        #[source]
        source: object_store::Error,
    },
    /// There is nothing to back up.
    #[error("there is no database {0}")]
    NoDatabase(PathBuf),
    /// The data directory is in use, or was.
    #[error("{0} exists already; a backup is restored where there is no database yet")]
    Used(PathBuf),
    /// The rows of the restored database are not those of the backup.
    #[error(
        "the table {table} of the restored database has other rows than when the backup was made"
    )]
    Differs {
        /// The first such table.
        table: String,
    },
    /// The database, or a file beside it.
    #[error(transparent)]
    Storage(#[from] StorageError),
}
