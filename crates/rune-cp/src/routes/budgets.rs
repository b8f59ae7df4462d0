//! Shared budgets: what is spent of them and what calls under way have reserved.

use std::collections::BTreeSet;
use std::sync::Arc;

use axum::extract::State;
use rune_http::{ApiError, Json, List, ListPage, PageQuery};
use rune_runtime::daily_budget;
use rune_store_runtime::{BudgetFilter, BudgetKind, BudgetRow, BudgetUnit, PageRequest, Timestamp};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use crate::control_plane::Shared;

/// One limit of a budget.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct BudgetView {
    /// `request`, `session`, `deployment` or `caller`.
    scope: &'static str,
    /// Which one: an id, `namespace/agent:alias`, or a caller.
    name: String,
    /// What the numbers count: `tokens` or `micro_usd`, millionths of a US dollar.
    unit: &'static str,
    cap: u64,
    spent: u64,
    /// By model calls under way.
    reserved: u64,
    /// What the next call can have.
    left: u64,
    /// When it begins anew; absent where it does not.
    #[schema(value_type = Option<String>, format = DateTime)]
    #[serde(skip_serializing_if = "Option::is_none")]
    resets_at: Option<Timestamp>,
}

/// Whose budgets to list.
#[derive(Debug, Clone, Copy, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum ScopeWord {
    Request,
    Session,
    Deployment,
    Caller,
}

impl From<ScopeWord> for BudgetKind {
    fn from(word: ScopeWord) -> Self {
        match word {
            ScopeWord::Request => Self::Request,
            ScopeWord::Session => Self::Session,
            ScopeWord::Deployment => Self::Deployment,
            ScopeWord::Caller => Self::Caller,
        }
    }
}

/// Which budgets to list.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(crate) struct ListQuery {
    /// Only `request`, `session`, `deployment` or `caller`.
    scope: Option<ScopeWord>,
}

/// Budgets in force, by scope and name; a limit in tokens and one in money are two items.
#[utoipa::path(
    get, path = "/v1/usage/budgets", tag = "usage", params(ListQuery, PageQuery),
    responses(
        (status = 200, body = ListPage<BudgetView>, description = "The budgets"),
    )
)]
pub(crate) async fn list(
    State(shared): State<Arc<Shared>>,
    List {
        filter: query,
        page,
    }: List<ListQuery>,
) -> Result<Json<ListPage<BudgetView>>, ApiError> {
    let kind = query.scope.map(BudgetKind::from);
    let filter = BudgetFilter {
        kind,
        current_at: Some(shared.store.now()),
    };
    let mut rows = Vec::new();
    if page.cursor.is_none() && kind.is_none_or(|kind| kind == BudgetKind::Deployment) {
        rows.extend(untouched(&shared).await?);
    }
    let found = shared.store.budgets(&filter, &page).await?;
    rows.extend(found.items);
    Ok(Json(ListPage {
        items: rows.iter().flat_map(views).collect(),
        next: found.next,
    }))
}

/// The budgets of deployments that have made no call today.
async fn untouched(shared: &Shared) -> Result<Vec<BudgetRow>, ApiError> {
    let now = shared.store.now();
    let filter = BudgetFilter {
        kind: Some(BudgetKind::Deployment),
        current_at: Some(now),
    };
    let mut known = BTreeSet::new();
    let mut page = PageRequest::first(PageRequest::MAX_LIMIT);
    loop {
        let found = shared.store.budgets(&filter, &page).await?;
        known.extend(found.items.into_iter().map(|row| row.scope));
        page.cursor = found.next;
        if page.cursor.is_none() {
            break;
        }
    }
    let deployments = shared.router.deployments();
    let rows = deployments.iter().filter_map(|deployment| {
        let agent = shared.router.agent(deployment.id)?;
        let cap = daily_budget(&agent, &deployment.namespace, &deployment.alias)?;
        Some(BudgetRow {
            day: cap.scope.day(now),
            scope: cap.scope,
            cap_tokens: cap.tokens,
            cap_micro_usd: cap.micro_usd,
            spent_tokens: 0,
            spent_micro_usd: 0,
            reserved_tokens: 0,
            reserved_micro_usd: 0,
            updated_at: now,
        })
    });
    Ok(rows.filter(|row| !known.contains(&row.scope)).collect())
}

fn views(row: &BudgetRow) -> impl Iterator<Item = BudgetView> + use<> {
    let scope = &row.scope;
    let view = |unit: BudgetUnit, cap: u64, spent: u64, reserved: u64| BudgetView {
        scope: scope.kind().as_str(),
        name: scope.key(),
        unit: match unit {
            BudgetUnit::Tokens => "tokens",
            BudgetUnit::MicroUsd => "micro_usd",
        },
        cap,
        spent,
        reserved,
        left: cap.saturating_sub(spent).saturating_sub(reserved),
        resets_at: scope.resets_at(row.day),
    };
    let tokens = row.cap_tokens;
    let tokens = tokens.map(|cap| {
        view(
            BudgetUnit::Tokens,
            cap,
            row.spent_tokens,
            row.reserved_tokens,
        )
    });
    let money = row.cap_micro_usd.map(|cap| {
        let (spent, reserved) = (row.spent_micro_usd, row.reserved_micro_usd);
        view(BudgetUnit::MicroUsd, cap, spent, reserved)
    });
    tokens.into_iter().chain(money)
}
