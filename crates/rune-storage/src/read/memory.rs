//! What agents remember.

use async_trait::async_trait;
use rune_store_runtime::{
    MemoryQuery, MemoryReader, MemoryRow, MemoryScope, Page, PageRequest, StoreError,
};
use rusqlite::{OptionalExtension, Row};

use crate::query::Query;
use crate::row::{self, get};
use crate::{SqliteStore, cursor};

const LIST: &str = "memories";

const MEMORY: &str = "SELECT key, value, tags, created_at, updated_at FROM memories";

#[async_trait]
impl MemoryReader for SqliteStore {
    async fn memory(
        &self,
        scope: &MemoryScope,
        key: &str,
    ) -> Result<Option<MemoryRow>, StoreError> {
        let names = [scope.namespace.clone(), scope.agent.clone(), key.to_owned()];
        self.readers
            .run(move |db| {
                db.prepare_cached(&format!(
                    "{MEMORY} WHERE namespace = ?1 AND agent = ?2 AND key = ?3"
                ))?
                .query_row(names, memory_row)
                .optional()
            })
            .await
    }

    async fn memories(
        &self,
        scope: &MemoryScope,
        query: &MemoryQuery,
        page: &PageRequest,
    ) -> Result<Page<MemoryRow>, StoreError> {
        let mut sql = Query::new(MEMORY);
        sql.and("namespace = ?", [scope.namespace.clone()]);
        sql.and("agent = ?", [scope.agent.clone()]);
        // A range for the index; `matches` decides.
        sql.and_maybe("key >= ?", query.prefix.clone());
        sql.and_maybe("key > ?", cursor::decode::<String>(LIST, page)?);
        let map = |row: &Row<'_>| {
            let row = memory_row(row)?;
            Ok((row.key.clone(), row))
        };
        let query = query.clone();
        self.readers
            .page(LIST, page, sql.order_by("key"), map, move |row| {
                query.matches(row)
            })
            .await
    }
}

fn memory_row(found: &Row<'_>) -> rusqlite::Result<MemoryRow> {
    Ok(MemoryRow {
        key: get(found, 0)?,
        value: row::json(found, 1)?,
        tags: row::json(found, 2)?,
        created_at: row::time(found, 3)?,
        updated_at: row::time(found, 4)?,
    })
}
