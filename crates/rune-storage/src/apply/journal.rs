//! Appending to a journal, with every projection of the entries.
//!
//! First the entries are checked against the state and collected into an
//! [`Append`]; only then is anything written.

mod fork;
mod plan;
mod state;

use rune_store_runtime::{AppendEntries, Appended, Billed, Reject, Settlement};
use rusqlite::{Connection, params};

pub(super) use self::fork::Inherited;
use self::plan::{Append, Call};
pub(super) use self::state::RequestState;
use super::{Context, approval, audit, budget, session};
use crate::{ApplyError, key};

/// Appends entries. A retry finds its command id in the request's row: only this
/// command and the accepting one write it, and a request has one writer that waits
/// for the answer before it goes on.
pub(super) fn append(
    db: &Connection,
    context: Context,
    op: &AppendEntries,
    json: &[Result<String, Reject>],
) -> Result<Appended, ApplyError> {
    let state = RequestState::load(db, op.request_id)?;
    if let Some(seq) = state.receipt(context.id) {
        return Ok(state.appended(seq));
    }
    let first_seq = state.last_seq + 1;
    let append = Append::plan(db, state, &op.entries, json)?;
    let message = match append.messages.len() {
        0 => 0,
        count => session::next_message(db, append.state.session, count as u64)?,
    };
    write(db, context, op, json, &append, first_seq, message)?;
    Ok(append.state.appended(first_seq))
}

fn write(
    db: &Connection,
    context: Context,
    op: &AppendEntries,
    json: &[Result<String, Reject>],
    append: &Append<'_>,
    first_seq: u64,
    first_message: u64,
) -> rusqlite::Result<()> {
    let state = &append.state;
    for (seq, body) in (first_seq..).zip(json.iter().flatten()) {
        insert_entry(db, key::entry(state.row, seq), context, body)?;
    }
    for (n, (seq, tool)) in (first_message..).zip(&append.messages) {
        let id = key::message(state.session, n);
        insert_message(db, id, key::entry(state.row, *seq), tool.as_deref())?;
    }
    for (seq, call) in &append.usage {
        insert_usage(db, context, op, state, *seq, call)?;
        if state.has_budgets {
            budget::close(db, context, op.request_id, call.settlement)?;
        }
    }
    if state.has_budgets && state.status.is_terminal() {
        budget::end(db, context, op.request_id, Settlement::Unknown)?;
    }
    for (call_id, call) in &append.calls {
        write_call(db, state.row, call_id, call)?;
    }
    for verdict in &append.verdicts {
        audit::project(db, context, state.row, op.request_id, verdict)?;
    }
    for (seq, question) in &append.questions {
        approval::ask(db, context, state.row, *seq, question)?;
    }
    for output in &append.spilled {
        session::insert_spilled(db, state.session, output)?;
    }
    if append.withdraws {
        approval::withdraw(db, context, state.row)?;
    }
    state.update(db, context, first_seq)
}

pub(super) fn insert_entry(
    db: &Connection,
    id: i64,
    context: Context,
    body: &str,
) -> rusqlite::Result<()> {
    db.prepare_cached("INSERT INTO journal (id, at, body) VALUES (?1, ?2, ?3)")?
        .execute(params![id, context.at.as_millis(), body])?;
    Ok(())
}

pub(super) fn insert_message(
    db: &Connection,
    id: i64,
    entry: i64,
    tool: Option<&str>,
) -> rusqlite::Result<()> {
    db.prepare_cached("INSERT INTO messages (id, journal, tool) VALUES (?1, ?2, ?3)")?
        .execute(params![id, entry, tool])?;
    Ok(())
}

fn insert_usage(
    db: &Connection,
    context: Context,
    op: &AppendEntries,
    state: &RequestState,
    seq: u64,
    call: &Billed<'_>,
) -> rusqlite::Result<()> {
    db.prepare_cached(
        "INSERT INTO usage (request_id, seq, at, namespace, agent, provider, model, input_tokens,
             output_tokens, cached_tokens, cache_write_tokens, reasoning_tokens, caller,
             cost_micro_usd)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14)",
    )?
    .execute(params![
        op.request_id.as_bytes(),
        seq,
        context.at.as_millis(),
        state.namespace,
        state.agent,
        call.provider,
        call.model,
        call.usage.input_tokens,
        call.usage.output_tokens,
        call.usage.cached_tokens,
        call.usage.cache_write_tokens,
        call.usage.reasoning_tokens,
        state.caller,
        call.cost_micro_usd,
    ])?;
    Ok(())
}

fn write_call(db: &Connection, request: i64, call_id: &str, call: &Call) -> rusqlite::Result<()> {
    match call.row {
        Some(row) => db
            .prepare_cached("UPDATE tool_calls SET intent = ?2, result = ?3 WHERE id = ?1")?
            .execute(params![row, call.intent, call.result])?,
        None => db
            .prepare_cached(
                "INSERT INTO tool_calls (request, call_id, name, intent, result)
                 VALUES (?1, ?2, ?3, ?4, ?5)",
            )?
            .execute(params![
                request,
                call_id,
                call.name,
                call.intent,
                call.result
            ])?,
    };
    Ok(())
}
