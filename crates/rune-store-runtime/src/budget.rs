//! Budgets that several model calls share: what may be spent, what is, and what calls that
//! are under way have reserved.
//!
//! A call reserves the most it can cost before it is made, or roughly that where a tool makes it. The entry of its reply settles
//! the reservation in the same commit; a call whose outcome nobody knows is settled with
//! all that it reserved. So what is spent and reserved together stays within the cap as
//! long as no reply uses more than its call reserved.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::limits::{MAX_BUDGET, MAX_CALL_TOKENS};
use crate::{Reject, RequestId, SessionId, Timestamp, Usage};

const DAY_MILLIS: i64 = 24 * 60 * 60 * 1000;
/// Prices are in millionths of a dollar per million tokens.
const UNITS_PER_MICRO_USD: u128 = 1_000_000;

/// Whose calls share a budget.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(tag = "kind", content = "key", rename_all = "snake_case")]
pub enum BudgetScope {
    /// A request and every request below it.
    Request(RequestId),
    /// The requests of a session, with those below them.
    Session(SessionId),
    /// What a deployment does in a day: `namespace/agent:alias`, so that the budget
    /// outlives the deployment.
    Deployment(String),
    /// What a caller asks for in a day.
    Caller(String),
}

impl BudgetScope {
    /// The stored word of the kind.
    #[must_use]
    pub const fn kind(&self) -> BudgetKind {
        match self {
            Self::Request(_) => BudgetKind::Request,
            Self::Session(_) => BudgetKind::Session,
            Self::Deployment(_) => BudgetKind::Deployment,
            Self::Caller(_) => BudgetKind::Caller,
        }
    }

    /// Which one of its kind.
    #[must_use]
    pub fn key(&self) -> String {
        match self {
            Self::Request(id) => id.to_string(),
            Self::Session(id) => id.to_string(),
            Self::Deployment(key) | Self::Caller(key) => key.clone(),
        }
    }

    /// The scope of this kind and key.
    #[must_use]
    pub fn parse(kind: BudgetKind, key: &str) -> Option<Self> {
        Some(match kind {
            BudgetKind::Request => Self::Request(key.parse().ok()?),
            BudgetKind::Session => Self::Session(key.parse().ok()?),
            BudgetKind::Deployment => Self::Deployment(key.to_owned()),
            BudgetKind::Caller => Self::Caller(key.to_owned()),
        })
    }

    /// The day whose budget a call at `at` is counted against, in days since 1970 in UTC; 0
    /// where the budget is not one of a day.
    #[must_use]
    pub const fn day(&self, at: Timestamp) -> i64 {
        match self {
            Self::Request(_) | Self::Session(_) => 0,
            Self::Deployment(_) | Self::Caller(_) => at.as_millis().div_euclid(DAY_MILLIS),
        }
    }

    /// When the budget of this day begins anew.
    #[must_use]
    pub const fn resets_at(&self, day: i64) -> Option<Timestamp> {
        match self {
            Self::Request(_) | Self::Session(_) => None,
            Self::Deployment(_) | Self::Caller(_) => Some(Timestamp::from_millis(
                day.saturating_add(1).saturating_mul(DAY_MILLIS),
            )),
        }
    }
}

impl fmt::Display for BudgetScope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} `{}`", self.kind().as_str(), self.key())
    }
}

/// The kind of a [`BudgetScope`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BudgetKind {
    /// [`BudgetScope::Request`].
    Request,
    /// [`BudgetScope::Session`].
    Session,
    /// [`BudgetScope::Deployment`].
    Deployment,
    /// [`BudgetScope::Caller`].
    Caller,
}

impl BudgetKind {
    /// All kinds.
    pub const ALL: [Self; 4] = [Self::Request, Self::Session, Self::Deployment, Self::Caller];

    /// The stored word.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Request => "request",
            Self::Session => "session",
            Self::Deployment => "deployment",
            Self::Caller => "caller",
        }
    }

    /// The kind with this stored word.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == text)
    }
}

/// A budget: what may be spent within a scope. What is absent is not limited.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BudgetCap {
    /// Whose calls share it.
    pub scope: BudgetScope,
    /// Input and output tokens.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tokens: Option<u64>,
    /// Millionths of a US dollar.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub micro_usd: Option<u64>,
}

/// A budget that a call is counted against.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BudgetClaim {
    /// The budget.
    pub cap: BudgetCap,
    /// Tokens of the prompt that this budget reserves.
    pub prompt_tokens: u64,
}

/// What the tokens of a call cost at the most, in millionths of a US dollar per million.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct CallPrice {
    /// A token of the prompt.
    pub prompt: u64,
    /// A token of the output.
    pub output: u64,
}

/// Reserves the most that a model call can use, with every budget that it is counted
/// against, or with none.
///
/// The reply is the number of output tokens that the call may have: `output_tokens`, or
/// what the budgets leave. Rejected with `budget_exceeded` where they do not leave enough,
/// with `conflict` where the request has a reservation that is not settled.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReserveBudget {
    /// The request that makes the call.
    pub request_id: RequestId,
    /// Whether the request is stored, and must not have ended.
    pub stored: bool,
    /// The budgets.
    pub claims: Vec<BudgetClaim>,
    /// Tokens of the prompt that are paid for, at the most.
    pub prompt_tokens: u64,
    /// Output tokens that are wanted.
    pub output_tokens: u64,
    /// Fewer are granted only where no other call has reserved anything.
    pub enough_output_tokens: u64,
    /// Fewer are not granted.
    pub min_output_tokens: u64,
    /// What the tokens cost; needed for a budget in money.
    pub price: Option<CallPrice>,
}

/// What a budget has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct BudgetBalance {
    /// Tokens spent.
    pub spent_tokens: u64,
    /// Money spent.
    pub spent_micro_usd: u64,
    /// Tokens that calls under way have reserved.
    pub reserved_tokens: u64,
    /// Money that calls under way have reserved.
    pub reserved_micro_usd: u64,
}

/// One of the two things that a budget limits.
struct Account {
    unit: BudgetUnit,
    cap: u64,
    spent: u64,
    reserved: u64,
}

impl Account {
    /// What is left, with and without what others have reserved.
    const fn left(&self, reserved: bool) -> u64 {
        let left = self.cap.saturating_sub(self.spent);
        if reserved {
            left.saturating_sub(self.reserved)
        } else {
            left
        }
    }
}

fn accounts<'a>(
    cap: &BudgetCap,
    balance: &'a BudgetBalance,
) -> impl Iterator<Item = Account> + use<'a> {
    let tokens = cap.tokens.map(|cap| Account {
        unit: BudgetUnit::Tokens,
        cap,
        spent: balance.spent_tokens,
        reserved: balance.reserved_tokens,
    });
    let money = cap.micro_usd.map(|cap| Account {
        unit: BudgetUnit::MicroUsd,
        cap,
        spent: balance.spent_micro_usd,
        reserved: balance.reserved_micro_usd,
    });
    tokens.into_iter().chain(money)
}

impl ReserveBudget {
    /// Rejected where it makes no sense whatever the budgets have.
    ///
    /// # Errors
    /// [`Reject::Invalid`].
    pub fn check(&self) -> Result<(), Reject> {
        let counts = self.claims.iter().map(|claim| claim.prompt_tokens);
        let mut counts = counts.chain([self.prompt_tokens, self.output_tokens]);
        let mut caps = self
            .claims
            .iter()
            .flat_map(|claim| [claim.cap.tokens, claim.cap.micro_usd]);
        if counts.any(|count| count > MAX_CALL_TOKENS) {
            return Err(Reject::invalid(format!(
                "a model call may reserve {MAX_CALL_TOKENS} tokens"
            )));
        }
        if caps.any(|cap| cap > Some(MAX_BUDGET)) {
            return Err(Reject::invalid(format!("a budget may be {MAX_BUDGET}")));
        }
        let money = self
            .claims
            .iter()
            .any(|claim| claim.cap.micro_usd.is_some());
        if money && self.price.is_none() {
            return Err(Reject::invalid("a budget in money needs a price"));
        }
        for (index, claim) in self.claims.iter().enumerate() {
            let earlier = self.claims.iter().take(index);
            if earlier.into_iter().any(|e| e.cap.scope == claim.cap.scope) {
                return Err(Reject::invalid("a budget is claimed twice"));
            }
        }
        Ok(())
    }

    /// The output tokens that the budgets allow; `balances` are theirs, in the order of the
    /// claims.
    ///
    /// # Errors
    /// [`Reject::BudgetExceeded`] names the budget that leaves the least.
    pub fn grant(&self, balances: &[BudgetBalance], at: Timestamp) -> Result<u64, Reject> {
        let mut granted = self.output_tokens;
        let mut alone = self.output_tokens;
        let mut short = None;
        for (claim, balance) in self.claims.iter().zip(balances) {
            for account in accounts(&claim.cap, balance) {
                alone = alone.min(self.output_for(claim, &account, false));
                let allowed = self.output_for(claim, &account, true);
                if allowed < granted {
                    granted = allowed;
                    short = Some((claim, account));
                }
            }
        }
        let wanted = self.output_tokens;
        let Some((claim, account)) = short else {
            return Ok(wanted);
        };
        let held = granted < alone && alone >= self.min_output_tokens;
        let enough = if held {
            self.enough_output_tokens.min(wanted)
        } else {
            self.min_output_tokens
        };
        if granted >= enough {
            return Ok(granted);
        }
        let scope = claim.cap.scope.clone();
        Err(Reject::BudgetExceeded(Box::new(BudgetShortage {
            resets_at: scope.resets_at(scope.day(at)),
            scope,
            unit: account.unit,
            cap: account.cap,
            spent: account.spent,
            reserved: account.reserved,
            needed: match account.unit {
                BudgetUnit::Tokens => claim.prompt_tokens.saturating_add(self.min_output_tokens),
                BudgetUnit::MicroUsd => self.cost(self.min_output_tokens),
            },
            held,
        })))
    }

    /// What a call with so much output reserves with a budget: tokens and money.
    #[must_use]
    pub fn amount(&self, claim: &BudgetClaim, output_tokens: u64) -> (u64, u64) {
        let tokens = claim.prompt_tokens.saturating_add(output_tokens);
        (tokens, self.cost(output_tokens))
    }

    fn output_for(&self, claim: &BudgetClaim, account: &Account, reserved: bool) -> u64 {
        let left = account.left(reserved);
        match account.unit {
            BudgetUnit::Tokens => left.saturating_sub(claim.prompt_tokens),
            BudgetUnit::MicroUsd => {
                let price = self.price();
                let left = u128::from(left) * UNITS_PER_MICRO_USD;
                let prompt = u128::from(self.prompt_tokens) * u128::from(price.prompt);
                match (left.checked_sub(prompt), u128::from(price.output)) {
                    (None, _) => 0,
                    (Some(_), 0) => u64::MAX,
                    (Some(left), rate) => u64::try_from(left / rate).unwrap_or(u64::MAX),
                }
            }
        }
    }

    fn cost(&self, output_tokens: u64) -> u64 {
        let price = self.price();
        let prompt = u128::from(self.prompt_tokens) * u128::from(price.prompt);
        let output = u128::from(output_tokens) * u128::from(price.output);
        let units = prompt.saturating_add(output);
        u64::try_from(units.div_ceil(UNITS_PER_MICRO_USD)).unwrap_or(MAX_BUDGET)
    }

    fn price(&self) -> CallPrice {
        self.price.unwrap_or(CallPrice {
            prompt: 0,
            output: 0,
        })
    }
}

/// What a budget is counted in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BudgetUnit {
    /// Input and output tokens.
    Tokens,
    /// Millionths of a US dollar.
    MicroUsd,
}

/// Why a call may not be made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BudgetShortage {
    /// Whose budget it is.
    pub scope: BudgetScope,
    /// What the numbers count.
    pub unit: BudgetUnit,
    /// The budget.
    pub cap: u64,
    /// What is spent of it.
    pub spent: u64,
    /// What calls under way have reserved.
    pub reserved: u64,
    /// What the call needs at the least.
    pub needed: u64,
    /// When the budget begins anew, where it does.
    pub resets_at: Option<Timestamp>,
    /// Whether there would be enough if the calls under way used nothing.
    pub held: bool,
}

impl fmt::Display for BudgetShortage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            scope,
            cap,
            spent,
            reserved,
            needed,
            ..
        } = self;
        let unit = match self.unit {
            BudgetUnit::Tokens => "tokens",
            BudgetUnit::MicroUsd => "millionths of a US dollar",
        };
        write!(
            f,
            "the budget of {scope} is {cap} {unit}: {spent} are spent, {reserved} are reserved and {needed} are needed"
        )
    }
}

/// Settles the reservation of a request without an entry of its journal. A reply that is
/// appended settles it by itself, with what it used; the end of a request settles it as
/// [`Settlement::Unknown`].
///
/// The reply says whether there was one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct SettleBudget {
    /// The request.
    pub request_id: RequestId,
    /// What the call used.
    pub used: Settlement,
    /// Whether the request ends with it, without an entry that says so.
    pub ends: bool,
}

/// What a call used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Settlement {
    /// Nothing: it was not made, or is not charged.
    Nothing,
    /// Nobody knows; all that it reserved is counted as spent.
    Unknown,
    /// So many tokens and so much money.
    Used {
        /// Input and output tokens.
        tokens: u64,
        /// Millionths of a US dollar.
        micro_usd: u64,
    },
}

impl Settlement {
    /// What a reply used.
    #[must_use]
    pub fn of(usage: &Usage, cost_micro_usd: Option<u64>) -> Self {
        Self::Used {
            tokens: usage.total(),
            micro_usd: cost_micro_usd.unwrap_or_default(),
        }
    }

    /// The tokens and the money that become spent of what a budget has reserved.
    #[must_use]
    pub const fn spent(self, reserved: &HeldBudget) -> (u64, u64) {
        match self {
            Self::Nothing => (0, 0),
            Self::Unknown => (reserved.tokens, reserved.micro_usd),
            Self::Used { tokens, micro_usd } => (tokens, micro_usd),
        }
    }
}

/// What a call has reserved with one budget.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeldBudget {
    /// Whose budget it is.
    pub scope: BudgetScope,
    /// Its day, as [`BudgetScope::day`].
    pub day: i64,
    /// Tokens.
    pub tokens: u64,
    /// Millionths of a US dollar.
    pub micro_usd: u64,
}

/// A reservation that is not settled.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReservationRow {
    /// The request that makes the call.
    pub request_id: RequestId,
    /// When.
    pub at: Timestamp,
    /// With which budgets.
    pub held: Vec<HeldBudget>,
}

/// A budget as the last call under it stated it, and what it has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BudgetRow {
    /// Whose it is.
    pub scope: BudgetScope,
    /// Its day, as [`BudgetScope::day`].
    pub day: i64,
    /// The most tokens.
    pub cap_tokens: Option<u64>,
    /// The most money.
    pub cap_micro_usd: Option<u64>,
    /// Tokens spent.
    pub spent_tokens: u64,
    /// Money spent.
    pub spent_micro_usd: u64,
    /// Tokens that calls under way have reserved.
    pub reserved_tokens: u64,
    /// Money that calls under way have reserved.
    pub reserved_micro_usd: u64,
    /// When it was last moved.
    pub updated_at: Timestamp,
}

/// Which budgets to list, by kind and key. Empty fields match everything.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct BudgetFilter {
    /// Only of this kind.
    pub kind: Option<BudgetKind>,
    /// Only those that a call at this time would be counted against.
    pub current_at: Option<Timestamp>,
}
