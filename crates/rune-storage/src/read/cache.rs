//! The cache.

use async_trait::async_trait;
use rune_store_runtime::{CacheReader, CacheRow, StoreError, Timestamp};
use rusqlite::{OptionalExtension, params};

use crate::SqliteStore;
use crate::row::{self, get};

#[async_trait]
impl CacheReader for SqliteStore {
    async fn cached(&self, key: &str, now: Timestamp) -> Result<Option<CacheRow>, StoreError> {
        let key = key.to_owned();
        self.readers
            .run(move |db| {
                db.prepare_cached(
                    "SELECT key, value, expires_at FROM cache WHERE key = ?1 AND expires_at > ?2",
                )?
                .query_row(params![key, now.as_millis()], |found| {
                    Ok(CacheRow {
                        key: get(found, 0)?,
                        value: row::json(found, 1)?,
                        expires_at: row::time(found, 2)?,
                    })
                })
                .optional()
            })
            .await
    }
}
