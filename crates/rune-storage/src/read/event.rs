//! Events.

use async_trait::async_trait;
use rune_store_runtime::{
    EventFilter, EventId, EventReader, EventRow, Page, PageRequest, RequestId, StoreError,
};
use rusqlite::{OptionalExtension, Row};

use crate::query::{Query, text};
use crate::row::{self, get};
use crate::{SqliteStore, cursor};

const LIST: &str = "events";

const EVENT: &str = "SELECT id, event_id, namespace, topic, payload, publisher, request_id, \
     depth, fires, at FROM events";

#[async_trait]
impl EventReader for SqliteStore {
    async fn event(&self, id: EventId) -> Result<Option<EventRow>, StoreError> {
        let found = self.readers.run(move |db| {
            db.prepare_cached(&format!("{EVENT} WHERE event_id = ?1"))?
                .query_row([id.as_bytes()], event_row)
                .optional()
        });
        Ok(found.await?.map(|(_, row)| row))
    }

    async fn events(
        &self,
        filter: &EventFilter,
        page: &PageRequest,
    ) -> Result<Page<EventRow>, StoreError> {
        let mut query = Query::new(EVENT);
        query.and_maybe("namespace = ?", text(filter.namespace.as_ref()));
        query.and_maybe("topic = ?", text(filter.topic.as_ref()));
        query.and_maybe("id < ?", cursor::decode::<i64>(LIST, page)?);
        let query = query.order_by("id DESC");
        self.readers
            .page(LIST, page, query, event_row, |_| true)
            .await
    }
}

fn event_row(found: &Row<'_>) -> rusqlite::Result<(i64, EventRow)> {
    let row = EventRow {
        id: row::id(found, 1, EventId::from_bytes)?,
        namespace: get(found, 2)?,
        topic: get(found, 3)?,
        payload: row::json(found, 4)?,
        publisher: get(found, 5)?,
        request_id: row::maybe_id(found, 6, RequestId::from_bytes)?,
        depth: get(found, 7)?,
        fires: get(found, 8)?,
        at: row::time(found, 9)?,
    };
    Ok((get(found, 0)?, row))
}
