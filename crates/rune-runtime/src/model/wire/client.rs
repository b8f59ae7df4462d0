//! One call on the wire.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::stream::{self, BoxStream};
use futures_util::{Stream, StreamExt};
use reqwest::header::{CONTENT_TYPE, HeaderMap, HeaderValue};
use secrecy::{ExposeSecret, SecretString};
use tokio::time::{Instant, timeout, timeout_at};

use super::{DecodeContext, Protocol, body, classify, decode};
use crate::model::retry;
use crate::model::{HttpClient, ModelError, ModelErrorKind, ModelEvent, ModelRequest, ModelStream};

/// Bytes of an error body that are read.
const MAX_ERROR_BYTES: usize = 64 * 1024;
/// Bytes of an answer that comes as a whole: a large picture in base64.
const MAX_WHOLE_BYTES: usize = 64 << 20;
/// How long the end of a finished reply's body is waited for, so that the connection can
/// be used again.
const END_OF_BODY: Duration = Duration::from_millis(50);
/// Words of a 400 that is about the output schema.
const SCHEMA_WORDS: [&str; 7] = [
    "response_format",
    "output_config",
    "output_format",
    "text.format",
    "responsejsonschema",
    "response_json_schema",
    "schema",
];
const JSON: HeaderValue = HeaderValue::from_static("application/json");

/// How long a provider may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timeouts {
    /// From sending to the first byte of the reply's body.
    pub first_byte: Duration,
    /// Between two chunks of the body. Pings and comments count: they are sent to show
    /// that the provider still works.
    pub idle: Duration,
    /// Between two events that have something to show. Ends a reply of nothing but pings.
    pub progress: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            first_byte: Duration::from_secs(120),
            idle: Duration::from_secs(60),
            progress: Duration::from_secs(600),
        }
    }
}

/// A provider that is reached over HTTP.
#[derive(Debug, Clone)]
pub struct ClientConfig {
    /// Its name in the Runefile.
    pub provider: String,
    /// The base URL as the vendor's SDK takes it (OpenAI's ends in `/v1`, the others have
    /// no version); the vendor's own where absent.
    pub base_url: Option<String>,
    /// The key. A server of one's own may need none; the vendor's own always does.
    pub api_key: Option<SecretString>,
    /// How long it may take.
    pub timeouts: Timeouts,
    /// Sent with every call, beside what the protocol needs.
    pub headers: HeaderMap,
}

impl ClientConfig {
    /// A provider at the vendor's own address with the default limits.
    #[must_use]
    pub fn new(provider: &str) -> Self {
        Self {
            provider: provider.to_owned(),
            base_url: None,
            api_key: None,
            timeouts: Timeouts::default(),
            headers: HeaderMap::new(),
        }
    }

    /// With this base URL.
    #[must_use]
    pub fn base_url(mut self, url: impl Into<String>) -> Self {
        self.base_url = Some(url.into());
        self
    }

    /// With this key.
    #[must_use]
    pub fn api_key(mut self, key: impl Into<SecretString>) -> Self {
        self.api_key = Some(key.into());
        self
    }
}

/// A request that is answered as a whole.
#[derive(Debug, Clone)]
pub(in crate::model) struct WholeRequest {
    /// Behind the base URL.
    pub(in crate::model) path: String,
    /// Of the body.
    pub(in crate::model) content_type: String,
    /// The body.
    pub(in crate::model) body: Bytes,
    /// How long the provider may take for the first byte of its answer.
    pub(in crate::model) first_byte: Duration,
}

/// What the clients of the wire protocols are.
#[derive(Debug, Clone)]
pub(in crate::model) struct WireClient {
    protocol: Protocol,
    config: ClientConfig,
    http: HttpClient,
    /// The provider has shown that it does not know output schemas.
    schema_refused: Arc<AtomicBool>,
}

impl WireClient {
    pub(in crate::model) fn new(
        protocol: Protocol,
        config: ClientConfig,
        http: HttpClient,
    ) -> Self {
        Self {
            protocol,
            config,
            http,
            schema_refused: Arc::default(),
        }
    }

    /// The same client, with what it has learnt of the provider, set up differently.
    pub(in crate::model) fn with(&self, edit: impl FnOnce(&mut ClientConfig)) -> Self {
        let mut client = self.clone();
        edit(&mut client.config);
        client
    }

    pub(in crate::model) fn provider(&self) -> &str {
        &self.config.provider
    }

    pub(in crate::model) async fn stream(
        &self,
        request: &ModelRequest,
    ) -> Result<ModelStream, ModelError> {
        let url = self.protocol.url(self.base_url(), &request.model);
        let call = self.post(&url)?.header(CONTENT_TYPE, JSON);
        let native = !self.schema_refused.load(Ordering::Relaxed);
        let mut answer = self.send(&call, request, native).await;
        let refused = |error: &ModelError| native && refuses_schema(request, error);
        if answer.as_ref().err().is_some_and(refused) {
            tracing::warn!(
                provider = self.config.provider,
                "the provider refuses an output schema; the model is told of it in words"
            );
            self.schema_refused.store(true, Ordering::Relaxed);
            answer = self.send(&call, request, false).await;
        }
        answer.map_err(|error| self.redact(error))
    }

    /// Sends one request that is answered as a whole, and waits for the answer: its bytes.
    pub(in crate::model) async fn exchange(
        &self,
        request: WholeRequest,
    ) -> Result<Bytes, ModelError> {
        let url = format!("{}{}", self.base_url().trim_end_matches('/'), request.path);
        let call = self.post(&url)?.header(CONTENT_TYPE, request.content_type);
        let provider = &self.config.provider;
        let first_byte = Instant::now() + request.first_byte;
        let answer = async {
            let sent = timeout_at(first_byte, call.body(request.body).send()).await;
            let response = sent
                .map_err(|_| body::silent(provider))?
                .map_err(|error| self.unreachable(error))?;
            if !response.status().is_success() {
                return Err(failed_response(provider, response, MAX_ERROR_BYTES, first_byte).await);
            }
            let idle = self.config.timeouts.idle;
            let mut chunks = body::chunks(provider, response, first_byte, idle);
            let mut bytes = BytesMut::new();
            while let Some(chunk) = chunks.next().await {
                let chunk = chunk?;
                if bytes.len() + chunk.len() > MAX_WHOLE_BYTES {
                    let message = format!("the answer has more than {MAX_WHOLE_BYTES} bytes");
                    return Err(self.error(ModelErrorKind::Malformed, message));
                }
                bytes.extend_from_slice(&chunk);
            }
            Ok(bytes.freeze())
        };
        Box::pin(answer).await.map_err(|error| self.redact(error))
    }

    /// Where the provider is.
    fn base_url(&self) -> &str {
        let default = self.protocol.default_base_url();
        self.config.base_url.as_deref().unwrap_or(default)
    }

    /// The key, where there is one.
    fn key(&self) -> Option<&SecretString> {
        let key = self.config.api_key.as_ref();
        key.filter(|key| !key.expose_secret().is_empty())
    }

    /// A request with the headers of the provider.
    fn post(&self, url: &str) -> Result<reqwest::RequestBuilder, ModelError> {
        let key = self.key();
        if key.is_none() && self.config.base_url.is_none() {
            return Err(self.error(ModelErrorKind::Unauthenticated, "no API key is configured"));
        }
        let headers = self.protocol.headers(key).ok_or_else(|| {
            let message = "the API key has characters that a header cannot hold";
            self.error(ModelErrorKind::Unauthenticated, message)
        })?;
        let client = self.http.for_url(url);
        Ok(client
            .map_err(|message| self.unsent(message))?
            .post(url)
            .headers(headers)
            .headers(self.config.headers.clone()))
    }

    /// Takes the key out of what an answer of the provider has said.
    pub(in crate::model) fn redact(&self, error: ModelError) -> ModelError {
        redact(error, self.key())
    }

    async fn send(
        &self,
        call: &reqwest::RequestBuilder,
        request: &ModelRequest,
        native_schema: bool,
    ) -> Result<ModelStream, ModelError> {
        let payload = Bytes::from(self.protocol.body(request, native_schema).to_string());
        let context = DecodeContext::new(&self.config.provider, &request.messages, payload.len());
        let call = call
            .try_clone()
            .ok_or_else(|| self.unsent("the request cannot be repeated"))?;
        Box::pin(self.attempt(call.body(payload), context)).await
    }

    /// Sends the call and waits for the first event.
    async fn attempt(
        &self,
        call: reqwest::RequestBuilder,
        context: DecodeContext,
    ) -> Result<ModelStream, ModelError> {
        let limits = self.config.timeouts;
        let provider = &self.config.provider;
        let first_byte = Instant::now() + limits.first_byte;
        let response = timeout_at(first_byte, call.send())
            .await
            .map_err(|_| body::silent(provider))?
            .map_err(|error| self.unreachable(error))?;
        if !response.status().is_success() {
            return Err(failed_response(provider, response, MAX_ERROR_BYTES, first_byte).await);
        }
        let chunks = body::chunks(provider, response, first_byte, limits.idle);
        let key = self.config.api_key.clone();
        let events = decode(self.protocol, context, chunks)
            .map(move |event| event.map_err(|error| redact(error, key.as_ref())))
            .boxed();
        let mut events = with_progress(events, provider.clone(), limits.progress).boxed();
        match events.next().await {
            Some(Ok(first)) => Ok(stream::once(async { Ok(first) }).chain(events).boxed()),
            Some(Err(error)) => Err(error),
            None => Err(self.error(ModelErrorKind::Truncated, "the reply is empty")),
        }
    }

    fn error(&self, kind: ModelErrorKind, message: impl Into<String>) -> ModelError {
        ModelError::new(kind, &self.config.provider, message)
    }

    fn unsent(&self, message: impl Into<String>) -> ModelError {
        ModelError {
            unsent: true,
            ..self.error(ModelErrorKind::Transport, message)
        }
    }

    fn unreachable(&self, error: reqwest::Error) -> ModelError {
        let unsent = error.is_connect();
        // The URL may hold a password.
        let error = error.without_url();
        let what = if error.is_timeout() {
            "the connection timed out".to_owned()
        } else {
            root_cause(&error)
        };
        let message = format!("cannot reach the provider: {what}");
        ModelError {
            unsent,
            ..self.unsent(message)
        }
    }
}

/// Whether a 400 is about the output schema of the request: compatible servers and older
/// models do not know the field, or not every keyword.
fn refuses_schema(request: &ModelRequest, error: &ModelError) -> bool {
    let said = error.message.to_ascii_lowercase();
    request.output_schema.is_some()
        && error.kind == ModelErrorKind::InvalidRequest
        && SCHEMA_WORDS.iter().any(|word| said.contains(word))
}

/// The failure that a response without success says.
pub(in crate::model) async fn failed_response(
    provider: &str,
    response: reqwest::Response,
    max_bytes: usize,
    until: Instant,
) -> ModelError {
    let status = response.status().as_u16();
    let headers = response.headers().clone();
    let text = body::text(response, max_bytes, until).await;
    let mut error = classify::response(status, &headers, &text).into_error(provider);
    error.should_retry = retry::should_retry(&headers);
    error
}

/// Takes the key out of a message in which the provider repeats it.
fn redact(mut error: ModelError, key: Option<&SecretString>) -> ModelError {
    let key = key.map_or("", |key| key.expose_secret());
    if !key.is_empty() && error.message.contains(key) {
        error.message = error.message.replace(key, "[key]");
    }
    error
}

/// The innermost source: it names what happened.
fn root_cause(error: &dyn std::error::Error) -> String {
    let mut inner = error;
    while let Some(source) = inner.source() {
        inner = source;
    }
    inner.to_string()
}

struct Watched {
    events: BoxStream<'static, Result<ModelEvent, ModelError>>,
    provider: String,
    done: bool,
}

/// `events`, each within `limit` of the one before.
fn with_progress(
    events: BoxStream<'static, Result<ModelEvent, ModelError>>,
    provider: String,
    limit: Duration,
) -> impl Stream<Item = Result<ModelEvent, ModelError>> + Send {
    let watched = Watched {
        events,
        provider,
        done: false,
    };
    stream::unfold(watched, move |mut watched| async move {
        if watched.done {
            // Nothing is shown any more; see `END_OF_BODY`.
            let _ = timeout(END_OF_BODY, watched.events.next()).await;
            return None;
        }
        let item = match timeout(limit, watched.events.next()).await {
            Ok(item) => item?,
            Err(_) => Err(body::silent(&watched.provider)),
        };
        watched.done = !matches!(item, Ok(ModelEvent::Text(_) | ModelEvent::Reasoning(_)));
        Some((item, watched))
    })
}
