//! What one request reserves and settles.

use std::sync::{Arc, Mutex};

use rune_store_runtime::{
    BudgetCap, BudgetClaim, BudgetShortage, CheckpointPolicy, EntryBody, Reject, RequestId,
    ReserveBudget, SettleBudget, Settlement, Store, StoreError,
};
use tokio::sync::{Semaphore, watch};

use super::bound::{Anchor, bound_behind};
use super::{Budgets, OwnBudget, Spent, ToolMeter, USAGE_UNKNOWN, counts_estimate};
use crate::model::{Candidate, LlmClient, ModelOutput, ModelRequest};

/// Output tokens with which a call does not wait for others.
const ENOUGH_OUTPUT_TOKENS: u64 = 4096;

/// Counts the model calls of one request against the budgets that it shares, if it shares
/// some, and knows how large its prompts are.
pub(crate) struct Meter {
    budgets: Arc<Budgets>,
    store: Store,
    request_id: RequestId,
    caps: Vec<BudgetCap>,
    policy: CheckpointPolicy,
    /// Whether anything of the request is counted in money or shared.
    counts: bool,
    /// The call under way.
    open: Option<Open>,
    anchor: Option<Anchor>,
}

#[derive(Debug, Clone, Copy)]
struct Open {
    /// The most tokens that its prompt was expected to have.
    bound: u64,
    /// Whether the provider may have got it.
    sent: bool,
}

/// A call that is about to be made.
pub(crate) struct Call<'a> {
    pub(crate) candidate: &'a Candidate,
    pub(crate) request: &'a ModelRequest,
    /// Tokens of its prompt, estimated.
    pub(crate) estimate: u64,
    /// Output tokens that it would have.
    pub(crate) output: u64,
    /// Fewer are not worth it.
    pub(crate) min_output: u64,
    /// Whether it waits for calls under way rather than have less output.
    pub(crate) waits: bool,
}

impl Meter {
    /// A meter for a request that shares these budgets, and may have one of its own.
    pub(crate) fn new(
        budgets: &Arc<Budgets>,
        store: &Store,
        request_id: RequestId,
        caps: Vec<BudgetCap>,
        policy: CheckpointPolicy,
        has_own: bool,
    ) -> Self {
        Self {
            budgets: Arc::clone(budgets),
            store: store.clone(),
            request_id,
            counts: has_own || !caps.is_empty(),
            caps,
            policy,
            open: None,
            anchor: None,
        }
    }

    /// A meter for the tools of one turn, which are under way while no call of the conversation is.
    pub(crate) fn for_tools(&self, own: OwnBudget, spent: Spent) -> ToolMeter {
        ToolMeter {
            budgets: Arc::clone(&self.budgets),
            store: self.store.clone(),
            request_id: self.request_id,
            caps: self.caps.clone(),
            policy: self.policy,
            own,
            turn: Semaphore::new(1),
            spent: Mutex::new(spent),
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

    /// The most tokens that the prompt of a call can have.
    pub(crate) fn prompt_bound(&self, candidate: &Candidate, request: &ModelRequest) -> u64 {
        bound_behind(self.anchor.as_ref(), candidate.client.provider(), request)
    }

    /// Changes when a call of any request is settled.
    pub(crate) fn settled(&self) -> watch::Receiver<()> {
        self.budgets.settled()
    }

    /// Reserves what a call can use at the most and answers the output tokens it may have;
    /// the inner error is why it may not be made.
    ///
    /// # Errors
    /// The store's.
    pub(crate) async fn reserve(
        &mut self,
        call: &Call<'_>,
    ) -> Result<Result<u64, Box<BudgetShortage>>, StoreError> {
        let candidate = call.candidate;
        let provider = candidate.client.provider();
        let bound = self
            .prompt_bound(candidate, call.request)
            .saturating_add(self.budgets.excess(provider, &candidate.model));
        let claims = self.caps.iter().map(|cap| BudgetClaim {
            cap: cap.clone(),
            prompt_tokens: if counts_estimate(cap) {
                call.estimate
            } else {
                bound
            },
        });
        let reserve = ReserveBudget {
            request_id: self.request_id,
            stored: self.policy != CheckpointPolicy::Never,
            claims: claims.collect(),
            prompt_tokens: bound,
            output_tokens: call.output,
            enough_output_tokens: if call.waits {
                ENOUGH_OUTPUT_TOKENS
            } else {
                call.min_output
            },
            min_output_tokens: call.min_output,
            price: candidate.price.map(|price| price.most(bound)),
        };
        match self.store.write(reserve).await {
            Ok(output) => {
                let sent = false;
                self.open = Some(Open { bound, sent });
                Ok(Ok(output))
            }
            Err(StoreError::Rejected(Reject::BudgetExceeded(short))) => Ok(Err(short)),
            Err(error) => Err(error),
        }
    }

    /// From now on the provider may charge for the call.
    pub(crate) fn sent(&mut self) {
        if let Some(open) = &mut self.open {
            open.sent = true;
        }
    }

    /// The call was answered. With `each_step` the entry of the reply settles it; here the
    /// other policies do.
    ///
    /// # Errors
    /// The store's.
    pub(crate) async fn answered(
        &mut self,
        candidate: &Candidate,
        request: &ModelRequest,
        output: &ModelOutput,
    ) -> Result<(), StoreError> {
        if !self.counts {
            return Ok(());
        }
        let provider = candidate.client.provider();
        let reported = output.usage.input_tokens;
        self.anchor = Some(reported)
            .filter(|reported| *reported > 0)
            .and_then(|reported| Anchor::new(provider, request, reported));
        let Some(open) = self.open.take() else {
            return Ok(());
        };
        if reported > open.bound {
            let known = self.budgets.excess(provider, &candidate.model);
            let excess = known.saturating_add(reported - open.bound);
            self.budgets
                .learn_excess(provider, &candidate.model, excess);
        }
        if self.policy == CheckpointPolicy::EachStep {
            return Ok(());
        }
        let cost = candidate.price.map(|price| price.cost(&output.usage));
        self.settle(Settlement::of(&output.usage, cost)).await
    }

    /// The call came to nothing. Answers what the journal says where nobody knows what it
    /// used.
    ///
    /// # Errors
    /// The store's.
    pub(crate) async fn failed(
        &mut self,
        may_be_charged: bool,
    ) -> Result<Option<EntryBody>, StoreError> {
        if self.open.take().is_none() {
            return Ok(None);
        }
        if may_be_charged {
            self.settle(Settlement::Unknown).await?;
            return Ok(Some(usage_unknown("the reply broke off")));
        }
        self.settle(Settlement::Nothing).await?;
        Ok(None)
    }

    /// The request ends, by an entry that is about to be written. Answers what the journal
    /// says where a call was stopped on its way.
    ///
    /// # Errors
    /// The store's.
    pub(crate) async fn ends(&mut self) -> Result<Option<EntryBody>, StoreError> {
        let open = self.open.take();
        let unknown = open.is_some_and(|open| open.sent);
        let used = if unknown {
            Settlement::Unknown
        } else {
            Settlement::Nothing
        };
        if self.policy == CheckpointPolicy::Never && self.is_shared() {
            let ends = SettleBudget {
                request_id: self.request_id,
                used,
                ends: true,
            };
            self.store.write(ends).await?;
            self.budgets.tell_settled();
        } else if open.is_some() && !unknown {
            self.settle(used).await?;
        }
        Ok(unknown.then(|| usage_unknown("the call was stopped")))
    }

    async fn settle(&self, used: Settlement) -> Result<(), StoreError> {
        let settle = SettleBudget {
            request_id: self.request_id,
            used,
            ends: false,
        };
        self.store.write(settle).await?;
        self.budgets.tell_settled();
        Ok(())
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
