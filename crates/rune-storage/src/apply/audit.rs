//! The audit trail.

use rune_store_runtime::{AuditId, PolicyVerdict, RecordAudit, Reject, RequestId};
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
    if is_recorded(db, op.audit_id)? {
        return Err(twice(op.audit_id).into());
    }
    insert(db, context, op)
}

/// Adds the rows that came with a change that was made. A retry of the change brings them
/// again; what is there stays.
pub(super) fn attach(
    db: &Connection,
    context: Context,
    rows: &[RecordAudit],
) -> Result<(), ApplyError> {
    rows.iter().try_for_each(|row| insert(db, context, row))
}

fn insert(db: &Connection, context: Context, op: &RecordAudit) -> Result<(), ApplyError> {
    db.prepare_cached(
        "INSERT INTO audit (audit_id, at, kind, resource, verdict, reason, caller, request_id)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)
         ON CONFLICT (audit_id) DO NOTHING",
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

/// Adds the row of a policy's verdict; its caller is that of the request.
pub(super) fn project(
    db: &Connection,
    context: Context,
    request: i64,
    request_id: RequestId,
    verdict: &PolicyVerdict,
) -> rusqlite::Result<()> {
    let reason = match verdict.policies.as_slice() {
        [] => verdict.reason.clone(),
        policies => format!("{} [{}]", verdict.reason, policies.join(", ")),
    };
    db.prepare_cached(
        "INSERT INTO audit (audit_id, at, kind, resource, verdict, reason, caller, request_id)
         SELECT ?1, ?2, ?3, ?4, ?5, ?6, caller, ?7 FROM requests WHERE id = ?8",
    )?
    .execute(params![
        verdict.audit_id.as_bytes(),
        context.at.as_millis(),
        verdict.action,
        verdict.resource,
        verdict.verdict.as_str(),
        reason,
        request_id.as_bytes(),
        request
    ])?;
    Ok(())
}

/// Whether there is a row with this id.
pub(super) fn is_recorded(db: &Connection, id: AuditId) -> rusqlite::Result<bool> {
    db.prepare_cached("SELECT EXISTS (SELECT 1 FROM audit WHERE audit_id = ?1)")?
        .query_row([id.as_bytes()], |row| get(row, 0))
}

/// The rejection of a second row with the same id.
pub(super) fn twice(id: AuditId) -> Reject {
    Reject::conflict(format!("audit row `{id}` exists already"))
}
