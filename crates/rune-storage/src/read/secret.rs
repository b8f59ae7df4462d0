//! Secrets, as they are stored.

use std::path::Path;

use async_trait::async_trait;
use rune_store_runtime::{
    Page, PageRequest, SealedSecret, SecretFilter, SecretReader, SecretRow, StoreError,
};
use rusqlite::{OptionalExtension, Row};

use crate::query::{Query, text};
use crate::reader::Readers;
use crate::row::{self, get};
use crate::{SqliteStore, StorageError, cursor};

const LIST: &str = "secrets";

const SECRET: &str =
    "SELECT namespace, name, key_id, sealed, updated_by, created_at, updated_at FROM secrets";

/// The secrets of a database that another process may have open. Reads and never writes.
pub struct SecretFile {
    readers: Readers,
}

impl SecretFile {
    /// Opens a database; `None` where there is none, or one from before there were secrets.
    ///
    /// # Errors
    /// [`StorageError::Sqlite`] where it cannot be read.
    pub fn open(path: &Path) -> Result<Option<Self>, StorageError> {
        let failed = |source| StorageError::Sqlite {
            action: "open",
            path: path.to_owned(),
            source,
        };
        let exists = path.try_exists().map_err(|source| StorageError::Io {
            action: "open",
            path: path.to_owned(),
            source,
        })?;
        if !exists {
            return Ok(None);
        }
        let known: bool = crate::connection::reader(path)
            .and_then(|db| {
                db.query_row(
                    "SELECT EXISTS (SELECT 1 FROM sqlite_schema WHERE name = 'secrets')",
                    [],
                    |row| get(row, 0),
                )
            })
            .map_err(failed)?;
        let readers = known.then(|| Readers::start(path, 1)).transpose()?;
        Ok(readers.map(|readers| Self { readers }))
    }
}

#[async_trait]
impl SecretReader for SecretFile {
    async fn secret(&self, namespace: &str, name: &str) -> Result<Option<SecretRow>, StoreError> {
        secret(&self.readers, namespace, name).await
    }

    async fn secrets(
        &self,
        filter: &SecretFilter,
        page: &PageRequest,
    ) -> Result<Page<SecretRow>, StoreError> {
        secrets(&self.readers, filter, page).await
    }
}

#[async_trait]
impl SecretReader for SqliteStore {
    async fn secret(&self, namespace: &str, name: &str) -> Result<Option<SecretRow>, StoreError> {
        secret(&self.readers, namespace, name).await
    }

    async fn secrets(
        &self,
        filter: &SecretFilter,
        page: &PageRequest,
    ) -> Result<Page<SecretRow>, StoreError> {
        secrets(&self.readers, filter, page).await
    }
}

async fn secret(
    readers: &Readers,
    namespace: &str,
    name: &str,
) -> Result<Option<SecretRow>, StoreError> {
    let names = [namespace.to_owned(), name.to_owned()];
    readers
        .run(move |db| {
            db.prepare_cached(&format!("{SECRET} WHERE namespace = ?1 AND name = ?2"))?
                .query_row(names, secret_row)
                .optional()
        })
        .await
}

async fn secrets(
    readers: &Readers,
    filter: &SecretFilter,
    page: &PageRequest,
) -> Result<Page<SecretRow>, StoreError> {
    let mut query = Query::new(SECRET);
    query.and_maybe("namespace = ?", text(filter.namespace.as_ref()));
    if let Some((namespace, name)) = cursor::decode::<(String, String)>(LIST, page)? {
        query.and("(namespace, name) > (?, ?)", [namespace, name]);
    }
    let map = |row: &Row<'_>| {
        let row = secret_row(row)?;
        Ok(((row.namespace.clone(), row.name.clone()), row))
    };
    readers
        .page(LIST, page, query.order_by("namespace, name"), map, |_| true)
        .await
}

fn secret_row(found: &Row<'_>) -> rusqlite::Result<SecretRow> {
    Ok(SecretRow {
        namespace: get(found, 0)?,
        name: get(found, 1)?,
        sealed: SealedSecret {
            key_id: get(found, 2)?,
            bytes: get(found, 3)?,
        },
        updated_by: get(found, 4)?,
        created_at: row::time(found, 5)?,
        updated_at: row::time(found, 6)?,
    })
}
