//! One attempt of a call, and what its answer means.

use std::error::Error as _;
use std::fmt::Write as _;
use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{PoisonError, RwLock};
use std::time::Duration;

use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_TYPE};
use http::{HeaderValue, StatusCode};
use reqwest::{Client, RequestBuilder, Response, Url, redirect};
use rune_http::ErrorBody;
use rune_store_runtime::limits::RECEIPT_WINDOW;
use rune_store_runtime::{Reject, StoreError};
use rustix::fs::{CWD, Mode, OFlags, openat};
use secrecy::{ExposeSecret as _, SecretString};
use tokio::time::Instant;

use super::{Patience, RemoteStoreConfig, RemoteStoreError};

/// Longest time for a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// What a retry must leave of the time in which a command is known again.
const RECEIPT_MARGIN: Duration = Duration::from_secs(120);
/// Bytes for which an attempt gets a second more.
const BYTES_PER_SECOND: usize = 1 << 20;

/// What a URL begins with that is a Unix socket of this machine.
const UNIX: &str = "unix:";

/// Why a call has no answer.
#[derive(Debug)]
pub(super) enum CallError {
    /// Nobody answered, or who answered cannot now: it can be sent again.
    Again(String),
    /// The caller may not do this. Nothing of the call was done.
    Denied(String),
    /// Sending it again changes nothing.
    Final(StoreError),
}

/// How the control plane is reached.
pub(super) struct Connection {
    http: Client,
    url: String,
    /// What the paths of calls are put behind.
    base: String,
    /// Where the socket is, if it is one.
    _dir: Option<OwnedFd>,
    authorization: RwLock<HeaderValue>,
    patience: Duration,
    attempt: Duration,
}

impl Connection {
    pub(super) fn new(config: &RemoteStoreConfig) -> Result<Self, RemoteStoreError> {
        let url = config.url.trim_end_matches('/').to_owned();
        let socket = url.strip_prefix(UNIX).map(|path| {
            let found = socket(Path::new(path));
            found.map_err(|error| RemoteStoreError::Socket(path.to_owned(), error))
        });
        let (dir, socket) = socket.transpose()?.unzip();
        let base = match socket {
            Some(_) => "http://daemon".to_owned(),
            None => url.clone(),
        };
        let parsed = Url::parse(&base).ok();
        let scheme = parsed.as_ref().map(Url::scheme);
        if !matches!(scheme, Some("http" | "https")) {
            return Err(RemoteStoreError::Url(url));
        }
        let mut http = Client::builder()
            .connect_timeout(CONNECT_TIMEOUT)
            // The address is this deployment's own, and the token is for nobody in between.
            .no_proxy()
            .redirect(redirect::Policy::none())
            .tcp_nodelay(true)
            .user_agent(concat!("rune/", env!("CARGO_PKG_VERSION")));
        if scheme == Some("http") {
            http = http.tls_certs_only([]);
        }
        if let Some(socket) = socket {
            http = http.unix_socket(socket);
        }
        let authorization = bearer(&config.token).ok_or(RemoteStoreError::Token)?;
        Ok(Self {
            http: http.build().map_err(RemoteStoreError::Client)?,
            url,
            base,
            _dir: dir,
            authorization: RwLock::new(authorization),
            patience: config.patience.min(RECEIPT_WINDOW - RECEIPT_MARGIN),
            attempt: config.attempt,
        })
    }

    /// Where it leads.
    pub(super) fn url(&self) -> &str {
        &self.url
    }

    /// Uses this token from now on.
    pub(super) fn set_token(&self, token: &SecretString) {
        if let Some(authorization) = bearer(token) {
            let current = self.authorization.write();
            *current.unwrap_or_else(PoisonError::into_inner) = authorization;
        }
    }

    fn authorization(&self) -> HeaderValue {
        let current = self.authorization.read();
        current.unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The patience of a call that has waited since then.
    pub(super) fn patience_since(&self, since: Instant) -> Patience {
        Patience::until(since + self.patience)
    }

    /// Sends JSON, answers JSON.
    pub(super) async fn post(&self, path: &str, body: Bytes) -> Result<Bytes, CallError> {
        let request = self.http.post(format!("{}{path}", self.base));
        let request = request.header(CONTENT_TYPE, "application/json");
        let response = self.send(request, body).await?;
        self.body(response).await
    }

    /// Sends bytes, answers JSON.
    pub(super) async fn put(&self, path: &str, body: Bytes) -> Result<Bytes, CallError> {
        let request = self.http.put(format!("{}{path}", self.base));
        let request = request.header(CONTENT_TYPE, "application/octet-stream");
        let response = self.send(request, body).await?;
        self.body(response).await
    }

    /// The answer to a question without a body, with whether it is JSON.
    pub(super) async fn get(&self, path: &str) -> Result<(Bytes, bool), CallError> {
        let request = self.http.get(format!("{}{path}", self.base));
        let response = self.send(request, Bytes::new()).await?;
        let content_type = response.headers().get(CONTENT_TYPE);
        let is_json = content_type.is_some_and(|it| it.as_bytes() == b"application/json");
        Ok((self.body(response).await?, is_json))
    }

    async fn send(&self, request: RequestBuilder, body: Bytes) -> Result<Response, CallError> {
        let seconds = u64::try_from(body.len() / BYTES_PER_SECOND).unwrap_or_default();
        let request = request
            .header(AUTHORIZATION, self.authorization())
            .timeout(self.attempt + Duration::from_secs(seconds))
            .body(body);
        let response = request.send().await.map_err(|error| self.lost(error))?;
        match response.status() {
            StatusCode::OK => Ok(response),
            status => Err(self.refused(status, response.bytes().await.ok())),
        }
    }

    async fn body(&self, response: Response) -> Result<Bytes, CallError> {
        response.bytes().await.map_err(|error| self.lost(error))
    }

    fn lost(&self, error: reqwest::Error) -> CallError {
        let error = error.without_url();
        let mut reason = format!("the control plane at {} does not answer: {error}", self.url);
        let mut source = error.source();
        while let Some(cause) = source {
            // Writing to a string cannot fail.
            let _ = write!(reason, ": {cause}");
            source = cause.source();
        }
        CallError::Again(reason)
    }

    /// What an answer without a result means.
    fn refused(&self, status: StatusCode, body: Option<Bytes>) -> CallError {
        let body = body.and_then(|body| serde_json::from_slice::<ErrorBody>(&body).ok());
        let message = body.map(|body| body.error.message).unwrap_or_default();
        let told = || {
            format!(
                "the control plane at {} answered {status}: {message}",
                self.url
            )
        };
        match status {
            StatusCode::REQUEST_TIMEOUT
            | StatusCode::TOO_MANY_REQUESTS
            | StatusCode::BAD_GATEWAY
            | StatusCode::SERVICE_UNAVAILABLE
            | StatusCode::GATEWAY_TIMEOUT => CallError::Again(told()),
            StatusCode::FORBIDDEN => CallError::Denied(message),
            StatusCode::PAYLOAD_TOO_LARGE => {
                CallError::Final(StoreError::Rejected(Reject::invalid(message)))
            }
            _ => CallError::Final(StoreError::Unavailable(told())),
        }
    }
}

/// The directory of a socket, and where the socket can be connected to while the directory is open: it may have a longer path
/// than the kernel takes, and is another one after a restart of who listens there.
fn socket(path: &Path) -> io::Result<(OwnedFd, PathBuf)> {
    let (Some(dir), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(io::Error::from(io::ErrorKind::InvalidInput));
    };
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let dir = openat(CWD, dir, flags, Mode::empty())?;
    let short = PathBuf::from(format!("/proc/self/fd/{}", dir.as_raw_fd())).join(name);
    Ok((dir, short))
}

fn bearer(token: &SecretString) -> Option<HeaderValue> {
    let value = format!("Bearer {}", token.expose_secret());
    let mut value = HeaderValue::try_from(value).ok()?;
    value.set_sensitive(true);
    Some(value)
}
