//! Requests, their journals and tool invocations.

use async_trait::async_trait;
use rune_store_runtime::{
    BudgetCap, Cost, DeploymentId, Entry, EntryBody, Page, PageRequest, ParentCall, ReplicaId,
    RequestFilter, RequestId, RequestOrder, RequestReader, RequestRow, RequestStatus, SessionId,
    StoreError, Timestamp, ToolInvocationRow, ToolInvocationState, Usage, VersionId,
};
use rusqlite::types::Value;
use rusqlite::{Connection, OptionalExtension, Row, params};

use crate::query::{Query, Room, blob, text};
use crate::row::{self, get};
use crate::{SqliteStore, cursor, key};

const LIST: &str = "requests";
const LIST_CHANGED: &str = "requests_changed";

/// The condition of the index `requests_live`, word for word.
const LIVE: &str = "(r.status = 'accepted' OR r.status = 'running' OR r.status = 'input-required')";

/// The condition of the index `requests_ended`, word for word.
const ENDED: &str = "(r.status = 'completed' OR r.status = 'failed' OR r.status = 'cancelled')";

/// Output and failure are read from the last entry, where it is `finished`.
const REQUEST: &str = "SELECT r.id, r.request_id, s.session_id, r.namespace, r.agent, \
     r.deployment_id, r.version_id, r.replica_id, r.status, r.attempts, r.cancel_requested, \
     r.caller, r.metadata, r.checkpoint, r.last_seq, r.input_tokens, r.output_tokens, \
     r.cached_tokens, r.cache_write_tokens, r.reasoning_tokens, r.model_calls, r.tool_calls, \
     r.created_at, r.updated_at, j.body, r.parent_id, r.parent_call, r.root_id, r.depth, \
     r.cost_micro_usd, r.unpriced_calls, r.budgets \
     FROM requests r JOIN sessions s ON s.id = r.session \
     LEFT JOIN journal j ON j.id = (r.id << 20) + r.last_seq \
         AND r.status IN ('completed', 'failed', 'cancelled')";

#[async_trait]
impl RequestReader for SqliteStore {
    async fn request(&self, id: RequestId) -> Result<Option<RequestRow>, StoreError> {
        self.readers
            .run(move |db| {
                db.prepare_cached(&format!("{REQUEST} WHERE r.request_id = ?1"))?
                    .query_row([id.as_bytes()], |row| Ok(request_row(row)?.1))
                    .optional()
            })
            .await
    }

    async fn requests(
        &self,
        filter: &RequestFilter,
        page: &PageRequest,
    ) -> Result<Page<RequestRow>, StoreError> {
        match filter.order {
            RequestOrder::Newest => {
                let mut query = Query::new(REQUEST);
                matching(filter, &mut query);
                query.and_maybe("r.id < ?", cursor::decode::<i64>(LIST, page)?);
                let query = query.order_by("r.id DESC");
                self.readers
                    .page(LIST, page, query, request_row, |_| true)
                    .await
            }
            RequestOrder::Changed => {
                let query = by_change(filter, cursor::decode(LIST_CHANGED, page)?);
                let row = |found: &Row<'_>| {
                    let (id, row) = request_row(found)?;
                    Ok(((row.updated_at.as_millis(), id), row))
                };
                self.readers
                    .page(LIST_CHANGED, page, query, row, |_| true)
                    .await
            }
        }
    }

    async fn request_count(&self, filter: &RequestFilter) -> Result<u64, StoreError> {
        let counts: Vec<Query> = counts(filter);
        let count = move |db: &Connection| counts.iter().map(|query| query.count(db)).sum();
        self.readers.run(count).await
    }

    async fn journal(
        &self,
        id: RequestId,
        after: u64,
        limit: u32,
    ) -> Result<Vec<Entry>, StoreError> {
        let limit = limit.min(PageRequest::MAX_LIMIT);
        self.readers
            .run(move |db| {
                let Some(request) = find(db, id)? else {
                    return Ok(Vec::new());
                };
                let entries = key::entries(request);
                let after = key::position(entries, after);
                let mut statement = db.prepare_cached(
                    "SELECT id, at, body FROM journal WHERE id > ?1 AND id <= ?2
                     ORDER BY id LIMIT ?3",
                )?;
                let mut rows = statement.query(params![after, entries.1, limit])?;
                let (mut read, mut room) = (Vec::new(), Room::default());
                while let Some(found) = rows.next()? {
                    if !room.takes(found) {
                        break;
                    }
                    read.push(Entry {
                        request_id: id,
                        seq: key::split_entry(get(found, 0)?).1,
                        at: row::time(found, 1)?,
                        body: row::json(found, 2)?,
                    });
                }
                Ok(read)
            })
            .await
    }

    async fn tool_invocations(&self, id: RequestId) -> Result<Vec<ToolInvocationRow>, StoreError> {
        self.readers
            .run(move |db| {
                let Some(request) = find(db, id)? else {
                    return Ok(Vec::new());
                };
                db.prepare_cached(
                    "SELECT c.call_id, c.name, i.at, i.body, o.at, o.body FROM tool_calls c
                     LEFT JOIN journal i ON i.id = (c.request << 20) + c.intent
                     LEFT JOIN journal o ON o.id = (c.request << 20) + c.result
                     WHERE c.request = ?1 AND coalesce(c.intent, c.result) IS NOT NULL
                     ORDER BY coalesce(c.intent, c.result)",
                )?
                .query_map([request], |row| invocation_row(id, row))?
                .collect()
            })
            .await
    }
}

/// The requests that changed before one, the last one first: those that go on and those that have ended, each out of its
/// own index.
fn by_change(filter: &RequestFilter, before: Option<(i64, i64)>) -> Query {
    let [live, ended] = [LIVE, ENDED].map(|half| {
        let mut query = Query::new(REQUEST);
        matching(filter, &mut query);
        query.and::<Value>(half, []);
        if let Some((at, id)) = before {
            query.and("(r.updated_at, r.id) < (?, ?)", [at, id]);
        }
        query
    });
    live.union(ended).order_by("r.updated_at DESC, r.id DESC")
}

/// Queries whose counts are to be added.
fn counts(filter: &RequestFilter) -> Vec<Query> {
    let halves: &[Option<&str>] = match filter.order {
        RequestOrder::Newest => &[None],
        RequestOrder::Changed => &[Some(LIVE), Some(ENDED)],
    };
    let query = |half: &Option<&str>| {
        let mut query = Query::new("SELECT count(*) FROM requests r");
        matching(filter, &mut query);
        if let Some(half) = half {
            query.and::<Value>(half, []);
        }
        query
    };
    halves.iter().map(query).collect()
}

/// The conditions of a filter.
fn matching(filter: &RequestFilter, query: &mut Query) {
    query.and_maybe("r.namespace = ?", text(filter.namespace.as_ref()));
    query.and_maybe("r.agent = ?", text(filter.agent.as_ref()));
    let session = filter.session_id.as_ref().map(SessionId::as_str);
    query.and_maybe(
        "r.session = (SELECT id FROM sessions WHERE session_id = ?)",
        session.map(|id| Value::Text(id.to_owned())),
    );
    let deployment = filter.deployment_id.as_ref().map(DeploymentId::as_bytes);
    query.and_maybe("r.deployment_id = ?", deployment.map(blob));
    let root = filter.root_id.as_ref().map(RequestId::as_bytes);
    query.and_maybe("r.root_id = ?", root.map(blob));
    if !filter.statuses.is_empty() {
        let marks = vec!["?"; filter.statuses.len()].join(", ");
        let words = filter
            .statuses
            .iter()
            .map(|status| status.as_str().to_owned());
        query.and(&format!("r.status IN ({marks})"), words);
        if !filter.statuses.iter().any(|status| status.is_terminal()) {
            // Implied by the line above; lets SQLite use the index of live requests.
            query.and::<Value>(LIVE, []);
        }
    }
    query.and_maybe("r.cancel_requested = ?", filter.cancel_requested);
    query.and_maybe("r.caller = ?", text(filter.caller.as_ref()));
    let since = filter.changed_since.map(Timestamp::as_millis);
    query.and_maybe("r.updated_at >= ?", since);
}

fn find(db: &Connection, id: RequestId) -> rusqlite::Result<Option<i64>> {
    db.prepare_cached("SELECT id FROM requests WHERE request_id = ?1")?
        .query_row([id.as_bytes()], |row| get(row, 0))
        .optional()
}

fn request_row(found: &Row<'_>) -> rusqlite::Result<(i64, RequestRow)> {
    let last: Option<String> = get(found, 24)?;
    let last: Option<EntryBody> = last.map(|_| row::json(found, 24)).transpose()?;
    let (output, failure) = match last {
        Some(EntryBody::Finished {
            output, failure, ..
        }) => (output, failure),
        _ => (None, None),
    };
    let row = RequestRow {
        id: row::request_id(found, 1)?,
        session_id: row::session_id(found, 2)?,
        namespace: get(found, 3)?,
        agent: get(found, 4)?,
        deployment_id: row::id(found, 5, DeploymentId::from_bytes)?,
        version_id: row::id(found, 6, VersionId::from_bytes)?,
        replica_id: row::maybe_id(found, 7, ReplicaId::from_bytes)?,
        status: row::word(found, 8, RequestStatus::parse)?,
        attempts: get(found, 9)?,
        cancel_requested: get(found, 10)?,
        caller: get(found, 11)?,
        metadata: row::json(found, 12)?,
        checkpoint: row::word(found, 13, row::parse_checkpoint)?,
        last_seq: get(found, 14)?,
        output,
        failure,
        usage: Usage {
            input_tokens: get(found, 15)?,
            output_tokens: get(found, 16)?,
            cached_tokens: get(found, 17)?,
            cache_write_tokens: get(found, 18)?,
            reasoning_tokens: get(found, 19)?,
        },
        cost: Cost {
            micro_usd: get(found, 29)?,
            unpriced_calls: get(found, 30)?,
        },
        model_calls: get(found, 20)?,
        tool_calls: get(found, 21)?,
        parent: parent(found)?,
        budgets: budgets(found)?,
        created_at: row::time(found, 22)?,
        updated_at: row::time(found, 23)?,
    };
    Ok((get(found, 0)?, row))
}

fn budgets(found: &Row<'_>) -> rusqlite::Result<Vec<BudgetCap>> {
    match get::<Option<String>>(found, 31)? {
        Some(_) => row::json(found, 31),
        None => Ok(Vec::new()),
    }
}

fn parent(found: &Row<'_>) -> rusqlite::Result<Option<ParentCall>> {
    if get::<Option<[u8; 16]>>(found, 25)?.is_none() {
        return Ok(None);
    }
    Ok(Some(ParentCall {
        request_id: row::request_id(found, 25)?,
        call_id: get(found, 26)?,
        root_id: row::request_id(found, 27)?,
        depth: get(found, 28)?,
    }))
}

fn invocation_row(id: RequestId, found: &Row<'_>) -> rusqlite::Result<ToolInvocationRow> {
    let entry = |index| -> rusqlite::Result<Option<EntryBody>> {
        let text: Option<String> = get(found, index)?;
        text.map(|_| row::json(found, index)).transpose()
    };
    let (intended_at, finished_at) = (row::maybe_time(found, 2)?, row::maybe_time(found, 4)?);
    let mut invocation = ToolInvocationRow {
        request_id: id,
        call_id: get(found, 0)?,
        tool: get(found, 1)?,
        input: None,
        state: ToolInvocationState::Intended,
        failure: None,
        attempts: 0,
        duration_ms: None,
        started_at: intended_at.or(finished_at).unwrap_or_default(),
        finished_at,
    };
    if let Some(EntryBody::ToolIntent(intent)) = entry(3)? {
        invocation.tool = intent.tool;
        invocation.input = Some(intent.input);
    }
    if let Some(EntryBody::ToolResult(outcome)) = entry(5)? {
        invocation.tool = outcome.tool;
        invocation.state = match outcome.failure {
            None => ToolInvocationState::Succeeded,
            Some(_) => ToolInvocationState::Failed,
        };
        invocation.failure = outcome.failure;
        invocation.attempts = outcome.attempts;
        invocation.duration_ms = Some(outcome.duration_ms);
    }
    Ok(invocation)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a caller asked an agent, in the order of the last change.
    fn asked(statuses: Vec<RequestStatus>) -> RequestFilter {
        RequestFilter {
            namespace: Some("dev".to_owned()),
            agent: Some("hello".to_owned()),
            caller: Some("ada".to_owned()),
            changed_since: Some(Timestamp::from_millis(1)),
            statuses,
            order: RequestOrder::Changed,
            ..RequestFilter::default()
        }
    }

    #[test]
    fn requests_of_a_caller_are_listed_and_counted_without_looking_at_all() {
        let mut db = Connection::open_in_memory().unwrap();
        crate::migration::migrate(
            &mut db,
            std::path::Path::new("rune.db"),
            crate::migration::STATE,
        )
        .unwrap();
        for statuses in [vec![], vec![RequestStatus::Completed]] {
            let filter = asked(statuses);
            for before in [None, Some((7, 7))] {
                let plan = by_change(&filter, before).plan(&db);
                assert!(plan.starts_with("MERGE (UNION ALL)"), "{plan}");
                let steps = [
                    "SCAN r USING INDEX requests_live",
                    "SEARCH r USING INDEX requests_ended (namespace=? AND agent=? AND caller=?",
                ];
                assert!(steps.iter().all(|step| plan.contains(step)), "{plan}");
                assert_eq!(plan.matches("TEMP B-TREE").count(), 1, "{plan}");
            }
            let [live, ended] = counts(&filter).try_into().ok().unwrap();
            let live = live.plan(&db);
            assert!(live.contains("USING INDEX requests_live"), "{live}");
            let ended = ended.plan(&db);
            assert!(
                ended.contains("USING COVERING INDEX requests_ended"),
                "{ended}"
            );
        }
    }
}
