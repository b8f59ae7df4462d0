//! A client behind its guard: the one place that decides whether a call is sent, when,
//! and how often.

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use futures_util::StreamExt;

use super::guard::Ticket;
use super::{
    LlmClient, ModelError, ModelErrorKind, ModelEvent, ModelRequest, ModelStream, ProviderGuard,
    ProviderWait, RetryPolicy,
};
use crate::tokens;

/// A provider's client with retries, the provider's shared pace and its circuit. Cheap to
/// clone.
#[derive(Clone)]
pub struct GuardedClient {
    client: Arc<dyn LlmClient>,
    guard: Option<Arc<ProviderGuard>>,
    retry: RetryPolicy,
    paid_once: bool,
}

/// How far a call is that has no reply yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CallStep {
    /// It has to wait for more than a second before it is sent.
    Waits(ProviderWait),
    /// It is being sent.
    Sent,
}

impl GuardedClient {
    /// `client` behind `guard`.
    #[must_use]
    pub fn new(client: Arc<dyn LlmClient>, guard: Arc<ProviderGuard>) -> Self {
        Self {
            client,
            guard: Some(guard),
            retry: RetryPolicy::default(),
            paid_once: false,
        }
    }

    /// `client` as it is: each call is made once and at once. For what is no service.
    #[must_use]
    pub fn bare(client: Arc<dyn LlmClient>) -> Self {
        Self {
            client,
            guard: None,
            retry: RetryPolicy::default(),
            paid_once: false,
        }
    }

    /// With this way of retrying.
    #[must_use]
    pub fn retry(mut self, retry: RetryPolicy) -> Self {
        self.retry = retry;
        self
    }

    /// One that does not ask again where the provider may charge for what has failed
    /// ([`ModelError::outcome_is_unknown`]).
    #[must_use]
    pub fn paid_once(mut self) -> Self {
        self.paid_once = true;
        self
    }

    /// Asks the model, again where that helps, until the first event is there. The stream
    /// itself is never resumed. `on_step` is told of every wait of more than a second, and when
    /// the call is sent.
    ///
    /// # Errors
    /// The error of the last attempt, or [`ModelErrorKind::CircuitOpen`] where there was
    /// none; the stream yields one where the reply breaks off.
    pub async fn call(
        &self,
        request: &ModelRequest,
        on_step: &(dyn Fn(CallStep) + Send + Sync),
    ) -> Result<ModelStream, ModelError> {
        let Some(guard) = &self.guard else {
            on_step(CallStep::Sent);
            return self.client.stream(request).await;
        };
        let attempts = Attempts {
            guard,
            retry: &self.retry,
            is_final: &|error| self.paid_once && error.outcome_is_unknown(),
            on_step,
        };
        let tokens = || estimate(request);
        let (stream, ticket) = attempts
            .make(tokens, || self.client.stream(request))
            .await?;
        Ok(watched(stream, ticket))
    }
}

/// How a call is made: when it is sent, and whether again where it fails.
pub(super) struct Attempts<'a> {
    pub(super) guard: &'a Arc<ProviderGuard>,
    pub(super) retry: &'a RetryPolicy,
    /// Failures after which it is not made again, whatever `retry` says.
    pub(super) is_final: &'a (dyn Fn(&ModelError) -> bool + Send + Sync),
    pub(super) on_step: &'a (dyn Fn(CallStep) + Send + Sync),
}

impl Attempts<'_> {
    /// Makes a call that has about so many tokens, and answers its place, which has to be told how it ended.
    ///
    /// # Errors
    /// The error of the last attempt, or why there was none.
    pub(super) async fn make<T, F>(
        &self,
        tokens: impl Fn() -> u64 + Send + Sync,
        send: impl Fn() -> F + Send + Sync,
    ) -> Result<(T, Ticket), ModelError>
    where
        F: Future<Output = Result<T, ModelError>> + Send,
    {
        let on_wait = |wait| (self.on_step)(CallStep::Waits(wait));
        let mut tried = 0;
        let mut last = None;
        loop {
            let max_hold = self.retry.max_asked_wait;
            let ticket = match self.guard.admit(&tokens, max_hold, &on_wait).await {
                Ok(ticket) => ticket,
                // The failure that opened the circuit says more than that it is open.
                Err(refused) => return Err(last.unwrap_or(refused)),
            };
            (self.on_step)(CallStep::Sent);
            let error = match send().await {
                Ok(done) => return Ok((done, ticket)),
                Err(error) => error,
            };
            ticket.failed(&error);
            let asked = error
                .retry_after
                .filter(|_| error.kind == ModelErrorKind::RateLimited);
            if let Some(wait) = asked {
                self.guard.hold(wait);
            }
            let wait = self.retry.wait(&error, tried);
            let Some(wait) = wait.filter(|_| !(self.is_final)(&error)) else {
                return Err(error);
            };
            tried += 1;
            tracing::warn!(
                provider = error.provider,
                error = error.message,
                retry = tried,
                wait_ms = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX),
                "model call failed; trying again"
            );
            last = Some(error);
            if asked.is_none() {
                tokio::time::sleep(wait).await;
            }
        }
    }
}

#[async_trait]
impl LlmClient for GuardedClient {
    fn provider(&self) -> &str {
        self.client.provider()
    }

    async fn stream(&self, request: &ModelRequest) -> Result<ModelStream, ModelError> {
        self.call(request, &|_| ()).await
    }
}

impl fmt::Debug for GuardedClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GuardedClient")
            .field("provider", &self.provider())
            .finish_non_exhaustive()
    }
}

/// The reply; how it ends is told to the guard.
fn watched(stream: ModelStream, ticket: Ticket) -> ModelStream {
    let mut ticket = Some(ticket);
    stream
        .inspect(move |event| match event {
            Ok(ModelEvent::Done(output)) => {
                if let Some(ticket) = ticket.take() {
                    ticket.succeeded(&output.usage);
                }
            }
            Err(error) => {
                if let Some(ticket) = ticket.take() {
                    ticket.failed(error);
                }
            }
            Ok(_) => {}
        })
        .boxed()
}

/// Tokens of the prompt, roughly. What the reply takes is counted when it is there.
fn estimate(request: &ModelRequest) -> u64 {
    tokens::of_messages(&request.messages).saturating_add(tokens::tokens_of(request.system.len()))
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::sync::Mutex;
    use std::time::Duration;

    use futures_util::stream;
    use rune_env::ProviderLimits;
    use rune_store_runtime::{StopReason, Usage};
    use tokio::time::Instant;

    use super::*;
    use crate::model::{CircuitState, ModelOutput, WaitReason};

    /// A provider that fails as told, then answers.
    struct Failing(Mutex<VecDeque<ModelError>>);

    #[async_trait]
    impl LlmClient for Failing {
        fn provider(&self) -> &str {
            "p"
        }

        async fn stream(&self, _: &ModelRequest) -> Result<ModelStream, ModelError> {
            if let Some(error) = self.0.lock().unwrap().pop_front() {
                return Err(error);
            }
            let output = ModelOutput {
                blocks: Vec::new(),
                stop: StopReason::EndTurn,
                usage: Usage::default(),
            };
            let events = [ModelEvent::Text("x".to_owned()), ModelEvent::Done(output)];
            Ok(stream::iter(events.map(Ok)).boxed())
        }
    }

    fn failing(errors: Vec<ModelError>, limits: ProviderLimits) -> GuardedClient {
        let guard = Arc::new(ProviderGuard::new("p", &limits));
        GuardedClient::new(Arc::new(Failing(Mutex::new(errors.into()))), guard)
            .retry(RetryPolicy::default().jitter(|| 0.0))
    }

    fn error(kind: ModelErrorKind) -> ModelError {
        ModelError::new(kind, "p", "HTTP 500")
    }

    fn limited(seconds: u64) -> ModelError {
        let mut error = error(ModelErrorKind::RateLimited);
        error.retry_after = Some(Duration::from_secs(seconds));
        error
    }

    fn request() -> ModelRequest {
        ModelRequest {
            model: "m".to_owned(),
            system: String::new(),
            messages: Vec::new(),
            tools: Vec::new(),
            max_output_tokens: None,
            temperature: None,
            reasoning_effort: None,
            output_schema: None,
        }
    }

    async fn finish(client: &GuardedClient) -> Result<(), ModelError> {
        let mut stream = client.stream(&request()).await?;
        while stream.next().await.transpose()?.is_some() {}
        Ok(())
    }

    #[tokio::test(start_paused = true)]
    async fn a_rate_limit_of_one_call_holds_every_call_and_is_told() {
        let client = failing(vec![limited(10)], ProviderLimits::default());
        let told = Mutex::new(Vec::new());
        let note = |step| {
            if let CallStep::Waits(wait) = step {
                told.lock().unwrap().push(wait.reason);
            }
        };
        let started = Instant::now();
        let first = async { client.call(&request(), &note).await.map(drop) };
        let second = async {
            tokio::time::sleep(Duration::from_secs(1)).await;
            client.call(&request(), &note).await.map(drop)
        };
        let (first, second) = tokio::join!(first, second);
        assert_eq!((first, second), (Ok(()), Ok(())));
        let took = started.elapsed().as_secs();
        assert!((10..=11).contains(&took), "{took}");
        assert_eq!(*told.lock().unwrap(), [WaitReason::Asked; 2]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_provider_that_keeps_failing_is_left_alone_and_then_tried() {
        let errors = vec![error(ModelErrorKind::Overloaded); 5];
        let client = failing(errors, ProviderLimits::default());
        let guard = client.guard.clone().unwrap();
        let first = finish(&client).await.unwrap_err();
        assert_eq!(first.kind, ModelErrorKind::Overloaded);
        // The fifth failure opens it; the call still says what happened.
        let second = finish(&client).await.unwrap_err();
        assert_eq!(second.kind, ModelErrorKind::Overloaded);
        assert_eq!(guard.circuit(), CircuitState::Open);
        let refused = finish(&client).await.unwrap_err();
        assert_eq!(refused.kind, ModelErrorKind::CircuitOpen);
        assert!(refused.message.contains("circuit open"), "{refused}");
        assert!(refused.message.contains("HTTP 500"), "{refused}");
        tokio::time::sleep(refused.retry_after.unwrap()).await;
        assert_eq!(guard.circuit(), CircuitState::HalfOpen);
        finish(&client).await.unwrap();
        assert_eq!(guard.circuit(), CircuitState::Closed);
    }

    #[tokio::test(start_paused = true)]
    async fn a_provider_that_says_no_is_there() {
        let refusals = vec![error(ModelErrorKind::Unauthenticated); 20];
        let client = failing(refusals, ProviderLimits::default());
        for _ in 0..20 {
            finish(&client).await.unwrap_err();
        }
        assert_eq!(client.guard.unwrap().circuit(), CircuitState::Closed);
    }

    #[tokio::test(start_paused = true)]
    async fn a_reply_holds_its_place_until_it_ends_or_is_dropped() {
        let limits = ProviderLimits {
            max_concurrent: std::num::NonZeroU32::new(1),
            ..ProviderLimits::default()
        };
        let client = failing(Vec::new(), limits);
        let open = client.stream(&request()).await.unwrap();
        let waits = tokio::time::timeout(Duration::from_secs(60), finish(&client)).await;
        assert!(waits.is_err(), "two at a time");
        drop(open);
        finish(&client).await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn what_may_be_charged_is_not_sent_twice_where_it_is_paid_once() {
        let sent = |kind: ModelErrorKind, unsent: bool| async move {
            let mut failed = error(kind);
            failed.unsent = unsent;
            let client = failing(vec![failed], ProviderLimits::default()).paid_once();
            let count = Mutex::new(0);
            let step = |step| *count.lock().unwrap() += u32::from(step == CallStep::Sent);
            let _ = client.call(&request(), &step).await;
            *count.lock().unwrap()
        };
        assert_eq!(sent(ModelErrorKind::Timeout, false).await, 1);
        assert_eq!(sent(ModelErrorKind::Transport, false).await, 1);
        assert_eq!(sent(ModelErrorKind::Transport, true).await, 2);
        assert_eq!(sent(ModelErrorKind::Overloaded, false).await, 2);
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_is_no_service_is_asked_once() {
        let errors = vec![error(ModelErrorKind::Overloaded)];
        let client = GuardedClient::bare(Arc::new(Failing(Mutex::new(errors.into()))));
        let started = Instant::now();
        assert!(finish(&client).await.is_err());
        assert_eq!(started.elapsed(), Duration::ZERO);
    }
}
