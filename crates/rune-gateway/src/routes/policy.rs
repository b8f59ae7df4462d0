//! What policy decided.

use std::sync::Arc;

use axum::extract::State;
use rune_http::{ApiError, ErrorBody, Json, List, ListPage, PageQuery};
use rune_runtime::{JournaledVerdict, policy_verdicts, undecided};
use rune_store_runtime::limits::MAX_PAGE_BYTES;
use rune_store_runtime::{Entry, PageRequest, RequestFilter, RequestId, RequestRow, Timestamp};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::{IntoParams, ToSchema};

use crate::gateway::Shared;

/// Entries read from the store at a time.
const JOURNAL_PAGE: u32 = 256;

/// One decision about something a request wanted to do.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct VerdictView {
    #[schema(value_type = String)]
    request_id: RequestId,
    namespace: String,
    agent: String,
    /// Who made the request.
    caller: String,
    /// The journal entry.
    seq: u64,
    #[schema(value_type = String, format = DateTime)]
    at: Timestamp,
    /// The model turn.
    step: u32,
    /// The id of the call in the model's reply.
    #[serde(skip_serializing_if = "Option::is_none")]
    call_id: Option<String>,
    /// `tool`, `model`, `agent_call` or `egress`.
    action: String,
    /// To what, such as the tool's name.
    resource: String,
    /// What policies can see of the resource; absent for a tool.
    #[serde(skip_serializing_if = "Value::is_null")]
    attributes: Value,
    /// The arguments of the call.
    #[serde(skip_serializing_if = "Option::is_none")]
    arguments: Option<Value>,
    /// What counted: `allowed`, `denied` or `asked`.
    verdict: &'static str,
    /// What the policies said; another word where a remembered decision counted.
    by_policy: &'static str,
    reason: String,
    /// The policies that decided: file, line and rule.
    policies: Vec<String>,
}

impl VerdictView {
    /// Bytes of what was decided about, which may be large.
    fn bytes(&self) -> usize {
        let values = self.arguments.iter().chain([&self.attributes]);
        values.map(|value| value.to_string().len()).sum()
    }

    fn new(row: &RequestRow, found: JournaledVerdict) -> Self {
        let by_policy = found.by_policy().as_str();
        let verdict = found.verdict;
        Self {
            request_id: row.id,
            namespace: row.namespace.clone(),
            agent: row.agent.clone(),
            caller: row.caller.clone(),
            seq: found.seq,
            at: found.at,
            step: verdict.step,
            call_id: verdict.call_id,
            action: verdict.action,
            resource: verdict.resource,
            attributes: verdict.attributes,
            arguments: found.arguments,
            verdict: verdict.verdict.as_str(),
            by_policy,
            reason: verdict.reason,
            policies: verdict.policies,
        }
    }
}

/// Which decisions to list.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(crate) struct ListQuery {
    /// Only of this request.
    #[param(value_type = Option<String>, pattern = "^req_[0-9a-f]{32}$")]
    request: Option<RequestId>,
    /// Only of agents in this namespace.
    ns: Option<String>,
    /// Only of this agent.
    agent: Option<String>,
    /// Only of requests accepted at or after this time (RFC 3339).
    #[param(value_type = Option<String>, format = DateTime)]
    since: Option<Timestamp>,
    /// Also the models that were asked and the agents that were called while no policy could speak about them, as
    /// allowed without a policy.
    #[serde(default)]
    undecided: bool,
}

impl ListQuery {
    /// Whether a request was accepted before those that are wanted.
    fn is_early(&self, row: &RequestRow) -> bool {
        self.since.is_some_and(|since| row.created_at < since)
    }
}

/// What policy decided, from the journals: the decisions of the newest request first, those of one request in their
/// order. `limit` counts requests, so a page may be empty and have a next one; large decisions end it before.
#[utoipa::path(
    get, path = "/v1/policy-verdicts", tag = "requests", params(ListQuery, PageQuery),
    responses(
        (status = 200, body = ListPage<VerdictView>, description = "A part of the list"),
        (status = 404, body = ErrorBody, description = "The request does not exist"),
    )
)]
pub(crate) async fn verdicts(
    State(shared): State<Arc<Shared>>,
    List {
        filter: query,
        page,
    }: List<ListQuery>,
) -> Result<Json<ListPage<VerdictView>>, ApiError> {
    let mut items = Vec::new();
    if let Some(id) = query.request {
        let row = shared.engine.request(id).await?;
        let other =
            |mine: &Option<String>, its: &str| mine.as_ref().is_some_and(|mine| mine != its);
        if !other(&query.ns, &row.namespace) && !other(&query.agent, &row.agent) {
            items = of_request(&shared, &query, &row).await?;
        }
        return Ok(Json(ListPage { items, next: None }));
    }
    let filter = RequestFilter {
        namespace: query.ns.clone(),
        agent: query.agent.clone(),
        ..RequestFilter::default()
    };
    let mut one = PageRequest {
        limit: 1,
        cursor: page.cursor,
    };
    let mut bytes = 0;
    for _ in 0..page.limit {
        let found = shared.engine.store().requests(&filter, &one).await?;
        one.cursor = found.next;
        let Some(row) = found.items.first() else {
            break;
        };
        if query.is_early(row) {
            // They come newest first, so what is behind it is early, too.
            one.cursor = None;
            break;
        }
        let verdicts = of_request(&shared, &query, row).await?;
        bytes += verdicts.iter().map(VerdictView::bytes).sum::<usize>();
        items.extend(verdicts);
        if one.cursor.is_none() || bytes > MAX_PAGE_BYTES {
            break;
        }
    }
    let next = one.cursor;
    Ok(Json(ListPage { items, next }))
}

/// The decisions of a request that are wanted.
async fn of_request(
    shared: &Shared,
    query: &ListQuery,
    row: &RequestRow,
) -> Result<Vec<VerdictView>, ApiError> {
    if query.is_early(row) {
        return Ok(Vec::new());
    }
    let journal = journal(shared, row.id).await?;
    let mut found = match query.undecided {
        true => undecided(&journal),
        false => Vec::new(),
    };
    found.extend(policy_verdicts(journal));
    found.sort_by_key(|one| one.seq);
    let views = found.into_iter().map(|found| VerdictView::new(row, found));
    Ok(views.collect())
}

async fn journal(shared: &Shared, id: RequestId) -> Result<Vec<Entry>, ApiError> {
    let mut journal: Vec<Entry> = Vec::new();
    loop {
        let after = journal.last().map_or(0, |entry| entry.seq);
        let entries = shared.engine.store().journal(id, after, JOURNAL_PAGE);
        let entries = entries.await?;
        if entries.is_empty() {
            return Ok(journal);
        }
        journal.extend(entries);
    }
}
