//! Schedules and their fires.

use rune_store_runtime::limits::MAX_ENTRY_BYTES;
use rune_store_runtime::{
    DeleteSchedule, FireSchedule, PutSchedule, Reject, ScheduleId, Timestamp,
};
use rusqlite::{Connection, OptionalExtension, params};

use super::{Context, encode, encode_within};
use crate::ApplyError;
use crate::row::get;

/// Creates or replaces a schedule.
pub(super) fn put(db: &Connection, context: Context, op: &PutSchedule) -> Result<(), ApplyError> {
    let input = encode_within(&op.input, "the input", MAX_ENTRY_BYTES)?;
    let kind = encode(&op.kind)?;
    let taken: bool = db
        .prepare_cached(
            "SELECT EXISTS (SELECT 1 FROM schedules
             WHERE namespace = ?1 AND name = ?2 AND schedule_id <> ?3)",
        )?
        .query_row(
            params![op.namespace, op.name, op.schedule_id.as_bytes()],
            |row| get(row, 0),
        )?;
    if taken {
        return Err(Reject::conflict(format!(
            "namespace `{}` has another schedule `{}`",
            op.namespace, op.name
        ))
        .into());
    }
    db.prepare_cached(
        "INSERT INTO schedules (schedule_id, namespace, name, agent, input, kind, paused,
             next_fire_at, created_at, updated_at)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?9)
         ON CONFLICT (schedule_id) DO UPDATE SET
             namespace = excluded.namespace, name = excluded.name, agent = excluded.agent,
             input = excluded.input, kind = excluded.kind, paused = excluded.paused,
             next_fire_at = excluded.next_fire_at, updated_at = excluded.updated_at",
    )?
    .execute(params![
        op.schedule_id.as_bytes(),
        op.namespace,
        op.name,
        op.agent,
        input,
        kind,
        op.paused,
        op.next_fire_at.map(Timestamp::as_millis),
        context.at.as_millis()
    ])?;
    Ok(())
}

/// Records a fire; true for the first of (schedule, planned time). Only the first
/// moves the schedule on.
pub(super) fn fire(
    db: &Connection,
    context: Context,
    op: &FireSchedule,
) -> Result<bool, ApplyError> {
    let schedule = find(db, op.schedule_id)?;
    let first =
        db.prepare_cached(
            "INSERT INTO schedule_fires (schedule, planned_at, fired_at, request_id)
             VALUES (?1, ?2, ?3, ?4) ON CONFLICT (schedule, planned_at) DO NOTHING",
        )?
        .execute(params![
            schedule,
            op.planned_at.as_millis(),
            context.at.as_millis(),
            op.request_id.as_bytes()
        ])? == 1;
    if first {
        db.prepare_cached("UPDATE schedules SET next_fire_at = ?2, updated_at = ?3 WHERE id = ?1")?
            .execute(params![
                schedule,
                op.next_fire_at.map(Timestamp::as_millis),
                context.at.as_millis()
            ])?;
    }
    Ok(first)
}

/// Deletes a schedule and its fires.
pub(super) fn delete(db: &Connection, op: &DeleteSchedule) -> Result<(), ApplyError> {
    let schedule = find(db, op.schedule_id)?;
    db.prepare_cached("DELETE FROM schedule_fires WHERE schedule = ?1")?
        .execute([schedule])?;
    db.prepare_cached("DELETE FROM schedules WHERE id = ?1")?
        .execute([schedule])?;
    Ok(())
}

fn find(db: &Connection, id: ScheduleId) -> Result<i64, ApplyError> {
    db.prepare_cached("SELECT id FROM schedules WHERE schedule_id = ?1")?
        .query_row([id.as_bytes()], |row| get(row, 0))
        .optional()?
        .ok_or_else(|| Reject::not_found("schedule", &id).into())
}
