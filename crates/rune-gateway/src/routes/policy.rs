//! What policy decided.

use std::sync::Arc;

use axum::extract::State;
use rune_http::{ApiError, ErrorBody, Json, List, ListPage, PageQuery};
use rune_runtime::{JournaledVerdict, policy_verdicts, undecided};
use rune_store_runtime::{Entry, RequestFilter, RequestId, RequestRow, Timestamp};
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

/// What policy decided, from the journals: the decisions of the newest request first, those of one request in their
/// order. `limit` counts requests, so a page may be empty and have a next one.
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
    let (rows, mut next) = match query.request {
        Some(id) => (vec![shared.engine.request(id).await?], None),
        None => {
            let filter = RequestFilter {
                namespace: query.ns.clone(),
                agent: query.agent.clone(),
                ..RequestFilter::default()
            };
            let found = shared.engine.store().requests(&filter, &page).await?;
            (found.items, found.next)
        }
    };
    let early = |row: &RequestRow| query.since.is_some_and(|since| row.created_at < since);
    // They come newest first, so what is behind an early one is early, too.
    if rows.iter().any(early) {
        next = None;
    }
    let other = |mine: &Option<String>, its: &str| mine.as_ref().is_some_and(|mine| mine != its);
    let mut items = Vec::new();
    for row in rows {
        if early(&row) || other(&query.ns, &row.namespace) || other(&query.agent, &row.agent) {
            continue;
        }
        let journal = journal(&shared, row.id).await?;
        let mut found = Vec::new();
        if query.undecided {
            found = undecided(&journal);
        }
        found.extend(policy_verdicts(journal));
        found.sort_by_key(|one| one.seq);
        items.extend(found.into_iter().map(|found| VerdictView::new(&row, found)));
    }
    Ok(Json(ListPage { items, next }))
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
