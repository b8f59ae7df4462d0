//! The logical content of a database as digests. Two databases to which the
//! same commands were applied have the same digests, whatever their page size,
//! write-ahead log or free pages.

use std::collections::BTreeMap;
use std::path::Path;

use rusqlite::Connection;
use rusqlite::types::ValueRef;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::row::get;
use crate::{Digest, StorageError, connection, replica};

/// The rows of one table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct TableDigest {
    /// How many they are.
    pub rows: u64,
    /// Of all of them in the order of their keys.
    pub digest: Digest,
}

/// What the rows of a database come to at one moment. The nodes of a cluster that have applied the log equally far
/// have equal ones.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DatabaseDigest {
    /// How far the log was applied, as [`Replica::position`](crate::Replica::position) says; nothing where no log was.
    pub position: Option<String>,
    /// The digests of the tables by their names.
    pub tables: BTreeMap<String, TableDigest>,
}

impl DatabaseDigest {
    /// Of a database that is there, which may be written meanwhile.
    ///
    /// # Errors
    /// [`StorageError::Sqlite`] where it cannot be read.
    pub fn of(path: &Path) -> Result<Self, StorageError> {
        let read = || {
            let mut db = connection::reader(path)?;
            let moment = db.transaction()?;
            Ok(Self {
                position: replica::position(&moment)?,
                tables: table_digests(&moment, |_| {})?,
            })
        };
        read().map_err(|source| StorageError::Sqlite {
            action: "read",
            path: path.to_owned(),
            source,
        })
    }
}

/// The digest of every row of every table, in the order of the keys.
///
/// # Errors
/// Where a table cannot be read.
pub fn logical_digest(db: &Connection) -> rusqlite::Result<Digest> {
    Ok(digest_of_tables(&table_digests(db, |_| {})?))
}

/// What the digests of the tables come to.
pub(crate) fn digest_of_tables(tables: &BTreeMap<String, TableDigest>) -> Digest {
    let mut hash = Sha256::new();
    for (name, table) in tables {
        part(&mut hash, b'T', name.as_bytes());
        part(&mut hash, b'n', &table.rows.to_be_bytes());
        part(&mut hash, b'd', table.digest.hex().as_bytes());
    }
    Digest::from_bytes(hash.finalize().into())
}

/// The digests of the tables by their names, with a look at every text on the way. An index of words is made of rows
/// and has none of its own.
///
/// # Errors
/// Where a table cannot be read.
pub(crate) fn table_digests(
    db: &Connection,
    mut look: impl FnMut(&str),
) -> rusqlite::Result<BTreeMap<String, TableDigest>> {
    let mut tables = BTreeMap::new();
    for name in table_names(db)? {
        let mut hash = Sha256::new();
        let rows = each_value(db, &name, |value| match value {
            ValueRef::Null => part(&mut hash, b'0', &[]),
            ValueRef::Integer(value) => part(&mut hash, b'i', &value.to_be_bytes()),
            ValueRef::Real(value) => part(&mut hash, b'r', &value.to_be_bytes()),
            ValueRef::Text(value) => {
                part(&mut hash, b't', value);
                look(std::str::from_utf8(value).unwrap_or_default());
            }
            ValueRef::Blob(value) => part(&mut hash, b'b', value),
        })?;
        let digest = Digest::from_bytes(hash.finalize().into());
        tables.insert(name, TableDigest { rows, digest });
    }
    Ok(tables)
}

/// Every text in every table.
///
/// # Errors
/// Where a table cannot be read.
pub(crate) fn each_text(db: &Connection, mut look: impl FnMut(&str)) -> rusqlite::Result<()> {
    for name in table_names(db)? {
        each_value(db, &name, |value| {
            if let ValueRef::Text(value) = value {
                look(std::str::from_utf8(value).unwrap_or_default());
            }
        })?;
    }
    Ok(())
}

fn table_names(db: &Connection) -> rusqlite::Result<Vec<String>> {
    db.prepare(
        "SELECT name FROM pragma_table_list
         WHERE schema = 'main' AND type = 'table' AND name <> 'sqlite_schema'",
    )?
    .query_map([], |row| get(row, 0))?
    .collect()
}

/// Visits the values of a table, row by row in the order of its keys. Answers how many rows there are.
fn each_value(
    db: &Connection,
    table: &str,
    mut visit: impl FnMut(ValueRef<'_>),
) -> rusqlite::Result<u64> {
    let mut statement = db.prepare(&format!("SELECT * FROM {table} ORDER BY id"))?;
    let columns = statement.column_count();
    let mut found = statement.query([])?;
    let mut rows = 0;
    while let Some(row) = found.next()? {
        rows += 1;
        for column in 0..columns {
            visit(row.get_ref(column)?);
        }
    }
    Ok(rows)
}

fn part(hash: &mut Sha256, kind: u8, bytes: &[u8]) {
    hash.update([kind]);
    hash.update((bytes.len() as u64).to_be_bytes());
    hash.update(bytes);
}
