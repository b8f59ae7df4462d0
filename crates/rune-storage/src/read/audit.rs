//! The audit trail.

use async_trait::async_trait;
use rune_store_runtime::{
    AuditFilter, AuditId, AuditReader, AuditRow, AuditVerdict, Page, PageRequest, RequestId,
    StoreError,
};
use rusqlite::Row;
use rusqlite::types::Value;

use crate::query::{Query, blob, text};
use crate::row::{self, get};
use crate::{SqliteStore, cursor};

const LIST: &str = "audit";

#[async_trait]
impl AuditReader for SqliteStore {
    async fn audit(
        &self,
        filter: &AuditFilter,
        page: &PageRequest,
    ) -> Result<Page<AuditRow>, StoreError> {
        let mut query = Query::new(
            "SELECT id, audit_id, at, kind, resource, verdict, reason, caller, request_id
             FROM audit",
        );
        query.and_maybe("kind = ?", text(filter.kind.as_ref()));
        let request = filter.request_id.as_ref().map(RequestId::as_bytes);
        query.and_maybe("request_id = ?", request.map(blob));
        let verdict = filter.verdict.map(|verdict| verdict.as_str().to_owned());
        query.and_maybe("verdict = ?", verdict.map(Value::Text));
        query.and_maybe("id < ?", cursor::decode::<i64>(LIST, page)?);
        self.readers
            .page(LIST, page, query.order_by("id DESC"), audit_row, |_| true)
            .await
    }
}

fn audit_row(found: &Row<'_>) -> rusqlite::Result<(i64, AuditRow)> {
    let row = AuditRow {
        id: row::id(found, 1, AuditId::from_bytes)?,
        at: row::time(found, 2)?,
        kind: get(found, 3)?,
        resource: get(found, 4)?,
        verdict: row::word(found, 5, AuditVerdict::parse)?,
        reason: get(found, 6)?,
        caller: get(found, 7)?,
        request_id: row::maybe_id(found, 8, RequestId::from_bytes)?,
    };
    Ok((get(found, 0)?, row))
}
