//! Approvals: questions, answers and what is remembered of them.

use rune_store_runtime::{
    ApprovalAnswer, ApprovalQuestion, ApprovalRow, ApprovalState, DecideApproval, EntryBody,
    Reject, Remember, RequestStatus, Timestamp,
};
use rusqlite::{Connection, OptionalExtension, params};

use super::journal::{self, RequestState};
use super::{Context, encode, encoded};
use crate::read::approval::{APPROVAL, approval_row};
use crate::row::get;
use crate::{ApplyError, key};

/// Projects a question. Its request is parked by the caller.
pub(super) fn ask(
    db: &Connection,
    context: Context,
    request: i64,
    seq: u64,
    question: &ApprovalQuestion,
) -> rusqlite::Result<()> {
    db.prepare_cached(
        "INSERT INTO approvals (approval_id, request, asked, state, deadline, asked_at)
         VALUES (?1, ?2, ?3, 'waiting', ?4, ?5)",
    )?
    .execute(params![
        question.approval_id.as_bytes(),
        request,
        seq,
        question.deadline.map(Timestamp::as_millis),
        context.at.as_millis()
    ])?;
    Ok(())
}

/// Whether there is an approval with the id of this question.
pub(super) fn is_asked(db: &Connection, question: &ApprovalQuestion) -> rusqlite::Result<bool> {
    db.prepare_cached("SELECT EXISTS (SELECT 1 FROM approvals WHERE approval_id = ?1)")?
        .query_row([question.approval_id.as_bytes()], |row| get(row, 0))
}

/// Withdraws what a request that ends was still asking.
pub(super) fn withdraw(db: &Connection, context: Context, request: i64) -> rusqlite::Result<()> {
    db.prepare_cached(
        "UPDATE approvals SET state = 'withdrawn', decided_at = ?2
         WHERE request = ?1 AND state = 'waiting'",
    )?
    .execute(params![request, context.at.as_millis()])?;
    Ok(())
}

/// Answers a question, once.
pub(super) fn decide(
    db: &Connection,
    context: Context,
    op: &DecideApproval,
) -> Result<ApprovalRow, ApplyError> {
    let row = find(db, op)?.ok_or_else(|| Reject::not_found("approval", &op.approval_id))?;
    if row.state != ApprovalState::Waiting {
        return Err(Reject::conflict(format!(
            "approval `{}` is {} already",
            op.approval_id,
            row.state.as_str()
        ))
        .into());
    }
    let mut state = RequestState::load(db, row.request_id)?;
    let answer = ApprovalAnswer {
        approval_id: op.approval_id,
        call_id: row.question.call_id.clone(),
        decision: op.decision,
        by: op.by.clone(),
        remember: op.remember,
        note: op.note.clone(),
    };
    let body = encoded::entry(&EntryBody::ApprovalGiven(answer.clone()))?;
    state.room_for(1)?;

    let seq = state.last_seq + 1;
    let decided = ApprovalState::from(op.decision);
    journal::insert_entry(db, key::entry(state.row, seq), context, &body)?;
    db.prepare_cached(
        "UPDATE approvals SET state = ?2, given = ?3, decided_at = ?4 WHERE approval_id = ?1",
    )?
    .execute(params![
        op.approval_id.as_bytes(),
        decided.as_str(),
        seq,
        context.at.as_millis()
    ])?;
    let waits: bool = db
        .prepare_cached(
            "SELECT EXISTS (SELECT 1 FROM approvals WHERE request = ?1 AND state = 'waiting')",
        )?
        .query_row([state.row], |row| get(row, 0))?;
    if !waits {
        state.status = RequestStatus::Accepted;
    }
    state.last_seq = seq;
    state.touch(db, context)?;
    if let Some(scope) = op.remember {
        remember(db, context, &state, &row, op, scope)?;
    }
    Ok(ApprovalRow {
        state: decided,
        decided_at: Some(context.at),
        answer: Some(answer),
        ..row
    })
}

fn find(db: &Connection, op: &DecideApproval) -> rusqlite::Result<Option<ApprovalRow>> {
    db.prepare_cached(&format!("{APPROVAL} WHERE a.approval_id = ?1"))?
        .query_row([op.approval_id.as_bytes()], |row| Ok(approval_row(row)?.1))
        .optional()
}

fn remember(
    db: &Connection,
    context: Context,
    state: &RequestState,
    row: &ApprovalRow,
    op: &DecideApproval,
    scope: Remember,
) -> Result<(), ApplyError> {
    let session = (scope == Remember::Session).then_some(state.session);
    let policies = encode(&row.question.policies)?;
    db.prepare_cached(
        "INSERT INTO grants (namespace, agent, tool, session, policies, decision, by, at)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
    )?
    .execute(params![
        row.namespace,
        row.agent,
        row.question.tool,
        session,
        policies,
        op.decision.as_str(),
        op.by,
        context.at.as_millis()
    ])?;
    Ok(())
}
