//! What the rows of a database refer to, and what they come to.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use rusqlite::Connection;

use crate::dump::{TableDigest, each_text, table_digests};
use crate::row::get;
use crate::{Digest, StorageError, connection};

/// What the rows of a database refer to, and what they come to.
#[derive(Debug)]
pub(super) struct Scan {
    pub(super) tables: BTreeMap<String, TableDigest>,
    /// Objects that a row has as its own: packages and kept outputs.
    pub(super) needed: BTreeSet<Digest>,
    /// Every digest that is in a text anywhere. Such is how journals and canvases name their objects; others name none,
    /// and whoever reads finds that out.
    pub(super) mentioned: BTreeSet<Digest>,
    /// The keys that something is encrypted with.
    pub(super) secret_keys: BTreeSet<String>,
}

/// Reads every row of a database that nobody writes.
pub(super) fn scan(path: &Path) -> Result<Scan, StorageError> {
    let read = || {
        let db = connection::reader(path)?;
        let mut mentioned = BTreeSet::new();
        let tables = table_digests(&db, |text| mentioned.extend(Digest::all_in(text)))?;
        let needed = texts(
            &db,
            "SELECT digest FROM versions UNION SELECT digest FROM spilled_outputs",
        )?;
        Ok(Scan {
            tables,
            needed: needed.iter().filter_map(|text| text.parse().ok()).collect(),
            mentioned,
            secret_keys: texts(
                &db,
                "SELECT key_id FROM secrets UNION SELECT key_id FROM pushes",
            )?,
        })
    };
    read().map_err(|source| StorageError::Sqlite {
        action: "read",
        path: path.to_owned(),
        source,
    })
}

/// Every digest that is in a text of a database.
pub(crate) fn mentioned(db: &Connection) -> rusqlite::Result<BTreeSet<Digest>> {
    let mut mentioned = BTreeSet::new();
    each_text(db, |text| mentioned.extend(Digest::all_in(text)))?;
    Ok(mentioned)
}

/// The digests of the tables of a database that nobody writes.
pub(super) fn tables(path: &Path) -> Result<BTreeMap<String, TableDigest>, StorageError> {
    connection::reader(path)
        .and_then(|db| table_digests(&db, |_| {}))
        .map_err(|source| StorageError::Sqlite {
            action: "read",
            path: path.to_owned(),
            source,
        })
}

fn texts(db: &Connection, query: &str) -> rusqlite::Result<BTreeSet<String>> {
    db.prepare(query)?
        .query_map([], |row| get(row, 0))?
        .collect()
}
