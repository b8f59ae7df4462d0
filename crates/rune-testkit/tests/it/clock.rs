use std::time::Duration;

use rune_store_runtime::{Clock, Timestamp};
use rune_testkit::VirtualClock;

#[test]
fn moves_only_by_hand_and_for_all_clones() {
    let clock = VirtualClock::new();
    let other = clock.clone();
    assert_eq!(clock.now().to_string(), "2026-01-01T00:00:00.000Z");
    let later = clock.advance(Duration::from_secs(90));
    assert_eq!(
        (later, other.now().to_string().as_str()),
        (clock.now(), "2026-01-01T00:01:30.000Z")
    );
    other.set(Timestamp::from_millis(5));
    assert_eq!(clock.now().as_millis(), 5);
    assert_eq!(clock.advance(Duration::MAX).as_millis(), i64::MAX);
}
