//! Receipts: the answer to a command under its id, so that a retry is answered
//! and not applied again.
//!
//! In the store of a single node a rejected command leaves no receipt: it changed
//! nothing, and a retry is judged by the state it meets. In a replicated log it
//! leaves one, because there the same command can come twice, the second time long
//! after the first was answered; see [`answered`] and [`keep`].

use rune_store_runtime::limits::{PRUNE_BATCH, RECEIPT_WINDOW};
use rune_store_runtime::{Reject, Reply};
use rusqlite::{Connection, OptionalExtension, params};
use serde::Serialize;

use super::Context;
use crate::{ApplyError, row};

/// Receipts kept at the most, whatever their age: those of a minute and a half at ten thousand
/// commands a second, which is longer than anybody tries to have one answered.
const MAX_RECEIPTS: i64 = 1_000_000;

/// Applies `change` unless a receipt says that it was applied.
pub(super) fn once(
    db: &Connection,
    context: Context,
    change: impl FnOnce() -> Result<Reply, ApplyError>,
) -> Result<Reply, ApplyError> {
    if let Some(answer) = answered(db, context)? {
        return Ok(answer?);
    }
    let reply = change()?;
    keep(db, context, Ok(&reply))?;
    Ok(reply)
}

/// The answer that the command got earlier.
pub(super) fn answered(
    db: &Connection,
    context: Context,
) -> rusqlite::Result<Option<Result<Reply, Reject>>> {
    let expired = context.clock.minus(RECEIPT_WINDOW).as_millis();
    db.prepare_cached("SELECT reply, reject FROM receipts WHERE command_id = ?1 AND at >= ?2")?
        .query_row(params![context.id.as_bytes(), expired], |found| {
            Ok(match row::maybe_json(found, 1)? {
                Some(reject) => Err(reject),
                None => Ok(row::json(found, 0)?),
            })
        })
        .optional()
}

/// Keeps the answer to a command, and no more than there may be.
pub(super) fn keep(
    db: &Connection,
    context: Context,
    answer: Result<&Reply, &Reject>,
) -> Result<(), ApplyError> {
    let expired = context.clock.minus(RECEIPT_WINDOW).as_millis();
    let (reply, reject) = match answer {
        // Without a limit, because the change is made: what it holds was within the limits.
        Ok(reply) => (Some(text(reply)?), None),
        Err(reject) => (None, Some(text(reject)?)),
    };
    db.prepare_cached(
        "DELETE FROM receipts WHERE id IN (
             SELECT id FROM (SELECT id, at FROM receipts ORDER BY id LIMIT ?1) WHERE at < ?2)
         OR id <= (SELECT max(id) FROM receipts) - ?3",
    )?
    .execute(params![PRUNE_BATCH, expired, MAX_RECEIPTS])?;
    db.prepare_cached(
        "INSERT OR REPLACE INTO receipts (command_id, at, reply, reject) VALUES (?1, ?2, ?3, ?4)",
    )?
    .execute(params![
        context.id.as_bytes(),
        context.clock.as_millis(),
        reply,
        reject
    ])?;
    Ok(())
}

fn text(answer: &impl Serialize) -> rusqlite::Result<String> {
    serde_json::to_string(answer)
        .map_err(|error| rusqlite::Error::ToSqlConversionFailure(error.into()))
}
