//! The HTTP client of the web tools.

use std::borrow::Cow;
use std::error::Error;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use reqwest::header::{ACCEPT, CONTENT_TYPE, HeaderMap, HeaderValue, LOCATION};
use reqwest::redirect::Policy;
use reqwest::{Client, Response, Url};
use serde_json::Value;

use crate::egress::{CheckedResolver, EgressError, EgressPolicy, destination};
use crate::{EgressGate, ToolError, ToolErrorKind};

/// Redirects that are followed.
const MAX_REDIRECTS: usize = 5;

/// The longest that connecting may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// The longest silence while a body is read.
const READ_TIMEOUT: Duration = Duration::from_secs(15);

/// What the client asks for where a page is wanted.
const ACCEPTED: &str = "text/html, text/*;q=0.9, application/json, application/xml;q=0.9";

/// Idle connections are kept for the next page of the same site, for this long.
const IDLE_TIMEOUT: Duration = Duration::from_secs(30);

/// A page that was fetched.
#[derive(Debug)]
pub(crate) struct Fetched {
    /// The URL that answered, after redirects.
    pub(crate) url: Url,
    /// The HTTP status.
    pub(crate) status: u16,
    /// The content type as sent, lower case; empty where there is none.
    pub(crate) content_type: String,
    /// The decoded body up to the limit.
    pub(crate) body: Vec<u8>,
    /// Whether the body is longer.
    pub(crate) truncated: bool,
}

/// A request to a service.
pub(crate) struct WebRequest {
    pub(crate) url: Url,
    pub(crate) headers: Vec<(Cow<'static, str>, String)>,
    /// What is posted; a request without it gets.
    pub(crate) json: Option<Value>,
}

impl WebRequest {
    /// Gets from a URL.
    pub(crate) const fn get(url: Url) -> Self {
        Self {
            url,
            headers: Vec::new(),
            json: None,
        }
    }
}

/// A request that got no answer.
pub(crate) struct Unanswered {
    pub(crate) error: ToolError,
    /// Whether the other side has not seen anything of it.
    pub(crate) is_unsent: bool,
}

/// An HTTP client that goes only where an [`EgressPolicy`] allows. It takes no proxy
/// from the environment, keeps no cookies and is built at its first use.
pub(crate) struct WebClient {
    policy: Arc<EgressPolicy>,
    /// The longest silence while an answer is read.
    silence: Duration,
    client: OnceLock<Client>,
}

impl WebClient {
    pub(crate) fn new(policy: EgressPolicy) -> Self {
        Self::patient(policy, READ_TIMEOUT)
    }

    /// The same for answers that may be silent for longer.
    pub(crate) fn patient(policy: EgressPolicy, silence: Duration) -> Self {
        Self {
            policy: Arc::new(policy),
            silence,
            client: OnceLock::new(),
        }
    }

    /// Whether the policy lets a URL through, as far as that shows before its name is resolved.
    pub(crate) fn check(&self, url: &Url) -> Result<(), EgressError> {
        self.policy.check_url(url)
    }

    /// Gets a page, at the most `max_bytes` of its decoded body. `gate` is asked about the host of every hop.
    pub(crate) async fn get(
        &self,
        url: &str,
        max_bytes: usize,
        gate: Option<&dyn EgressGate>,
    ) -> Result<Fetched, ToolError> {
        self.get_as(url, ACCEPTED, max_bytes, gate).await
    }

    /// As [`WebClient::get`], asking for other types than those of pages.
    pub(crate) async fn get_as(
        &self,
        url: &str,
        accept: &'static str,
        max_bytes: usize,
        gate: Option<&dyn EgressGate>,
    ) -> Result<Fetched, ToolError> {
        let mut url = Url::parse(url)
            .map_err(|error| ToolError::invalid(format!("`{url}` is not a URL: {error}")))?;
        let client = self.client()?;
        for _ in 0..=MAX_REDIRECTS {
            // Before every hop: the client does not resolve a host that is an address.
            self.policy
                .check_url(&url)
                .map_err(|error| refused(&error))?;
            if let (Some(gate), Some((host, port))) = (gate, destination(&url)) {
                gate.connect(&host, port)?;
            }
            url.set_fragment(None);
            let response = client
                .get(url.clone())
                .header(ACCEPT, accept)
                .send()
                .await
                .map_err(|error| unreachable(&url, &error.without_url()))?;
            match redirect(&url, &response)? {
                Some(next) => url = next,
                None => return read(url, response, max_bytes).await,
            }
        }
        Err(ToolError::failed(format!(
            "more than {MAX_REDIRECTS} redirects, the last one to {url}"
        )))
    }

    /// Sends one request, at the most `max_bytes` of whose answer are read. `gate` is asked about the host. A redirect is an
    /// answer: what is sent may be a secret of one host.
    pub(crate) async fn send(
        &self,
        request: WebRequest,
        max_bytes: usize,
        gate: Option<&dyn EgressGate>,
    ) -> Result<Fetched, ToolError> {
        let url = request.url.clone();
        let response = self.open(request, gate).await;
        read(
            url,
            response.map_err(|unanswered| unanswered.error)?,
            max_bytes,
        )
        .await
    }

    /// Sends one request and answers as soon as the head of its answer is there. A redirect is one.
    pub(crate) async fn open(
        &self,
        request: WebRequest,
        gate: Option<&dyn EgressGate>,
    ) -> Result<Response, Unanswered> {
        let unsent = |error: ToolError| Unanswered {
            error,
            is_unsent: true,
        };
        let url = request.url;
        let checked = self.policy.check_url(&url);
        checked.map_err(|error| unsent(refused(&error)))?;
        if let (Some(gate), Some((host, port))) = (gate, destination(&url)) {
            gate.connect(&host, port).map_err(unsent)?;
        }
        let client = self.client().map_err(unsent)?;
        let mut sent = match &request.json {
            Some(body) => client.post(url.clone()).json(body),
            None => client.get(url.clone()),
        };
        for (name, value) in &request.headers {
            let mut value = HeaderValue::from_str(value).map_err(|_| {
                let message = format!("`{name}` cannot be sent as a header");
                unsent(ToolError::unavailable(message))
            })?;
            value.set_sensitive(true);
            sent = sent.header(name.as_ref(), value);
        }
        sent.send().await.map_err(|error| Unanswered {
            is_unsent: error.is_connect() || error.is_builder(),
            error: unreachable(&url, &error.without_url()),
        })
    }

    fn client(&self) -> Result<&Client, ToolError> {
        if let Some(client) = self.client.get() {
            return Ok(client);
        }
        let resolver = CheckedResolver::new(Arc::clone(&self.policy));
        let client = Client::builder()
            .user_agent(concat!("rune/", env!("CARGO_PKG_VERSION")))
            .dns_resolver(Arc::new(resolver))
            .redirect(Policy::none())
            .no_proxy()
            .referer(false)
            .tcp_nodelay(true)
            .connect_timeout(CONNECT_TIMEOUT)
            .read_timeout(self.silence)
            .pool_idle_timeout(IDLE_TIMEOUT)
            .build()
            .map_err(|error| {
                ToolError::unavailable(format!("no HTTP client: {}", causes(&error)))
            })?;
        Ok(self.client.get_or_init(|| client))
    }
}

/// Where the answer redirects to, if it does.
fn redirect(url: &Url, response: &Response) -> Result<Option<Url>, ToolError> {
    if !matches!(response.status().as_u16(), 301 | 302 | 303 | 307 | 308) {
        return Ok(None);
    }
    let Some(location) = response.headers().get(LOCATION) else {
        return Ok(None);
    };
    let wrong = || ToolError::failed(format!("{url} redirects to something that is no URL"));
    let location = std::str::from_utf8(location.as_bytes()).map_err(|_| wrong())?;
    url.join(location).map(Some).map_err(|_| wrong())
}

async fn read(url: Url, mut response: Response, max_bytes: usize) -> Result<Fetched, ToolError> {
    let status = response.status().as_u16();
    let content_type = content_type(response.headers());
    let mut body = Vec::new();
    let mut truncated = false;
    // Chunks come decoded, so a small compressed body that grows is bounded as well.
    while let Some(chunk) = response
        .chunk()
        .await
        .map_err(|error| unreachable(&url, &error.without_url()))?
    {
        let room = max_bytes - body.len();
        if chunk.len() > room {
            body.extend_from_slice(&chunk[..room]);
            truncated = true;
            break;
        }
        body.extend_from_slice(&chunk);
    }
    Ok(Fetched {
        url,
        status,
        content_type,
        body,
        truncated,
    })
}

fn content_type(headers: &HeaderMap) -> String {
    headers
        .get(CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default()
        .to_ascii_lowercase()
}

/// A refusal of the policy, for the model.
pub(crate) fn refused(error: &EgressError) -> ToolError {
    let kind = match error {
        EgressError::NoHost | EgressError::Scheme(_) => ToolErrorKind::InvalidInput,
        EgressError::NoAddress(_) => ToolErrorKind::NotFound,
        EgressError::Credentials | EgressError::Port(_) | EgressError::Address { .. } => {
            ToolErrorKind::Denied
        }
    };
    ToolError::new(kind, error.to_string())
}

pub(crate) fn unreachable(url: &Url, error: &reqwest::Error) -> ToolError {
    let mut source: Option<&(dyn Error + 'static)> = Some(error);
    while let Some(cause) = source {
        if let Some(egress) = cause.downcast_ref::<EgressError>() {
            return refused(egress);
        }
        source = cause.source();
    }
    let host = url.host_str().unwrap_or_default();
    if error.is_timeout() {
        ToolError::timeout(format!("`{host}` did not answer in time"))
    } else {
        ToolError::unavailable(format!("cannot fetch from `{host}`: {}", causes(error)))
    }
}

/// An error with its causes: the client's own text says little.
fn causes(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.ends_with(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    text
}
