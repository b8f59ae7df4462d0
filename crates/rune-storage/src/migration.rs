//! Numbered migrations: each version is one file, never changed after release.

use std::path::Path;

use rusqlite::{Connection, TransactionBehavior};

use crate::StorageError;

/// `RUNE` in ASCII: marks the file as ours.
const APPLICATION_ID: i64 = 0x5255_4e45;

/// The migrations in order; the last one's number is the schema version.
const MIGRATIONS: &[&str] = &[include_str!("../migrations/0001_initial.sql")];

/// Brings a database to the newest schema version, in one transaction.
///
/// # Errors
/// [`StorageError::Foreign`], [`StorageError::Newer`], or [`StorageError::Sqlite`];
/// the database is unchanged then.
pub(crate) fn migrate(connection: &mut Connection, path: &Path) -> Result<(), StorageError> {
    migrate_with(connection, path, MIGRATIONS)
}

fn migrate_with(
    connection: &mut Connection,
    path: &Path,
    migrations: &[&str],
) -> Result<(), StorageError> {
    let sqlite = |source| StorageError::Sqlite {
        action: "migrate",
        path: path.to_owned(),
        source,
    };
    let supported = i64::try_from(migrations.len()).unwrap_or(i64::MAX);
    let (id, version) = versions(connection).map_err(sqlite)?;
    let empty = id == 0 && version == 0 && is_empty(connection).map_err(sqlite)?;
    if id != APPLICATION_ID && !empty {
        return Err(StorageError::Foreign {
            path: path.to_owned(),
            found: id,
        });
    }
    if version > supported {
        return Err(StorageError::Newer {
            path: path.to_owned(),
            found: version,
            supported,
        });
    }
    if version == supported {
        return Ok(());
    }
    let pending = usize::try_from(version).unwrap_or(usize::MAX);
    let transaction = connection
        .transaction_with_behavior(TransactionBehavior::Immediate)
        .map_err(sqlite)?;
    for migration in migrations.iter().skip(pending) {
        transaction.execute_batch(migration).map_err(sqlite)?;
    }
    transaction
        .pragma_update(None, "application_id", APPLICATION_ID)
        .map_err(sqlite)?;
    transaction
        .pragma_update(None, "user_version", supported)
        .map_err(sqlite)?;
    transaction.commit().map_err(sqlite)
}

fn versions(connection: &Connection) -> rusqlite::Result<(i64, i64)> {
    let id = connection.pragma_query_value(None, "application_id", |row| row.get(0))?;
    let version = connection.pragma_query_value(None, "user_version", |row| row.get(0))?;
    Ok((id, version))
}

fn is_empty(connection: &Connection) -> rusqlite::Result<bool> {
    connection.query_row(
        "SELECT NOT EXISTS (SELECT 1 FROM sqlite_schema)",
        [],
        |row| row.get(0),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path() -> &'static Path {
        Path::new("rune.db")
    }

    #[test]
    fn every_older_version_reaches_the_newest() {
        for start in 0..=MIGRATIONS.len() {
            let mut db = Connection::open_in_memory().unwrap();
            migrate_with(&mut db, path(), &MIGRATIONS[..start]).unwrap();
            migrate(&mut db, path()).unwrap();
            let (id, version) = versions(&db).unwrap();
            assert_eq!(id, APPLICATION_ID);
            assert_eq!(version, i64::try_from(MIGRATIONS.len()).unwrap());
            migrate(&mut db, path()).unwrap();
        }
    }

    #[test]
    fn a_torn_migration_leaves_nothing_behind() {
        let mut db = Connection::open_in_memory().unwrap();
        let steps = [MIGRATIONS[0], "CREATE TABLE half (id); SELECT nonsense;"];
        assert!(migrate_with(&mut db, path(), &steps).is_err());
        assert_eq!(versions(&db).unwrap(), (0, 0));
        assert!(is_empty(&db).unwrap());
    }

    #[test]
    fn a_newer_database_is_refused_with_both_versions() {
        let mut db = Connection::open_in_memory().unwrap();
        migrate(&mut db, path()).unwrap();
        db.pragma_update(None, "user_version", 41).unwrap();
        let text = migrate(&mut db, path()).unwrap_err().to_string();
        assert!(
            text.contains("version 41") && text.contains("up to 1"),
            "{text}"
        );
    }

    #[test]
    fn a_database_of_another_program_is_refused() {
        let mut db = Connection::open_in_memory().unwrap();
        db.execute_batch("CREATE TABLE theirs (id)").unwrap();
        assert!(matches!(
            migrate(&mut db, path()),
            Err(StorageError::Foreign { .. })
        ));
    }
}
