//! The logical content of a database as one digest. Two databases to which the
//! same commands were applied have the same digest, whatever their page size,
//! write-ahead log or free pages.

use rusqlite::Connection;
use rusqlite::types::ValueRef;
use sha2::{Digest as _, Sha256};

use crate::Digest;
use crate::row::get;

/// The digest of every row of every table, in the order of the keys. An index of words is made of rows and has none
/// of its own.
///
/// # Errors
/// Where a table cannot be read.
pub fn logical_digest(db: &Connection) -> rusqlite::Result<Digest> {
    let tables: Vec<String> = db
        .prepare(
            "SELECT name FROM pragma_table_list
             WHERE schema = 'main' AND type = 'table' AND name <> 'sqlite_schema' ORDER BY name",
        )?
        .query_map([], |row| get(row, 0))?
        .collect::<rusqlite::Result<_>>()?;
    let mut hash = Sha256::new();
    for table in tables {
        part(&mut hash, b'T', table.as_bytes());
        let mut statement = db.prepare(&format!("SELECT * FROM {table} ORDER BY id"))?;
        let columns = statement.column_count();
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            for column in 0..columns {
                match row.get_ref(column)? {
                    ValueRef::Null => part(&mut hash, b'0', &[]),
                    ValueRef::Integer(value) => part(&mut hash, b'i', &value.to_be_bytes()),
                    ValueRef::Real(value) => part(&mut hash, b'r', &value.to_be_bytes()),
                    ValueRef::Text(value) => part(&mut hash, b't', value),
                    ValueRef::Blob(value) => part(&mut hash, b'b', value),
                }
            }
        }
    }
    Ok(Digest::from_bytes(hash.finalize().into()))
}

fn part(hash: &mut Sha256, kind: u8, bytes: &[u8]) {
    hash.update([kind]);
    hash.update((bytes.len() as u64).to_be_bytes());
    hash.update(bytes);
}
