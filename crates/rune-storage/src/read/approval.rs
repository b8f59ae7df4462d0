//! Approvals and what was remembered of them.

use async_trait::async_trait;
use rune_store_runtime::{
    ApprovalAnswer, ApprovalDecision, ApprovalFilter, ApprovalId, ApprovalQuestion, ApprovalReader,
    ApprovalRow, ApprovalState, EntryBody, GrantQuery, GrantRow, Page, PageRequest, RequestId,
    StoreError, Timestamp,
};
use rusqlite::types::Value;
use rusqlite::{OptionalExtension, Row, params};

use crate::query::{Query, blob, text};
use crate::row::{self, bad, get};
use crate::{SqliteStore, cursor};

const LIST: &str = "approvals";

/// Question and answer are read from the journal.
pub(crate) const APPROVAL: &str = "SELECT a.id, r.request_id, s.session_id, r.namespace, r.agent, a.state, q.body, a.asked_at, \
     a.decided_at, g.body \
     FROM approvals a JOIN requests r ON r.id = a.request JOIN sessions s ON s.id = r.session \
     JOIN journal q ON q.id = (a.request << 20) + a.asked \
     LEFT JOIN journal g ON g.id = (a.request << 20) + a.given";

#[async_trait]
impl ApprovalReader for SqliteStore {
    async fn approval(&self, id: ApprovalId) -> Result<Option<ApprovalRow>, StoreError> {
        self.readers
            .run(move |db| {
                db.prepare_cached(&format!("{APPROVAL} WHERE a.approval_id = ?1"))?
                    .query_row([id.as_bytes()], |row| Ok(approval_row(row)?.1))
                    .optional()
            })
            .await
    }

    async fn approvals(
        &self,
        filter: &ApprovalFilter,
        page: &PageRequest,
    ) -> Result<Page<ApprovalRow>, StoreError> {
        let mut query = Query::new(APPROVAL);
        if filter.state == Some(ApprovalState::Waiting) {
            // As text, so that SQLite can use the indexes of those that wait.
            query.and::<Value>("a.state = 'waiting'", []);
        } else {
            let state = filter.state.map(|state| state.as_str().to_owned());
            query.and_maybe("a.state = ?", state);
        }
        query.and_maybe("r.namespace = ?", text(filter.namespace.as_ref()));
        query.and_maybe("r.agent = ?", text(filter.agent.as_ref()));
        let request = filter.request_id.as_ref().map(RequestId::as_bytes);
        query.and_maybe(
            "a.request = (SELECT id FROM requests WHERE request_id = ?)",
            request.map(blob),
        );
        query.and_maybe("a.deadline <= ?", filter.due_by.map(Timestamp::as_millis));
        query.and_maybe("a.id > ?", cursor::decode::<i64>(LIST, page)?);
        self.readers
            .page(LIST, page, query.order_by("a.id"), approval_row, |_| true)
            .await
    }

    async fn grant(&self, query: &GrantQuery) -> Result<Option<GrantRow>, StoreError> {
        let query = query.clone();
        self.readers
            .run(move |db| {
                let text = serde_json::to_string(&query.policies).map_err(|error| bad(0, error))?;
                db.prepare_cached(
                    "SELECT g.session IS NOT NULL, g.decision, g.by, g.at
                     FROM grants g LEFT JOIN sessions s ON s.id = g.session
                     WHERE g.namespace = ?1 AND g.agent = ?2 AND g.tool = ?3 AND g.policies = ?4
                         AND (g.session IS NULL OR s.session_id = ?5)
                     ORDER BY g.session IS NULL, g.id DESC LIMIT 1",
                )?
                .query_row(
                    params![
                        query.namespace,
                        query.agent,
                        query.tool,
                        text,
                        query.session_id.as_str()
                    ],
                    |found| {
                        let in_session = get::<bool>(found, 0)?;
                        Ok(GrantRow {
                            namespace: query.namespace.clone(),
                            agent: query.agent.clone(),
                            session_id: in_session.then(|| query.session_id.clone()),
                            tool: query.tool.clone(),
                            policies: query.policies.clone(),
                            decision: row::word(found, 1, ApprovalDecision::parse)?,
                            by: get(found, 2)?,
                            at: row::time(found, 3)?,
                        })
                    },
                )
                .optional()
            })
            .await
    }
}

pub(crate) fn approval_row(found: &Row<'_>) -> rusqlite::Result<(i64, ApprovalRow)> {
    let row = ApprovalRow {
        request_id: row::request_id(found, 1)?,
        session_id: row::session_id(found, 2)?,
        namespace: get(found, 3)?,
        agent: get(found, 4)?,
        state: row::word(found, 5, ApprovalState::parse)?,
        question: question(found)?,
        asked_at: row::time(found, 7)?,
        decided_at: row::maybe_time(found, 8)?,
        answer: answer(found)?,
    };
    Ok((get(found, 0)?, row))
}

fn question(found: &Row<'_>) -> rusqlite::Result<ApprovalQuestion> {
    match row::json(found, 6)? {
        EntryBody::ApprovalAsked(question) => Ok(question),
        other => Err(bad(6, format!("a {} entry is no question", other.kind()))),
    }
}

fn answer(found: &Row<'_>) -> rusqlite::Result<Option<ApprovalAnswer>> {
    if get::<Option<String>>(found, 9)?.is_none() {
        return Ok(None);
    }
    match row::json(found, 9)? {
        EntryBody::ApprovalGiven(answer) => Ok(Some(answer)),
        other => Err(bad(9, format!("a {} entry is no answer", other.kind()))),
    }
}
