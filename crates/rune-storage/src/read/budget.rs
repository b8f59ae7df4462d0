//! Shared budgets and reservations.

use async_trait::async_trait;
use rune_store_runtime::{
    BudgetFilter, BudgetKind, BudgetReader, BudgetRow, BudgetScope, Page, PageRequest, RequestId,
    ReservationRow, StoreError,
};
use rusqlite::{OptionalExtension, Row};

use crate::query::Query;
use crate::row::{self, bad, get};
use crate::{SqliteStore, cursor};

const LIST: &str = "budgets";
const RESERVATIONS: &str = "reservations";
const RESERVATION: &str = "SELECT id, request_id, at, held FROM reservations";

#[async_trait]
impl BudgetReader for SqliteStore {
    async fn budgets(
        &self,
        filter: &BudgetFilter,
        page: &PageRequest,
    ) -> Result<Page<BudgetRow>, StoreError> {
        let mut query = Query::new(
            "SELECT kind, key, day, cap_tokens, cap_micro_usd, spent_tokens, spent_micro_usd,
                 reserved_tokens, reserved_micro_usd, updated_at
             FROM budgets",
        );
        let kind = filter.kind.map(|kind| kind.as_str().to_owned());
        query.and_maybe("kind = ?", kind);
        if let Some(at) = filter.current_at {
            let today = BudgetScope::Caller(String::new()).day(at);
            query.and("day IN (0, ?)", [today]);
        }
        if let Some((kind, key, day)) = cursor::decode::<(String, String, i64)>(LIST, page)? {
            let values: [rusqlite::types::Value; 3] = [kind.into(), key.into(), day.into()];
            query.and("(kind, key, day) > (?, ?, ?)", values);
        }
        self.readers
            .page(
                LIST,
                page,
                query.order_by("kind, key, day"),
                budget_row,
                |_| true,
            )
            .await
    }

    async fn reservation(&self, id: RequestId) -> Result<Option<ReservationRow>, StoreError> {
        self.readers
            .run(move |db| {
                db.prepare_cached(&format!("{RESERVATION} WHERE request_id = ?1"))?
                    .query_row([id.as_bytes()], |found| Ok(reservation_row(found)?.1))
                    .optional()
            })
            .await
    }

    async fn reservations(&self, page: &PageRequest) -> Result<Page<ReservationRow>, StoreError> {
        let mut query = Query::new(RESERVATION);
        query.and_maybe("id > ?", cursor::decode::<i64>(RESERVATIONS, page)?);
        let query = query.order_by("id");
        self.readers
            .page(RESERVATIONS, page, query, reservation_row, |_| true)
            .await
    }
}

fn budget_row(found: &Row<'_>) -> rusqlite::Result<((String, String, i64), BudgetRow)> {
    let (kind, key, day): (String, String, i64) = (get(found, 0)?, get(found, 1)?, get(found, 2)?);
    let scope = BudgetKind::parse(&kind).and_then(|kind| BudgetScope::parse(kind, &key));
    let row = BudgetRow {
        scope: scope.ok_or_else(|| bad(1, format!("unknown budget `{kind}` `{key}`")))?,
        day,
        cap_tokens: get(found, 3)?,
        cap_micro_usd: get(found, 4)?,
        spent_tokens: get(found, 5)?,
        spent_micro_usd: get(found, 6)?,
        reserved_tokens: get(found, 7)?,
        reserved_micro_usd: get(found, 8)?,
        updated_at: row::time(found, 9)?,
    };
    Ok(((kind, key, day), row))
}

fn reservation_row(found: &Row<'_>) -> rusqlite::Result<(i64, ReservationRow)> {
    let row = ReservationRow {
        request_id: row::request_id(found, 1)?,
        at: row::time(found, 2)?,
        held: row::json(found, 3)?,
    };
    Ok((get(found, 0)?, row))
}
