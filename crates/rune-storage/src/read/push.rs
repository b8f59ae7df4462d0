//! Webhooks of requests.

use async_trait::async_trait;
use rune_store_runtime::{
    Page, PageRequest, PushReader, PushRow, RequestId, SealedSecret, StoreError, Timestamp,
};
use rusqlite::{OptionalExtension, Row, params};

use crate::query::Query;
use crate::row::{self, get};
use crate::{SqliteStore, cursor};

const LIST: &str = "pushes";

const PUSH: &str = "SELECT p.id, r.request_id, p.push_id, p.key_id, p.sealed, p.told, p.attempts, \
     p.next_at, p.created_at FROM pushes p JOIN requests r ON r.id = p.request";

/// There may be something to tell.
const OPEN: &str = "p.done = 0 AND r.last_seq > p.told";

#[async_trait]
impl PushReader for SqliteStore {
    async fn push(&self, id: RequestId, push_id: &str) -> Result<Option<PushRow>, StoreError> {
        let push_id = push_id.to_owned();
        self.readers
            .run(move |db| {
                db.prepare_cached(&format!(
                    "{PUSH} WHERE r.request_id = ?1 AND p.push_id = ?2"
                ))?
                .query_row(params![id.as_bytes(), push_id], |row| Ok(push_row(row)?.1))
                .optional()
            })
            .await
    }

    async fn pushes(&self, id: RequestId, page: &PageRequest) -> Result<Page<PushRow>, StoreError> {
        let mut query = Query::new(PUSH);
        query.and("r.request_id = ?", [id.as_bytes().to_vec()]);
        query.and_maybe("p.id > ?", cursor::decode::<i64>(LIST, page)?);
        let query = query.order_by("p.id");
        self.readers
            .page(LIST, page, query, push_row, |_| true)
            .await
    }

    async fn due_pushes(&self, now: Timestamp, limit: u32) -> Result<Vec<PushRow>, StoreError> {
        self.readers
            .run(move |db| {
                db.prepare_cached(&format!(
                    "{PUSH} WHERE {OPEN} AND p.next_at <= ?1 ORDER BY p.next_at, p.id LIMIT ?2"
                ))?
                .query_map(params![now.as_millis(), limit], |row| Ok(push_row(row)?.1))?
                .collect()
            })
            .await
    }

    async fn next_push(&self, now: Timestamp) -> Result<Option<Timestamp>, StoreError> {
        self.readers
            .run(move |db| {
                db.prepare_cached(&format!(
                    "SELECT min(p.next_at) FROM pushes p JOIN requests r ON r.id = p.request
                     WHERE {OPEN} AND p.next_at > ?1"
                ))?
                .query_row([now.as_millis()], |found| row::maybe_time(found, 0))
            })
            .await
    }

    async fn has_open_pushes(&self) -> Result<bool, StoreError> {
        self.readers
            .run(|db| {
                db.prepare_cached("SELECT EXISTS (SELECT 1 FROM pushes WHERE done = 0)")?
                    .query_row([], |found| get(found, 0))
            })
            .await
    }
}

fn push_row(found: &Row<'_>) -> rusqlite::Result<(i64, PushRow)> {
    let row = PushRow {
        request_id: row::request_id(found, 1)?,
        push_id: get(found, 2)?,
        sealed: SealedSecret {
            key_id: get(found, 3)?,
            bytes: get(found, 4)?,
        },
        told: get(found, 5)?,
        attempts: get(found, 6)?,
        next_at: row::time(found, 7)?,
        created_at: row::time(found, 8)?,
    };
    Ok((get(found, 0)?, row))
}
