//! The usage ledger.

use async_trait::async_trait;
use rune_store_runtime::{
    Page, PageRequest, RequestId, StoreError, Timestamp, Usage, UsageFilter, UsageReader, UsageRow,
};
use rusqlite::Row;

use crate::query::{Query, blob, text};
use crate::row::{self, get};
use crate::{SqliteStore, cursor};

const LIST: &str = "usage";

#[async_trait]
impl UsageReader for SqliteStore {
    async fn usage(
        &self,
        filter: &UsageFilter,
        page: &PageRequest,
    ) -> Result<Page<UsageRow>, StoreError> {
        let mut query = Query::new(
            "SELECT id, request_id, namespace, agent, seq, at, provider, model, input_tokens,
                 output_tokens, cached_tokens, cache_write_tokens, reasoning_tokens
             FROM usage",
        );
        let request = filter.request_id.as_ref().map(RequestId::as_bytes);
        query.and_maybe("request_id = ?", request.map(blob));
        query.and_maybe("namespace = ?", text(filter.namespace.as_ref()));
        query.and_maybe("agent = ?", text(filter.agent.as_ref()));
        query.and_maybe("at >= ?", filter.since.map(Timestamp::as_millis));
        query.and_maybe("id < ?", cursor::decode::<i64>(LIST, page)?);
        self.readers
            .page(LIST, page, query.order_by("id DESC"), usage_row, |_| true)
            .await
    }
}

fn usage_row(found: &Row<'_>) -> rusqlite::Result<(i64, UsageRow)> {
    let row = UsageRow {
        request_id: row::request_id(found, 1)?,
        namespace: get(found, 2)?,
        agent: get(found, 3)?,
        seq: get(found, 4)?,
        at: row::time(found, 5)?,
        provider: get(found, 6)?,
        model: get(found, 7)?,
        usage: Usage {
            input_tokens: get(found, 8)?,
            output_tokens: get(found, 9)?,
            cached_tokens: get(found, 10)?,
            cache_write_tokens: get(found, 11)?,
            reasoning_tokens: get(found, 12)?,
        },
    };
    Ok((get(found, 0)?, row))
}
