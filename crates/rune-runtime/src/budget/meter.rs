//! What the model calls of one request's conversation reserve.

use std::sync::{Arc, Mutex};

use rune_store_runtime::{
    BudgetCap, BudgetShortage, CheckpointPolicy, EntryBody, RequestId, Settlement, Store,
    StoreError,
};
use tokio::sync::mpsc;

use super::bound::{Anchor, bound_behind};
use super::{Booking, Budgets, OwnBudget, Patience, Reservation, Spent, ToolMeter, Wanted};
use crate::model::{Candidate, LlmClient, ModelOutput, ModelRequest};

/// Output tokens with which a call does not wait for others.
const ENOUGH_OUTPUT_TOKENS: u64 = 4096;

/// Counts the model calls of one request against the budgets that it shares, if it shares
/// some, and knows how large its prompts are.
pub(crate) struct Meter {
    budgets: Arc<Budgets>,
    reservation: Arc<Reservation>,
    /// Whether anything of the request is counted in money or shared.
    counts: bool,
    /// The most tokens that the prompt of the call under way was expected to have.
    bound: u64,
    anchor: Option<Anchor>,
    /// What tools of the request have used that nobody has counted, roughly.
    uncounted: Arc<Mutex<Spent>>,
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
            counts: has_own || !caps.is_empty(),
            reservation: Arc::new(Reservation::new(budgets, store, request_id, caps, policy)),
            budgets: Arc::clone(budgets),
            bound: 0,
            anchor: None,
            uncounted: Arc::default(),
        }
    }

    /// A meter for the tools of one turn, which are under way while no call of the conversation is, and what they have
    /// committed.
    pub(crate) fn for_tools(
        &self,
        own: OwnBudget,
        booked: Spent,
    ) -> (Arc<ToolMeter>, mpsc::UnboundedReceiver<Booking>) {
        ToolMeter::new(&self.reservation, own, booked, &self.uncounted)
    }

    /// Whether there is a shared budget.
    pub(crate) fn is_shared(&self) -> bool {
        self.reservation.is_shared()
    }

    /// A shared budget in money, where there is one, with its amount.
    pub(crate) fn money(&self) -> Option<(&BudgetCap, u64)> {
        self.reservation.money()
    }

    /// The most tokens that the prompt of a call can have.
    pub(crate) fn prompt_bound(&self, candidate: &Candidate, request: &ModelRequest) -> u64 {
        bound_behind(self.anchor.as_ref(), candidate.client.provider(), request)
    }

    /// The patience of a call.
    pub(crate) fn patience(&self) -> Patience {
        self.reservation.patience()
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
        self.bound = bound;
        let wanted = Wanted {
            prompt: bound,
            estimate: call.estimate,
            output: call.output,
            enough_output: if call.waits {
                ENOUGH_OUTPUT_TOKENS
            } else {
                call.min_output
            },
            min_output: call.min_output,
            price: candidate.price.map(|price| price.most(bound)),
        };
        self.reservation.reserve(wanted).await
    }

    /// Whether the provider may charge for the call from now on.
    pub(crate) fn sent(&self, sent: bool) {
        self.reservation.sent(sent);
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
        if !self.reservation.is_open() {
            return Ok(());
        }
        if reported > self.bound {
            let known = self.budgets.excess(provider, &candidate.model);
            let excess = known.saturating_add(reported - self.bound);
            self.budgets
                .learn_excess(provider, &candidate.model, excess);
        }
        let cost = candidate.price.map(|price| price.cost(&output.usage));
        let used = Settlement::of(&output.usage, cost);
        self.reservation.answered(used).await
    }

    /// The call came to nothing. Answers what the journal says where nobody knows what it
    /// used.
    ///
    /// # Errors
    /// The store's.
    pub(crate) async fn failed(&self, is_unknown: bool) -> Result<Option<EntryBody>, StoreError> {
        self.reservation
            .failed(is_unknown, "the reply broke off")
            .await
    }

    /// The request ends, by an entry that is about to be written. Answers what the journal
    /// says where a call was stopped on its way.
    ///
    /// # Errors
    /// The store's.
    pub(crate) async fn ends(&self) -> Result<Option<EntryBody>, StoreError> {
        self.reservation.ends().await
    }
}
