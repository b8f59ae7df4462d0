//! Rows that expire: each write drops some of the oldest.

use std::time::Duration;

use rune_store_runtime::Timestamp;
use rune_store_runtime::limits::PRUNE_BATCH;

/// Values by key, oldest first.
#[derive(Debug)]
pub(super) struct Oldest<K, V>(Vec<(K, Timestamp, V)>);

impl<K, V> Default for Oldest<K, V> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<K: PartialEq, V> Oldest<K, V> {
    /// The value of a key, unless it has expired at `now`.
    pub(super) fn get(&self, key: &K, now: Timestamp, window: Duration) -> Option<&V> {
        let found = self.0.iter().find(|(known, ..)| known == key);
        let fresh = found.filter(|(_, at, _)| *at >= now.minus(window));
        fresh.map(|(_, _, value)| value)
    }

    /// Writes a value as the youngest and drops what has expired of the oldest.
    pub(super) fn put(&mut self, key: K, now: Timestamp, window: Duration, value: V) {
        let mut looked_at = 0;
        self.0.retain(|(_, at, _)| {
            looked_at += 1;
            looked_at > PRUNE_BATCH || *at >= now.minus(window)
        });
        self.0.retain(|(known, ..)| *known != key);
        self.0.push((key, now, value));
    }
}
