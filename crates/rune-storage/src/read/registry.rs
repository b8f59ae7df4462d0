//! The registry of agent versions.

use async_trait::async_trait;
use rune_store_runtime::{
    Page, PageRequest, RegistryReader, ScaleBounds, StoreError, VersionFilter, VersionId,
    VersionRow,
};
use rusqlite::{OptionalExtension, Row};

use crate::query::{Query, text};
use crate::row::{self, get};
use crate::{SqliteStore, cursor};

const LIST: &str = "versions";

/// The columns that [`version_row`] reads.
pub(crate) const VERSION: &str = "SELECT id, version_id, agent, version, description, digest, \
     size, image, signature, created_at, min_replicas, max_replicas FROM versions";

#[async_trait]
impl RegistryReader for SqliteStore {
    async fn version(&self, id: VersionId) -> Result<Option<VersionRow>, StoreError> {
        self.readers
            .run(move |db| {
                db.prepare_cached(&format!("{VERSION} WHERE version_id = ?1"))?
                    .query_row([id.as_bytes()], version_row)
                    .optional()
            })
            .await
    }

    async fn versions(
        &self,
        filter: &VersionFilter,
        page: &PageRequest,
    ) -> Result<Page<VersionRow>, StoreError> {
        let mut query = Query::new(VERSION);
        query.and_maybe("agent = ?", text(filter.agent.as_ref()));
        query.and_maybe("digest = ?", text(filter.digest.as_ref()));
        query.and_maybe("id < ?", cursor::decode::<i64>(LIST, page)?);
        let map = |row: &Row<'_>| Ok((get::<i64>(row, 0)?, version_row(row)?));
        self.readers
            .page(LIST, page, query.order_by("id DESC"), map, |_| true)
            .await
    }
}

/// A row of [`VERSION`].
pub(crate) fn version_row(found: &Row<'_>) -> rusqlite::Result<VersionRow> {
    Ok(VersionRow {
        id: row::id(found, 1, VersionId::from_bytes)?,
        agent: get(found, 2)?,
        version: get(found, 3)?,
        description: get(found, 4)?,
        digest: get(found, 5)?,
        size: get(found, 6)?,
        image: get(found, 7)?,
        signature: get(found, 8)?,
        created_at: row::time(found, 9)?,
        scaling: ScaleBounds {
            min: get(found, 10)?,
            max: get(found, 11)?,
        },
    })
}
