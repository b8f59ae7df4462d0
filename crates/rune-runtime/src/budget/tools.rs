//! What the calls of models may cost that tools make, beside those of the conversation.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use rune_store_runtime::{
    EntryBody, ErrorCode, Failure, Settlement, StoreError, ToolModelCall, Usage,
};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};

use super::{Patience, Reservation, Wanted, refusal, usage_unknown, usd};
use crate::model::{CallStep, Price};

/// Counts the calls of the tools of one turn, and tells the journal of them.
pub(crate) struct ToolMeter {
    reservation: Arc<Reservation>,
    own: OwnBudget,
    /// A request has one reservation, so one call at a time is under way where something is counted.
    turn: Arc<Semaphore>,
    /// What the journal has of the request.
    booked: Mutex<Spent>,
    /// What tools of the request have used that nobody has counted, roughly.
    uncounted: Arc<Mutex<Spent>>,
    journal: mpsc::UnboundedSender<Booking>,
}

/// The budgets that a request has to itself.
#[derive(Debug, Clone, Copy)]
pub(crate) struct OwnBudget {
    /// Tokens, and the name of the setting.
    pub(crate) tokens: (u64, &'static str),
    /// Millionths of a US dollar.
    pub(crate) micro_usd: Option<u64>,
}

/// What calls have used.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Spent {
    pub(crate) tokens: u64,
    pub(crate) micro_usd: u64,
}

impl Spent {
    const fn and(self, more: Self) -> Self {
        Self {
            tokens: self.tokens.saturating_add(more.tokens),
            micro_usd: self.micro_usd.saturating_add(more.micro_usd),
        }
    }
}

/// A call of a model that a tool wants to make.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Quote<'a> {
    pub(crate) provider: &'a str,
    pub(crate) model: &'a str,
    pub(crate) price: Option<Price>,
    /// Whether the provider says how many tokens such a call has used.
    pub(crate) is_counted: bool,
    /// Tokens that it is sent, roughly.
    pub(crate) prompt: u64,
    /// Tokens that it answers, roughly.
    pub(crate) output: u64,
}

/// Something that the planner commits while tools run.
pub(crate) struct Booking {
    /// What is committed.
    pub(crate) entries: Vec<EntryBody>,
    /// The call that the entries settle. It keeps its turn until they are committed.
    settles: Option<(Admitted, Settlement)>,
    done: oneshot::Sender<()>,
}

impl Booking {
    /// The entries are committed.
    ///
    /// # Errors
    /// The store's, where they settle nothing by themselves.
    pub(crate) async fn committed(self) -> Result<(), StoreError> {
        if let Some((admitted, used)) = self.settles {
            admitted.meter.reservation.answered(used).await?;
        }
        // Who waits for it may have been stopped.
        let _ = self.done.send(());
        Ok(())
    }
}

impl ToolMeter {
    /// For a request that has used so much, with the end at which bookings come.
    pub(super) fn new(
        reservation: &Arc<Reservation>,
        own: OwnBudget,
        booked: Spent,
        uncounted: &Arc<Mutex<Spent>>,
    ) -> (Arc<Self>, mpsc::UnboundedReceiver<Booking>) {
        let (journal, bookings) = mpsc::unbounded_channel();
        let meter = Self {
            reservation: Arc::clone(reservation),
            own,
            turn: Arc::new(Semaphore::new(1)),
            booked: Mutex::new(booked),
            uncounted: Arc::clone(uncounted),
            journal,
        };
        (Arc::new(meter), bookings)
    }

    /// The patience of a tool's call.
    pub(crate) fn patience(&self) -> Patience {
        self.reservation.patience()
    }

    /// Lets a call be made within every budget, and reserves what it uses, roughly, where a budget is shared. Where calls of
    /// others have reserved what it needs it waits for them.
    ///
    /// # Errors
    /// Which budget does not allow it (`limit_exceeded`); the store's.
    pub(crate) async fn admit(
        self: &Arc<Self>,
        quote: Quote<'_>,
        patience: &mut Patience,
    ) -> Result<Admitted, Failure> {
        let is_shared = self.reservation.is_shared();
        let turn = match is_shared || self.own.micro_usd.is_some() {
            // It is never closed.
            true => Arc::clone(&self.turn).acquire_owned().await.ok(),
            false => None,
        };
        self.check_own(quote)?;
        if is_shared {
            // A call before this one was stopped in the middle.
            if let Some(unknown) = self.close().await.map_err(|error| stored(&error))? {
                self.note(unknown);
            }
            self.reserve(quote, patience).await?;
        }
        Ok(Admitted {
            meter: Arc::clone(self),
            estimate: Spent {
                tokens: quote.prompt.saturating_add(quote.output),
                micro_usd: quote.price.map_or(0, |price| price.cost(&quote.usage())),
            },
            is_sent: AtomicBool::new(false),
            is_ended: false,
            _turn: turn,
        })
    }

    fn check_own(&self, quote: Quote<'_>) -> Result<(), Failure> {
        let spent = read(&self.booked).and(read(&self.uncounted));
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

    async fn reserve(&self, quote: Quote<'_>, patience: &mut Patience) -> Result<(), Failure> {
        let money = self.reservation.money();
        if let Some((cap, budget)) = money.filter(|_| quote.price.is_none()) {
            let whose = cap.scope.to_string();
            return Err(unpriced(quote, &whose, budget, "it is shared"));
        }
        let wanted = Wanted {
            prompt: quote.prompt,
            estimate: quote.prompt,
            output: quote.output,
            enough_output: quote.output,
            min_output: quote.output,
            price: quote.price.map(|price| price.most(quote.prompt)),
        };
        loop {
            let waits = patience.lasts();
            let reserved = self.reservation.reserve(wanted).await;
            let short = match reserved.map_err(|error| stored(&error))? {
                Ok(_) => return Ok(()),
                Err(short) => short,
            };
            if !short.held || !waits {
                return Err(refusal(&short));
            }
            if let Some(notice) = patience.notice(&short) {
                self.note(notice);
            }
            patience.wait().await;
        }
    }

    /// Has something committed, and waits for that.
    ///
    /// # Errors
    /// The request ends, and nothing is committed any more.
    pub(crate) async fn tell(&self, entry: EntryBody) -> Result<(), Failure> {
        self.book(vec![entry], None).await
    }

    /// Has something committed without waiting for it.
    pub(crate) fn note(&self, entry: EntryBody) {
        let (done, _) = oneshot::channel();
        let booking = Booking {
            entries: vec![entry],
            settles: None,
            done,
        };
        // Where nobody takes it, the request has ended.
        let _ = self.journal.send(booking);
    }

    async fn book(
        &self,
        entries: Vec<EntryBody>,
        settles: Option<(Admitted, Settlement)>,
    ) -> Result<(), Failure> {
        let (done, committed) = oneshot::channel();
        let booking = Booking {
            entries,
            settles,
            done,
        };
        let ended = || Failure::new(ErrorCode::Unavailable, "the request ends");
        self.journal.send(booking).map_err(|_| ended())?;
        committed.await.map_err(|_| ended())
    }

    /// Settles what a call has reserved that was stopped on its way, and answers what the journal says of it.
    ///
    /// # Errors
    /// The store's.
    pub(crate) async fn close(&self) -> Result<Option<EntryBody>, StoreError> {
        let why = "the call of a model that a tool made was stopped";
        self.reservation.close(why).await
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

/// A call that may be made. Dropped before its end, nobody knows what it has used, unless it was not sent.
pub(crate) struct Admitted {
    meter: Arc<ToolMeter>,
    /// What it uses, roughly.
    estimate: Spent,
    is_sent: AtomicBool,
    is_ended: bool,
    _turn: Option<OwnedSemaphorePermit>,
}

impl Admitted {
    /// How far the call is.
    pub(crate) fn step(&self, step: CallStep) {
        let is_sent = step == CallStep::Sent;
        self.is_sent.store(is_sent, Ordering::Relaxed);
        self.meter.reservation.sent(is_sent);
    }

    /// The model has answered. Returns once that is committed, and what it has used with it.
    ///
    /// # Errors
    /// The request ends.
    pub(crate) async fn answered(mut self, call: ToolModelCall) -> Result<(), Failure> {
        let body = EntryBody::ModelCalled(Box::new(call));
        let used = body.billed().map(|billed| billed.settlement);
        let used = used.unwrap_or(Settlement::Unknown);
        let meter = Arc::clone(&self.meter);
        self.is_ended = true;
        let mut entries = vec![body];
        if let Settlement::Used { tokens, micro_usd } = used {
            add(&meter.booked, Spent { tokens, micro_usd });
        } else {
            add(&meter.uncounted, self.estimate);
            if meter.reservation.is_open() {
                entries.push(usage_unknown("the provider has not counted a call"));
            }
        }
        meter.book(entries, Some((self, used))).await
    }

    /// The call came to nothing.
    ///
    /// # Errors
    /// The store's.
    pub(crate) async fn failed(mut self, is_unknown: bool) -> Result<(), Failure> {
        self.is_ended = true;
        if is_unknown {
            add(&self.meter.uncounted, self.estimate);
        }
        let settled = self
            .meter
            .reservation
            .failed(is_unknown, "the call of a model that a tool made broke off");
        if let Some(unknown) = settled.await.map_err(|error| stored(&error))? {
            self.meter.note(unknown);
        }
        Ok(())
    }
}

impl Drop for Admitted {
    fn drop(&mut self) {
        if !self.is_ended && *self.is_sent.get_mut() {
            add(&self.meter.uncounted, self.estimate);
        }
    }
}

fn read(spent: &Mutex<Spent>) -> Spent {
    // Each number is right at any time.
    *spent.lock().unwrap_or_else(PoisonError::into_inner)
}

fn add(spent: &Mutex<Spent>, more: Spent) {
    let mut spent = spent.lock().unwrap_or_else(PoisonError::into_inner);
    *spent = spent.and(more);
}

fn unpriced(quote: Quote<'_>, whose: &str, budget: u64, setting: &str) -> Failure {
    let (problem, help) = if quote.is_counted {
        (
            "no price by tokens is known for",
            "Name its price in `prices.toml` in the data directory, or another model",
        )
    } else {
        (
            "nobody says how many tokens are used by",
            "Name a model of another provider for it in `models.model_mapping`",
        )
    };
    limit(format!(
        "{whose} has a budget of {} ({setting}) and {problem} the model `{}` of provider `{}`: without that the budget \
         cannot be kept. {help}, or take the budget away",
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

#[cfg(test)]
mod tests {
    use futures_util::poll;
    use rune_store_runtime::{
        BudgetCap, BudgetFilter, BudgetScope, CheckpointPolicy, ModelCall, PageRequest, RequestId,
        Store, SystemClock,
    };
    use rune_testkit::store::FakeStore;

    use super::*;
    use crate::budget::{Budgets, Meter, USAGE_UNKNOWN};
    use crate::model::Prices;

    /// What a call uses, roughly.
    const TOKENS: u64 = 300;
    /// And what that costs, in millionths of a US dollar.
    const COST: u64 = 500;

    struct Rig {
        store: Store,
        meter: Arc<ToolMeter>,
        bookings: mpsc::UnboundedReceiver<Booking>,
        price: Option<Price>,
    }

    impl Rig {
        /// A request with a budget that it shares, and one of its own.
        fn new(shared: Option<u64>, own: Option<u64>) -> Self {
            let store = Store::new(Arc::new(FakeStore::new()), Arc::new(SystemClock));
            let cap = |tokens| BudgetCap {
                scope: BudgetScope::Caller("ann".to_owned()),
                tokens: Some(tokens),
                micro_usd: None,
            };
            let meter = Meter::new(
                &Arc::new(Budgets::default()),
                &store,
                RequestId::generate(),
                shared.map(cap).into_iter().collect(),
                CheckpointPolicy::Never,
                true,
            );
            let own = OwnBudget {
                tokens: (1_000_000, "models.token_budget"),
                micro_usd: own,
            };
            let (meter, bookings) = meter.for_tools(own, Spent::default());
            let mut prices = Prices::default();
            let priced = "[models]\npainter = { input = 1, output = 2 }\n";
            prices.add("here", priced).unwrap();
            Self {
                store,
                meter,
                bookings,
                price: prices.price("p", "painter"),
            }
        }

        async fn admit(&self) -> Result<Admitted, Failure> {
            let quote = Quote {
                provider: "p",
                model: "painter",
                price: self.price,
                is_counted: true,
                prompt: TOKENS - 200,
                output: 200,
            };
            self.meter.admit(quote, &mut self.meter.patience()).await
        }

        /// Tokens that are spent, and reserved.
        async fn balance(&self) -> (u64, u64) {
            let page = PageRequest::default();
            let rows = self.store.budgets(&BudgetFilter::default(), &page).await;
            let row = rows.unwrap().items.pop().unwrap();
            (row.spent_tokens, row.reserved_tokens)
        }

        /// The codes of the notices that were booked.
        fn noted(&mut self) -> Vec<String> {
            let mut codes = Vec::new();
            while let Ok(booking) = self.bookings.try_recv() {
                codes.extend(booking.entries.into_iter().filter_map(|entry| match entry {
                    EntryBody::Notice { code, .. } => Some(code),
                    _ => None,
                }));
            }
            codes
        }
    }

    fn called(counted: bool) -> ToolModelCall {
        ToolModelCall {
            step: 1,
            call_id: "c".to_owned(),
            call: ModelCall {
                provider: "p".to_owned(),
                model: "painter".to_owned(),
                usage: Usage::default(),
                cost_micro_usd: counted.then_some(0),
                duration_ms: 1,
            },
            counted,
        }
    }

    #[tokio::test]
    async fn a_call_that_is_stopped_while_it_reserves_leaves_nothing_behind() {
        let mut rig = Rig::new(Some(10_000), None);
        {
            let mut admit = Box::pin(rig.admit());
            assert!(poll!(&mut admit).is_pending());
        }
        assert_eq!(rig.balance().await, (0, TOKENS), "it was written");
        let next = rig.admit().await.unwrap();
        assert_eq!(rig.balance().await, (0, TOKENS));
        next.failed(false).await.unwrap();
        assert_eq!(rig.balance().await, (0, 0));
        assert_eq!(rig.noted(), [""; 0]);
    }

    #[tokio::test]
    async fn what_is_stopped_counts_in_full_once_it_was_sent() {
        let mut rig = Rig::new(Some(10_000), None);
        // It has waited for the provider all the time.
        drop(rig.admit().await.unwrap());
        let sent = rig.admit().await.unwrap();
        assert_eq!(rig.balance().await, (0, TOKENS));
        sent.step(CallStep::Sent);
        drop(sent);
        let next = rig.admit().await.unwrap();
        assert_eq!(rig.balance().await, (TOKENS, TOKENS));
        assert_eq!(rig.noted(), [USAGE_UNKNOWN]);
        next.step(CallStep::Sent);
        next.failed(true).await.unwrap();
        assert_eq!(rig.balance().await, (2 * TOKENS, 0));
        assert_eq!(rig.noted(), [USAGE_UNKNOWN]);
    }

    #[tokio::test]
    async fn the_budget_of_a_request_counts_what_nobody_has_counted() {
        // How a call ends, and whether there is money for another one.
        for (end, goes_on) in [
            ("unsent", true),
            ("refused", true),
            ("stopped", false),
            ("broken", false),
            ("uncounted", false),
        ] {
            let mut rig = Rig::new(None, Some(2 * COST - 1));
            let admitted = rig.admit().await.unwrap();
            if end != "unsent" {
                admitted.step(CallStep::Sent);
            }
            match end {
                "unsent" | "stopped" => drop(admitted),
                "uncounted" => {
                    let answered = admitted.answered(called(false));
                    let (answered, ()) = tokio::join!(answered, async {
                        let booking = rig.bookings.recv().await.unwrap();
                        booking.committed().await.unwrap();
                    });
                    answered.unwrap();
                }
                end => admitted.failed(end == "broken").await.unwrap(),
            }
            let next = rig.admit().await.err();
            assert_eq!(next.is_none(), goes_on, "{end}: {next:?}");
        }
    }

    #[tokio::test]
    async fn the_next_call_waits_until_the_one_before_is_committed() {
        let mut rig = Rig::new(Some(10_000), None);
        let first = rig.admit().await.unwrap();
        first.step(CallStep::Sent);
        let mut answered = Box::pin(first.answered(called(true)));
        assert!(poll!(&mut answered).is_pending());
        // Whatever becomes of the tool.
        drop(answered);
        let booking = rig.bookings.recv().await.unwrap();
        {
            let mut next = Box::pin(rig.admit());
            assert!(poll!(&mut next).is_pending());
        }
        assert_eq!(rig.balance().await, (0, TOKENS));
        booking.committed().await.unwrap();
        assert_eq!(rig.balance().await, (0, 0));
        drop(rig.admit().await.unwrap());
    }
}
