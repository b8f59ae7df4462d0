//! Sessions and their messages.

use async_trait::async_trait;
use rune_store_runtime::{
    EntryBody, MessageRow, Page, PageRequest, SessionFilter, SessionId, SessionReader, SessionRow,
    SpilledOutput, StoreError, Timestamp,
};
use rusqlite::{Connection, OptionalExtension, Row};

use crate::query::{Query, text};
use crate::reader::limit;
use crate::row::{self, bad, get};
use crate::{SqliteStore, cursor, key};

const LIST: &str = "sessions";
const MESSAGES: &str = "messages";
const RECENT: &str = "recent_messages";

/// The counters are the newest keys in the ranges of the session, so that writing
/// a message needs no update of the session's row.
const SESSION: &str = "SELECT s.id, s.session_id, s.namespace, s.agent, s.metadata, \
     s.created_at, \
     (SELECT m.id FROM messages m WHERE m.id BETWEEN s.id << 24 AND (s.id << 24) + 16777215 \
         ORDER BY m.id DESC LIMIT 1), \
     (SELECT count(*) FROM requests r WHERE r.session = s.id), \
     (SELECT r.updated_at FROM requests r WHERE r.session = s.id ORDER BY r.id DESC LIMIT 1) \
     FROM sessions s";

const MESSAGE: &str = "SELECT m.id, s.session_id, r.request_id, m.journal, j.at, j.body, m.tool \
     FROM messages m JOIN journal j ON j.id = m.journal \
     JOIN requests r ON r.id = m.journal >> 20 JOIN sessions s ON s.id = m.id >> 24";

#[async_trait]
impl SessionReader for SqliteStore {
    async fn session(&self, id: &SessionId) -> Result<Option<SessionRow>, StoreError> {
        let id = id.clone();
        self.readers
            .run(move |db| {
                db.prepare_cached(&format!("{SESSION} WHERE s.session_id = ?1"))?
                    .query_row([id.as_str()], |row| Ok(session_row(row)?.1))
                    .optional()
            })
            .await
    }

    async fn sessions(
        &self,
        filter: &SessionFilter,
        page: &PageRequest,
    ) -> Result<Page<SessionRow>, StoreError> {
        let mut query = Query::new(SESSION);
        query.and_maybe("s.namespace = ?", text(filter.namespace.as_ref()));
        query.and_maybe("s.agent = ?", text(filter.agent.as_ref()));
        query.and_maybe("s.id < ?", cursor::decode::<i64>(LIST, page)?);
        self.readers
            .page(LIST, page, query.order_by("s.id DESC"), session_row, |_| {
                true
            })
            .await
    }

    async fn messages(
        &self,
        id: &SessionId,
        page: &PageRequest,
    ) -> Result<Page<MessageRow>, StoreError> {
        let after: u64 = cursor::decode(MESSAGES, page)?.unwrap_or(0);
        let (id, limit) = (id.clone(), limit(page));
        let (items, last) = self
            .readers
            .run(move |db| {
                let Some(session) = find(db, &id)? else {
                    return Ok((Vec::new(), None));
                };
                let (first, last) = key::messages(session);
                let after = key::position((first, last), after);
                let mut query = Query::new(MESSAGE);
                query.and("m.id > ? AND m.id <= ?", [after, last]);
                query
                    .order_by("m.id")
                    .collect(db, limit, message_row, |_| true)
            })
            .await?;
        let next = last.map(|n| cursor::encode(MESSAGES, &n)).transpose()?;
        Ok(Page { items, next })
    }

    async fn recent_messages(
        &self,
        id: &SessionId,
        page: &PageRequest,
        until: Option<Timestamp>,
    ) -> Result<Page<MessageRow>, StoreError> {
        let before: Option<u64> = cursor::decode(RECENT, page)?;
        let (id, limit) = (id.clone(), limit(page));
        let (items, last) = self
            .readers
            .run(move |db| {
                let Some(session) = find(db, &id)? else {
                    return Ok((Vec::new(), None));
                };
                let (first, last) = key::messages(session);
                let until_key = before.map_or(last, |before| {
                    key::position((first, last), before.saturating_sub(1))
                });
                let mut query = Query::new(MESSAGE);
                query.and("m.id BETWEEN ? AND ?", [first, until_key]);
                query.and::<i64>("r.status IN ('completed', 'failed', 'cancelled')", []);
                query.and_maybe("r.updated_at <= ?", until.map(Timestamp::as_millis));
                let query = query.order_by("m.id DESC");
                query.collect(db, limit, message_row, |_| true)
            })
            .await?;
        let next = last.map(|n| cursor::encode(RECENT, &n)).transpose()?;
        Ok(Page { items, next })
    }

    async fn spilled_output(
        &self,
        id: &SessionId,
        handle: &str,
    ) -> Result<Option<SpilledOutput>, StoreError> {
        let (id, handle) = (id.clone(), handle.to_owned());
        self.readers
            .run(move |db| {
                db.prepare_cached(
                    "SELECT o.handle, o.digest, o.bytes FROM spilled_outputs o
                     JOIN sessions s ON s.id = o.session WHERE s.session_id = ?1 AND o.handle = ?2",
                )?
                .query_row([id.as_str(), &handle], |row| {
                    Ok(SpilledOutput {
                        handle: get(row, 0)?,
                        digest: get(row, 1)?,
                        bytes: get(row, 2)?,
                    })
                })
                .optional()
            })
            .await
    }
}

fn find(db: &Connection, id: &SessionId) -> rusqlite::Result<Option<i64>> {
    db.prepare_cached("SELECT id FROM sessions WHERE session_id = ?1")?
        .query_row([id.as_str()], |row| get(row, 0))
        .optional()
}

fn session_row(found: &Row<'_>) -> rusqlite::Result<(i64, SessionRow)> {
    let newest: Option<i64> = get(found, 6)?;
    let created_at = row::time(found, 5)?;
    let row = SessionRow {
        id: row::session_id(found, 1)?,
        namespace: get(found, 2)?,
        agent: get(found, 3)?,
        metadata: row::json(found, 4)?,
        messages: newest.map_or(0, |id| key::split_message(id).1),
        requests: get(found, 7)?,
        created_at,
        updated_at: row::maybe_time(found, 8)?.map_or(created_at, |time| time.max(created_at)),
    };
    Ok((get(found, 0)?, row))
}

fn message_row(found: &Row<'_>) -> rusqlite::Result<(u64, MessageRow)> {
    let body: EntryBody = row::json(found, 5)?;
    let kind = body.kind();
    let measure = body.measure();
    let compaction = body.compaction().cloned().map(Box::new);
    let message = body
        .into_message(get(found, 6)?)
        .ok_or_else(|| bad(5, format!("a {kind} entry is no message")))?;
    let row = MessageRow {
        session_id: row::session_id(found, 1)?,
        request_id: row::request_id(found, 2)?,
        seq: key::split_entry(get(found, 3)?).1,
        created_at: row::time(found, 4)?,
        message,
        measure,
        compaction,
    };
    Ok((key::split_message(get(found, 0)?).1, row))
}
