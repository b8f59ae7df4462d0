//! When and after which wait a call is sent again.

use std::fmt;
use std::future::Future;
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

    /// Calls `attempt` until it succeeds or a retry is no use.
    ///
    /// # Errors
    /// The error of the last attempt.
    pub(super) async fn run<T, F, A>(&self, mut attempt: A) -> Result<T, ModelError>
    where
        A: FnMut() -> F,
        F: Future<Output = Result<T, Failure>>,
    {
        let mut tried = 0;
        loop {
            let failure = match attempt().await {
                Ok(value) => return Ok(value),
                Err(failure) => failure,
            };
            let Some(wait) = self.wait(&failure, tried) else {
                return Err(failure.error);
            };
            tried += 1;
            tracing::warn!(
                provider = failure.error.provider,
                error = failure.error.message,
                retry = tried,
                wait_ms = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX),
                "model call failed; trying again"
            );
            tokio::time::sleep(wait).await;
        }
    }

    /// How long to wait before retry number `tried` (from 0); `None` to give up.
    fn wait(&self, failure: &Failure, tried: u32) -> Option<Duration> {
        let error = &failure.error;
        let limit = match error.kind {
            ModelErrorKind::Malformed => self.max_retries.min(MAX_MALFORMED_RETRIES),
            _ => self.max_retries,
        };
        let wanted = match error.kind {
            ModelErrorKind::QuotaExhausted => false,
            _ => failure.should_retry.unwrap_or(error.is_retryable()),
        };
        if !wanted || tried >= limit {
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
fn random() -> f64 {
    let bits = RandomState::new().build_hasher().finish() >> 32;
    f64::from(u32::try_from(bits).unwrap_or_default()) / f64::from(u32::MAX)
}

/// A failed attempt.
#[derive(Debug)]
pub(super) struct Failure {
    error: ModelError,
    /// What the provider says about trying again.
    should_retry: Option<bool>,
}

impl Failure {
    /// The failure that an HTTP response says. The status decides where the provider does
    /// not (`x-should-retry`).
    pub(super) fn of_response(error: ModelError, status: u16, headers: &HeaderMap) -> Self {
        let told = match header(headers, "x-should-retry") {
            Some("true") => Some(true),
            Some("false") => Some(false),
            _ => None,
        };
        let by_status = matches!(status, 408 | 409 | 429 | 500..);
        let should_retry = Some(told.unwrap_or(by_status));
        Self {
            error,
            should_retry,
        }
    }
}

impl From<ModelError> for Failure {
    fn from(error: ModelError) -> Self {
        Self {
            error,
            should_retry: None,
        }
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
    use std::cell::Cell;

    use tokio::time::Instant;

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

    /// Attempts made and time waited when every attempt fails with `failure`.
    async fn run(failure: impl Fn() -> Failure) -> (u32, Duration) {
        let attempts = Cell::new(0);
        let started = Instant::now();
        let policy = RetryPolicy::default().jitter(|| 0.0);
        let result: Result<(), _> = policy
            .run(|| {
                attempts.set(attempts.get() + 1);
                let failure = failure();
                async { Err(failure) }
            })
            .await;
        assert!(result.is_err());
        (attempts.get(), started.elapsed())
    }

    #[tokio::test(start_paused = true)]
    async fn retries_twice_with_growing_waits() {
        let (attempts, waited) = run(|| error(ModelErrorKind::Overloaded).into()).await;
        assert_eq!((attempts, waited), (3, Duration::from_millis(1500)));
    }

    #[tokio::test(start_paused = true)]
    async fn waits_as_told_unless_it_is_too_long() {
        let told = |seconds| {
            move || {
                let mut error = error(ModelErrorKind::RateLimited);
                error.retry_after = Some(Duration::from_secs(seconds));
                Failure::from(error)
            }
        };
        assert_eq!(run(told(7)).await, (3, Duration::from_secs(14)));
        assert_eq!(run(told(121)).await, (1, Duration::ZERO));
    }

    #[tokio::test(start_paused = true)]
    async fn gives_up_at_once_where_a_retry_is_no_use() {
        for kind in [
            ModelErrorKind::Unauthenticated,
            ModelErrorKind::QuotaExhausted,
            ModelErrorKind::ModelNotFound,
            ModelErrorKind::InvalidRequest,
            ModelErrorKind::ContextOverflow,
        ] {
            assert_eq!(run(|| error(kind).into()).await.0, 1, "{kind:?}");
        }
        let (attempts, _) = run(|| error(ModelErrorKind::Malformed).into()).await;
        assert_eq!(attempts, 2);
    }

    #[tokio::test(start_paused = true)]
    async fn the_provider_may_overrule() {
        let told = |status, value| {
            let headers = headers(&[("x-should-retry", value)]);
            let kind = ModelErrorKind::Overloaded;
            move || Failure::of_response(error(kind), status, &headers)
        };
        assert_eq!(run(told(400, "true")).await.0, 3);
        assert_eq!(run(told(503, "false")).await.0, 1);
        let money = || {
            let headers = headers(&[("x-should-retry", "true")]);
            Failure::of_response(error(ModelErrorKind::QuotaExhausted), 429, &headers)
        };
        assert_eq!(run(money).await.0, 1);
    }

    #[test]
    fn jitter_shortens_a_wait_by_a_quarter_at_the_most() {
        let policy = RetryPolicy::default().jitter(|| 1.0);
        let failure = error(ModelErrorKind::Timeout).into();
        let wait = policy.wait(&failure, 0);
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
