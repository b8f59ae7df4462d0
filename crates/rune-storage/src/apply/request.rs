//! Accepting and cancelling requests.

use rune_store_runtime::limits::{IDEMPOTENCY_WINDOW, MAX_SESSION_MESSAGES, PRUNE_BATCH};
use rune_store_runtime::{
    AcceptRequest, Accepted, Appended, EntryBody, IdempotencyKey, Reject, RequestCancel, RequestId,
    RequestStatus, SessionId,
};
use rusqlite::{Connection, OptionalExtension, params};

use super::encoded::{self, EncodedAccept};
use super::journal::{self, Inherited, RequestState};
use super::{Context, session};
use crate::row::{self, checkpoint_word, get};
use crate::{ApplyError, key};

/// Accepts a request. A retry finds the request's row and its command id there,
/// as long as no later command wrote to the journal.
pub(super) fn accept(
    db: &Connection,
    context: Context,
    op: &AcceptRequest,
    json: &EncodedAccept,
) -> Result<Accepted, ApplyError> {
    if let Some(key) = &op.idempotency
        && let Some(earlier) = earlier(db, context, op, key)?
    {
        return Ok(earlier);
    }
    let accepted = Accepted {
        request_id: op.request_id,
        session_id: op.session_id.clone(),
        duplicate: false,
    };
    if let Some(command_id) = command_of(db, op)? {
        return if command_id == *context.id.as_bytes() {
            Ok(accepted)
        } else {
            Err(Reject::conflict(format!("request `{}` exists already", op.request_id)).into())
        };
    }
    if let Some(expected) = &op.follows {
        check_newest(db, &op.session_id, expected)?;
    }
    let session = session::find(db, &op.session_id, &op.namespace, &op.agent)?;
    let message = match session {
        Some(row) => session::next_message(db, row, 1)?,
        None => 1,
    };
    let inherited = inherited(db, op, session.is_some())?;

    let session = match session {
        Some(row) => row,
        None => session::insert(db, context, &op.session_id, &op.namespace, &op.agent, "{}")?,
    };
    let origin = inherited.as_ref().map(|inherited| inherited.origin);
    let request = insert(db, context, op, session, json, origin)?;
    let entry = key::entry(request, 1);
    journal::insert_entry(db, entry, context, &json.entry)?;
    let message = match &inherited {
        Some(inherited) => inherited.write_shown(db, session, message)?,
        None => message,
    };
    journal::insert_message(db, key::message(session, message), entry, None)?;
    if let Some(inherited) = inherited {
        inherited.write(db, request, session, message + 1)?;
    }
    if let Some(key) = &op.idempotency {
        remember(db, context, op, key)?;
    }
    Ok(accepted)
}

/// Refuses to follow a request that is not the newest one of its session.
fn check_newest(
    db: &Connection,
    session: &SessionId,
    expected: &RequestId,
) -> Result<(), ApplyError> {
    let newest = db
        .prepare_cached(
            "SELECT request_id FROM requests
             WHERE session = (SELECT id FROM sessions WHERE session_id = ?1)
             ORDER BY id DESC LIMIT 1",
        )?
        .query_row([session.as_str()], |found| row::request_id(found, 0))
        .optional()?;
    if newest.as_ref() == Some(expected) {
        return Ok(());
    }
    Err(Reject::Superseded {
        id: expected.to_string(),
    }
    .into())
}

/// What a fork takes over.
fn inherited(
    db: &Connection,
    op: &AcceptRequest,
    session_exists: bool,
) -> Result<Option<Inherited>, ApplyError> {
    let Some(fork) = &op.fork else {
        return Ok(None);
    };
    if session_exists {
        return Err(Reject::conflict(format!("session `{}` exists already", op.session_id)).into());
    }
    let inherited = Inherited::plan(db, fork, (&op.namespace, &op.agent))?;
    if inherited.messages() >= MAX_SESSION_MESSAGES {
        return Err(Reject::invalid(format!(
            "a session may have {MAX_SESSION_MESSAGES} messages"
        ))
        .into());
    }
    Ok(Some(inherited))
}

/// Asks for a request to end.
pub(super) fn cancel(
    db: &Connection,
    context: Context,
    op: &RequestCancel,
) -> Result<Appended, ApplyError> {
    let mut state = RequestState::load(db, op.request_id)?;
    let body = encoded::entry(&EntryBody::CancelRequested {
        reason: op.reason.clone(),
    })?;
    let seq = state.last_seq + 1;
    if state.status.is_terminal() || state.cancel_requested {
        return Ok(state.appended(seq));
    }
    state.room_for(1)?;
    state.last_seq = seq;
    state.cancel_requested = true;
    journal::insert_entry(db, key::entry(state.row, seq), context, &body)?;
    state.touch(db, context)?;
    Ok(state.appended(seq))
}

/// The request that was accepted under the key, if it and the key are still there.
fn earlier(
    db: &Connection,
    context: Context,
    op: &AcceptRequest,
    key: &IdempotencyKey,
) -> Result<Option<Accepted>, ApplyError> {
    let oldest = context.at.minus(IDEMPOTENCY_WINDOW).as_millis();
    let found = db
        .prepare_cached(
            "SELECT k.fingerprint, k.request_id, s.session_id FROM idempotency_keys k
             JOIN requests r ON r.request_id = k.request_id
             JOIN sessions s ON s.id = r.session
             WHERE k.scope = ?1 AND k.key = ?2 AND k.at >= ?3",
        )?
        .query_row(params![key.scope, key.key, oldest], |found| {
            let session: SessionId = row::session_id(found, 2)?;
            Ok((
                get::<String>(found, 0)?,
                row::request_id(found, 1)?,
                session,
            ))
        })
        .optional()?;
    match found {
        None => Ok(None),
        Some((fingerprint, ..)) if fingerprint != key.fingerprint => {
            Err(Reject::conflict("the idempotency key was used with another request body").into())
        }
        Some((_, request_id, session_id)) => Ok(Some(Accepted {
            duplicate: request_id != op.request_id,
            request_id,
            session_id,
        })),
    }
}

fn command_of(db: &Connection, op: &AcceptRequest) -> rusqlite::Result<Option<[u8; 16]>> {
    db.prepare_cached("SELECT command_id FROM requests WHERE request_id = ?1")?
        .query_row([op.request_id.as_bytes()], |found| get(found, 0))
        .optional()
}

fn insert(
    db: &Connection,
    context: Context,
    op: &AcceptRequest,
    session: i64,
    json: &EncodedAccept,
    origin: Option<i64>,
) -> rusqlite::Result<i64> {
    let parent = op.parent.as_ref();
    db.prepare_cached(
        "INSERT INTO requests (request_id, session, status, last_seq, command_id, command_seq,
             cancel_requested, attempts, model_calls, tool_calls, input_tokens, output_tokens,
             cached_tokens, cache_write_tokens, reasoning_tokens, created_at, updated_at,
             deployment_id, version_id, checkpoint, namespace, agent, caller, metadata, parent_id,
             parent_call, root_id, depth, budgets, unpriced_calls, origin)
         VALUES (?1, ?2, ?3, ?17, ?4, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, ?5, ?5, ?6, ?7, ?8, ?9, ?10,
             ?11, ?12, ?13, ?14, ?15, ?16, ?19, 0, ?18)",
    )?
    .insert(params![
        op.request_id.as_bytes(),
        session,
        RequestStatus::Accepted.as_str(),
        context.id.as_bytes(),
        context.at.as_millis(),
        op.deployment_id.as_bytes(),
        op.version_id.as_bytes(),
        checkpoint_word(op.checkpoint),
        op.namespace,
        op.agent,
        op.caller,
        json.metadata,
        parent.map(|parent| parent.request_id.as_bytes()),
        parent.map(|parent| parent.call_id.as_str()),
        parent.map(|parent| parent.root_id.as_bytes()),
        parent.map(|parent| parent.depth),
        op.fork.as_ref().map_or(1, |fork| fork.origin.seq),
        origin,
        json.budgets,
    ])
}

/// Stores the key and drops some of those that have expired. Replacing an expired
/// key gives it a new row, so that the oldest rows stay the ones to look at.
fn remember(
    db: &Connection,
    context: Context,
    op: &AcceptRequest,
    key: &IdempotencyKey,
) -> rusqlite::Result<()> {
    db.prepare_cached(
        "DELETE FROM idempotency_keys WHERE id IN (
             SELECT id FROM (SELECT id, at FROM idempotency_keys ORDER BY id LIMIT ?1)
             WHERE at < ?2)",
    )?
    .execute(params![
        PRUNE_BATCH,
        context.at.minus(IDEMPOTENCY_WINDOW).as_millis()
    ])?;
    db.prepare_cached(
        "INSERT OR REPLACE INTO idempotency_keys (scope, key, fingerprint, request_id, at)
         VALUES (?1, ?2, ?3, ?4, ?5)",
    )?
    .execute(params![
        key.scope,
        key.key,
        key.fingerprint,
        op.request_id.as_bytes(),
        context.at.as_millis()
    ])?;
    Ok(())
}
