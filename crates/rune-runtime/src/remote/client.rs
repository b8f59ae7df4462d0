//! Asking a replica.

use std::path::PathBuf;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::{self, BoxStream};
use futures_util::{FutureExt as _, StreamExt};
use reqwest::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderValue};
use reqwest::{Method, StatusCode};
use rune_store_runtime::RequestId;
use secrecy::{ExposeSecret, SecretString};
use serde::Serialize;
use serde::de::DeserializeOwned;
use sse_stream::SseByteStream;
use tokio::sync::watch;
use tokio::time::{Instant, timeout};

use super::protocol::{ReplicaStatus, RunItem, RunRequest};
use super::socket::FoundSocket;
use crate::model::HttpClient;

/// How long a replica may take to answer what it can answer at once.
const ANSWER_PATIENCE: Duration = Duration::from_secs(5);
/// Bytes of an answer that comes as a whole.
const MAX_ANSWER_BYTES: usize = 1 << 20;
/// Bytes of one event: an entry and what is around it.
const MAX_EVENT_BYTES: usize = 32 << 20;

/// What an endpoint begins with that is a Unix socket of this machine.
const UNIX: &str = "unix:";

/// Why a replica did not do what it was asked to.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReplicaError {
    /// It answered that it does not.
    #[error("the replica refused with status {status}: {message}")]
    Refused {
        /// The status of the answer.
        status: u16,
        /// What it said.
        message: String,
    },
    /// It could not be reached, or the connection broke off.
    #[error("the replica cannot be reached: {0}")]
    Lost(String),
}

/// Reaches one replica. Cheap to clone.
#[derive(Clone)]
pub struct ReplicaClient {
    way: Way,
    token: SecretString,
    silence: Duration,
}

/// How a replica is reached.
#[derive(Clone)]
enum Way {
    /// At a base URL.
    Address { base_url: String, http: HttpClient },
    /// At a socket, which is there once the replica listens.
    Socket(Arc<SocketWay>),
}

struct SocketWay {
    path: PathBuf,
    opened: OnceLock<(FoundSocket, reqwest::Client)>,
}

impl Way {
    fn new(endpoint: &str, http: HttpClient) -> Self {
        match endpoint.strip_prefix(UNIX) {
            Some(path) => Self::Socket(Arc::new(SocketWay {
                path: path.into(),
                opened: OnceLock::new(),
            })),
            None => Self::Address {
                base_url: endpoint.trim_end_matches('/').to_owned(),
                http,
            },
        }
    }

    fn request(&self, method: Method, path: &str) -> Result<reqwest::RequestBuilder, String> {
        match self {
            Self::Address { base_url, http } => {
                let url = format!("{base_url}{path}");
                Ok(http.for_url(&url)?.request(method, url))
            }
            Self::Socket(socket) => {
                let url = format!("http://replica{path}");
                Ok(socket.client()?.request(method, url))
            }
        }
    }
}

impl SocketWay {
    fn client(&self) -> Result<&reqwest::Client, String> {
        if let Some((_, client)) = self.opened.get() {
            return Ok(client);
        }
        let found = FoundSocket::find(&self.path)
            .map_err(|error| format!("{}: {error}", self.path.display()))?;
        let client = HttpClient::over_socket(&found.path())?;
        Ok(&self.opened.get_or_init(|| (found, client)).1)
    }
}

impl std::fmt::Debug for ReplicaClient {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.way {
            Way::Address { base_url, .. } => write!(f, "ReplicaClient({base_url})"),
            Way::Socket(socket) => write!(f, "ReplicaClient({})", socket.path.display()),
        }
    }
}

impl ReplicaClient {
    /// A client of the replica at a base URL, or at the socket of `unix:PATH`. `silence` is the longest
    /// that it may say nothing while it runs a request.
    #[must_use]
    pub fn new(endpoint: &str, token: SecretString, http: HttpClient, silence: Duration) -> Self {
        Self {
            way: Way::new(endpoint, http),
            token,
            silence,
        }
    }

    /// The longest that it may say nothing.
    pub(crate) const fn silence(&self) -> Duration {
        self.silence
    }

    /// How it is.
    ///
    /// # Errors
    /// A [`ReplicaError`].
    pub async fn status(&self) -> Result<ReplicaStatus, ReplicaError> {
        self.whole(Method::GET, "/v1/status", None::<&()>).await
    }

    /// Tells it to take nothing new.
    ///
    /// # Errors
    /// A [`ReplicaError`].
    pub async fn drain(&self) -> Result<ReplicaStatus, ReplicaError> {
        self.whole(Method::POST, "/v1/drain", None::<&()>).await
    }

    /// Stops a request that it runs. One that it does not run is no error.
    ///
    /// # Errors
    /// A [`ReplicaError`].
    pub async fn cancel(&self, id: RequestId) -> Result<(), ReplicaError> {
        let path = format!("/v1/requests/{id}/cancel");
        let stopped: Result<ReplicaStatus, _> = self.whole(Method::POST, &path, None::<&()>).await;
        stopped.map(drop)
    }

    /// Has it run a request, or joins the run.
    ///
    /// # Errors
    /// A [`ReplicaError`]; where it is [`ReplicaError::Refused`], it does not run it.
    pub(crate) async fn run(&self, ask: &RunRequest) -> Result<RunEvents, ReplicaError> {
        let sent = self.request(Method::POST, "/v1/run", Some(ask))?;
        let sent = sent.header(ACCEPT, "text/event-stream").send();
        let response = timeout(self.silence, sent).await;
        let response = response.map_err(|_| quiet(self.silence))?.map_err(lost)?;
        if !response.status().is_success() {
            return Err(refusal(response).await);
        }
        let silence = self.silence;
        let (hears, heard) = watch::channel(Instant::now());
        let read = (response.bytes_stream().boxed(), hears);
        let chunks = stream::try_unfold(read, move |(mut body, hears)| async move {
            match timeout(silence, body.next()).await {
                Err(_) => Err(quiet(silence)),
                Ok(None) => Ok(None),
                Ok(Some(Err(error))) => Err(lost(error)),
                Ok(Some(Ok(chunk))) => {
                    hears.send_replace(Instant::now());
                    Ok(Some((chunk, (body, hears))))
                }
            }
        });
        Ok(RunEvents::of(chunks.boxed(), heard))
    }

    fn request(
        &self,
        method: Method,
        path: &str,
        body: Option<&impl Serialize>,
    ) -> Result<reqwest::RequestBuilder, ReplicaError> {
        let bearer = format!("Bearer {}", self.token.expose_secret());
        let mut bearer = HeaderValue::try_from(bearer)
            .map_err(|_| ReplicaError::Lost("its token is no header".to_owned()))?;
        bearer.set_sensitive(true);
        let request = self.way.request(method, path).map_err(ReplicaError::Lost)?;
        let mut request = request.header(AUTHORIZATION, bearer);
        if let Some(body) = body {
            let json =
                serde_json::to_vec(body).map_err(|error| ReplicaError::Lost(error.to_string()))?;
            request = request.header(CONTENT_TYPE, "application/json").body(json);
        }
        Ok(request)
    }

    async fn whole<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Option<&impl Serialize>,
    ) -> Result<T, ReplicaError> {
        let answered = async {
            let response = self.request(method, path, body)?.send().await;
            let response = response.map_err(lost)?;
            if !response.status().is_success() {
                return Err(refusal(response).await);
            }
            let bytes = limited(response).await?;
            serde_json::from_slice(&bytes)
                .map_err(|error| ReplicaError::Lost(format!("it speaks another protocol: {error}")))
        };
        timeout(ANSWER_PATIENCE, answered)
            .await
            .unwrap_or_else(|_| Err(quiet(ANSWER_PATIENCE)))
    }
}

type Chunks = BoxStream<'static, Result<Bytes, Interruption>>;

/// What a replica says of a run.
pub(crate) struct RunEvents {
    events: Pin<Box<SseByteStream<Chunks>>>,
    heard: watch::Receiver<Instant>,
}

impl RunEvents {
    /// When the replica has said something last, be it only that it is there.
    pub(crate) fn heard(&self) -> Instant {
        *self.heard.borrow()
    }

    /// What these bytes say, no event of which may exceed its limit.
    fn of(
        chunks: BoxStream<'static, Result<Bytes, ReplicaError>>,
        heard: watch::Receiver<Instant>,
    ) -> Self {
        // Bytes since the last event, and whether a line ended with them.
        let (mut event, mut line_ended) = (0_usize, false);
        let limited = chunks.map(move |chunk| {
            let chunk = chunk.map_err(Interruption)?;
            let ends = chunk.windows(2).any(|pair| pair == b"\n\n")
                || line_ended && chunk.first() == Some(&b'\n');
            line_ended = chunk.last().map_or(line_ended, |last| *last == b'\n');
            event = if ends { 0 } else { event } + chunk.len();
            if event > MAX_EVENT_BYTES {
                let message = format!("one event has more than {MAX_EVENT_BYTES} bytes");
                return Err(Interruption(ReplicaError::Lost(message)));
            }
            Ok(chunk)
        });
        Self {
            events: Box::pin(SseByteStream::new(limited.boxed())),
            heard,
        }
    }

    /// The next item with its position; `None` at the end of the run.
    pub(crate) async fn next(&mut self) -> Result<Option<(u64, RunItem)>, ReplicaError> {
        loop {
            let event = match self.events.next().await {
                None => return Ok(None),
                Some(Ok(event)) => event,
                Some(Err(sse_stream::Error::Body(source))) => {
                    return Err(match source.downcast::<Interruption>() {
                        Ok(interruption) => interruption.0,
                        Err(error) => ReplicaError::Lost(error.to_string()),
                    });
                }
                Some(Err(error)) => return Err(ReplicaError::Lost(error.to_string())),
            };
            let Some(data) = event.data else { continue };
            let item = serde_json::from_str(&data).map_err(|error| {
                ReplicaError::Lost(format!("it speaks another protocol: {error}"))
            })?;
            let position = event.id.and_then(|id| id.parse().ok()).unwrap_or_default();
            return Ok(Some((position, item)));
        }
    }
}

/// The items of bytes in memory, up to the first error, for tests and fuzzers.
pub fn read_run<'a>(
    chunks: impl IntoIterator<Item = &'a [u8]>,
) -> Vec<Result<(u64, RunItem), ReplicaError>> {
    let chunks: Vec<_> = chunks
        .into_iter()
        .map(|chunk| Ok(Bytes::copy_from_slice(chunk)))
        .collect();
    let (_, heard) = watch::channel(Instant::now());
    let events = RunEvents::of(stream::iter(chunks).boxed(), heard);
    let items = stream::unfold(Some(events), |events| async move {
        let mut events = events?;
        match events.next().await {
            Ok(item) => item.map(|item| (Ok(item), Some(events))),
            Err(error) => Some((Err(error), None)),
        }
    });
    items.collect::<Vec<_>>().now_or_never().unwrap_or_default()
}

/// A [`ReplicaError`] on its way through a body.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
struct Interruption(ReplicaError);

fn quiet(silence: Duration) -> ReplicaError {
    ReplicaError::Lost(format!("it was silent for {} ms", silence.as_millis()))
}

fn lost(error: reqwest::Error) -> ReplicaError {
    let error = error.without_url();
    let mut text = error.to_string();
    let mut source = std::error::Error::source(&error);
    while let Some(error) = source {
        text = format!("{text}: {error}");
        source = error.source();
    }
    ReplicaError::Lost(text)
}

async fn refusal(response: reqwest::Response) -> ReplicaError {
    let status = response.status();
    let body = limited(response).await.unwrap_or_default();
    let body: serde_json::Value = serde_json::from_slice(&body).unwrap_or_default();
    let message = body["error"]["message"].as_str().unwrap_or("no reason");
    if status == StatusCode::BAD_GATEWAY || status == StatusCode::GATEWAY_TIMEOUT {
        // Somebody between us says so.
        return ReplicaError::Lost(message.to_owned());
    }
    ReplicaError::Refused {
        status: status.as_u16(),
        message: message.to_owned(),
    }
}

async fn limited(response: reqwest::Response) -> Result<Vec<u8>, ReplicaError> {
    let mut body = response.bytes_stream();
    let mut bytes = Vec::new();
    while let Some(chunk) = body.next().await {
        bytes.extend_from_slice(&chunk.map_err(lost)?);
        if bytes.len() > MAX_ANSWER_BYTES {
            return Err(ReplicaError::Lost("its answer is too large".to_owned()));
        }
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;
    use tokio::sync::mpsc;

    use super::*;

    const TEXT: &str = "id: 1\ndata: {\"type\":\"text\",\"value\":\"a\"}\n\n";

    #[tokio::test]
    async fn a_replica_that_only_says_that_it_is_there_is_heard() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let (say, mut says) = mpsc::unbounded_channel::<&str>();
        // It says what it is told to, and breaks off when there is no more.
        let replica = async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut asked = [0; 4096];
            assert!(stream.read(&mut asked).await.unwrap() > 0);
            let head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncontent-length: 9999\r\n\r\n";
            stream.write_all(head.as_bytes()).await.unwrap();
            while let Some(text) = says.recv().await {
                stream.write_all(text.as_bytes()).await.unwrap();
            }
        };
        let daemon = async move {
            let silence = Duration::from_secs(30);
            let client = ReplicaClient::new(&url, "key".into(), HttpClient::new(), silence);
            let ask = RunRequest {
                request_id: RequestId::generate(),
                after: 0,
                resume: None,
                taken_up: false,
                unstored: None,
            };
            say.send(TEXT).unwrap();
            let mut events = client.run(&ask).await.unwrap();
            let first = Some((1, RunItem::Text("a".to_owned())));
            assert_eq!(events.next().await, Ok(first));
            let said = Instant::now();
            say.send(": keep-alive\n\n").unwrap();
            drop(say);
            assert!(matches!(events.next().await, Err(ReplicaError::Lost(_))));
            assert!(events.heard() >= said, "a comment is not nothing");
        };
        tokio::join!(replica, daemon);
    }
}
