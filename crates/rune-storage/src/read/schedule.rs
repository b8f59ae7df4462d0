//! Schedules and their fires.

use async_trait::async_trait;
use rune_store_runtime::{
    EventId, FireFilter, FireState, Page, PageRequest, RequestId, ScheduleFilter, ScheduleFireRow,
    ScheduleId, ScheduleReader, ScheduleRow, StoreError, Timestamp,
};
use rusqlite::types::Value;
use rusqlite::{OptionalExtension, Row};

use crate::query::{Query, blob, text};
use crate::row::{self, get};
use crate::{SqliteStore, cursor};

const LIST: &str = "schedules";
const FIRES: &str = "schedule_fires";

/// The fire recorded last comes with its schedule.
const SCHEDULE: &str = "SELECT s.schedule_id, f.planned_at, f.manual, f.state, f.reason, \
     f.request_id, f.fired_at, f.id, s.spec, s.paused, s.next_fire_at, s.created_at, \
     s.updated_at, f.event_id \
     FROM schedules s LEFT JOIN schedule_fires f \
         ON f.id = (SELECT max(id) FROM schedule_fires WHERE schedule = s.id)";

const FIRE: &str = "SELECT s.schedule_id, f.planned_at, f.manual, f.state, f.reason, \
     f.request_id, f.fired_at, f.id, f.event_id FROM schedule_fires f JOIN schedules s ON s.id = f.schedule";

#[async_trait]
impl ScheduleReader for SqliteStore {
    async fn schedule(&self, id: ScheduleId) -> Result<Option<ScheduleRow>, StoreError> {
        self.readers
            .run(move |db| {
                db.prepare_cached(&format!("{SCHEDULE} WHERE s.schedule_id = ?1"))?
                    .query_row([id.as_bytes()], schedule_row)
                    .optional()
            })
            .await
    }

    async fn schedules(
        &self,
        filter: &ScheduleFilter,
        page: &PageRequest,
    ) -> Result<Page<ScheduleRow>, StoreError> {
        let mut query = Query::new(SCHEDULE);
        query.and_maybe("s.namespace = ?", text(filter.namespace.as_ref()));
        query.and_maybe("s.name = ?", text(filter.name.as_ref()));
        query.and_maybe("s.agent = ?", text(filter.agent.as_ref()));
        query.and_maybe(
            "s.paused = 0 AND s.next_fire_at <= ?",
            filter.due_by.map(Timestamp::as_millis),
        );
        let maker = text(filter.created_by.as_ref());
        query.and_maybe("s.spec ->> '$.created_by' = ?", maker);
        if filter.on_event {
            query.and::<Value>("s.topic IS NOT NULL", []);
        }
        if let Some((namespace, name)) = cursor::decode::<(String, String)>(LIST, page)? {
            query.and("(s.namespace, s.name) > (?, ?)", [namespace, name]);
        }
        let map = |row: &Row<'_>| {
            let row = schedule_row(row)?;
            Ok(((row.spec.namespace.clone(), row.spec.name.clone()), row))
        };
        self.readers
            .page(
                LIST,
                page,
                query.order_by("s.namespace, s.name"),
                map,
                |_| true,
            )
            .await
    }

    async fn schedule_fires(
        &self,
        filter: &FireFilter,
        page: &PageRequest,
    ) -> Result<Page<ScheduleFireRow>, StoreError> {
        let mut query = Query::new(FIRE);
        let schedule = filter.schedule_id.as_ref().map(ScheduleId::as_bytes);
        query.and_maybe("s.schedule_id = ?", schedule.map(blob));
        match filter.state {
            // In words, so that SQLite can use the index of pending fires.
            Some(FireState::Pending) => query.and::<Value>("f.state = 'pending'", []),
            state => query.and_maybe(
                "f.state = ?",
                state.map(|state| Value::Text(state.as_str().to_owned())),
            ),
        }
        if let Some((planned_at, id)) = cursor::decode::<(i64, i64)>(FIRES, page)? {
            query.and("(f.planned_at, f.id) < (?, ?)", [planned_at, id]);
        }
        let map = |row: &Row<'_>| {
            let fire = fire_row(row, 8)?;
            Ok(((fire.planned_at.as_millis(), get::<i64>(row, 7)?), fire))
        };
        let query = query.order_by("f.planned_at DESC, f.id DESC");
        self.readers.page(FIRES, page, query, map, |_| true).await
    }
}

fn schedule_row(found: &Row<'_>) -> rusqlite::Result<ScheduleRow> {
    let last_fire = match get::<Option<i64>>(found, 7)? {
        Some(_) => Some(fire_row(found, 13)?),
        None => None,
    };
    Ok(ScheduleRow {
        id: row::id(found, 0, ScheduleId::from_bytes)?,
        last_fire,
        spec: row::json(found, 8)?,
        paused: get(found, 9)?,
        next_fire_at: row::maybe_time(found, 10)?,
        created_at: row::time(found, 11)?,
        updated_at: row::time(found, 12)?,
    })
}

fn fire_row(found: &Row<'_>, event: usize) -> rusqlite::Result<ScheduleFireRow> {
    Ok(ScheduleFireRow {
        schedule_id: row::id(found, 0, ScheduleId::from_bytes)?,
        planned_at: row::time(found, 1)?,
        manual: get(found, 2)?,
        event_id: row::maybe_id(found, event, EventId::from_bytes)?,
        state: row::word(found, 3, FireState::parse)?,
        reason: get(found, 4)?,
        request_id: row::maybe_id(found, 5, RequestId::from_bytes)?,
        fired_at: row::time(found, 6)?,
    })
}
