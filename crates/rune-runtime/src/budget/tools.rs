//! What the calls of models may cost that tools make, beside those of the conversation.

use std::sync::{Arc, Mutex, PoisonError};

use rune_store_runtime::{
    BudgetCap, BudgetClaim, CheckpointPolicy, EntryBody, ErrorCode, Failure, Reject, RequestId,
    ReserveBudget, SettleBudget, Settlement, Store, StoreError, Usage,
};
use tokio::sync::{Semaphore, SemaphorePermit};

use super::{Budgets, refusal, usage_unknown, usd};
use crate::model::Price;

/// Counts the calls of the tools of one turn.
pub(crate) struct ToolMeter {
    pub(super) budgets: Arc<Budgets>,
    pub(super) store: Store,
    pub(super) request_id: RequestId,
    pub(super) caps: Vec<BudgetCap>,
    pub(super) policy: CheckpointPolicy,
    pub(super) own: OwnBudget,
    /// A request has one reservation, so one call at a time is under way where something is reserved.
    pub(super) turn: Semaphore,
    pub(super) spent: Mutex<Spent>,
}

/// The budgets that a request has to itself.
#[derive(Debug, Clone, Copy)]
pub(crate) struct OwnBudget {
    /// Tokens, and the name of the setting.
    pub(crate) tokens: (u64, &'static str),
    /// Millionths of a US dollar.
    pub(crate) micro_usd: Option<u64>,
}

/// What the request has used so far.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Spent {
    pub(crate) tokens: u64,
    pub(crate) micro_usd: u64,
    /// Whether something is reserved for a call of a tool.
    pub(crate) is_open: bool,
}

/// A call of a model that a tool wants to make.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Quote<'a> {
    pub(crate) provider: &'a str,
    pub(crate) model: &'a str,
    pub(crate) price: Option<Price>,
    /// Tokens that it is sent, roughly.
    pub(crate) prompt: u64,
    /// Tokens that it answers, roughly.
    pub(crate) output: u64,
}

/// A call that may be made. Dropped before it is [`ended`](Admitted::ended), nobody knows what it has used.
pub(crate) struct Admitted<'a> {
    meter: &'a ToolMeter,
    _turn: Option<SemaphorePermit<'a>>,
}

impl ToolMeter {
    /// Lets a call be made within every budget, and reserves what it uses, roughly, where a budget is shared.
    ///
    /// # Errors
    /// Which budget does not allow it; the store's.
    pub(crate) async fn admit(&self, quote: Quote<'_>) -> Result<Admitted<'_>, Failure> {
        let counts = !self.caps.is_empty() || self.own.micro_usd.is_some();
        let turn = match counts {
            // It is never closed.
            true => self.turn.acquire().await.ok(),
            false => None,
        };
        self.check_own(quote)?;
        if !self.caps.is_empty() {
            // A call before this one was stopped in the middle.
            self.close().await.map_err(|error| stored(&error))?;
            self.reserve(quote).await?;
        }
        Ok(Admitted {
            meter: self,
            _turn: turn,
        })
    }

    fn check_own(&self, quote: Quote<'_>) -> Result<(), Failure> {
        let spent = self.spent();
        let (tokens, name) = self.own.tokens;
        if spent.tokens.saturating_add(quote.prompt) >= tokens {
            return Err(limit(format!(
                "the call of the model `{}` would exceed the budget of {tokens} tokens (`{name}`): {} are used and the \
                 call has about {}",
                quote.model, spent.tokens, quote.prompt
            )));
        }
        let Some(budget) = self.own.micro_usd else {
            return Ok(());
        };
        let Some(price) = quote.price else {
            return Err(unpriced(quote, "the agent", budget, "`budget.cost_usd`"));
        };
        let cost = price.cost(&quote.usage());
        if spent.micro_usd.saturating_add(cost) > budget {
            return Err(limit(format!(
                "the call of the model `{}` would exceed the budget of {} (`budget.cost_usd`): {} are spent and the call \
                 costs about {}",
                quote.model,
                usd(budget),
                usd(spent.micro_usd),
                usd(cost),
            )));
        }
        Ok(())
    }

    async fn reserve(&self, quote: Quote<'_>) -> Result<(), Failure> {
        let money = self.caps.iter().find_map(|cap| Some((cap, cap.micro_usd?)));
        if let Some((cap, budget)) = money.filter(|_| quote.price.is_none()) {
            let whose = cap.scope.to_string();
            return Err(unpriced(quote, &whose, budget, "it is shared"));
        }
        let claims = self.caps.iter().map(|cap| BudgetClaim {
            cap: cap.clone(),
            prompt_tokens: quote.prompt,
        });
        let reserve = ReserveBudget {
            request_id: self.request_id,
            stored: self.policy != CheckpointPolicy::Never,
            claims: claims.collect(),
            prompt_tokens: quote.prompt,
            output_tokens: quote.output,
            enough_output_tokens: quote.output,
            min_output_tokens: quote.output,
            price: quote.price.map(|price| price.most(quote.prompt)),
        };
        match self.store.write(reserve).await {
            Ok(_) => {
                self.edit(|spent| spent.is_open = true);
                Ok(())
            }
            Err(StoreError::Rejected(Reject::BudgetExceeded(short))) => Err(refusal(&short)),
            Err(error) => Err(stored(&error)),
        }
    }

    /// Settles what a call has reserved that was stopped on its way, and answers what the journal says of it. To be called
    /// once no tool runs any more.
    ///
    /// # Errors
    /// The store's.
    pub(crate) async fn close(&self) -> Result<Option<EntryBody>, StoreError> {
        if !self.spent().is_open {
            return Ok(None);
        }
        self.settle(Settlement::Unknown).await?;
        Ok(Some(usage_unknown("the call of a tool was stopped")))
    }

    async fn settle(&self, used: Settlement) -> Result<(), StoreError> {
        let settle = SettleBudget {
            request_id: self.request_id,
            used,
            ends: false,
        };
        self.store.write(settle).await?;
        self.edit(|spent| spent.is_open = false);
        self.budgets.tell_settled();
        Ok(())
    }

    fn spent(&self) -> Spent {
        *self.spent.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn edit(&self, change: impl FnOnce(&mut Spent)) {
        // Each number is right at any time.
        change(&mut self.spent.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

impl Quote<'_> {
    fn usage(&self) -> Usage {
        Usage {
            input_tokens: self.prompt,
            output_tokens: self.output,
            ..Usage::default()
        }
    }
}

impl Admitted<'_> {
    /// The call has ended; answers what the journal says where nobody knows what it used.
    ///
    /// # Errors
    /// The store's.
    pub(crate) async fn ended(self, used: Settlement) -> Result<Option<EntryBody>, Failure> {
        let meter = self.meter;
        if let Settlement::Used { tokens, micro_usd } = used {
            meter.edit(|spent| {
                spent.tokens = spent.tokens.saturating_add(tokens);
                spent.micro_usd = spent.micro_usd.saturating_add(micro_usd);
            });
        }
        if !meter.spent().is_open {
            return Ok(None);
        }
        meter.settle(used).await.map_err(|error| stored(&error))?;
        let unknown = used == Settlement::Unknown;
        Ok(unknown.then(|| usage_unknown("the call of a tool broke off")))
    }
}

fn unpriced(quote: Quote<'_>, whose: &str, budget: u64, setting: &str) -> Failure {
    limit(format!(
        "{whose} has a budget of {} ({setting}) and no price by tokens is known for the model `{}` of provider `{}`: without \
         one the budget cannot be kept. Name another model, its price in `prices.toml` in the data directory, or take the \
         budget away",
        usd(budget),
        quote.model,
        quote.provider,
    ))
}

fn limit(message: String) -> Failure {
    Failure::new(ErrorCode::LimitExceeded, message)
}

fn stored(error: &StoreError) -> Failure {
    Failure::new(ErrorCode::Unavailable, error.to_string())
}
