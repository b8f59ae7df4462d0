//! The one reservation that a request has while a call of a model is under way.

use std::sync::{Arc, Mutex, PoisonError};

use rune_store_runtime::{
    BudgetCap, BudgetClaim, BudgetShortage, CallPrice, CheckpointPolicy, EntryBody, Reject,
    RequestId, ReserveBudget, SettleBudget, Settlement, Store, StoreError,
};

use super::{Budgets, Patience, USAGE_UNKNOWN, counts_estimate};

/// Reserves and settles with the budgets that a request shares. Whoever is stopped in the middle of either leaves it open, and
/// [`close`](Reservation::close) settles it then: nothing stays reserved, whatever was written.
pub(crate) struct Reservation {
    budgets: Arc<Budgets>,
    store: Store,
    request_id: RequestId,
    caps: Vec<BudgetCap>,
    policy: CheckpointPolicy,
    open: Mutex<Option<Open>>,
}

/// A call that has reserved something, or may have.
#[derive(Debug, Clone, Copy, Default)]
struct Open {
    /// Whether the provider may have got it.
    sent: bool,
    /// What it has used, once that is known.
    used: Option<Settlement>,
}

impl Open {
    fn used(self) -> Settlement {
        let stopped = match self.sent {
            true => Settlement::Unknown,
            false => Settlement::Nothing,
        };
        self.used.unwrap_or(stopped)
    }
}

/// What a call reserves.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Wanted {
    /// Tokens of its prompt at the most.
    pub(crate) prompt: u64,
    /// Tokens of its prompt as the budgets count them that a request has to itself.
    pub(crate) estimate: u64,
    /// Output tokens that it would have.
    pub(crate) output: u64,
    /// Output tokens with which it does not wait for others.
    pub(crate) enough_output: u64,
    /// Fewer are not worth it.
    pub(crate) min_output: u64,
    pub(crate) price: Option<CallPrice>,
}

impl Reservation {
    /// For a request that shares these budgets.
    pub(super) fn new(
        budgets: &Arc<Budgets>,
        store: &Store,
        request_id: RequestId,
        caps: Vec<BudgetCap>,
        policy: CheckpointPolicy,
    ) -> Self {
        Self {
            budgets: Arc::clone(budgets),
            store: store.clone(),
            request_id,
            caps,
            policy,
            open: Mutex::default(),
        }
    }

    /// Whether there is a shared budget.
    pub(crate) const fn is_shared(&self) -> bool {
        !self.caps.is_empty()
    }

    /// A shared budget in money, where there is one, with its amount.
    pub(crate) fn money(&self) -> Option<(&BudgetCap, u64)> {
        self.caps.iter().find_map(|cap| Some((cap, cap.micro_usd?)))
    }

    /// The patience of a call that may have to wait.
    pub(crate) fn patience(&self) -> Patience {
        Patience::new(self.budgets.settled())
    }

    /// Reserves what a call can use and answers the output tokens it may have; the inner error is why it may not be made.
    ///
    /// # Errors
    /// The store's.
    pub(crate) async fn reserve(
        &self,
        wanted: Wanted,
    ) -> Result<Result<u64, Box<BudgetShortage>>, StoreError> {
        let claims = self.caps.iter().map(|cap| BudgetClaim {
            cap: cap.clone(),
            prompt_tokens: if counts_estimate(cap) {
                wanted.estimate
            } else {
                wanted.prompt
            },
        });
        let reserve = ReserveBudget {
            request_id: self.request_id,
            stored: self.policy != CheckpointPolicy::Never,
            claims: claims.collect(),
            prompt_tokens: wanted.prompt,
            output_tokens: wanted.output,
            enough_output_tokens: wanted.enough_output,
            min_output_tokens: wanted.min_output,
            price: wanted.price,
        };
        // Before it is written: who stops this cannot know whether it was.
        self.set(Some(Open::default()));
        match self.store.write(reserve).await {
            Ok(output) => Ok(Ok(output)),
            Err(StoreError::Rejected(reject)) => {
                self.set(None);
                match reject {
                    Reject::BudgetExceeded(short) => Ok(Err(short)),
                    reject => Err(reject.into()),
                }
            }
            Err(error) => Err(error),
        }
    }

    /// Whether the provider may have got the call, and charge for it, from now on.
    pub(crate) fn sent(&self, sent: bool) {
        if let Some(open) = self.lock().as_mut() {
            open.sent = sent;
        }
    }

    pub(crate) fn is_open(&self) -> bool {
        self.lock().is_some()
    }

    /// The call was answered. With `each_step` the entry of the answer settles it; here the other policies do.
    ///
    /// # Errors
    /// The store's.
    pub(crate) async fn answered(&self, used: Settlement) -> Result<(), StoreError> {
        if self.policy == CheckpointPolicy::EachStep {
            self.set(None);
            return Ok(());
        }
        self.settle(used).await
    }

    /// The call came to nothing. Answers what the journal says where nobody knows what it used.
    ///
    /// # Errors
    /// The store's.
    pub(crate) async fn failed(
        &self,
        is_unknown: bool,
        why: &str,
    ) -> Result<Option<EntryBody>, StoreError> {
        if !self.is_open() {
            return Ok(None);
        }
        if is_unknown {
            self.settle(Settlement::Unknown).await?;
            return Ok(Some(usage_unknown(why)));
        }
        self.settle(Settlement::Nothing).await?;
        Ok(None)
    }

    /// Settles what is open, where a call was stopped on its way. Answers what the journal says of it.
    ///
    /// # Errors
    /// The store's.
    pub(crate) async fn close(&self, why: &str) -> Result<Option<EntryBody>, StoreError> {
        let Some(open) = *self.lock() else {
            return Ok(None);
        };
        let used = open.used();
        self.settle(used).await?;
        Ok((used == Settlement::Unknown).then(|| usage_unknown(why)))
    }

    /// The request ends, by an entry that is about to be written. Answers what the journal says where a call was stopped on
    /// its way.
    ///
    /// # Errors
    /// The store's.
    pub(crate) async fn ends(&self) -> Result<Option<EntryBody>, StoreError> {
        let open = *self.lock();
        let used = open.map_or(Settlement::Nothing, Open::used);
        if self.policy == CheckpointPolicy::Never && self.is_shared() {
            self.write(used, true).await?;
        } else if used != Settlement::Unknown {
            // What is unknown is settled by the entry.
            self.settle(used).await?;
        }
        self.set(None);
        Ok((used == Settlement::Unknown).then(|| usage_unknown("the call was stopped")))
    }

    async fn settle(&self, used: Settlement) -> Result<(), StoreError> {
        match self.lock().as_mut() {
            // Who stops this leaves it to be settled by the same.
            Some(open) => open.used = Some(used),
            None => return Ok(()),
        }
        self.write(used, false).await?;
        self.set(None);
        Ok(())
    }

    async fn write(&self, used: Settlement, ends: bool) -> Result<(), StoreError> {
        let settle = SettleBudget {
            request_id: self.request_id,
            used,
            ends,
        };
        self.store.write(settle).await?;
        self.budgets.tell_settled();
        Ok(())
    }

    fn set(&self, open: Option<Open>) {
        *self.lock() = open;
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Open>> {
        // Every state of it is a valid one.
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What the journal says of a call whose outcome nobody knows.
pub(crate) fn usage_unknown(why: &str) -> EntryBody {
    EntryBody::Notice {
        code: USAGE_UNKNOWN.to_owned(),
        message: format!(
            "{why}, and what the provider charges for it is not known: all that the call had reserved is counted \
             against the budgets"
        ),
    }
}
