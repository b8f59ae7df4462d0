//! Approvals and what was remembered of them.

use async_trait::async_trait;
use rune_store_runtime::{
    ApprovalAnswer, ApprovalDecision, ApprovalFilter, ApprovalId, ApprovalQuestion, ApprovalReader,
    ApprovalRow, ApprovalState, EntryBody, GrantRow, Page, PageRequest, RequestId, SessionId,
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

    async fn grant(
        &self,
        session: &SessionId,
        tool: &str,
        policies: &[String],
    ) -> Result<Option<GrantRow>, StoreError> {
        let (session, tool) = (session.clone(), tool.to_owned());
        let policies = policies.to_vec();
        self.readers
            .run(move |db| {
                let text = serde_json::to_string(&policies).map_err(|error| bad(0, error))?;
                db.prepare_cached(
                    "SELECT g.namespace, g.agent, g.session IS NOT NULL, g.decision, g.by, g.at
                     FROM sessions s JOIN grants g
                         ON g.namespace = s.namespace AND g.agent = s.agent
                     WHERE s.session_id = ?1 AND g.tool = ?2 AND g.policies = ?3
                         AND (g.session IS NULL OR g.session = s.id)
                     ORDER BY g.session IS NULL, g.id DESC LIMIT 1",
                )?
                .query_row(params![session.as_str(), tool, text], |found| {
                    Ok(GrantRow {
                        namespace: get(found, 0)?,
                        agent: get(found, 1)?,
                        session_id: get::<bool>(found, 2)?.then(|| session.clone()),
                        tool: tool.clone(),
                        policies: policies.clone(),
                        decision: row::word(found, 3, ApprovalDecision::parse)?,
                        by: get(found, 4)?,
                        at: row::time(found, 5)?,
                    })
                })
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
