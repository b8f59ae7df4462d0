//! The usage ledger.

use std::sync::Arc;

use axum::extract::State;
use rune_http::{ApiError, CostView, Json, List, PageQuery, TokenUsage};
use rune_store_runtime::limits::MAX_USAGE_TOTALS;
use rune_store_runtime::{RequestId, Timestamp, UsageFilter, UsageGroup, UsageRow, UsageTotal};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use crate::control_plane::Shared;

/// One model call.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct UsageView {
    #[schema(value_type = String)]
    request_id: RequestId,
    namespace: String,
    agent: String,
    /// The journal entry it comes from.
    seq: u64,
    #[schema(value_type = String, format = DateTime)]
    at: Timestamp,
    provider: String,
    model: String,
    /// Who made the request.
    caller: String,
    usage: TokenUsage,
    /// What they cost in millionths of a US dollar; `null` where the model has no known price.
    cost_micro_usd: Option<u64>,
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
            caller: row.caller,
            usage: row.usage.into(),
            cost_micro_usd: row.cost_micro_usd,
        }
    }
}

/// The sum of one group; it names what the group is made of.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct UsageTotalView {
    #[serde(skip_serializing_if = "Option::is_none")]
    namespace: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    agent: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    provider: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    model: Option<String>,
    /// In UTC.
    #[serde(skip_serializing_if = "Option::is_none")]
    day: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    caller: Option<String>,
    /// Model calls.
    calls: u64,
    usage: TokenUsage,
    cost: CostView,
}

impl From<UsageTotal> for UsageTotalView {
    fn from(total: UsageTotal) -> Self {
        Self {
            namespace: total.namespace,
            agent: total.agent,
            provider: total.provider,
            model: total.model,
            day: total.day,
            caller: total.caller,
            calls: total.calls,
            usage: total.usage.into(),
            cost: total.cost.into(),
        }
    }
}

/// Every row that the filter matches, summed.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct UsageTotals {
    items: Vec<UsageTotalView>,
    /// Whether these are all groups; the first 10000 are otherwise.
    complete: bool,
}

/// What the sums are grouped by.
#[derive(Debug, Clone, Copy, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum UsageBy {
    Agent,
    Model,
    Day,
    Caller,
}

impl From<UsageBy> for UsageGroup {
    fn from(by: UsageBy) -> Self {
        match by {
            UsageBy::Agent => Self::Agent,
            UsageBy::Model => Self::Model,
            UsageBy::Day => Self::Day,
            UsageBy::Caller => Self::Caller,
        }
    }
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
    #[param(value_type = Option<String>, pattern = "^req_[0-9a-f]{32}$")]
    request: Option<RequestId>,
    /// Only of agents in this namespace.
    ns: Option<String>,
    /// Only of this agent.
    agent: Option<String>,
    /// Only at or after this time (RFC 3339).
    #[param(value_type = Option<String>, format = DateTime)]
    since: Option<Timestamp>,
    /// Sum by `agent`, `model`, `day` or `caller`; absent: by agent and model.
    by: Option<UsageBy>,
}

/// Model calls, newest first, and their sums.
#[utoipa::path(
    get, path = "/v1/usage", tag = "usage", params(ListQuery, PageQuery),
    responses(
        (status = 200, body = UsagePage, description = "A part of the ledger"),
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
        None => {
            let by = query.by.map(UsageGroup::from).unwrap_or_default();
            Some(totals(&shared, &filter, by).await?)
        }
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

async fn totals(
    shared: &Shared,
    filter: &UsageFilter,
    by: UsageGroup,
) -> Result<UsageTotals, ApiError> {
    let totals = shared.store.usage_totals(filter, by).await?;
    Ok(UsageTotals {
        complete: totals.len() < MAX_USAGE_TOTALS as usize,
        items: totals.into_iter().map(UsageTotalView::from).collect(),
    })
}
