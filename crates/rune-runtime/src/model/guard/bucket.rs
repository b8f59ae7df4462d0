//! A token bucket that can go into debt.
//!
//! Not the `governor` crate: what a model call costs is known when it has ended, and a
//! bucket has to take the difference back.

use std::time::Duration;

use tokio::time::Instant;

/// The clock's grain.
const TICK: Duration = Duration::from_millis(1);
/// The longest wait that is answered; whoever waits asks again.
const LONGEST: Duration = Duration::from_secs(24 * 60 * 60);

/// So many units a minute, some of them at once.
#[derive(Debug)]
pub(super) struct Bucket {
    capacity: f64,
    per_second: f64,
    level: f64,
    /// When `level` was right.
    at: Instant,
}

impl Bucket {
    /// A full bucket that gives `per_minute`, `capacity` of them at once.
    pub(super) fn new(per_minute: u32, capacity: f64, now: Instant) -> Self {
        Self {
            capacity,
            per_second: f64::from(per_minute) / 60.0,
            level: capacity,
            at: now,
        }
    }

    /// When `units` may be taken, `now` at the earliest. More than the bucket can hold
    /// need a full one.
    pub(super) fn ready_at(&mut self, units: f64, now: Instant) -> Instant {
        self.refill(now);
        let missing = units.min(self.capacity) - self.level;
        if missing <= 0.0 {
            return now;
        }
        let wait = Duration::try_from_secs_f64(missing / self.per_second);
        // Rounded up: a wait that ends a nanosecond early would be waited again.
        now + wait.unwrap_or(LONGEST).min(LONGEST) + TICK
    }

    /// Takes `units`, which may be fewer than none.
    pub(super) fn take(&mut self, units: f64) {
        self.level = (self.level - units).min(self.capacity);
    }

    fn refill(&mut self, now: Instant) {
        let passed = now.saturating_duration_since(self.at).as_secs_f64();
        self.level = (self.level + passed * self.per_second).min(self.capacity);
        self.at = now;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gives_so_many_a_minute() {
        let start = Instant::now();
        let mut bucket = Bucket::new(60, 2.0, start);
        let mut now = start;
        for _ in 0..62 {
            now = bucket.ready_at(1.0, now);
            bucket.take(1.0);
        }
        let taken = now - start;
        assert!(taken >= Duration::from_secs(60), "{taken:?}");
        assert!(taken < Duration::from_millis(60_100), "{taken:?}");
    }

    #[test]
    fn a_debt_is_waited_off_and_a_surplus_comes_back() {
        let now = Instant::now();
        let mut bucket = Bucket::new(600, 100.0, now);
        bucket.take(150.0);
        let wait = bucket.ready_at(10.0, now) - now;
        assert_eq!(wait.as_secs(), 6);
        bucket.take(-60.0);
        assert_eq!(bucket.ready_at(10.0, now), now);
    }

    #[test]
    fn more_than_it_holds_needs_it_full() {
        let now = Instant::now();
        let mut bucket = Bucket::new(60, 10.0, now);
        assert_eq!(bucket.ready_at(1000.0, now), now);
        bucket.take(1000.0);
        assert_eq!((bucket.ready_at(1.0, now) - now).as_secs(), 991);
    }
}
