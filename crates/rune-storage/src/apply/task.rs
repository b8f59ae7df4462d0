//! Tasks that agents leave for each other.

use rune_store_runtime::limits::{
    MAX_ENDED_TASKS, MAX_QUEUE_NAME_BYTES, MAX_QUEUE_TASKS, MAX_TASK_BYTES, MAX_TASK_LEASE,
};
use rune_store_runtime::{
    ClaimTask, CompleteTask, PostTask, Reject, TaskRow, TaskState, Timestamp,
};
use rusqlite::{Connection, OptionalExtension, params};

use super::{Context, encode, encode_within};
use crate::ApplyError;
use crate::read::task::{TASK, task_row};
use crate::row::get;

/// Posts a task; one that is there stays as it is.
pub(super) fn post(db: &Connection, context: Context, op: &PostTask) -> Result<(), ApplyError> {
    if op.queue.is_empty() || op.queue.len() > MAX_QUEUE_NAME_BYTES {
        let message = format!("the name of a queue has 1 to {MAX_QUEUE_NAME_BYTES} bytes");
        return Err(Reject::invalid(message).into());
    }
    if op.max_attempts == 0 {
        return Err(Reject::invalid("a task may be claimed once at least").into());
    }
    encode_within(&op.title, "the title", MAX_TASK_BYTES)?;
    let payload = encode_within(&op.payload, "the payload", MAX_TASK_BYTES)?;
    let known: bool = db
        .prepare_cached("SELECT EXISTS (SELECT 1 FROM tasks WHERE task_id = ?1)")?
        .query_row([op.task_id.as_bytes()], |row| get(row, 0))?;
    if known {
        return Ok(());
    }
    let waiting: u32 = db
        .prepare_cached(
            "SELECT count(*) FROM (
                 SELECT 1 FROM tasks WHERE namespace = ?1 AND queue = ?2
                     AND (state = 'open' OR state = 'claimed') LIMIT ?3)",
        )?
        .query_row(params![op.namespace, op.queue, MAX_QUEUE_TASKS], |row| {
            get(row, 0)
        })?;
    if waiting >= MAX_QUEUE_TASKS {
        return Err(Reject::conflict(format!(
            "queue `{}` is full: it has {MAX_QUEUE_TASKS} tasks that are not done",
            op.queue
        ))
        .into());
    }
    db.prepare_cached(
        "INSERT INTO tasks (task_id, namespace, queue, title, payload, priority, max_attempts,
             attempts, posted_by, state, result, created_at, updated_at)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, 0, ?8, 'open', 'null', ?9, ?9)",
    )?
    .execute(params![
        op.task_id.as_bytes(),
        op.namespace,
        op.queue,
        op.title,
        payload,
        op.priority,
        op.max_attempts,
        op.posted_by,
        context.at.as_millis()
    ])?;
    Ok(())
}

/// Claims a task; nothing where there is none.
pub(super) fn claim(
    db: &Connection,
    context: Context,
    op: &ClaimTask,
) -> Result<Option<Box<TaskRow>>, ApplyError> {
    if op.lease_ms == 0 || u128::from(op.lease_ms) > MAX_TASK_LEASE.as_millis() {
        let most = MAX_TASK_LEASE.as_millis();
        return Err(Reject::invalid(format!("a lease lasts 1 to {most} ms")).into());
    }
    let now = context.clock;
    while let Some((id, row)) = candidate(db, now, op)? {
        let theirs = row.state == TaskState::Claimed && row.holder.as_ref() == Some(&op.holder);
        let extends = op.task_id.is_some() && theirs && !row.is_free(now);
        if !extends && row.attempts >= row.max_attempts {
            let (namespace, queue) = (row.namespace.clone(), row.queue.clone());
            write(db, id, &row.given_up(now))?;
            forget_oldest(db, &namespace, &queue)?;
            continue;
        }
        let row = row.leased(op, now);
        write(db, id, &row)?;
        return Ok(Some(Box::new(row)));
    }
    Ok(None)
}

/// The task that is claimed next.
fn candidate(
    db: &Connection,
    now: Timestamp,
    op: &ClaimTask,
) -> Result<Option<(i64, TaskRow)>, ApplyError> {
    let named = op.task_id.map(|id| *id.as_bytes());
    let holder = encode(&op.holder)?;
    let found = db
        .prepare_cached(&format!(
            "{TASK} WHERE namespace = ?1 AND queue = ?2 AND (?3 IS NULL OR task_id = ?3)
                 AND (state = 'open' OR state = 'claimed')
                 AND (state = 'open' OR lease_until <= ?4 OR ?3 IS NOT NULL AND holder = ?5)
             ORDER BY priority DESC, id LIMIT 1"
        ))?
        .query_row(
            params![op.namespace, op.queue, named, now.as_millis(), holder],
            task_row,
        )
        .optional()?;
    Ok(found)
}

/// Ends a task or gives it back.
pub(super) fn complete(
    db: &Connection,
    context: Context,
    op: &CompleteTask,
) -> Result<(), ApplyError> {
    if op.state == TaskState::Claimed {
        return Err(Reject::invalid("a task is done, failed or open").into());
    }
    encode_within(&op.result, "the result", MAX_TASK_BYTES)?;
    let found = db
        .prepare_cached(&format!("{TASK} WHERE task_id = ?1 AND namespace = ?2"))?
        .query_row(params![op.task_id.as_bytes(), op.namespace], task_row)
        .optional()?;
    let Some((id, row)) = found else {
        return Err(Reject::not_found("task", &op.task_id).into());
    };
    let row = row.completed(op, context.clock).map_err(Reject::conflict)?;
    write(db, id, &row)?;
    forget_oldest(db, &row.namespace, &row.queue)
}

/// Writes what changes of a task.
fn write(db: &Connection, id: i64, row: &TaskRow) -> Result<(), ApplyError> {
    let holder = row.holder.as_ref().map(encode).transpose()?;
    db.prepare_cached(
        "UPDATE tasks SET attempts = ?2, state = ?3, holder = ?4, lease_until = ?5, result = ?6,
             updated_at = ?7 WHERE id = ?1",
    )?
    .execute(params![
        id,
        row.attempts,
        row.state.as_str(),
        holder,
        row.lease_until.map(Timestamp::as_millis),
        encode(&row.result)?,
        row.updated_at.as_millis()
    ])?;
    Ok(())
}

/// Keeps the newest of the tasks of a queue that have ended.
fn forget_oldest(db: &Connection, namespace: &str, queue: &str) -> Result<(), ApplyError> {
    db.prepare_cached(
        "DELETE FROM tasks WHERE namespace = ?1 AND queue = ?2
             AND (state = 'done' OR state = 'failed') AND id <= (
                 SELECT id FROM tasks WHERE namespace = ?1 AND queue = ?2
                     AND (state = 'done' OR state = 'failed')
                 ORDER BY id DESC LIMIT 1 OFFSET ?3)",
    )?
    .execute(params![namespace, queue, MAX_ENDED_TASKS])?;
    Ok(())
}
