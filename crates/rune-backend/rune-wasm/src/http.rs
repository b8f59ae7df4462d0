//! The HTTP requests of guests: where they may go, and secrets in them.

use std::error::Error as StdError;
use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, header};
use http_body::Body as _;
use http_body_util::{BodyExt, Limited};
use reqwest::redirect::Policy;
use reqwest::{Body, Client, Url};
use rune_tools::{CheckedResolver, EgressError, EgressGate, EgressPolicy, Hosts, destination};
use tokio::time::timeout;
use url::form_urlencoded::byte_serialize;
use wasmtime_wasi_http::{Error, RequestOptions, WasiBody, WasiHttpHooks};

use crate::guest::Refusals;
use crate::mask::{Masked, mask_headers};
use crate::secrets::Placeholders;

/// The longest that connecting may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// The longest silence while an answer is read.
const READ_TIMEOUT: Duration = Duration::from_secs(30);
/// Idle connections are kept for so long.
const IDLE_TIMEOUT: Duration = Duration::from_secs(30);
/// The largest body that is searched for placeholders, in bytes.
const MAX_SEARCHED_BYTES: usize = 4 * 1024 * 1024;

/// An answer, and what is still to be done for it.
type Answered = (
    Response<WasiBody>,
    Box<dyn Future<Output = Result<(), Error>> + Send>,
);

/// The HTTP client of all guests, built at its first use. It follows no redirect: a guest that does asks again.
pub(crate) struct HttpClient {
    policy: Arc<EgressPolicy>,
    client: OnceLock<Result<Client, String>>,
}

impl HttpClient {
    pub(crate) fn new(policy: EgressPolicy) -> Self {
        Self {
            policy: Arc::new(policy),
            client: OnceLock::new(),
        }
    }

    fn client(&self) -> Result<&Client, Error> {
        let client = self.client.get_or_init(|| {
            Client::builder()
                .user_agent(concat!("rune/", env!("CARGO_PKG_VERSION")))
                .dns_resolver(Arc::new(CheckedResolver::new(Arc::clone(&self.policy))))
                .redirect(Policy::none())
                .no_proxy()
                .no_gzip()
                .referer(false)
                .tcp_nodelay(true)
                .connect_timeout(CONNECT_TIMEOUT)
                .read_timeout(READ_TIMEOUT)
                .pool_idle_timeout(IDLE_TIMEOUT)
                .build()
                .map_err(|error| error.to_string())
        });
        client
            .as_ref()
            .map_err(|error| Error::InternalError(Some(error.clone())))
    }

    /// Whether an address may be connected to; the refusal as a sentence.
    pub(crate) fn check_address(
        &self,
        address: SocketAddr,
        hosts: &Hosts,
        gate: Option<&dyn EgressGate>,
    ) -> Result<(), String> {
        let host = address.ip().to_canonical().to_string();
        let port = address.port();
        if !hosts.allow(&host, port) {
            return Err(not_granted(&host, port));
        }
        let allowed = self.policy.check_resolved(&host, [address.ip()]);
        allowed.map_err(|error| error.to_string())?;
        gate.map_or(Ok(()), |gate| gate.connect(&host, port))
            .map_err(|error| error.message)
    }
}

fn not_granted(host: &str, port: u16) -> String {
    let host = if host.contains(':') {
        format!("[{host}]")
    } else {
        host.to_owned()
    };
    format!(
        "`{host}:{port}` is not granted; `network:{host}:{port}` in `capabilities` would grant it"
    )
}

/// What one guest may send.
pub(crate) struct Egress {
    pub(crate) client: Arc<HttpClient>,
    pub(crate) hosts: Arc<Hosts>,
    pub(crate) secrets: Arc<Placeholders>,
    pub(crate) gate: Option<Arc<dyn EgressGate>>,
    pub(crate) refusals: Refusals,
}

/// The port of the service that answers for names.
const DNS: u16 = 53;

impl Egress {
    /// Whether a name may be looked up; the refusal as a sentence.
    pub(crate) fn check_lookup(&self, name: &str) -> Result<(), String> {
        if !self.hosts.has_names() {
            return Err(format!(
                "looking up `{name}` is not granted; `network` in `capabilities` would grant it"
            ));
        }
        let gate = self.gate.as_ref();
        gate.map_or(Ok(()), |gate| gate.connect(name, DNS))
            .map_err(|error| error.message)
    }

    /// The URL of a request that may be made.
    fn admit(&self, request: &Request<WasiBody>) -> Result<Url, Error> {
        if request.method() == Method::CONNECT {
            // A tunnel leads wherever the host likes.
            return Err(Error::HttpRequestMethodInvalid);
        }
        let url = Url::parse(&request.uri().to_string());
        let url = url.map_err(|_| Error::HttpRequestUriInvalid)?;
        let (host, port) = destination(&url).ok_or(Error::HttpRequestUriInvalid)?;
        let refuse = |reason: String, error: Error| {
            self.refusals.add(reason);
            error
        };
        if !self.hosts.allow(&host, port) {
            return Err(refuse(not_granted(&host, port), Error::HttpRequestDenied));
        }
        self.client.policy.check_url(&url).map_err(|error| {
            let denied = denied(&error);
            refuse(error.to_string(), denied)
        })?;
        if let Some(gate) = &self.gate {
            gate.connect(&host, port)
                .map_err(|error| refuse(error.message, Error::HttpRequestDenied))?;
        }
        Ok(url)
    }

    /// The URL with secrets in its path and query. Host and port are what was admitted.
    fn revealed(&self, mut url: Url) -> Url {
        let encode = |secret: &str| {
            let encoded: String = byte_serialize(secret.as_bytes()).collect();
            encoded.replace('+', "%20")
        };
        let path = self.secrets.reveal(url.path(), encode);
        url.set_path(&path);
        if let Some(query) = url.query() {
            let query = self.secrets.reveal(query, encode);
            url.set_query(Some(&query));
        }
        url
    }
}

impl WasiHttpHooks for Egress {
    fn send_request(
        &mut self,
        request: Request<WasiBody>,
        options: Option<RequestOptions>,
        _: Box<dyn Future<Output = Result<(), Error>> + Send>,
    ) -> Box<dyn Future<Output = Result<Answered, Error>> + Send> {
        let admitted = self.admit(&request).map(|url| self.revealed(url));
        let client = Arc::clone(&self.client);
        let secrets = Arc::clone(&self.secrets);
        let refusals = self.refusals.clone();
        Box::new(async move {
            let sent = send(&client, admitted?, request, options, &secrets).await;
            sent.map_err(|failed| match failed {
                Failed::Refused(error) => {
                    refusals.add(error.to_string());
                    denied(&error)
                }
                Failed::Other(error) => error,
            })
        })
    }
}

enum Failed {
    /// The name leads to an address that is not allowed.
    Refused(EgressError),
    Other(Error),
}

impl From<Error> for Failed {
    fn from(error: Error) -> Self {
        Self::Other(error)
    }
}

async fn send(
    client: &HttpClient,
    url: Url,
    request: Request<WasiBody>,
    options: Option<RequestOptions>,
    secrets: &Placeholders,
) -> Result<Answered, Failed> {
    let (mut parts, body) = request.into_parts();
    // The client writes it from the URL.
    parts.headers.remove(header::HOST);
    secrets.reveal_headers(&mut parts.headers);
    let mut outgoing = client.client()?.request(parts.method, url);
    if !body.is_end_stream() {
        let body = if secrets.is_empty() {
            Body::wrap_stream(body.into_data_stream())
        } else {
            let body = searched(body, secrets).await?;
            parts
                .headers
                .insert(header::CONTENT_LENGTH, HeaderValue::from(body.len()));
            Body::from(body)
        };
        outgoing = outgoing.body(body);
    }
    let sending = outgoing.headers(parts.headers).send();
    let limit = options.and_then(|options| options.first_byte_timeout);
    let answer = match limit {
        Some(limit) => timeout(limit, sending)
            .await
            .map_err(|_| Error::HttpResponseTimeout)?,
        None => sending.await,
    };
    let mut answer: Response<Body> = answer.map_err(|error| failed(&error))?.into();
    if secrets.is_empty() {
        let answer = answer.map(|body| body.map_err(|error| of_client(&error)).boxed_unsync());
        return Ok((answer, Box::new(async { Ok(()) })));
    }
    mask_headers(answer.headers_mut(), secrets.secrets());
    let answer = answer.map(|body| {
        let body = body.map_err(|error| of_client(&error));
        Masked::new(body, secrets.secrets().clone()).boxed_unsync()
    });
    Ok((answer, Box::new(async { Ok(()) })))
}

/// The whole body, with secrets in it.
async fn searched(body: WasiBody, secrets: &Placeholders) -> Result<Bytes, Error> {
    let collected = Limited::new(body, MAX_SEARCHED_BYTES).collect().await;
    let bytes = collected
        .map_err(|_| Error::HttpRequestBodySize(Some(MAX_SEARCHED_BYTES as u64)))?
        .to_bytes();
    Ok(secrets.reveal_bytes(&bytes).map_or(bytes, Bytes::from))
}

fn denied(error: &EgressError) -> Error {
    match error {
        EgressError::Address { .. } => Error::DestinationIpProhibited,
        EgressError::NoAddress(_) => Error::DestinationNotFound,
        EgressError::NoHost => Error::HttpRequestUriInvalid,
        EgressError::Scheme(_) | EgressError::Credentials | EgressError::Port(_) => {
            Error::HttpRequestDenied
        }
    }
}

fn failed(error: &reqwest::Error) -> Failed {
    let mut source: Option<&(dyn StdError + 'static)> = Some(error);
    while let Some(cause) = source {
        if let Some(refused) = cause.downcast_ref::<EgressError>() {
            return Failed::Refused(refused.clone());
        }
        source = cause.source();
    }
    Failed::Other(of_client(error))
}

fn of_client(error: &reqwest::Error) -> Error {
    if error.is_timeout() {
        Error::ConnectionTimeout
    } else if error.is_connect() {
        Error::ConnectionRefused
    } else if error.is_body() || error.is_decode() {
        Error::HttpResponseIncomplete
    } else {
        Error::HttpProtocolError
    }
}
