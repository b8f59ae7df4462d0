//! The HTTP client of servers.

use std::collections::HashMap;
use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderName, HeaderValue};
use reqwest::redirect::Policy;
use rmcp::model::ClientJsonRpcMessage;
use rmcp::transport::common::client_side_sse::BoxedSseResponse;
use rmcp::transport::streamable_http_client::{
    StreamableHttpClient, StreamableHttpError, StreamableHttpPostResponse,
    StreamableHttpResponseLimits,
};
use rune_tools::{CheckedResolver, EgressPolicy};
use url::Url;

use crate::limits;

/// The longest that connecting a socket may take.
const SOCKET_TIMEOUT: Duration = Duration::from_secs(10);

/// Connects only where the policy allows, takes no proxy from the environment, keeps no cookies and follows no redirect:
/// the headers are for the server that is configured. Its errors name no URL, which may hold a secret.
#[derive(Clone)]
pub(crate) struct HttpClient(reqwest::Client);

/// A request that was not answered.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub(crate) struct HttpError {
    message: String,
    /// Whether the server has heard nothing of it.
    pub(crate) is_unsent: bool,
}

impl HttpClient {
    /// A client for this endpoint, which may be where the policy allows.
    pub(crate) fn new(url: &Url, egress: &EgressPolicy) -> Result<Self, String> {
        let resolver = CheckedResolver::new(Arc::new(egress.clone()));
        let mut client = reqwest::Client::builder()
            .user_agent(concat!("rune/", env!("CARGO_PKG_VERSION")))
            .dns_resolver(Arc::new(resolver))
            .redirect(Policy::none())
            .no_proxy()
            .connect_timeout(SOCKET_TIMEOUT)
            // A response that was not read to its end would delay the next one.
            .pool_max_idle_per_host(0);
        if url.scheme() == "http" {
            // Loading the system's certificates takes long.
            client = client.tls_certs_only([]);
        }
        let client = client.build();
        client
            .map(Self)
            .map_err(|error| format!("no HTTP client can be made: {error}"))
    }
}

type Headers = HashMap<HeaderName, HeaderValue>;
type Failed = StreamableHttpError<HttpError>;

impl StreamableHttpClient for HttpClient {
    type Error = HttpError;

    async fn post_message(
        &self,
        uri: Arc<str>,
        message: ClientJsonRpcMessage,
        session_id: Option<Arc<str>>,
        auth_header: Option<String>,
        headers: Headers,
    ) -> Result<StreamableHttpPostResponse, Failed> {
        let mut limits = StreamableHttpResponseLimits::default();
        limits.max_sse_event_size = limits::MESSAGE_BYTES;
        limits.max_json_response_size = limits::MESSAGE_BYTES;
        limits.max_error_response_size = limits::ERROR_BODY_BYTES;
        self.post_message_with_response_limits(
            uri,
            message,
            session_id,
            auth_header,
            headers,
            limits,
        )
        .await
    }

    async fn post_message_with_response_limits(
        &self,
        uri: Arc<str>,
        message: ClientJsonRpcMessage,
        session_id: Option<Arc<str>>,
        auth_header: Option<String>,
        headers: Headers,
        limits: StreamableHttpResponseLimits,
    ) -> Result<StreamableHttpPostResponse, Failed> {
        let posted = self.0.post_message_with_response_limits(
            uri,
            message,
            session_id,
            auth_header,
            headers,
            limits,
        );
        posted.await.map_err(nameless)
    }

    async fn delete_session(
        &self,
        uri: Arc<str>,
        session_id: Arc<str>,
        auth_header: Option<String>,
        headers: Headers,
    ) -> Result<(), Failed> {
        let deleted = self.0.delete_session(uri, session_id, auth_header, headers);
        deleted.await.map_err(nameless)
    }

    async fn get_stream(
        &self,
        uri: Arc<str>,
        session_id: Option<Arc<str>>,
        last_event_id: Option<String>,
        auth_header: Option<String>,
        headers: Headers,
    ) -> Result<BoxedSseResponse, Failed> {
        self.get_stream_with_max_sse_event_size(
            uri,
            session_id,
            last_event_id,
            auth_header,
            headers,
            limits::MESSAGE_BYTES,
        )
        .await
    }

    async fn get_stream_with_max_sse_event_size(
        &self,
        uri: Arc<str>,
        session_id: Option<Arc<str>>,
        last_event_id: Option<String>,
        auth_header: Option<String>,
        headers: Headers,
        max_sse_event_size: usize,
    ) -> Result<BoxedSseResponse, Failed> {
        let opened = self.0.get_stream_with_max_sse_event_size(
            uri,
            session_id,
            last_event_id,
            auth_header,
            headers,
            max_sse_event_size,
        );
        opened.await.map_err(nameless)
    }
}

/// The error without the URL.
fn nameless(error: StreamableHttpError<reqwest::Error>) -> Failed {
    use StreamableHttpError as E;
    match error {
        E::Client(error) => {
            let is_unsent = error.is_connect();
            let error = error.without_url();
            let mut message = error.to_string();
            let mut source = error.source();
            while let Some(error) = source {
                message = format!("{message}: {error}");
                source = error.source();
            }
            E::Client(HttpError { message, is_unsent })
        }
        E::Sse(error) => E::Sse(error),
        E::Io(error) => E::Io(error),
        E::HttpStatus(error) => E::HttpStatus(error),
        E::UnexpectedEndOfStream => E::UnexpectedEndOfStream,
        E::UnexpectedServerResponse(said) => E::UnexpectedServerResponse(said),
        E::ResponseBodyTooLarge { max_size } => E::ResponseBodyTooLarge { max_size },
        E::UnexpectedContentType(kind) => E::UnexpectedContentType(kind),
        E::ServerDoesNotSupportSse => E::ServerDoesNotSupportSse,
        E::ServerDoesNotSupportDeleteSession => E::ServerDoesNotSupportDeleteSession,
        E::TokioJoinError(error) => E::TokioJoinError(error),
        E::Deserialize(error) => E::Deserialize(error),
        E::TransportChannelClosed => E::TransportChannelClosed,
        E::MissingSessionIdInResponse => E::MissingSessionIdInResponse,
        E::AuthRequired(error) => E::AuthRequired(error),
        E::InsufficientScope(error) => E::InsufficientScope(error),
        E::ReservedHeaderConflict(name) => E::ReservedHeaderConflict(name),
        E::SessionExpired => E::SessionExpired,
        E::SessionRecoveryTimeout => E::SessionRecoveryTimeout,
        E::ReinitializationFailed(error) => E::ReinitializationFailed(error),
        E::ControlRequestTimeout => E::ControlRequestTimeout,
        other => E::UnexpectedServerResponse(other.to_string().into()),
    }
}

/// Whether an error of the transport says that the server has heard nothing of a request.
pub(crate) fn is_unsent(error: &(dyn Error + 'static)) -> bool {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(StreamableHttpError::Client(error)) = error.downcast_ref::<Failed>() {
            return error.is_unsent;
        }
        next = error.source();
    }
    false
}
