use std::sync::{
    Arc,
    atomic::{AtomicI64, Ordering},
};
use std::time::Duration;

use rune_store_runtime::{Clock, Timestamp};

/// Where a new clock stands: 2026-01-01T00:00:00Z.
const START: Timestamp = Timestamp::from_millis(1_767_225_600_000);

/// A clock that stands still until it is moved by hand. Clones are the same clock.
#[derive(Debug, Clone)]
pub struct VirtualClock {
    millis: Arc<AtomicI64>,
}

impl VirtualClock {
    /// A clock at the start of 2026 (UTC).
    #[must_use]
    pub fn new() -> Self {
        Self::at(START)
    }

    /// A clock at `time`.
    #[must_use]
    pub fn at(time: Timestamp) -> Self {
        Self {
            millis: Arc::new(AtomicI64::new(time.as_millis())),
        }
    }

    /// Moves the clock forward and returns the new time; it stops at the last representable one.
    pub fn advance(&self, by: Duration) -> Timestamp {
        let later = |millis| Timestamp::from_millis(millis).plus(by);
        let before = self
            .millis
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |millis| {
                Some(later(millis).as_millis())
            })
            .unwrap_or_else(|unchanged| unchanged);
        later(before)
    }

    /// Sets the clock, also backwards as a machine's clock may be set.
    pub fn set(&self, time: Timestamp) {
        self.millis.store(time.as_millis(), Ordering::SeqCst);
    }
}

impl Default for VirtualClock {
    fn default() -> Self {
        Self::new()
    }
}

impl Clock for VirtualClock {
    fn now(&self) -> Timestamp {
        Timestamp::from_millis(self.millis.load(Ordering::SeqCst))
    }
}
