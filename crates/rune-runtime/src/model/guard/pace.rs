//! How fast a provider is called.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rune_env::ProviderLimits;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, sleep, sleep_until};

use super::bucket::Bucket;
use super::{ProviderWait, WaitReason};

/// A wait longer than this is told to whoever waits.
const TOLD_AFTER: Duration = Duration::from_secs(1);
/// Calls that the provider has put off are spread over this time at the most.
const SPREAD: Duration = Duration::from_secs(1);
/// Longest time for which a provider is believed that it wants no call.
const LONGEST_HOLD: Duration = Duration::from_secs(15 * 60);
/// The part of a minute's requests that may be sent at once.
const BURST: f64 = 0.1;

/// The limits of one provider, shared by every call to it. Calls go out in the order in
/// which they came; one that is dropped while it waits gives its place up.
#[derive(Debug)]
pub(super) struct Pace {
    /// Held by the call that is next.
    turn: tokio::sync::Mutex<()>,
    slots: Option<Arc<Semaphore>>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    requests: Option<Bucket>,
    tokens: Option<Bucket>,
    /// Until then the provider wants no calls.
    hold: Option<Instant>,
    /// What the next call waits for, and until when.
    next: Option<(WaitReason, Instant)>,
}

impl Pace {
    pub(super) fn new(limits: &ProviderLimits) -> Self {
        let now = Instant::now();
        let requests = limits.requests_per_minute.map(|rate| {
            let at_once = (f64::from(rate.get()) * BURST).max(1.0);
            Bucket::new(rate.get(), at_once, now)
        });
        let tokens = limits
            .tokens_per_minute
            .map(|rate| Bucket::new(rate.get(), f64::from(rate.get()), now));
        let slots = limits.max_concurrent.map(|slots| {
            let slots = usize::try_from(slots.get()).unwrap_or(Semaphore::MAX_PERMITS);
            Arc::new(Semaphore::new(slots.min(Semaphore::MAX_PERMITS)))
        });
        Self {
            turn: tokio::sync::Mutex::new(()),
            slots,
            state: Mutex::new(State {
                requests,
                tokens,
                hold: None,
                next: None,
            }),
        }
    }

    /// Whether tokens have to be estimated.
    pub(super) fn counts_tokens(&self) -> bool {
        self.lock().tokens.is_some()
    }

    /// Waits until a call of about `tokens` tokens may be sent. The permit is held until
    /// the reply has ended. `jitter` is from 0 to 1.
    ///
    /// # Errors
    /// The time that is left where the provider wants no call for longer than `max_hold`.
    pub(super) async fn admit(
        &self,
        tokens: u64,
        jitter: f64,
        max_hold: Duration,
        on_wait: &(dyn Fn(ProviderWait) + Send + Sync),
    ) -> Result<Option<OwnedSemaphorePermit>, Duration> {
        let pass = Box::pin(self.pass(tokens, jitter, max_hold));
        tokio::pin!(pass);
        tokio::select! {
            biased;
            passed = &mut pass => return passed,
            () = sleep(TOLD_AFTER) => on_wait(self.waits_for()),
        }
        pass.await
    }

    /// The provider wants no call for `wait`; every call waits.
    pub(super) fn hold(&self, wait: Duration) {
        let until = Instant::now() + wait.min(LONGEST_HOLD);
        let mut state = self.lock();
        state.hold = state.hold.max(Some(until));
    }

    /// A call that was taken for `estimated` tokens used `used`.
    pub(super) fn settle(&self, estimated: u64, used: u64) {
        if let Some(bucket) = &mut self.lock().tokens {
            bucket.take(units(used) - units(estimated));
        }
    }

    async fn pass(
        &self,
        tokens: u64,
        jitter: f64,
        max_hold: Duration,
    ) -> Result<Option<OwnedSemaphorePermit>, Duration> {
        let came = Instant::now();
        let permit = match &self.slots {
            // It is never closed.
            Some(slots) => Arc::clone(slots).acquire_owned().await.ok(),
            None => None,
        };
        let _turn = self.turn.lock().await;
        loop {
            let now = Instant::now();
            let Some((reason, until)) = self.lock().step(tokens, jitter, came, now) else {
                return Ok(permit);
            };
            if reason == WaitReason::Asked && until - now > max_hold {
                return Err(until - now);
            }
            sleep_until(until).await;
        }
    }

    fn waits_for(&self) -> ProviderWait {
        let next = self.lock().next;
        let now = Instant::now();
        match next.filter(|(_, until)| *until > now) {
            Some((reason, until)) => ProviderWait {
                reason,
                at_least: Some(until - now),
            },
            None => ProviderWait {
                reason: WaitReason::Concurrent,
                at_least: None,
            },
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Lets the next call go, or says what it waits for and until when.
    fn step(
        &mut self,
        tokens: u64,
        jitter: f64,
        came: Instant,
        now: Instant,
    ) -> Option<(WaitReason, Instant)> {
        self.next = self.blocked(tokens, jitter, came, now);
        if self.next.is_none() {
            self.take(tokens);
        }
        self.next
    }

    /// What keeps a call from being sent now, and until when.
    fn blocked(
        &mut self,
        tokens: u64,
        jitter: f64,
        came: Instant,
        now: Instant,
    ) -> Option<(WaitReason, Instant)> {
        if let Some(hold) = self.hold {
            // What waits for the same moment does not go out in the same moment.
            let spread = hold.saturating_duration_since(came).min(SPREAD);
            let until = hold + spread.mul_f64(jitter);
            if until > now {
                return Some((WaitReason::Asked, until));
            }
        }
        let requests = self.requests.as_mut().map(|it| it.ready_at(1.0, now));
        let tokens = self
            .tokens
            .as_mut()
            .map(|it| it.ready_at(units(tokens), now));
        [
            (WaitReason::Requests, requests),
            (WaitReason::Tokens, tokens),
        ]
        .into_iter()
        .filter_map(|(reason, at)| Some((reason, at?)))
        .filter(|(_, at)| *at > now)
        .max_by_key(|(_, at)| *at)
    }

    fn take(&mut self, tokens: u64) {
        if let Some(bucket) = &mut self.requests {
            bucket.take(1.0);
        }
        if let Some(bucket) = &mut self.tokens {
            bucket.take(units(tokens));
        }
    }
}

#[expect(
    clippy::cast_precision_loss,
    reason = "a limit of tokens does not need more than 52 bits"
)]
fn units(tokens: u64) -> f64 {
    tokens as f64
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU32;

    use futures_util::future::join_all;

    use super::*;

    fn limits(edit: impl Fn(&mut ProviderLimits)) -> Pace {
        let mut limits = ProviderLimits::default();
        edit(&mut limits);
        Pace::new(&limits)
    }

    async fn admit(pace: &Pace, tokens: u64) -> Option<OwnedSemaphorePermit> {
        let long = Duration::from_secs(600);
        pace.admit(tokens, 0.5, long, &|_| ()).await.unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn requests_are_spread_over_the_minute() {
        let pace = limits(|it| it.requests_per_minute = NonZeroU32::new(60));
        let started = Instant::now();
        join_all((0..66).map(|_| admit(&pace, 0))).await;
        let took = started.elapsed().as_secs();
        assert!((60..=61).contains(&took), "{took}");
    }

    #[tokio::test(start_paused = true)]
    async fn tokens_count_as_they_were_used() {
        let pace = limits(|it| it.tokens_per_minute = NonZeroU32::new(600));
        let started = Instant::now();
        admit(&pace, 100).await;
        pace.settle(100, 900);
        admit(&pace, 100).await;
        assert_eq!(started.elapsed().as_secs(), 40);
    }

    #[tokio::test(start_paused = true)]
    async fn only_so_many_at_a_time() {
        let pace = limits(|it| it.max_concurrent = NonZeroU32::new(1));
        let first = admit(&pace, 0).await;
        let told = Mutex::new(None);
        let note = |wait| *told.lock().unwrap() = Some(wait);
        let second = pace.admit(0, 0.0, Duration::ZERO, &note);
        let free = async {
            sleep(Duration::from_secs(5)).await;
            drop(first);
        };
        let (second, ()) = tokio::join!(second, free);
        assert!(second.unwrap().is_some());
        let told = told.lock().unwrap().unwrap();
        assert_eq!(told.reason, WaitReason::Concurrent);
    }

    #[tokio::test(start_paused = true)]
    async fn every_call_waits_until_the_provider_wants_one() {
        let pace = limits(|_| ());
        let started = Instant::now();
        pace.hold(Duration::from_secs(10));
        // A shorter one does not shorten it.
        pace.hold(Duration::from_secs(2));
        let told = Mutex::new(Vec::new());
        let note = |wait: ProviderWait| told.lock().unwrap().push(wait);
        let long = Duration::from_secs(60);
        let calls = (0..4_u8).map(|n| {
            let (pace, note) = (&pace, &note);
            async move {
                let jitter = f64::from(n) / 4.0;
                pace.admit(0, jitter, long, note).await.unwrap();
                Instant::now()
            }
        });
        let sent = join_all(calls).await;
        let after: Vec<u128> = sent.iter().map(|at| (*at - started).as_millis()).collect();
        assert_eq!(after, [10_000, 10_250, 10_500, 10_750]);
        let told = told.lock().unwrap();
        assert_eq!(told.len(), 4);
        assert_eq!(told[0].reason, WaitReason::Asked);
        assert_eq!(told[0].at_least, Some(Duration::from_secs(9)));
    }

    #[tokio::test(start_paused = true)]
    async fn a_hold_that_is_too_long_is_not_waited_for() {
        let pace = limits(|_| ());
        pace.hold(Duration::from_secs(500));
        let refused = pace.admit(0, 0.0, Duration::from_secs(120), &|_| ());
        assert_eq!(refused.await.err(), Some(Duration::from_secs(500)));
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_that_is_dropped_gives_its_place_up() {
        let pace = limits(|it| it.requests_per_minute = NonZeroU32::new(1));
        admit(&pace, 0).await;
        let started = Instant::now();
        let cancelled = tokio::time::timeout(Duration::from_secs(30), admit(&pace, 0));
        assert!(cancelled.await.is_err());
        admit(&pace, 0).await;
        assert_eq!(started.elapsed().as_secs(), 60);
    }
}
