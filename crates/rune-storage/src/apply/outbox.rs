//! Messages that wait for a channel.

use rune_store_runtime::limits::{MAX_MESSAGE_BYTES, MAX_OUTBOX_MESSAGES, MAX_QUEUE_NAME_BYTES};
use rune_store_runtime::{QueueMessage, Reject};
use rusqlite::{Connection, params};

use super::Context;
use crate::ApplyError;
use crate::row::get;

/// Queues a message; one that is there stays as it is.
pub(super) fn queue(
    db: &Connection,
    context: Context,
    op: &QueueMessage,
) -> Result<(), ApplyError> {
    for (what, name) in [("channel", &op.channel), ("recipient", &op.recipient)] {
        if name.is_empty() || name.len() > MAX_QUEUE_NAME_BYTES {
            let message = format!("the {what} has 1 to {MAX_QUEUE_NAME_BYTES} bytes");
            return Err(Reject::invalid(message).into());
        }
    }
    if op.text.is_empty() || op.text.len() > MAX_MESSAGE_BYTES {
        let message = format!("the text has 1 to {MAX_MESSAGE_BYTES} bytes");
        return Err(Reject::invalid(message).into());
    }
    let known: bool = db
        .prepare_cached("SELECT EXISTS (SELECT 1 FROM outbox WHERE message_id = ?1)")?
        .query_row([op.message_id.as_bytes()], |row| get(row, 0))?;
    if known {
        return Ok(());
    }
    let waiting: u32 = db
        .prepare_cached(
            "SELECT count(*) FROM (SELECT 1 FROM outbox WHERE namespace = ?1 LIMIT ?2)",
        )?
        .query_row(params![op.namespace, MAX_OUTBOX_MESSAGES], |row| {
            get(row, 0)
        })?;
    if waiting >= MAX_OUTBOX_MESSAGES {
        return Err(Reject::conflict(format!(
            "the outbox of namespace `{}` is full: {MAX_OUTBOX_MESSAGES} messages wait",
            op.namespace
        ))
        .into());
    }
    db.prepare_cached(
        "INSERT INTO outbox (message_id, namespace, agent, channel, recipient, text, request_id,
             created_at)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
    )?
    .execute(params![
        op.message_id.as_bytes(),
        op.namespace,
        op.agent,
        op.channel,
        op.recipient,
        op.text,
        op.request_id.as_bytes(),
        context.at.as_millis()
    ])?;
    Ok(())
}
