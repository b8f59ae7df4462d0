//! How long a call is tried, and how it waits between attempts.

use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::time::Duration;

use tokio::time::Instant;

/// The first wait; doubled every time.
const FIRST_WAIT: Duration = Duration::from_millis(25);
/// The longest wait: a store that is back is found soon.
const LONGEST_WAIT: Duration = Duration::from_secs(2);
/// Half of a wait is chance, so that those who lost a store do not come back at once.
const JITTER: f64 = 0.5;

pub(super) struct Patience {
    deadline: Instant,
    next: Duration,
}

impl Patience {
    /// Ends at this time.
    pub(super) const fn until(deadline: Instant) -> Self {
        Self {
            deadline,
            next: FIRST_WAIT,
        }
    }

    /// Waits before the next attempt; `false`, and at once, where there is to be none.
    pub(super) async fn wait(&mut self) -> bool {
        let wait = self.next.mul_f64(1.0 - JITTER * chance());
        let wake = Instant::now() + wait;
        if wake >= self.deadline {
            return false;
        }
        self.next = (self.next * 2).min(LONGEST_WAIT);
        tokio::time::sleep_until(wake).await;
        true
    }
}

/// From 0 to 1, different every time; good enough to spread waits.
fn chance() -> f64 {
    let bits = RandomState::new().build_hasher().finish() >> 32;
    f64::from(u32::try_from(bits).unwrap_or_default()) / f64::from(u32::MAX)
}
