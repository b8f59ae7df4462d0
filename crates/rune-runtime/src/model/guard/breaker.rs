//! When a provider that fails is left alone.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

/// Failures in a row that open the circuit.
const FAILURES_IN_A_ROW: u32 = 5;
/// Attempts whose failure rate is looked at.
const WINDOW: usize = 20;
/// Failures in a full window that open the circuit.
const FAILURES_IN_WINDOW: usize = WINDOW / 2;
/// How long an open circuit stays open before a single call may try again.
const OPEN_FOR: Duration = Duration::from_secs(30);

/// Whether a provider is called.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CircuitState {
    /// It is.
    Closed,
    /// One call tries it; the others are refused.
    HalfOpen,
    /// It is not.
    Open,
}

impl CircuitState {
    /// The value of the metric `rune_provider_circuit_state`.
    pub(super) const fn metric(self) -> f64 {
        match self {
            Self::Closed => 0.0,
            Self::HalfOpen => 1.0,
            Self::Open => 2.0,
        }
    }
}

/// A call that an open circuit refuses.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("circuit open: the provider keeps failing (last: {reason}); it is tried again in {} s", wait.as_secs().max(1))]
pub(super) struct Refused {
    /// Until the next call may try.
    pub(super) wait: Duration,
    /// Why the circuit opened.
    pub(super) reason: String,
}

/// What a call is to the circuit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    /// One of many.
    Ordinary,
    /// The one that decides whether the circuit closes again.
    Probe,
}

/// The state machine. It knows no clock: whoever calls says what time it is.
#[derive(Debug)]
pub(super) struct CircuitBreaker {
    state: State,
    in_a_row: u32,
    /// Whether each of the last attempts failed.
    recent: VecDeque<bool>,
    /// The last failure.
    reason: String,
}

#[derive(Debug, Clone, Copy)]
enum State {
    Closed,
    Open { until: Instant },
    Probing,
}

impl CircuitBreaker {
    pub(super) const fn new() -> Self {
        Self {
            state: State::Closed,
            in_a_row: 0,
            recent: VecDeque::new(),
            reason: String::new(),
        }
    }

    /// As it is shown: an open circuit whose time is over waits for its probe.
    pub(super) fn state(&self, now: Instant) -> CircuitState {
        match self.state {
            State::Closed => CircuitState::Closed,
            State::Open { until } if now < until => CircuitState::Open,
            State::Open { .. } | State::Probing => CircuitState::HalfOpen,
        }
    }

    /// Whether a call would be let through now.
    pub(super) fn check(&self, now: Instant) -> Result<(), Refused> {
        let wait = match self.state {
            State::Closed => return Ok(()),
            State::Open { until } if now >= until => return Ok(()),
            State::Open { until } => until - now,
            State::Probing => Duration::ZERO,
        };
        Err(Refused {
            wait,
            reason: self.reason.clone(),
        })
    }

    /// Lets a call through. What it came to is told by exactly one of `succeeded`,
    /// `failed` and `abandoned`.
    pub(super) fn admit(&mut self, now: Instant) -> Result<Role, Refused> {
        self.check(now)?;
        if matches!(self.state, State::Closed) {
            return Ok(Role::Ordinary);
        }
        self.state = State::Probing;
        Ok(Role::Probe)
    }

    /// The provider works.
    pub(super) fn succeeded(&mut self, role: Role) {
        match (self.state, role) {
            (State::Closed, _) => {
                self.in_a_row = 0;
                self.remember(false);
            }
            (_, Role::Probe) => *self = Self::new(),
            // It began before the circuit opened and says nothing about now.
            (_, Role::Ordinary) => {}
        }
    }

    /// The provider does not work.
    pub(super) fn failed(&mut self, role: Role, now: Instant, reason: &str) {
        match (self.state, role) {
            (State::Closed, _) => {
                self.in_a_row += 1;
                self.remember(true);
                let failures = self.recent.iter().filter(|failed| **failed).count();
                let often = self.recent.len() == WINDOW && failures >= FAILURES_IN_WINDOW;
                if self.in_a_row >= FAILURES_IN_A_ROW || often {
                    self.open(now, reason);
                }
            }
            (_, Role::Probe) => self.open(now, reason),
            (_, Role::Ordinary) => {}
        }
    }

    /// The call ended without saying anything about the provider.
    pub(super) fn abandoned(&mut self, role: Role, now: Instant) {
        if role == Role::Probe {
            self.state = State::Open { until: now };
        }
    }

    fn open(&mut self, now: Instant, reason: &str) {
        reason.clone_into(&mut self.reason);
        self.in_a_row = 0;
        self.recent.clear();
        self.state = State::Open {
            until: now + OPEN_FOR,
        };
    }

    fn remember(&mut self, failed: bool) {
        if self.recent.len() == WINDOW {
            self.recent.pop_front();
        }
        self.recent.push_back(failed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A breaker and a clock that moves by hand.
    struct Bench {
        breaker: CircuitBreaker,
        now: Instant,
    }

    impl Bench {
        fn new() -> Self {
            Self {
                breaker: CircuitBreaker::new(),
                now: Instant::now(),
            }
        }

        fn call(&mut self, works: bool) {
            let role = self.breaker.admit(self.now).unwrap();
            if works {
                self.breaker.succeeded(role);
            } else {
                self.breaker.failed(role, self.now, "HTTP 500");
            }
        }

        fn state(&self) -> CircuitState {
            self.breaker.state(self.now)
        }
    }

    #[test]
    fn opens_after_failures_in_a_row() {
        let mut bench = Bench::new();
        for _ in 1..FAILURES_IN_A_ROW {
            bench.call(false);
        }
        bench.call(true);
        for _ in 1..FAILURES_IN_A_ROW {
            bench.call(false);
        }
        assert_eq!(bench.state(), CircuitState::Closed);
        bench.call(false);
        assert_eq!(bench.state(), CircuitState::Open);
        let refused = bench.breaker.admit(bench.now).unwrap_err();
        assert_eq!(refused.wait, OPEN_FOR);
        assert!(refused.to_string().contains("circuit open"), "{refused}");
        assert!(refused.to_string().contains("HTTP 500"), "{refused}");
    }

    #[test]
    fn opens_where_half_of_the_calls_fail() {
        let mut bench = Bench::new();
        for n in 1..WINDOW {
            bench.call(n % 2 == 0);
        }
        assert_eq!(bench.state(), CircuitState::Closed);
        bench.call(false);
        assert_eq!(bench.state(), CircuitState::Open);
    }

    #[test]
    fn a_single_probe_closes_it_or_opens_it_again() {
        let mut bench = Bench::new();
        (0..FAILURES_IN_A_ROW).for_each(|_| bench.call(false));
        bench.now += OPEN_FOR;
        assert_eq!(bench.state(), CircuitState::HalfOpen);
        let probe = bench.breaker.admit(bench.now).unwrap();
        assert_eq!(probe, Role::Probe);
        assert!(bench.breaker.admit(bench.now).is_err(), "a second probe");
        bench.breaker.failed(probe, bench.now, "HTTP 503");
        assert_eq!(bench.state(), CircuitState::Open);
        bench.now += OPEN_FOR;
        bench.call(true);
        assert_eq!(bench.state(), CircuitState::Closed);
    }

    #[test]
    fn a_probe_that_is_cancelled_makes_room_for_the_next() {
        let mut bench = Bench::new();
        (0..FAILURES_IN_A_ROW).for_each(|_| bench.call(false));
        bench.now += OPEN_FOR;
        let probe = bench.breaker.admit(bench.now).unwrap();
        bench.breaker.abandoned(probe, bench.now);
        assert_eq!(bench.breaker.admit(bench.now), Ok(Role::Probe));
    }

    #[test]
    fn what_began_before_it_opened_does_not_count() {
        let mut bench = Bench::new();
        let early = bench.breaker.admit(bench.now).unwrap();
        (0..FAILURES_IN_A_ROW).for_each(|_| bench.call(false));
        bench.breaker.succeeded(early);
        assert_eq!(bench.state(), CircuitState::Open);
    }
}
