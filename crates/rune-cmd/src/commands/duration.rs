//! A length of time, as a person writes it.

use std::time::Duration;

/// `30s`, `15m` or `1h 30m`.
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    let expected = || "expected a time such as 30s, 15m or 1h 30m".to_owned();
    let duration: jiff::SignedDuration = text.parse().map_err(|_| expected())?;
    Duration::try_from(duration).map_err(|_| expected())
}
