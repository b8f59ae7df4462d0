//! The server over streamable HTTP, both eras of the protocol on one path.

use std::convert::Infallible;
use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode};
use http_body::Body;
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt as _, Full};
use rmcp::transport::streamable_http_server::{StreamableHttpServerConfig, StreamableHttpService};
use tokio_util::sync::CancellationToken;
use url::{Host, Url};

use super::handler::AgentsHandler;
use super::sessions::Sessions;
use super::source::AgentSource;

/// The header that names a session.
const SESSION: &str = "mcp-session-id";
/// Hosts that are always this machine.
const LOOPBACK: [&str; 3] = ["localhost", "127.0.0.1", "[::1]"];

/// Under which names the server may be asked for, and by which web pages.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct McpAccess {
    /// `HOST` or `HOST:PORT`; empty: under every name.
    hosts: Vec<String>,
    /// `SCHEME://HOST:PORT`, or `*` as port.
    origins: Vec<String>,
    /// The listed origins as browsers write them.
    pages: Vec<String>,
}

/// A name that is none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum McpAccessError {
    /// No host.
    #[error("`{0}` is not a host: expected HOST or HOST:PORT, such as rune.example.org")]
    Host(String),
    /// No origin.
    #[error(
        "`{0}` is not an origin: expected SCHEME://HOST[:PORT], such as https://chat.example.org"
    )]
    Origin(String),
}

impl Default for McpAccess {
    fn default() -> Self {
        let both = |host| [format!("http://{host}:*"), format!("https://{host}:*")];
        Self {
            hosts: Vec::new(),
            origins: LOOPBACK.into_iter().flat_map(both).collect(),
            pages: Vec::new(),
        }
    }
}

impl McpAccess {
    /// Loopback, the public URL, and what is listed. Without listed hosts the host is not looked at.
    ///
    /// # Errors
    /// A [`McpAccessError`] for the first that is none.
    pub fn new(
        base_url: Option<&str>,
        hosts: &[String],
        origins: &[String],
    ) -> Result<Self, McpAccessError> {
        let mut access = Self::default();
        let public =
            base_url.map(|url| origin(url).ok_or_else(|| McpAccessError::Origin(url.to_owned())));
        let public = public.transpose()?;
        if !hosts.is_empty() {
            access.hosts.extend(LOOPBACK.map(str::to_owned));
            access
                .hosts
                .extend(public.as_ref().map(|(_, host)| host.clone()));
            for host in hosts {
                let known = Url::parse(&format!("http://{host}/"));
                let is_host = known.is_ok_and(|url| url.path() == "/" && url.username().is_empty());
                if !is_host || host.contains(['/', '@', '?', '#']) {
                    return Err(McpAccessError::Host(host.clone()));
                }
                access.hosts.push(host.clone());
            }
        }
        access.origins.extend(public.map(|(origin, _)| origin));
        for listed in origins {
            let (origin, _) =
                origin(listed).ok_or_else(|| McpAccessError::Origin(listed.clone()))?;
            // Without a port that is the usual one.
            let page = Url::parse(&origin).map(|url| url.origin().ascii_serialization());
            access.pages.extend(page);
            access.origins.push(origin);
        }
        Ok(access)
    }

    /// The listed origins, as browsers write them into `Origin`.
    #[must_use]
    pub fn pages(&self) -> &[String] {
        &self.pages
    }
}

/// The origin of a URL with its port, and its host.
fn origin(url: &str) -> Option<(String, String)> {
    let url = Url::parse(url).ok()?;
    let host = match url.host()? {
        Host::Domain(name) => name.to_owned(),
        Host::Ipv4(ip) => ip.to_string(),
        Host::Ipv6(ip) => format!("[{ip}]"),
    };
    let port = url.port_or_known_default()?;
    matches!(url.scheme(), "http" | "https")
        .then(|| (format!("{}://{host}:{port}", url.scheme()), host))
}

/// Serves agents over HTTP. Who may ask is for what stands in front of it.
pub struct McpEndpoint {
    service: StreamableHttpService<AgentsHandler, Sessions>,
    sessions: Arc<Sessions>,
}

impl McpEndpoint {
    /// An endpoint for these agents. Streams end with `shutdown`; a message may have `most_bytes`.
    #[must_use]
    pub fn new(
        source: Arc<dyn AgentSource>,
        access: McpAccess,
        most_bytes: usize,
        shutdown: CancellationToken,
    ) -> Self {
        let config = StreamableHttpServerConfig::default()
            .with_allowed_hosts(access.hosts)
            .with_allowed_origins(access.origins)
            .with_json_response(true)
            .with_max_request_body_bytes(most_bytes)
            .with_cancellation_token(shutdown);
        let handler = move || Ok(AgentsHandler::new(Arc::clone(&source)));
        let sessions: Arc<Sessions> = Arc::default();
        Self {
            service: StreamableHttpService::new(handler, Arc::clone(&sessions), config),
            sessions,
        }
    }

    /// Answers a request of a caller, for whom there are only the sessions that it began. What the extensions of the request
    /// hold is shown to the source.
    pub async fn handle<B>(
        &self,
        request: Request<B>,
        caller: &str,
    ) -> Response<BoxBody<Bytes, Infallible>>
    where
        B: Body + Send + 'static,
        B::Error: std::fmt::Display,
    {
        let named = session_of(request.headers());
        if named.is_some_and(|id| self.sessions.is_of_another(id, caller)) {
            return no_such_session();
        }
        let response = Box::pin(self.service.handle(request)).await;
        if let Some(id) = session_of(response.headers()) {
            self.sessions.begun_by(id, caller);
        }
        response
    }
}

fn session_of(headers: &HeaderMap) -> Option<&str> {
    headers.get(SESSION)?.to_str().ok()
}

/// What is answered where a session has ended: clients begin another one.
fn no_such_session() -> Response<BoxBody<Bytes, Infallible>> {
    let text = Full::from("Not Found: Session not found");
    let mut response = Response::new(text.boxed());
    *response.status_mut() = StatusCode::NOT_FOUND;
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(texts: &[&str]) -> Vec<String> {
        texts.iter().map(|&text| text.to_owned()).collect()
    }

    #[test]
    fn names_are_those_of_loopback_of_the_public_url_and_of_the_lists() {
        let access = McpAccess::new(Some("https://rune.example.org/base"), &[], &[]).unwrap();
        assert!(access.hosts.is_empty());
        assert_eq!(
            access.origins.last().unwrap(),
            "https://rune.example.org:443"
        );
        assert!(access.origins.contains(&"http://127.0.0.1:*".to_owned()));

        let hosts = texts(&["lan.example:8080", "10.0.0.5"]);
        let origins = texts(&["http://chat.example", "https://[fd00::1]:8443"]);
        let access = McpAccess::new(Some("http://a.example"), &hosts, &origins).unwrap();
        let expected = [
            "localhost",
            "127.0.0.1",
            "[::1]",
            "a.example",
            "lan.example:8080",
            "10.0.0.5",
        ];
        assert_eq!(access.hosts, expected);
        assert_eq!(
            access.origins[6..],
            [
                "http://a.example:80",
                "http://chat.example:80",
                "https://[fd00::1]:8443"
            ]
        );
        assert_eq!(
            access.pages(),
            ["http://chat.example", "https://[fd00::1]:8443"]
        );
    }

    #[test]
    fn what_is_no_name_is_refused() {
        for host in ["", "http://a.example", "a b", "a/b", "user@a", "a?b", "a:x"] {
            let refused = McpAccess::new(None, &texts(&[host]), &[]);
            assert_eq!(
                refused,
                Err(McpAccessError::Host(host.to_owned())),
                "{host}"
            );
        }
        for origin in ["", "a.example", "ftp://a.example", "null", "*", "https://"] {
            let refused = McpAccess::new(None, &[], &texts(&[origin]));
            assert_eq!(
                refused,
                Err(McpAccessError::Origin(origin.to_owned())),
                "{origin}"
            );
        }
    }
}
