//! The usage ledger.

use async_trait::async_trait;
use rune_store_runtime::limits::MAX_USAGE_TOTALS;
use rune_store_runtime::{
    Cost, Page, PageRequest, RequestId, StoreError, Timestamp, Usage, UsageFilter, UsageGroup,
    UsageReader, UsageRow, UsageTotal,
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
                 output_tokens, cached_tokens, cache_write_tokens, reasoning_tokens, caller,
                 cost_micro_usd
             FROM usage",
        );
        matching(&mut query, filter);
        query.and_maybe("id < ?", cursor::decode::<i64>(LIST, page)?);
        self.readers
            .page(LIST, page, query.order_by("id DESC"), usage_row, |_| true)
            .await
    }

    async fn usage_totals(
        &self,
        filter: &UsageFilter,
        by: UsageGroup,
    ) -> Result<Vec<UsageTotal>, StoreError> {
        let mut query = Query::new(&format!(
            "SELECT {}, count(*), sum(input_tokens), sum(output_tokens), sum(cached_tokens),
                 sum(cache_write_tokens), sum(reasoning_tokens), sum(cost_micro_usd),
                 count(*) - count(cost_micro_usd)
             FROM usage",
            columns(by)
        ));
        matching(&mut query, filter);
        let query = query.group_by("1, 2, 3, 4, 5, 6");
        self.readers
            .run(move |db| {
                let rows = query.collect(db, MAX_USAGE_TOTALS as usize, total_row, |_| true)?;
                Ok(rows.0)
            })
            .await
    }
}

/// What a row of totals names of the group; `NULL` where the group has no such column.
const fn columns(by: UsageGroup) -> &'static str {
    match by {
        UsageGroup::AgentModel => "namespace, agent, provider, model, NULL, NULL",
        UsageGroup::Agent => "namespace, agent, NULL, NULL, NULL, NULL",
        UsageGroup::Model => "NULL, NULL, provider, model, NULL, NULL",
        UsageGroup::Day => "NULL, NULL, NULL, NULL, date(at / 1000, 'unixepoch'), NULL",
        UsageGroup::Caller => "NULL, NULL, NULL, NULL, NULL, caller",
    }
}

fn matching(query: &mut Query, filter: &UsageFilter) {
    let request = filter.request_id.as_ref().map(RequestId::as_bytes);
    query.and_maybe("request_id = ?", request.map(blob));
    query.and_maybe("namespace = ?", text(filter.namespace.as_ref()));
    query.and_maybe("agent = ?", text(filter.agent.as_ref()));
    query.and_maybe("at >= ?", filter.since.map(Timestamp::as_millis));
}

fn total_row(found: &Row<'_>) -> rusqlite::Result<((), UsageTotal)> {
    let total = UsageTotal {
        namespace: get(found, 0)?,
        agent: get(found, 1)?,
        provider: get(found, 2)?,
        model: get(found, 3)?,
        day: get(found, 4)?,
        caller: get(found, 5)?,
        calls: get(found, 6)?,
        usage: Usage {
            input_tokens: get(found, 7)?,
            output_tokens: get(found, 8)?,
            cached_tokens: get(found, 9)?,
            cache_write_tokens: get(found, 10)?,
            reasoning_tokens: get(found, 11)?,
        },
        cost: Cost {
            micro_usd: get(found, 12)?,
            unpriced_calls: get(found, 13)?,
        },
    };
    Ok(((), total))
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
        caller: get(found, 13)?,
        cost_micro_usd: get(found, 14)?,
    };
    Ok((get(found, 0)?, row))
}
