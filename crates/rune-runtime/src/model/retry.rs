//! When and after which wait a call is sent again.

use std::fmt;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::Arc;
use std::time::Duration;

use reqwest::header::{HeaderMap, RETRY_AFTER};

use super::{ModelError, ModelErrorKind};

/// Attempts after the first.
const MAX_RETRIES: u32 = 2;
/// The first wait where the provider names none; doubled every time.
const BASE_WAIT: Duration = Duration::from_millis(500);
/// The longest wait that is our own choice.
const MAX_OWN_WAIT: Duration = Duration::from_secs(8);
/// The longest wait a provider may ask for; a longer one ends the call.
const MAX_ASKED_WAIT: Duration = Duration::from_secs(120);
/// A reply that breaks the protocol is likely to do so again.
const MAX_MALFORMED_RETRIES: u32 = 1;

/// How a client retries. Only what has shown nothing yet is retried.
#[derive(Clone)]
pub struct RetryPolicy {
    /// Attempts after the first.
    pub max_retries: u32,
    /// The longest wait a provider may ask for.
    pub max_asked_wait: Duration,
    /// Randomness from 0 to 1 that spreads the waits.
    jitter: Arc<dyn Fn() -> f64 + Send + Sync>,
}

impl RetryPolicy {
    /// With this source of randomness from 0 to 1.
    #[must_use]
    pub fn jitter(mut self, jitter: impl Fn() -> f64 + Send + Sync + 'static) -> Self {
        self.jitter = Arc::new(jitter);
        self
    }

    /// How long to wait before retry number `tried` (from 0); `None` to give up.
    pub(super) fn wait(&self, error: &ModelError, tried: u32) -> Option<Duration> {
        let limit = match error.kind {
            ModelErrorKind::Malformed => self.max_retries.min(MAX_MALFORMED_RETRIES),
            _ => self.max_retries,
        };
        if !error.is_retryable() || tried >= limit {
            return None;
        }
        if let Some(asked) = error.retry_after {
            return (asked <= self.max_asked_wait).then_some(asked);
        }
        let own = BASE_WAIT
            .saturating_mul(1 << tried.min(8))
            .min(MAX_OWN_WAIT);
        Some(own.mul_f64(1.0 - 0.25 * (self.jitter)().clamp(0.0, 1.0)))
    }
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self {
            max_retries: MAX_RETRIES,
            max_asked_wait: MAX_ASKED_WAIT,
            jitter: Arc::new(random),
        }
    }
}

impl fmt::Debug for RetryPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RetryPolicy")
            .field("max_retries", &self.max_retries)
            .field("max_asked_wait", &self.max_asked_wait)
            .finish_non_exhaustive()
    }
}

/// From 0 to 1, different every time; good enough to spread waits.
pub(super) fn random() -> f64 {
    let bits = RandomState::new().build_hasher().finish() >> 32;
    f64::from(u32::try_from(bits).unwrap_or_default()) / f64::from(u32::MAX)
}

/// What a response says about trying again.
pub(super) fn should_retry(headers: &HeaderMap) -> Option<bool> {
    match header(headers, "x-should-retry")? {
        "true" => Some(true),
        "false" => Some(false),
        _ => None,
    }
}

/// The wait a response asks for: `retry-after-ms`, else `retry-after` in seconds or as an
/// HTTP date.
pub(super) fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let millis = header(headers, "retry-after-ms").and_then(|text| text.parse::<f64>().ok());
    if let Some(wait) = millis.and_then(|ms| Duration::try_from_secs_f64(ms / 1000.0).ok()) {
        return Some(wait);
    }
    let text = header(headers, RETRY_AFTER.as_str())?;
    if let Ok(seconds) = text.parse::<f64>() {
        return Duration::try_from_secs_f64(seconds).ok();
    }
    let date = jiff::fmt::rfc2822::parse(text).ok()?.timestamp();
    let wait = date.duration_since(jiff::Timestamp::now());
    Some(Duration::try_from(wait).unwrap_or_default())
}

fn header<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name)?.to_str().ok().map(str::trim)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(kind: ModelErrorKind) -> ModelError {
        ModelError::new(kind, "p", "m")
    }

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        pairs
            .iter()
            .map(|(name, value)| {
                (
                    reqwest::header::HeaderName::from_static(name),
                    value.parse().unwrap(),
                )
            })
            .collect()
    }

    /// The waits between attempts that all fail with `error`.
    fn waits(error: &ModelError) -> Vec<Duration> {
        let policy = RetryPolicy::default().jitter(|| 0.0);
        (0..).map_while(|tried| policy.wait(error, tried)).collect()
    }

    #[test]
    fn retries_twice_with_growing_waits() {
        let waits = waits(&error(ModelErrorKind::Overloaded));
        assert_eq!(waits, [500, 1000].map(Duration::from_millis));
    }

    #[test]
    fn waits_as_told_unless_it_is_too_long() {
        let told = |seconds| {
            let mut error = error(ModelErrorKind::RateLimited);
            error.retry_after = Some(Duration::from_secs(seconds));
            waits(&error)
        };
        assert_eq!(told(7), [Duration::from_secs(7); 2]);
        assert_eq!(told(121), []);
    }

    #[test]
    fn gives_up_at_once_where_a_retry_is_no_use() {
        for kind in [
            ModelErrorKind::Unauthenticated,
            ModelErrorKind::QuotaExhausted,
            ModelErrorKind::ModelNotFound,
            ModelErrorKind::InvalidRequest,
            ModelErrorKind::ContextOverflow,
            ModelErrorKind::CircuitOpen,
        ] {
            assert_eq!(waits(&error(kind)), [], "{kind:?}");
        }
        assert_eq!(waits(&error(ModelErrorKind::Malformed)).len(), 1);
    }

    #[test]
    fn the_provider_may_overrule() {
        let told = |kind, status, value| {
            let mut error = error(kind);
            error.status = Some(status);
            error.should_retry = should_retry(&headers(&[("x-should-retry", value)]));
            waits(&error).len()
        };
        assert_eq!(told(ModelErrorKind::Overloaded, 400, "true"), 2);
        assert_eq!(told(ModelErrorKind::Overloaded, 503, "false"), 0);
        assert_eq!(told(ModelErrorKind::Overloaded, 503, "perhaps"), 2);
        assert_eq!(told(ModelErrorKind::QuotaExhausted, 429, "true"), 0);
    }

    #[test]
    fn jitter_shortens_a_wait_by_a_quarter_at_the_most() {
        let policy = RetryPolicy::default().jitter(|| 1.0);
        let wait = policy.wait(&error(ModelErrorKind::Timeout), 0);
        assert_eq!(wait, Some(Duration::from_millis(375)));
        assert!((0..100).map(|_| random()).all(|x| (0.0..=1.0).contains(&x)));
    }

    #[test]
    fn reads_every_form_of_retry_after() {
        let read = |pairs: &[_]| retry_after(&headers(pairs));
        let second = Some(Duration::from_millis(1500));
        assert_eq!(read(&[("retry-after", "1.5")]), second);
        assert_eq!(
            read(&[("retry-after-ms", "1500"), ("retry-after", "9")]),
            second
        );
        let past = read(&[("retry-after", "Wed, 21 Oct 2015 07:28:00 GMT")]);
        assert_eq!(past, Some(Duration::ZERO));
        let future = read(&[("retry-after", "Fri, 01 Jan 2100 00:00:00 GMT")]);
        assert!(future.is_some_and(|wait| wait > MAX_ASKED_WAIT));
        assert_eq!(read(&[("retry-after", "-1")]), None);
        assert_eq!(read(&[("retry-after", "soon")]), None);
    }
}
