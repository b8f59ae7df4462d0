//! The three kinds of connections: one that writes, some that read, one that
//! checkpoints.

use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::config::DbConfig;
use rusqlite::hooks::{AuthAction, AuthContext, Authorization};
use rusqlite::{Connection, OpenFlags};

use crate::migration::{self, STATE, Schema};
use crate::{Durability, StorageError, private};

/// The first version without the WAL-reset corruption bug.
const MIN_SQLITE: i32 = 3_051_003;

/// How long a connection waits for a lock that another holds. Only the end of a
/// checkpoint and the writer ever meet.
const BUSY_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a checkpoint waits for readers. The writer waits with it, and must not be
/// given up meanwhile.
const CHECKPOINT_TIMEOUT: Duration = Duration::from_millis(250);

/// Prepared statements that a connection keeps; more than there are.
const STATEMENTS: usize = 128;

/// What stays of the file of the write-ahead log when it is begun anew after a burst.
const KEPT_LOG_BYTES: u32 = 32 << 20;

/// Functions whose value is not decided by the command and the state.
const NONDETERMINISTIC: &[&str] = &[
    "random",
    "randomblob",
    "date",
    "time",
    "datetime",
    "julianday",
    "unixepoch",
    "strftime",
    "timediff",
    "current_date",
    "current_time",
    "current_timestamp",
    "last_insert_rowid",
    "changes",
    "total_changes",
    "sqlite_version",
    "sqlite_source_id",
];

/// Opens the writing connection of a store, creating and migrating the database.
pub(crate) fn writer(path: &Path, durability: Durability) -> Result<Connection, StorageError> {
    writer_of(path, durability, STATE)
}

/// [`writer`] of any kind of file.
pub(crate) fn writer_of(
    path: &Path,
    durability: Durability,
    schema: Schema,
) -> Result<Connection, StorageError> {
    check_version()?;
    let sqlite = |source| StorageError::Sqlite {
        action: "open",
        path: path.to_owned(),
        source,
    };
    if is_new(path) {
        create(path, schema)?;
    } else {
        // Before SQLite makes it readable for everybody, where only files beside it are left of a database.
        let opened = private::file_options().create(true).open(path);
        opened.map_err(|source| StorageError::Io {
            action: "create",
            path: path.to_owned(),
            source,
        })?;
    }
    let mut connection = Connection::open_with_flags(
        path,
        OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX,
    )
    .map_err(sqlite)?;
    connection.busy_timeout(BUSY_TIMEOUT).map_err(sqlite)?;
    connection
        .pragma_update(None, "journal_mode", "WAL")
        .map_err(sqlite)?;
    connection
        .pragma_update(None, "synchronous", durability.pragma())
        .map_err(sqlite)?;
    migration::migrate(&mut connection, path, schema)?;
    prepare_writer(&mut connection).map_err(sqlite)?;
    Ok(connection)
}

/// Whether neither the database nor a file that would belong to it is there.
pub(crate) fn is_new(path: &Path) -> bool {
    let none = |suffix| matches!(beside(path, suffix).try_exists(), Ok(false));
    ["", "-wal", "-shm", "-journal"].into_iter().all(none)
}

/// Makes the database under another name and gives it its own when it is complete, so that it costs two syncs instead
/// of those of a dozen steps, and a crash leaves all of it or nothing.
fn create(path: &Path, schema: Schema) -> Result<(), StorageError> {
    let draft = beside(path, ".new");
    let io = |source| StorageError::Io {
        action: "create",
        path: path.to_owned(),
        source,
    };
    // Before SQLite makes it readable for everybody; the files beside it take its mode. What an earlier attempt left is
    // dropped.
    if draft.try_exists().map_err(io)? {
        std::fs::remove_file(&draft).map_err(io)?;
    }
    let file = private::file_options().create_new(true).open(&draft);
    let file = file.map_err(io)?;
    let sqlite = |source| StorageError::Sqlite {
        action: "create",
        path: path.to_owned(),
        source,
    };
    let mut connection = Connection::open_with_flags(
        &draft,
        OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX,
    )
    .map_err(sqlite)?;
    for (pragma, value) in [("journal_mode", "OFF"), ("synchronous", "OFF")] {
        connection
            .pragma_update(None, pragma, value)
            .map_err(sqlite)?;
    }
    migration::migrate(&mut connection, path, schema)?;
    connection
        .pragma_update(None, "journal_mode", "WAL")
        .map_err(sqlite)?;
    connection.close().map_err(|(_, source)| sqlite(source))?;
    file.sync_all().map_err(io)?;
    std::fs::rename(&draft, path)
        .and_then(|()| private::sync_directory_of(path))
        .map_err(io)
}

/// The path with this behind its name.
pub(crate) fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

/// An empty database in memory on which [`crate::apply`] works as on the real
/// one, for tests and fuzzing.
///
/// # Errors
/// As opening a file.
pub fn open_in_memory(page_size: u32) -> Result<Connection, StorageError> {
    let path = Path::new(":memory:");
    let sqlite = |source| StorageError::Sqlite {
        action: "open",
        path: path.to_owned(),
        source,
    };
    let mut connection = Connection::open_in_memory().map_err(sqlite)?;
    connection
        .pragma_update(None, "page_size", page_size)
        .map_err(sqlite)?;
    migration::migrate(&mut connection, path, STATE)?;
    prepare_writer(&mut connection).map_err(sqlite)?;
    Ok(connection)
}

/// Opens a connection that cannot write.
pub(crate) fn reader(path: &Path) -> rusqlite::Result<Connection> {
    let connection = Connection::open_with_flags(
        path,
        OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX,
    )?;
    connection.busy_timeout(BUSY_TIMEOUT)?;
    keep_statements(&connection)?;
    Ok(connection)
}

/// Opens the connection that moves the write-ahead log into the database.
pub(crate) fn checkpointer(path: &Path, durability: Durability) -> rusqlite::Result<Connection> {
    let connection = Connection::open_with_flags(
        path,
        OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX,
    )?;
    connection.busy_timeout(CHECKPOINT_TIMEOUT)?;
    connection.pragma_update(None, "synchronous", durability.pragma())?;
    Ok(connection)
}

/// Has statements prepared once. Without the guarantee of stable plans SQLite prepares every statement with a variable in its
/// `LIMIT`, or beside the condition of a partial index, again as often as a value is bound.
fn keep_statements(connection: &Connection) -> rusqlite::Result<()> {
    connection.set_prepared_statement_cache_capacity(STATEMENTS);
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)?;
    Ok(())
}

fn prepare_writer(connection: &mut Connection) -> rusqlite::Result<()> {
    keep_statements(connection)?;
    connection.pragma_update(None, "wal_autocheckpoint", 0)?;
    connection.pragma_update(None, "journal_size_limit", KEPT_LOG_BYTES)?;
    connection.authorizer(Some(deny_nondeterminism))
}

/// Asked while a statement is prepared, so that it costs nothing afterwards.
fn deny_nondeterminism(context: AuthContext<'_>) -> Authorization {
    match context.action {
        AuthAction::Function { function_name }
            if NONDETERMINISTIC
                .iter()
                .any(|name| name.eq_ignore_ascii_case(function_name)) =>
        {
            Authorization::Deny
        }
        _ => Authorization::Allow,
    }
}

fn check_version() -> Result<(), StorageError> {
    if rusqlite::version_number() < MIN_SQLITE {
        return Err(StorageError::SqliteVersion(rusqlite::version().to_owned()));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_database_is_complete_and_private_and_replaces_a_torn_attempt() {
        use std::os::unix::fs::PermissionsExt as _;

        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("rune.db");
        std::fs::write(directory.path().join("rune.db.new"), "torn").unwrap();
        create(&path, STATE).unwrap();
        let names: Vec<_> = std::fs::read_dir(directory.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .collect();
        assert_eq!(names, ["rune.db"]);
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert!(!is_new(&path));
        let db = Connection::open(&path).unwrap();
        let mode: String = db
            .query_row("PRAGMA journal_mode", [], |row| row.get(0))
            .unwrap();
        let check: String = db
            .query_row("PRAGMA integrity_check", [], |row| row.get(0))
            .unwrap();
        assert_eq!((mode.as_str(), check.as_str()), ("wal", "ok"));
    }

    #[test]
    fn a_database_with_a_log_beside_it_is_not_new() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("rune.db");
        assert!(is_new(&path));
        std::fs::write(directory.path().join("rune.db-wal"), "").unwrap();
        assert!(!is_new(&path));
    }

    #[test]
    fn a_statement_is_prepared_once() {
        use rusqlite::StatementStatus;

        let db = open_in_memory(4096).unwrap();
        let sql = "SELECT id FROM receipts WHERE at < ?1 ORDER BY id LIMIT ?2";
        for limit in 1..5 {
            let mut statement = db.prepare_cached(sql).unwrap();
            assert!(!statement.exists([0, limit]).unwrap());
            assert_eq!(statement.get_status(StatementStatus::RePrepare), 0);
        }
    }

    #[test]
    fn the_writer_refuses_what_depends_on_chance_or_clock() {
        let db = open_in_memory(4096).unwrap();
        for sql in [
            "SELECT random()",
            "SELECT RANDOMBLOB(4)",
            "SELECT datetime('now')",
            "SELECT strftime('%s', 'now')",
            "SELECT CURRENT_TIMESTAMP",
            "SELECT last_insert_rowid()",
        ] {
            assert!(db.prepare(sql).is_err(), "{sql}");
        }
        assert!(db.prepare("SELECT coalesce(1, 2)").is_ok());
    }
}
