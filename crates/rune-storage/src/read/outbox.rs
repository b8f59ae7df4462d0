//! Messages that wait for a channel.

use async_trait::async_trait;
use rune_store_runtime::{
    MessageId, OutboxFilter, OutboxReader, OutboxRow, Page, PageRequest, StoreError,
};
use rusqlite::Row;

use crate::query::{Query, text};
use crate::row::{self, get};
use crate::{SqliteStore, cursor};

const LIST: &str = "outbox";

#[async_trait]
impl OutboxReader for SqliteStore {
    async fn outbox(
        &self,
        filter: &OutboxFilter,
        page: &PageRequest,
    ) -> Result<Page<OutboxRow>, StoreError> {
        let mut query = Query::new(
            "SELECT id, message_id, namespace, agent, channel, recipient, text, request_id,
                 created_at FROM outbox",
        );
        query.and_maybe("namespace = ?", text(filter.namespace.as_ref()));
        query.and_maybe("channel = ?", text(filter.channel.as_ref()));
        query.and_maybe("id > ?", cursor::decode::<i64>(LIST, page)?);
        self.readers
            .page(LIST, page, query.order_by("id"), outbox_row, |_| true)
            .await
    }
}

fn outbox_row(found: &Row<'_>) -> rusqlite::Result<(i64, OutboxRow)> {
    let row = OutboxRow {
        id: row::id(found, 1, MessageId::from_bytes)?,
        namespace: get(found, 2)?,
        agent: get(found, 3)?,
        channel: get(found, 4)?,
        recipient: get(found, 5)?,
        text: get(found, 6)?,
        request_id: row::request_id(found, 7)?,
        created_at: row::time(found, 8)?,
    };
    Ok((get(found, 0)?, row))
}
