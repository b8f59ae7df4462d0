//! Budgets that requests share: which ones a request is counted against, what its model
//! calls reserve, and how a call that is refused is told.
//!
//! The store decides ([`rune_store_runtime::ReserveBudget`]); here is what it is asked. A request keeps the
//! budgets it was accepted with, its own and those of every request above it.

mod bound;
mod meter;
mod patience;
mod reservation;
mod shortage;
mod tools;

use std::collections::BTreeMap;
use std::sync::{Mutex, OnceLock, PoisonError};

use rune_env::BudgetsConfig;
use rune_store_runtime::limits::MAX_BUDGET;
use rune_store_runtime::{BudgetCap, BudgetKind, BudgetScope, RequestId, SessionId};
use tokio::sync::watch;

use crate::agent::Agent;

pub(crate) use meter::{Call, Meter};
pub(crate) use patience::Patience;
pub(crate) use reservation::{Reservation, Wanted, usage_unknown};
pub(crate) use shortage::{refusal, usd};
pub(crate) use tools::{Booking, OwnBudget, Quote, Spent, ToolMeter};

/// Code of the notice that a call waits for others that have reserved what it needs.
pub(crate) const BUDGET_WAIT: &str = "budget_wait";
/// Code of the notice that a shared budget does not allow the next call.
pub(crate) const BUDGET_EXCEEDED: &str = "budget_exceeded";
/// Code of the notice that nobody knows what a call used.
pub(crate) const USAGE_UNKNOWN: &str = "usage_unknown";

/// What the requests of an engine know of shared budgets.
#[derive(Debug, Default)]
pub(crate) struct Budgets {
    callers: OnceLock<BudgetsConfig>,
    /// Changes when a reservation was settled.
    settled: watch::Sender<()>,
    /// By provider and model: how many prompt tokens more than the bound it has reported.
    excess: Mutex<BTreeMap<(String, String), u64>>,
}

/// Who makes a request, and where it runs.
pub(crate) struct Payer<'a> {
    pub(crate) request_id: RequestId,
    pub(crate) session_id: &'a SessionId,
    pub(crate) namespace: &'a str,
    pub(crate) agent: &'a Agent,
    pub(crate) alias: &'a str,
    pub(crate) caller: &'a str,
    /// The budgets of the request that calls it.
    pub(crate) inherited: &'a [BudgetCap],
}

impl Budgets {
    /// Sets what callers may spend, once.
    pub(crate) fn set_callers(&self, callers: BudgetsConfig) {
        self.callers.get_or_init(|| callers);
    }

    /// The budgets that a new request is counted against.
    pub(crate) fn caps(&self, payer: &Payer<'_>) -> Vec<BudgetCap> {
        let agent = payer.agent;
        let budget = &agent.spec().budget;
        let mut own = Vec::new();
        if agent.calls_agents() {
            own.push(BudgetCap {
                scope: BudgetScope::Request(payer.request_id),
                tokens: Some(agent.token_budget()),
                micro_usd: agent.cost_budget(),
            });
        }
        own.push(BudgetCap {
            scope: BudgetScope::Session(payer.session_id.clone()),
            tokens: budget.session.tokens,
            micro_usd: budget.session.cost_usd.map(micro_usd),
        });
        own.extend(daily_budget(agent, payer.namespace, payer.alias));
        let callers = self.callers.get();
        let caller = callers.map(|callers| callers.of(payer.caller));
        let caller = caller.unwrap_or_default();
        own.push(BudgetCap {
            scope: BudgetScope::Caller(payer.caller.to_owned()),
            tokens: caller.tokens_per_day,
            micro_usd: caller.cost_usd_per_day.map(micro_usd),
        });
        own.retain(|cap| cap.tokens.is_some() || cap.micro_usd.is_some());
        for cap in payer.inherited {
            if !own.iter().any(|known| known.scope == cap.scope) {
                own.push(cap.clone());
            }
        }
        for cap in &mut own {
            cap.tokens = cap.tokens.map(|tokens| tokens.min(MAX_BUDGET));
        }
        own
    }

    /// Tells those who wait that something was settled.
    pub(crate) fn tell_settled(&self) {
        self.settled.send_replace(());
    }

    pub(crate) fn settled(&self) -> watch::Receiver<()> {
        self.settled.subscribe()
    }

    /// What a model has reported beyond the bound of its prompts.
    pub(crate) fn excess(&self, provider: &str, model: &str) -> u64 {
        let excess = self.excess.lock();
        let excess = excess.unwrap_or_else(PoisonError::into_inner);
        let key = (provider.to_owned(), model.to_owned());
        excess.get(&key).copied().unwrap_or_default()
    }

    /// Remembers that a model has reported so many tokens more than a prompt's bound.
    pub(crate) fn learn_excess(&self, provider: &str, model: &str, tokens: u64) {
        let excess = self.excess.lock();
        let mut excess = excess.unwrap_or_else(PoisonError::into_inner);
        let known = excess.entry((provider.to_owned(), model.to_owned()));
        let known = known.or_default();
        *known = tokens.max(*known);
    }
}

/// What a deployment of an agent may spend in a day, where that is limited.
#[must_use]
pub fn daily_budget(agent: &Agent, namespace: &str, alias: &str) -> Option<BudgetCap> {
    let budget = &agent.spec().budget;
    let cap = BudgetCap {
        scope: BudgetScope::Deployment(format!("{namespace}/{}:{alias}", agent.name())),
        tokens: budget.tokens_per_day,
        micro_usd: budget.cost_usd_per_day.map(micro_usd),
    };
    (cap.tokens.is_some() || cap.micro_usd.is_some()).then_some(cap)
}

/// Whether what a budget counts of a prompt is the estimate and not the bound: those that
/// a request has to itself keep to what `token_budget` always meant.
pub(crate) fn counts_estimate(cap: &BudgetCap) -> bool {
    cap.scope.kind() == BudgetKind::Request
}

/// US dollars in millionths.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a cast of a float saturates, and less than 0 is not valid"
)]
pub(crate) fn micro_usd(usd: f64) -> u64 {
    ((usd * 1e6).round() as u64).min(MAX_BUDGET)
}
