//! A database as it is at one moment, as a file of its own, while it is being written.

use std::fs::File;
use std::path::Path;

use rusqlite::Connection;
use rusqlite::backup::{Backup, StepResult};

use crate::{StorageError, private};

/// All pages at once: the copy is of one moment, and commits do not make it begin anew.
const ALL: i32 = -1;

/// Copies what `source` sees to a new file, complete and on disk when this returns.
///
/// # Errors
/// [`StorageError::Io`] where the file exists or cannot be written, [`StorageError::Sqlite`].
pub(crate) fn copy(source: &Connection, target: &Path) -> Result<(), StorageError> {
    let io = |action| {
        move |source| StorageError::Io {
            action,
            path: target.to_owned(),
            source,
        }
    };
    let sqlite = |source| StorageError::Sqlite {
        action: "copy to",
        path: target.to_owned(),
        source,
    };
    let file = private::file_options().create_new(true).open(target);
    let file = file.map_err(io("create"))?;
    let mut copy = Connection::open(target).map_err(sqlite)?;
    // It is of use only when it is complete, and synced then.
    copy.pragma_update(None, "synchronous", "OFF")
        .map_err(sqlite)?;
    fill(source, &mut copy).map_err(sqlite)?;
    // A file of its own, without a write-ahead log beside it.
    copy.pragma_update(None, "journal_mode", "DELETE")
        .map_err(sqlite)?;
    copy.close().map_err(|(_, source)| sqlite(source))?;
    file.sync_all().map_err(io("sync"))?;
    drop(file);
    File::open(target)
        .and_then(|file| file.sync_all())
        .and_then(|()| private::sync_directory_of(target))
        .map_err(io("sync"))
}

/// Replaces everything in `target` by what `source` holds, in one transaction: whoever reads sees
/// the one or the other, also after a crash.
pub(crate) fn fill(source: &Connection, target: &mut Connection) -> rusqlite::Result<()> {
    let backup = Backup::new(source, target)?;
    match backup.step(ALL)? {
        StepResult::Done => Ok(()),
        _ => Err(rusqlite::Error::SqliteFailure(
            rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_BUSY),
            None,
        )),
    }
}
