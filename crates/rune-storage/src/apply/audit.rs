//! The audit trail.

use rune_store_runtime::{RecordAudit, Reject, RequestId};
use rusqlite::{Connection, params};

use super::Context;
use crate::ApplyError;
use crate::row::get;

/// Adds a row. Rows are never changed.
pub(super) fn record(
    db: &Connection,
    context: Context,
    op: &RecordAudit,
) -> Result<(), ApplyError> {
    let taken: bool = db
        .prepare_cached("SELECT EXISTS (SELECT 1 FROM audit WHERE audit_id = ?1)")?
        .query_row([op.audit_id.as_bytes()], |row| get(row, 0))?;
    if taken {
        return Err(Reject::conflict(format!("audit row `{}` exists already", op.audit_id)).into());
    }
    db.prepare_cached(
        "INSERT INTO audit (audit_id, at, kind, resource, verdict, reason, caller, request_id)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
    )?
    .execute(params![
        op.audit_id.as_bytes(),
        context.at.as_millis(),
        op.kind,
        op.resource,
        op.verdict.as_str(),
        op.reason,
        op.caller,
        op.request_id.as_ref().map(RequestId::as_bytes)
    ])?;
    Ok(())
}
