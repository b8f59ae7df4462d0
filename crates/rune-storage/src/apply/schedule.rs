//! Schedules and their fires.

use rune_store_runtime::limits::{MAX_ENTRY_BYTES, MAX_SCHEDULE_FIRES};
use rune_store_runtime::{
    DeleteSchedule, EventId, FirePlan, FireSchedule, FireState, NewFire, PauseSchedule,
    PutSchedule, Reject, ScheduleId, SettleFire, Timestamp,
};
use rusqlite::{Connection, OptionalExtension, params};

use super::{Context, encode_within};
use crate::ApplyError;
use crate::row::{get, maybe_time};

/// Creates or replaces a schedule.
pub(super) fn put(db: &Connection, context: Context, op: &PutSchedule) -> Result<(), ApplyError> {
    let spec = encode_within(&op.spec, "the schedule", MAX_ENTRY_BYTES)?;
    let taken: bool = db
        .prepare_cached(
            "SELECT EXISTS (SELECT 1 FROM schedules
             WHERE namespace = ?1 AND name = ?2 AND schedule_id <> ?3)",
        )?
        .query_row(
            params![op.spec.namespace, op.spec.name, op.schedule_id.as_bytes()],
            |row| get(row, 0),
        )?;
    if taken {
        return Err(Reject::conflict(format!(
            "namespace `{}` has another schedule `{}`",
            op.spec.namespace, op.spec.name
        ))
        .into());
    }
    db.prepare_cached(
        "INSERT INTO schedules (schedule_id, namespace, name, agent, spec, paused,
             next_fire_at, created_at, updated_at, topic)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?8, ?9)
         ON CONFLICT (schedule_id) DO UPDATE SET
             namespace = excluded.namespace, name = excluded.name, agent = excluded.agent,
             spec = excluded.spec, paused = excluded.paused,
             next_fire_at = excluded.next_fire_at, updated_at = excluded.updated_at,
             topic = excluded.topic",
    )?
    .execute(params![
        op.schedule_id.as_bytes(),
        op.spec.namespace,
        op.spec.name,
        op.spec.agent,
        spec,
        op.paused,
        op.next_fire_at.map(Timestamp::as_millis),
        context.at.as_millis(),
        op.spec.kind.topic()
    ])?;
    Ok(())
}

/// Holds a schedule or lets it go on.
pub(super) fn pause(
    db: &Connection,
    context: Context,
    op: &PauseSchedule,
) -> Result<(), ApplyError> {
    let (schedule, _) = find(db, op.schedule_id)?;
    db.prepare_cached(
        "UPDATE schedules SET paused = ?2, next_fire_at = ?3, updated_at = ?4 WHERE id = ?1",
    )?
    .execute(params![
        schedule,
        op.paused,
        op.next_fire_at.map(Timestamp::as_millis),
        context.at.as_millis()
    ])?;
    Ok(())
}

/// Records fires and moves the schedule on; false where somebody else was first.
pub(super) fn fire(
    db: &Connection,
    context: Context,
    op: &FireSchedule,
) -> Result<bool, ApplyError> {
    if op.fires.len() > MAX_SCHEDULE_FIRES as usize {
        return Err(Reject::invalid(format!(
            "a schedule may record {MAX_SCHEDULE_FIRES} fires at a time"
        ))
        .into());
    }
    let (schedule, next) = find(db, op.schedule_id)?;
    let manual = op.advance.is_none();
    if let Some(advance) = op.advance
        && next != Some(advance.from)
    {
        return Ok(false);
    }
    let mut recorded = 0;
    for fire in &op.fires {
        recorded += insert(db, context, schedule, manual, None, fire)?;
    }
    if manual && recorded == 0 {
        return Ok(false);
    }
    let next = op.advance.map_or(next, |advance| advance.to);
    db.prepare_cached("UPDATE schedules SET next_fire_at = ?2, updated_at = ?3 WHERE id = ?1")?
        .execute(params![
            schedule,
            next.map(Timestamp::as_millis),
            context.at.as_millis()
        ])?;
    forget_oldest(db, schedule)?;
    Ok(true)
}

/// Keeps the newest fires of a schedule and the pending ones.
pub(super) fn forget_oldest(db: &Connection, schedule: i64) -> Result<(), ApplyError> {
    // In the order they were recorded, so that what was recorded just now is never among
    // the oldest, whatever the clock did.
    db.prepare_cached(
        "DELETE FROM schedule_fires WHERE schedule = ?1 AND state <> 'pending' AND id <= (
             SELECT id FROM schedule_fires WHERE schedule = ?1
             ORDER BY id DESC LIMIT 1 OFFSET ?2)",
    )?
    .execute(params![schedule, MAX_SCHEDULE_FIRES])?;
    Ok(())
}

/// Records a fire; answers how many rows that made.
pub(super) fn insert(
    db: &Connection,
    context: Context,
    schedule: i64,
    manual: bool,
    event: Option<EventId>,
    fire: &NewFire,
) -> rusqlite::Result<usize> {
    let (state, reason, request_id) = match &fire.plan {
        FirePlan::Invoke { request_id } => (FireState::Pending, "", Some(request_id)),
        FirePlan::Skip { reason } => (FireState::Skipped, reason.as_str(), None),
    };
    db.prepare_cached(
        "INSERT INTO schedule_fires
             (schedule, planned_at, manual, state, reason, request_id, fired_at, event_id)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)
         ON CONFLICT (schedule, planned_at, manual) DO NOTHING",
    )?
    .execute(params![
        schedule,
        fire.planned_at.as_millis(),
        manual,
        state.as_str(),
        reason,
        request_id.map(|id| *id.as_bytes()),
        context.at.as_millis(),
        event.map(|id| *id.as_bytes())
    ])
}

/// Says what came of a fire; false where it is not pending any more.
pub(super) fn settle(db: &Connection, op: &SettleFire) -> Result<bool, ApplyError> {
    if op.state == FireState::Pending {
        return Err(Reject::invalid("a fire is settled for good").into());
    }
    let (schedule, _) = find(db, op.schedule_id)?;
    let key = params![schedule, op.planned_at.as_millis(), op.manual];
    let found: Option<(i64, String)> = db
        .prepare_cached(
            "SELECT id, state FROM schedule_fires
             WHERE schedule = ?1 AND planned_at = ?2 AND manual = ?3",
        )?
        .query_row(key, |row| Ok((get(row, 0)?, get(row, 1)?)))
        .optional()?;
    let Some((fire, state)) = found else {
        return Err(Reject::not_found("fire", &op.planned_at).into());
    };
    if state != FireState::Pending.as_str() {
        return Ok(false);
    }
    db.prepare_cached("UPDATE schedule_fires SET state = ?2, reason = ?3 WHERE id = ?1")?
        .execute(params![fire, op.state.as_str(), op.reason])?;
    Ok(true)
}

/// Deletes a schedule and its fires.
pub(super) fn delete(db: &Connection, op: &DeleteSchedule) -> Result<(), ApplyError> {
    let (schedule, _) = find(db, op.schedule_id)?;
    db.prepare_cached("DELETE FROM schedule_fires WHERE schedule = ?1")?
        .execute([schedule])?;
    db.prepare_cached("DELETE FROM schedules WHERE id = ?1")?
        .execute([schedule])?;
    Ok(())
}

/// The row of a schedule and its next planned time.
fn find(db: &Connection, id: ScheduleId) -> Result<(i64, Option<Timestamp>), ApplyError> {
    db.prepare_cached("SELECT id, next_fire_at FROM schedules WHERE schedule_id = ?1")?
        .query_row([id.as_bytes()], |row| {
            Ok((get(row, 0)?, maybe_time(row, 1)?))
        })
        .optional()?
        .ok_or_else(|| Reject::not_found("schedule", &id).into())
}
