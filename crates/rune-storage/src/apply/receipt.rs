//! Receipts: the reply of a command under its id, so that a retry is answered
//! and not applied again.
//!
//! A rejected command leaves no receipt: it changed nothing, and a retry is
//! judged by the state it meets.

use rune_store_runtime::Reply;
use rune_store_runtime::limits::{PRUNE_BATCH, RECEIPT_WINDOW};
use rusqlite::{Connection, OptionalExtension, params};

use super::{Context, encode};
use crate::{ApplyError, row};

/// Receipts kept at the most, whatever their age.
const MAX_RECEIPTS: i64 = 100_000;

/// Applies `change` unless a receipt says that it was applied.
pub(super) fn once(
    db: &Connection,
    context: Context,
    change: impl FnOnce() -> Result<Reply, ApplyError>,
) -> Result<Reply, ApplyError> {
    let expired = context.at.minus(RECEIPT_WINDOW).as_millis();
    let known: Option<Reply> = db
        .prepare_cached("SELECT reply FROM receipts WHERE command_id = ?1 AND at >= ?2")?
        .query_row(params![context.id.as_bytes(), expired], |found| {
            row::json(found, 0)
        })
        .optional()?;
    if let Some(reply) = known {
        return Ok(reply);
    }
    let reply = change()?;
    db.prepare_cached(
        "DELETE FROM receipts WHERE id IN (
             SELECT id FROM (SELECT id, at FROM receipts ORDER BY id LIMIT ?1) WHERE at < ?2)
         OR id <= (SELECT max(id) FROM receipts) - ?3",
    )?
    .execute(params![PRUNE_BATCH, expired, MAX_RECEIPTS])?;
    db.prepare_cached(
        "INSERT OR REPLACE INTO receipts (command_id, at, reply) VALUES (?1, ?2, ?3)",
    )?
    .execute(params![
        context.id.as_bytes(),
        context.at.as_millis(),
        encode(&reply)?
    ])?;
    Ok(reply)
}
