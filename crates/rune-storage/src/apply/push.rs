//! Webhooks of requests. What is written of them is ciphertext already.

use rune_store_runtime::limits::{MAX_PUSH_ID_BYTES, MAX_PUSHES, MAX_SEALED_SECRET_BYTES};
use rune_store_runtime::{PutPush, Reject, RemovePush, RequestId, SettlePush};
use rusqlite::{Connection, OptionalExtension, params};

use super::Context;
use crate::ApplyError;
use crate::row::get;

/// Adds a webhook, or replaces one.
pub(super) fn put(db: &Connection, context: Context, op: &PutPush) -> Result<(), ApplyError> {
    let within = |text: &str| !text.is_empty() && text.len() <= MAX_PUSH_ID_BYTES;
    if !within(&op.push_id) || !within(&op.sealed.key_id) {
        let message = format!("the id of a webhook has 1 to {MAX_PUSH_ID_BYTES} bytes");
        return Err(Reject::invalid(message).into());
    }
    if op.sealed.bytes.is_empty() || op.sealed.bytes.len() > MAX_SEALED_SECRET_BYTES {
        let message = format!("an encrypted webhook has 1 to {MAX_SEALED_SECRET_BYTES} bytes");
        return Err(Reject::invalid(message).into());
    }
    let request = find(db, op.request_id)?;
    let request = request.ok_or_else(|| Reject::not_found("request", &op.request_id))?;
    let others: u32 = db
        .prepare_cached("SELECT count(*) FROM pushes WHERE request = ?1 AND push_id <> ?2")?
        .query_row(params![request, op.push_id], |row| get(row, 0))?;
    if others >= MAX_PUSHES {
        let message = format!(
            "request `{}` has {MAX_PUSHES} webhooks, and may have no more",
            op.request_id
        );
        return Err(Reject::conflict(message).into());
    }
    db.prepare_cached(
        "INSERT INTO pushes (request, push_id, key_id, sealed, told, done, attempts, next_at,
             created_at)
         VALUES (?1, ?2, ?3, ?4, 0, 0, 0, ?5, ?5)
         ON CONFLICT (request, push_id) DO UPDATE SET key_id = excluded.key_id,
             sealed = excluded.sealed, told = 0, attempts = 0, next_at = excluded.next_at,
             created_at = excluded.created_at, done = 0",
    )?
    .execute(params![
        request,
        op.push_id,
        op.sealed.key_id,
        op.sealed.bytes,
        context.at.as_millis()
    ])?;
    Ok(())
}

/// Removes a webhook.
pub(super) fn remove(db: &Connection, op: &RemovePush) -> Result<(), ApplyError> {
    if let Some(request) = find(db, op.request_id)? {
        db.prepare_cached("DELETE FROM pushes WHERE request = ?1 AND push_id = ?2")?
            .execute(params![request, op.push_id])?;
    }
    Ok(())
}

/// Says what came of telling a webhook.
pub(super) fn settle(db: &Connection, op: &SettlePush) -> Result<(), ApplyError> {
    let Some(request) = find(db, op.request_id)? else {
        return Ok(());
    };
    let created_at = op.created_at.as_millis();
    let place = params![request, op.push_id, created_at];
    let known: Option<(i64, u32)> = db
        .prepare_cached(
            "SELECT id, attempts FROM pushes
             WHERE request = ?1 AND push_id = ?2 AND created_at = ?3",
        )?
        .query_row(place, |row| Ok((get(row, 0)?, get(row, 1)?)))
        .optional()?;
    let Some((id, attempts)) = known else {
        return Ok(());
    };
    match op.again_at {
        Some(again) => db
            .prepare_cached("UPDATE pushes SET attempts = ?2, next_at = ?3 WHERE id = ?1")?
            .execute(params![id, attempts.saturating_add(1), again.as_millis()])?,
        None => db
            .prepare_cached(
                "UPDATE pushes SET attempts = 0, told = ?2, done = EXISTS (
                     SELECT 1 FROM requests r WHERE r.id = pushes.request AND r.last_seq <= ?2
                     AND r.status IN ('completed', 'failed', 'cancelled'))
                 WHERE id = ?1",
            )?
            .execute(params![id, op.seq])?,
    };
    Ok(())
}

fn find(db: &Connection, id: RequestId) -> rusqlite::Result<Option<i64>> {
    db.prepare_cached("SELECT id FROM requests WHERE request_id = ?1")?
        .query_row([id.as_bytes()], |row| get(row, 0))
        .optional()
}
