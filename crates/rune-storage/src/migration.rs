//! Numbered migrations: each version is one file, never changed after release.

use std::path::Path;

use rusqlite::{Connection, TransactionBehavior};

use crate::StorageError;

/// What a kind of file of ours holds.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Schema {
    /// Marks the file as ours, and which kind it is: four letters of ASCII.
    application_id: i64,
    /// The migrations in order; the last one's number is the schema version.
    migrations: &'static [&'static str],
}

/// The store: `RUNE`.
pub(crate) const STATE: Schema = Schema {
    application_id: 0x5255_4e45,
    migrations: &[include_str!("../migrations/0001_initial.sql")],
};

/// The log of a cluster's node: `RUNL`.
pub(crate) const LOG: Schema = Schema {
    application_id: 0x5255_4e4c,
    migrations: &[include_str!("../migrations/log/0001_initial.sql")],
};

/// Brings a database to the newest schema version, in one transaction.
///
/// # Errors
/// [`StorageError::Foreign`], [`StorageError::Newer`], or [`StorageError::Sqlite`];
/// the database is unchanged then.
pub(crate) fn migrate(
    connection: &mut Connection,
    path: &Path,
    schema: Schema,
) -> Result<(), StorageError> {
    let Schema {
        application_id,
        migrations,
    } = schema;
    let sqlite = |source| StorageError::Sqlite {
        action: "migrate",
        path: path.to_owned(),
        source,
    };
    let (version, supported) = check(connection, path, schema)?;
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
        .pragma_update(None, "application_id", application_id)
        .map_err(sqlite)?;
    transaction
        .pragma_update(None, "user_version", supported)
        .map_err(sqlite)?;
    transaction.commit().map_err(sqlite)
}

/// The schema version of a database of this kind, or an empty one, and the newest that this
/// code knows.
///
/// # Errors
/// As [`migrate`].
pub(crate) fn check(
    connection: &Connection,
    path: &Path,
    schema: Schema,
) -> Result<(i64, i64), StorageError> {
    let sqlite = |source| StorageError::Sqlite {
        action: "read",
        path: path.to_owned(),
        source,
    };
    let supported = i64::try_from(schema.migrations.len()).unwrap_or(i64::MAX);
    let (id, version) = versions(connection).map_err(sqlite)?;
    let empty = id == 0 && version == 0 && is_empty(connection).map_err(sqlite)?;
    if id != schema.application_id && !empty {
        return Err(StorageError::Foreign {
            path: path.to_owned(),
            found: id,
        });
    }
    supports(version, path, schema)?;
    Ok((version, supported))
}

/// Whether this code knows a version of the schema.
///
/// # Errors
/// [`StorageError::Newer`].
pub(crate) fn supports(version: i64, path: &Path, schema: Schema) -> Result<(), StorageError> {
    let supported = i64::try_from(schema.migrations.len()).unwrap_or(i64::MAX);
    if version > supported {
        return Err(StorageError::Newer {
            path: path.to_owned(),
            found: version,
            supported,
        });
    }
    Ok(())
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
        for schema in [STATE, LOG] {
            let newest = schema.migrations.len();
            for start in 0..=newest {
                let mut db = Connection::open_in_memory().unwrap();
                let older = Schema {
                    migrations: &schema.migrations[..start],
                    ..schema
                };
                migrate(&mut db, path(), older).unwrap();
                migrate(&mut db, path(), schema).unwrap();
                let found = versions(&db).unwrap();
                assert_eq!(
                    found,
                    (schema.application_id, i64::try_from(newest).unwrap())
                );
                migrate(&mut db, path(), schema).unwrap();
            }
        }
    }

    #[test]
    fn a_torn_migration_leaves_nothing_behind() {
        let mut db = Connection::open_in_memory().unwrap();
        let torn = Schema {
            migrations: &[
                "CREATE TABLE whole (id)",
                "CREATE TABLE half (id); SELECT nonsense;",
            ],
            ..STATE
        };
        assert!(migrate(&mut db, path(), torn).is_err());
        assert_eq!(versions(&db).unwrap(), (0, 0));
        assert!(is_empty(&db).unwrap());
    }

    #[test]
    fn a_newer_database_is_refused_with_both_versions() {
        let mut db = Connection::open_in_memory().unwrap();
        migrate(&mut db, path(), STATE).unwrap();
        db.pragma_update(None, "user_version", 41).unwrap();
        let text = migrate(&mut db, path(), STATE).unwrap_err().to_string();
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
            migrate(&mut db, path(), STATE),
            Err(StorageError::Foreign { .. })
        ));
        let mut log = Connection::open_in_memory().unwrap();
        migrate(&mut log, path(), LOG).unwrap();
        assert!(matches!(
            migrate(&mut log, path(), STATE),
            Err(StorageError::Foreign { .. })
        ));
    }
}
