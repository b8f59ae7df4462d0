//! The usage ledger.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::extract::State;
use rune_http::{ApiError, ErrorBody, Json, List, PageQuery, TokenUsage};
use rune_store_runtime::{PageRequest, RequestId, Timestamp, Usage, UsageFilter, UsageRow};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use crate::control_plane::Shared;

/// Rows that are summed at the most.
const MAX_SUMMED_ROWS: usize = 100_000;

/// One model call.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct UsageView {
    #[schema(value_type = String)]
    request_id: RequestId,
    namespace: String,
    agent: String,
    /// The journal entry it comes from.
    seq: u64,
    #[schema(value_type = String)]
    at: Timestamp,
    provider: String,
    model: String,
    usage: TokenUsage,
}

impl From<UsageRow> for UsageView {
    fn from(row: UsageRow) -> Self {
        Self {
            request_id: row.request_id,
            namespace: row.namespace,
            agent: row.agent,
            seq: row.seq,
            at: row.at,
            provider: row.provider,
            model: row.model,
            usage: row.usage.into(),
        }
    }
}

/// Tokens of one agent with one model.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct UsageTotal {
    namespace: String,
    agent: String,
    provider: String,
    model: String,
    /// Model calls.
    calls: u64,
    usage: TokenUsage,
}

/// Every row that the filter matches, summed.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct UsageTotals {
    items: Vec<UsageTotal>,
    /// Whether all rows were summed; the newest 100000 are otherwise.
    complete: bool,
}

/// The ledger, newest first.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct UsagePage {
    items: Vec<UsageView>,
    /// Sums over all pages; on the first page only.
    #[serde(skip_serializing_if = "Option::is_none")]
    totals: Option<UsageTotals>,
    /// The `cursor` of the next page; absent on the last.
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<String>,
}

/// Which rows to list and to sum.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(crate) struct ListQuery {
    /// Only of this request.
    #[param(value_type = Option<String>)]
    request: Option<RequestId>,
    /// Only of agents in this namespace.
    ns: Option<String>,
    /// Only of this agent.
    agent: Option<String>,
    /// Only at or after this time (RFC 3339).
    #[param(value_type = Option<String>)]
    since: Option<Timestamp>,
}

/// Model calls, newest first, and their sums by agent and model.
#[utoipa::path(
    get, path = "/v1/usage", tag = "usage", params(ListQuery, PageQuery),
    responses(
        (status = 200, body = UsagePage, description = "A part of the ledger"),
        (status = "default", body = ErrorBody, description = "An error"),
    )
)]
pub(crate) async fn list(
    State(shared): State<Arc<Shared>>,
    List {
        filter: query,
        page,
    }: List<ListQuery>,
) -> Result<Json<UsagePage>, ApiError> {
    let filter = UsageFilter {
        request_id: query.request,
        namespace: query.ns,
        agent: query.agent,
        since: query.since,
    };
    let totals = match page.cursor {
        None => Some(totals(&shared, &filter).await?),
        Some(_) => None,
    };
    let found = shared
        .store
        .usage(&filter, &page)
        .await?
        .map(UsageView::from);
    Ok(Json(UsagePage {
        items: found.items,
        totals,
        next: found.next,
    }))
}

async fn totals(shared: &Shared, filter: &UsageFilter) -> Result<UsageTotals, ApiError> {
    let mut page = PageRequest::first(PageRequest::MAX_LIMIT);
    let mut sums: BTreeMap<[String; 4], (u64, Usage)> = BTreeMap::new();
    let mut rows = 0;
    loop {
        let found = shared.store.usage(filter, &page).await?;
        rows += found.items.len();
        for UsageRow {
            namespace,
            agent,
            provider,
            model,
            usage,
            ..
        } in found.items
        {
            let (calls, sum) = sums.entry([namespace, agent, provider, model]).or_default();
            *calls += 1;
            sum.add(&usage);
        }
        page.cursor = found.next;
        if page.cursor.is_none() || rows >= MAX_SUMMED_ROWS {
            break;
        }
    }
    let total = |([namespace, agent, provider, model], (calls, usage)): ([String; 4], _)| {
        let usage: Usage = usage;
        UsageTotal {
            namespace,
            agent,
            provider,
            model,
            calls,
            usage: usage.into(),
        }
    };
    let items = sums.into_iter().map(total).collect();
    Ok(UsageTotals {
        items,
        complete: page.cursor.is_none(),
    })
}
