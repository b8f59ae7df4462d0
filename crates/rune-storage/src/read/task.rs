//! Tasks that agents leave for each other.

use async_trait::async_trait;
use rune_store_runtime::{
    Page, PageRequest, StoreError, TaskFilter, TaskId, TaskReader, TaskRow, TaskState,
};
use rusqlite::types::Value;
use rusqlite::{OptionalExtension, Row};

use crate::query::{Query, text};
use crate::row::{self, get};
use crate::{SqliteStore, cursor};

const LIST: &str = "tasks";

/// A task behind the key of its row.
pub(crate) const TASK: &str = "SELECT id, task_id, namespace, queue, title, payload, priority, \
     max_attempts, attempts, posted_by, state, holder, lease_until, result, created_at, \
     updated_at FROM tasks";

#[async_trait]
impl TaskReader for SqliteStore {
    async fn task(&self, id: TaskId) -> Result<Option<TaskRow>, StoreError> {
        let found = self.readers.run(move |db| {
            db.prepare_cached(&format!("{TASK} WHERE task_id = ?1"))?
                .query_row([id.as_bytes()], task_row)
                .optional()
        });
        Ok(found.await?.map(|(_, row)| row))
    }

    async fn tasks(
        &self,
        filter: &TaskFilter,
        page: &PageRequest,
    ) -> Result<Page<TaskRow>, StoreError> {
        let mut query = Query::new(TASK);
        query.and_maybe("namespace = ?", text(filter.namespace.as_ref()));
        query.and_maybe("queue = ?", text(filter.queue.as_ref()));
        let state = filter.state.map(|state| state.as_str().to_owned());
        query.and_maybe("state = ?", state.map(Value::Text));
        query.and_maybe("id < ?", cursor::decode::<i64>(LIST, page)?);
        let query = query.order_by("id DESC");
        self.readers
            .page(LIST, page, query, task_row, |_| true)
            .await
    }
}

pub(crate) fn task_row(found: &Row<'_>) -> rusqlite::Result<(i64, TaskRow)> {
    let holder = match get::<Option<String>>(found, 11)? {
        Some(_) => Some(row::json(found, 11)?),
        None => None,
    };
    let row = TaskRow {
        id: row::id(found, 1, TaskId::from_bytes)?,
        namespace: get(found, 2)?,
        queue: get(found, 3)?,
        title: get(found, 4)?,
        payload: row::json(found, 5)?,
        priority: get(found, 6)?,
        max_attempts: get(found, 7)?,
        attempts: get(found, 8)?,
        posted_by: get(found, 9)?,
        state: row::word(found, 10, TaskState::parse)?,
        holder,
        lease_until: row::maybe_time(found, 12)?,
        result: row::json(found, 13)?,
        created_at: row::time(found, 14)?,
        updated_at: row::time(found, 15)?,
    };
    Ok((get(found, 0)?, row))
}
