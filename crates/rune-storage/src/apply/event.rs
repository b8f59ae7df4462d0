//! Events and the fires they make.

use rune_store_runtime::limits::{
    MAX_EVENT_BYTES, MAX_EVENT_DEPTH, MAX_EVENT_FIRES, MAX_EVENTS, MAX_QUEUE_NAME_BYTES,
};
use rune_store_runtime::{
    EventFire, FirePlan, NewFire, PublishEvent, Reject, RequestId, Timestamp,
};
use rusqlite::{Connection, OptionalExtension, params};

use super::{Context, encode_within, schedule};
use crate::ApplyError;
use crate::row::get;

/// Publishes an event; answers how many requests it makes.
pub(super) fn publish(
    db: &Connection,
    context: Context,
    op: &PublishEvent,
) -> Result<u64, ApplyError> {
    let payload = check(op)?;
    let known: Option<u64> = db
        .prepare_cached("SELECT fires FROM events WHERE event_id = ?1")?
        .query_row([op.event_id.as_bytes()], |row| get(row, 0))
        .optional()?;
    if let Some(fires) = known {
        return Ok(fires);
    }
    let mut fires = 0_u64;
    for one in &op.fires {
        fires += u64::from(fire(db, context, op, one)?);
    }
    db.prepare_cached(
        "INSERT INTO events (event_id, namespace, topic, payload, publisher, request_id, depth,
             fires, at)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)",
    )?
    .execute(params![
        op.event_id.as_bytes(),
        op.namespace,
        op.topic,
        payload,
        op.publisher,
        op.request_id.as_ref().map(RequestId::as_bytes),
        op.depth,
        fires,
        context.at.as_millis()
    ])?;
    // What a request will be told of is kept for it.
    db.prepare_cached(
        "DELETE FROM events WHERE namespace = ?1 AND id <= (
             SELECT id FROM events WHERE namespace = ?1 ORDER BY id DESC LIMIT 1 OFFSET ?2)
         AND event_id NOT IN (
             SELECT event_id FROM schedule_fires WHERE state = 'pending' AND event_id IS NOT NULL)",
    )?
    .execute(params![op.namespace, MAX_EVENTS])?;
    Ok(fires)
}

fn check(op: &PublishEvent) -> Result<String, Reject> {
    if op.topic.is_empty() || op.topic.len() > MAX_QUEUE_NAME_BYTES {
        return Err(Reject::invalid(format!(
            "a topic has 1 to {MAX_QUEUE_NAME_BYTES} bytes"
        )));
    }
    if op.depth > MAX_EVENT_DEPTH {
        return Err(Reject::invalid(format!(
            "the event was not published: {MAX_EVENT_DEPTH} events led to it already"
        )));
    }
    if op.fires.len() > MAX_EVENT_FIRES {
        return Err(Reject::invalid(format!(
            "an event may make {MAX_EVENT_FIRES} requests"
        )));
    }
    encode_within(&op.payload, "the payload", MAX_EVENT_BYTES)
}

/// Records one fire, behind those of the same schedule.
fn fire(
    db: &Connection,
    context: Context,
    op: &PublishEvent,
    fire: &EventFire,
) -> Result<bool, ApplyError> {
    let found: Option<(i64, Option<i64>)> = db
        .prepare_cached(
            "SELECT id, (SELECT max(planned_at) FROM schedule_fires
                         WHERE schedule = schedules.id AND manual = 0)
             FROM schedules WHERE schedule_id = ?1 AND namespace = ?2 AND paused = 0",
        )?
        .query_row(params![fire.schedule_id.as_bytes(), op.namespace], |row| {
            Ok((get(row, 0)?, get(row, 1)?))
        })
        .optional()?;
    let Some((id, last)) = found else {
        return Ok(false);
    };
    let now = context.at.as_millis();
    let planned_at = last.map_or(now, |last| now.max(last.saturating_add(1)));
    let new = NewFire {
        planned_at: Timestamp::from_millis(planned_at),
        plan: FirePlan::Invoke {
            request_id: fire.request_id,
        },
    };
    let event = Some(op.event_id);
    let recorded = schedule::insert(db, context, id, false, event, &new)?;
    schedule::forget_oldest(db, id)?;
    Ok(recorded > 0)
}
