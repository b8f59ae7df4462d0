//! What protects a provider, and the requests from it: a shared pace and a circuit.

mod breaker;
mod bucket;
mod pace;

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rune_env::ProviderLimits;
use rune_store_runtime::Usage;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Instant;

use super::retry::random;
use super::{ModelError, ModelErrorKind};
use breaker::{CircuitBreaker, Role};
use pace::Pace;

pub use breaker::CircuitState;

/// 0 closed, 1 half open, 2 open; by provider.
const CIRCUIT_METRIC: &str = "rune_provider_circuit_state";

/// Why a call has to wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WaitReason {
    /// The provider answered 429 with a time.
    Asked,
    /// `requests_per_minute`.
    Requests,
    /// `tokens_per_minute`.
    Tokens,
    /// `max_concurrent`.
    Concurrent,
}

/// A call that has to wait for more than a second.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProviderWait {
    /// Why.
    pub reason: WaitReason,
    /// How long at the least, where that is known.
    pub at_least: Option<Duration>,
}

impl fmt::Display for ProviderWait {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.reason {
            WaitReason::Asked => "the provider asked for a pause",
            WaitReason::Requests => "its `requests_per_minute` are used up",
            WaitReason::Tokens => "its `tokens_per_minute` are used up",
            WaitReason::Concurrent => "as many calls as `max_concurrent` allows are under way",
        })?;
        match self.at_least {
            Some(wait) => write!(f, "; waiting {} ms more", wait.as_millis()),
            None => f.write_str("; waiting for one to end"),
        }
    }
}

/// What one provider is protected by; shared by every call of every agent to it.
#[derive(Debug)]
pub struct ProviderGuard {
    provider: String,
    pace: Pace,
    breaker: Mutex<CircuitBreaker>,
}

impl ProviderGuard {
    /// A guard with a closed circuit.
    #[must_use]
    pub fn new(provider: &str, limits: &ProviderLimits) -> Self {
        Self {
            provider: provider.to_owned(),
            pace: Pace::new(limits),
            breaker: Mutex::new(CircuitBreaker::new()),
        }
    }

    /// Whether the provider is called at present.
    #[must_use]
    pub fn circuit(&self) -> CircuitState {
        self.lock().state(Instant::now())
    }

    /// Waits until a call may be sent. `tokens` is asked for where tokens are limited.
    ///
    /// # Errors
    /// `CircuitOpen`, at once; `RateLimited` where the provider asked for a pause longer
    /// than `max_hold`.
    pub(super) async fn admit(
        self: &Arc<Self>,
        tokens: impl Fn() -> u64 + Send,
        max_hold: Duration,
        on_wait: &(dyn Fn(ProviderWait) + Send + Sync),
    ) -> Result<Ticket, ModelError> {
        self.lock()
            .check(Instant::now())
            .map_err(|refused| self.refused(&refused))?;
        let reserved = if self.pace.counts_tokens() {
            tokens()
        } else {
            0
        };
        let slot = self
            .pace
            .admit(reserved, random(), max_hold, on_wait)
            .await
            .map_err(|wait| {
                let message = format!(
                    "the provider wants no call for another {} s",
                    wait.as_secs()
                );
                let mut error =
                    ModelError::new(ModelErrorKind::RateLimited, &self.provider, message);
                error.retry_after = Some(wait);
                error
            })?;
        let role = self
            .lock()
            .admit(Instant::now())
            .map_err(|refused| self.refused(&refused))?;
        Ok(Ticket {
            guard: Arc::clone(self),
            role,
            reserved,
            told: false,
            _slot: slot,
        })
    }

    /// Every call waits for so long.
    pub(super) fn hold(&self, wait: Duration) {
        self.pace.hold(wait);
    }

    fn refused(&self, refused: &breaker::Refused) -> ModelError {
        let kind = ModelErrorKind::CircuitOpen;
        let mut error = ModelError::new(kind, &self.provider, refused.to_string());
        error.retry_after = Some(refused.wait);
        error
    }

    /// Changes the circuit and shows where it stands.
    fn tell(&self, change: impl FnOnce(&mut CircuitBreaker, Instant)) {
        let now = Instant::now();
        let mut breaker = self.lock();
        let before = breaker.state(now);
        change(&mut breaker, now);
        let after = breaker.state(now);
        drop(breaker);
        if before != after {
            tracing::warn!(provider = self.provider, ?before, ?after, "circuit changed");
        }
        metrics::gauge!(CIRCUIT_METRIC, "provider" => self.provider.clone()).set(after.metric());
    }

    fn lock(&self) -> MutexGuard<'_, CircuitBreaker> {
        self.breaker.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A call that was let through. Dropped without a word it says nothing about the provider.
#[derive(Debug)]
pub(super) struct Ticket {
    guard: Arc<ProviderGuard>,
    role: Role,
    /// Tokens it was let through for.
    reserved: u64,
    told: bool,
    /// Its place among `max_concurrent`.
    _slot: Option<OwnedSemaphorePermit>,
}

impl Ticket {
    /// The reply is there.
    pub(super) fn succeeded(mut self, usage: &Usage) {
        self.told = true;
        self.guard.pace.settle(self.reserved, usage.total());
        self.guard.tell(|breaker, _| breaker.succeeded(self.role));
    }

    /// The call failed.
    pub(super) fn failed(mut self, error: &ModelError) {
        self.told = true;
        self.guard.pace.settle(self.reserved, 0);
        self.guard.tell(|breaker, now| {
            if error.is_fault_of_provider() {
                breaker.failed(self.role, now, &error.message);
            } else {
                // It is there and says no.
                breaker.succeeded(self.role);
            }
        });
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if !self.told {
            self.guard
                .tell(|breaker, now| breaker.abandoned(self.role, now));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use metrics::{
        Counter, Gauge, Histogram, Key, KeyName, Metadata, Recorder, SharedString, Unit,
    };

    use super::*;

    /// Keeps the circuit of one provider.
    #[derive(Default)]
    struct Circuit(Arc<AtomicU64>);

    impl Circuit {
        fn shown(&self) -> f64 {
            f64::from_bits(self.0.load(Ordering::Relaxed))
        }
    }

    impl Recorder for Circuit {
        fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
        fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
        fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

        fn register_counter(&self, _: &Key, _: &Metadata<'_>) -> Counter {
            Counter::noop()
        }

        fn register_gauge(&self, key: &Key, _: &Metadata<'_>) -> Gauge {
            let labels: Vec<_> = key.labels().map(|it| (it.key(), it.value())).collect();
            assert_eq!(
                (key.name(), &labels[..]),
                (CIRCUIT_METRIC, &[("provider", "acme")][..])
            );
            Gauge::from_arc(Arc::clone(&self.0))
        }

        fn register_histogram(&self, _: &Key, _: &Metadata<'_>) -> Histogram {
            Histogram::noop()
        }
    }

    #[test]
    fn the_circuit_is_in_the_metrics() {
        let recorder = Circuit::default();
        let guard = ProviderGuard::new("acme", &ProviderLimits::default());
        let tell = |failed: bool| {
            metrics::with_local_recorder(&recorder, || {
                guard.tell(|breaker, now| match failed {
                    true => breaker.failed(Role::Ordinary, now, "HTTP 500"),
                    false => breaker.succeeded(Role::Ordinary),
                });
            });
        };
        (0..5).for_each(|_| tell(true));
        assert_eq!(recorder.shown(), CircuitState::Open.metric());
        tell(false);
        assert_eq!(recorder.shown(), CircuitState::Open.metric());
        // A guard with a closed circuit says so with its first call.
        let guard = ProviderGuard::new("acme", &ProviderLimits::default());
        metrics::with_local_recorder(&recorder, || {
            guard.tell(|breaker, _| breaker.succeeded(Role::Ordinary));
        });
        assert_eq!(recorder.shown(), CircuitState::Closed.metric());
    }
}
