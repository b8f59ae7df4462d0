//! How bytes come and go.

use std::collections::BTreeMap;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::stream::BoxStream;
use rune_store_runtime::ErrorCode;
use serde_json::Value;

/// A request. One with a body is a POST, any other a GET.
#[derive(Debug, Clone, PartialEq)]
pub struct HttpRequest {
    /// An absolute URL.
    pub url: String,
    /// Names in lower case. Credentials are the transport's affair.
    pub headers: Vec<(&'static str, String)>,
    /// Sent as `application/json`.
    pub body: Option<Value>,
}

/// An answer. A redirect is one, too.
pub struct HttpResponse {
    /// The status.
    pub status: u16,
    /// By name in lower case.
    pub headers: BTreeMap<String, String>,
    /// The body as it comes.
    pub body: BoxStream<'static, Result<Bytes, TransportError>>,
}

impl HttpResponse {
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(String::as_str)
    }

    /// Whether it is of this media type.
    pub(super) fn is(&self, media_type: &str) -> bool {
        let sent = self.header("content-type").unwrap_or_default();
        let sent = sent.split(';').next().unwrap_or_default().trim();
        sent.eq_ignore_ascii_case(media_type)
    }
}

/// An exchange that did not come to an answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct TransportError {
    /// `denied` and `invalid_input` where it must not be made, `unavailable` or `timeout` where it broke.
    pub code: ErrorCode,
    /// For a person.
    pub message: String,
    /// Whether the other side has not seen anything of it.
    pub is_unsent: bool,
}

/// Sends requests where they may go. Each implementation keeps to an egress policy, resolves names by it, follows no
/// redirect, and bounds how long connecting and silence may take.
#[async_trait]
pub trait Transport: Send + Sync {
    /// Whether a URL may be asked, as far as that can be said without asking.
    ///
    /// # Errors
    /// Why not.
    fn admit(&self, url: &str) -> Result<(), TransportError>;

    /// Sends a request; answers once the head of the answer is there.
    ///
    /// # Errors
    /// There was no answer.
    async fn send(&self, request: HttpRequest) -> Result<HttpResponse, TransportError>;
}
