//! Schedules and their fires.

use async_trait::async_trait;
use rune_store_runtime::{
    Page, PageRequest, ScheduleFilter, ScheduleFireRow, ScheduleId, ScheduleReader, ScheduleRow,
    StoreError, Timestamp,
};
use rusqlite::{OptionalExtension, Row};

use crate::query::{Query, blob, text};
use crate::row::{self, get};
use crate::{SqliteStore, cursor};

const LIST: &str = "schedules";
const FIRES: &str = "schedule_fires";

const SCHEDULE: &str = "SELECT schedule_id, namespace, name, agent, input, kind, paused, \
     next_fire_at, created_at, updated_at FROM schedules";

#[async_trait]
impl ScheduleReader for SqliteStore {
    async fn schedule(&self, id: ScheduleId) -> Result<Option<ScheduleRow>, StoreError> {
        self.readers
            .run(move |db| {
                db.prepare_cached(&format!("{SCHEDULE} WHERE schedule_id = ?1"))?
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
        query.and_maybe("namespace = ?", text(filter.namespace.as_ref()));
        query.and_maybe("agent = ?", text(filter.agent.as_ref()));
        query.and_maybe(
            "paused = 0 AND next_fire_at <= ?",
            filter.due_by.map(Timestamp::as_millis),
        );
        if let Some((namespace, name)) = cursor::decode::<(String, String)>(LIST, page)? {
            query.and("(namespace, name) > (?, ?)", [namespace, name]);
        }
        let map = |row: &Row<'_>| {
            let row = schedule_row(row)?;
            Ok(((row.namespace.clone(), row.name.clone()), row))
        };
        self.readers
            .page(LIST, page, query.order_by("namespace, name"), map, |_| true)
            .await
    }

    async fn schedule_fires(
        &self,
        id: ScheduleId,
        page: &PageRequest,
    ) -> Result<Page<ScheduleFireRow>, StoreError> {
        let mut query = Query::new(
            "SELECT s.schedule_id, f.planned_at, f.fired_at, f.request_id
             FROM schedules s JOIN schedule_fires f ON f.schedule = s.id",
        );
        query.and("s.schedule_id = ?", [blob(id.as_bytes())]);
        query.and_maybe("f.planned_at < ?", cursor::decode::<i64>(FIRES, page)?);
        self.readers
            .page(
                FIRES,
                page,
                query.order_by("f.planned_at DESC"),
                fire_row,
                |_| true,
            )
            .await
    }
}

fn schedule_row(found: &Row<'_>) -> rusqlite::Result<ScheduleRow> {
    Ok(ScheduleRow {
        id: row::id(found, 0, ScheduleId::from_bytes)?,
        namespace: get(found, 1)?,
        name: get(found, 2)?,
        agent: get(found, 3)?,
        input: row::json(found, 4)?,
        kind: row::json(found, 5)?,
        paused: get(found, 6)?,
        next_fire_at: row::maybe_time(found, 7)?,
        created_at: row::time(found, 8)?,
        updated_at: row::time(found, 9)?,
    })
}

fn fire_row(found: &Row<'_>) -> rusqlite::Result<(i64, ScheduleFireRow)> {
    let row = ScheduleFireRow {
        schedule_id: row::id(found, 0, ScheduleId::from_bytes)?,
        planned_at: row::time(found, 1)?,
        fired_at: row::time(found, 2)?,
        request_id: row::request_id(found, 3)?,
    };
    Ok((row.planned_at.as_millis(), row))
}
