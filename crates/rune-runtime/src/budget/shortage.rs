//! How a call that a budget does not allow is told.

use rune_store_runtime::{BudgetScope, BudgetShortage, BudgetUnit, ErrorCode, Failure, Timestamp};

/// The end of a request whose next call a budget does not allow.
pub(crate) fn refusal(short: &BudgetShortage) -> Failure {
    let amount = |amount| match short.unit {
        BudgetUnit::Tokens => format!("{amount} tokens"),
        BudgetUnit::MicroUsd => usd(amount),
    };
    let (whose, setting) = whose(&short.scope, short.unit);
    let resets = short.resets_at.map(resets).unwrap_or_default();
    let message = format!(
        "the next model call would exceed the budget of {} {whose} ({setting}): {} are spent, {} are reserved by calls \
         under way, and the call needs {}{resets}",
        amount(short.cap),
        amount(short.spent),
        amount(short.reserved),
        amount(short.needed),
    );
    Failure::new(ErrorCode::LimitExceeded, message)
}

fn whose(scope: &BudgetScope, unit: BudgetUnit) -> (String, &'static str) {
    let money = unit == BudgetUnit::MicroUsd;
    match scope {
        BudgetScope::Request(id) => (
            format!("of request `{id}` with the agents it called"),
            if money {
                "`budget.cost_usd`"
            } else {
                "`budget.tokens` or `token_budget`"
            },
        ),
        BudgetScope::Session(id) => (
            format!("of session `{id}`"),
            if money {
                "`budget.session.cost_usd`"
            } else {
                "`budget.session.tokens`"
            },
        ),
        BudgetScope::Deployment(name) => (
            format!("per day of deployment `{name}`"),
            if money {
                "`budget.cost_usd_per_day`"
            } else {
                "`budget.tokens_per_day`"
            },
        ),
        BudgetScope::Caller(name) => (
            format!("per day of caller `{name}`"),
            if money {
                "`cost_usd_per_day` in `[budgets]` of config.toml"
            } else {
                "`tokens_per_day` in `[budgets]` of config.toml"
            },
        ),
    }
}

fn resets(at: Timestamp) -> String {
    format!("; the day ends at {at} (UTC)")
}

/// An amount for a person.
pub(crate) fn usd(micro: u64) -> String {
    format!("{}.{:06} USD", micro / 1_000_000, micro % 1_000_000)
}
