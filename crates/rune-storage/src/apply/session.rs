//! Sessions.

use rune_store_runtime::limits::MAX_SESSION_MESSAGES;
use rune_store_runtime::{
    BudgetScope, CreateSession, DeleteSession, Reject, SessionId, SpilledOutput,
};
use rusqlite::{Connection, OptionalExtension, params};

use super::{Context, budget, encoded};
use crate::row::get;
use crate::{ApplyError, key};

/// Creates a session, once.
pub(super) fn create(
    db: &Connection,
    context: Context,
    op: &CreateSession,
) -> Result<(), ApplyError> {
    let metadata = encoded::metadata(&op.metadata)?;
    if find(db, &op.session_id, &op.namespace, &op.agent)?.is_none() {
        insert(
            db,
            context,
            &op.session_id,
            &op.namespace,
            &op.agent,
            &metadata,
        )?;
    }
    Ok(())
}

/// Deletes a session and what hangs on it; the usage ledger stays.
pub(super) fn delete(db: &Connection, op: &DeleteSession) -> Result<(), ApplyError> {
    let session: i64 = db
        .prepare_cached("SELECT id FROM sessions WHERE session_id = ?1")?
        .query_row([op.session_id.as_str()], |row| get(row, 0))
        .optional()?
        .ok_or_else(|| Reject::not_found("session", &op.session_id))?;
    let busy: bool = db
        .prepare_cached(
            "SELECT EXISTS (SELECT 1 FROM requests WHERE session = ?1
             AND status IN ('accepted', 'running', 'input-required'))",
        )?
        .query_row([session], |row| get(row, 0))?;
    if busy {
        return Err(Reject::conflict(format!(
            "session `{}` has a request that has not ended",
            op.session_id
        ))
        .into());
    }
    // The session of a fork shows messages of these requests.
    let fork: Option<String> = db
        .prepare_cached(
            "SELECT s.session_id FROM requests r JOIN requests f ON f.origin = r.id
             JOIN sessions s ON s.id = f.session WHERE r.session = ?1 ORDER BY f.id LIMIT 1",
        )?
        .query_row([session], |row| get(row, 0))
        .optional()?;
    if let Some(fork) = fork {
        return Err(Reject::conflict(format!(
            "session `{}` was forked: delete session `{fork}` first",
            op.session_id
        ))
        .into());
    }
    if !budget::forget(db, &BudgetScope::Session(op.session_id.clone()))? {
        return Err(Reject::conflict(format!(
            "a model call that is counted against the budget of session `{}` is under way",
            op.session_id
        ))
        .into());
    }
    let requests: Vec<i64> = db
        .prepare_cached("SELECT id FROM requests WHERE session = ?1 ORDER BY id")?
        .query_map([session], |row| get(row, 0))?
        .collect::<rusqlite::Result<_>>()?;
    for request in requests {
        let (first, last) = key::entries(request);
        db.prepare_cached("DELETE FROM journal WHERE id BETWEEN ?1 AND ?2")?
            .execute([first, last])?;
        db.prepare_cached("DELETE FROM tool_calls WHERE request = ?1")?
            .execute([request])?;
        db.prepare_cached("DELETE FROM approvals WHERE request = ?1")?
            .execute([request])?;
        db.prepare_cached("DELETE FROM pushes WHERE request = ?1")?
            .execute([request])?;
        db.prepare_cached("DELETE FROM requests WHERE id = ?1")?
            .execute([request])?;
    }
    let (first, last) = key::messages(session);
    db.prepare_cached("DELETE FROM messages WHERE id BETWEEN ?1 AND ?2")?
        .execute([first, last])?;
    db.prepare_cached("DELETE FROM grants WHERE session = ?1")?
        .execute([session])?;
    db.prepare_cached("DELETE FROM spilled_outputs WHERE session = ?1")?
        .execute([session])?;
    db.prepare_cached("DELETE FROM sessions WHERE id = ?1")?
        .execute([session])?;
    Ok(())
}

/// The row of a session, rejected where it belongs to another agent.
pub(super) fn find(
    db: &Connection,
    id: &SessionId,
    namespace: &str,
    agent: &str,
) -> Result<Option<i64>, ApplyError> {
    let found = db
        .prepare_cached(
            "SELECT id, namespace = ?2 AND agent = ?3 FROM sessions WHERE session_id = ?1",
        )?
        .query_row([id.as_str(), namespace, agent], |row| {
            Ok((get::<i64>(row, 0)?, get::<bool>(row, 1)?))
        })
        .optional()?;
    match found {
        Some((_, false)) => {
            Err(Reject::conflict(format!("session `{id}` belongs to another agent")).into())
        }
        found => Ok(found.map(|(row, _)| row)),
    }
}

/// Inserts a session that does not exist.
pub(super) fn insert(
    db: &Connection,
    context: Context,
    id: &SessionId,
    namespace: &str,
    agent: &str,
    metadata: &str,
) -> rusqlite::Result<i64> {
    db.prepare_cached(
        "INSERT INTO sessions (session_id, namespace, agent, created_at, metadata)
         VALUES (?1, ?2, ?3, ?4, ?5)",
    )?
    .insert(params![
        id.as_str(),
        namespace,
        agent,
        context.at.as_millis(),
        metadata
    ])
}

/// Notes an output that is in the object store.
pub(super) fn insert_spilled(
    db: &Connection,
    session: i64,
    output: &SpilledOutput,
) -> rusqlite::Result<()> {
    db.prepare_cached(
        "INSERT OR IGNORE INTO spilled_outputs (session, handle, digest, bytes)
         VALUES (?1, ?2, ?3, ?4)",
    )?
    .execute(params![session, output.handle, output.digest, output.bytes])?;
    Ok(())
}

/// The number of the next message, rejected where `count` more do not fit.
pub(super) fn next_message(db: &Connection, session: i64, count: u64) -> Result<u64, ApplyError> {
    let (first, last) = key::messages(session);
    let newest: Option<i64> = db
        .prepare_cached(
            "SELECT id FROM messages WHERE id BETWEEN ?1 AND ?2 ORDER BY id DESC LIMIT 1",
        )?
        .query_row([first, last], |row| get(row, 0))
        .optional()?;
    let messages = newest.map_or(0, |id| key::split_message(id).1);
    if messages + count > MAX_SESSION_MESSAGES {
        return Err(Reject::invalid(format!(
            "a session may have {MAX_SESSION_MESSAGES} messages"
        ))
        .into());
    }
    Ok(messages + 1)
}
