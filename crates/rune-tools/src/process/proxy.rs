//! The way out of a process that is granted some hosts: an HTTP proxy that connects to these and no others.
//!
//! The listener is in the process's network, this end of it in the daemon, which resolves the name, asks the policy and
//! connects to the address that was checked. `CONNECT` makes a tunnel; a request with a whole URL is passed on, one for each
//! connection.

use std::convert::Infallible;
use std::fmt::Write as _;
use std::future::pending;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream, lookup_host};
use tokio::task::JoinSet;
use tokio::time::timeout;
use url::Url;

use super::launcher::Reports;
use super::reach::Reach;
use super::sandbox::Sandbox;
use crate::EgressGate;
use crate::egress::{EgressPolicy, Hosts, destination};

/// Bytes of the longest head of a request.
const MAX_HEAD_BYTES: usize = 32 * 1024;
/// Headers of one.
const MAX_HEADERS: usize = 100;
/// Connections of one process at a time.
const MAX_CONNECTIONS: usize = 64;
/// The longest that a request may take to come, and a host to answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// Refusals that are remembered.
const MAX_REFUSALS: usize = 8;

/// Is told what was refused, each once. The sentence may hold a secret of the process.
pub type RefusalSink = Arc<dyn Fn(&str) + Send + Sync>;

/// The connections of one process.
pub(super) struct Filter {
    exit: Arc<Exit>,
    /// Once the launcher has sent it.
    listener: Option<TcpListener>,
    connections: JoinSet<()>,
}

impl Filter {
    /// The way out of a process, where there is one that is watched.
    pub(super) fn of(
        reach: &Reach,
        sandbox: Option<&Sandbox>,
        told: Option<RefusalSink>,
    ) -> Option<Self> {
        let is_filtered = sandbox.is_some() && !reach.hosts.is_empty() && !reach.is_unfiltered();
        is_filtered.then(|| Self {
            exit: Arc::new(Exit {
                hosts: reach.hosts.clone(),
                gate: reach.gate.clone(),
                policy: Arc::clone(&reach.egress),
                refused: Mutex::default(),
                told,
            }),
            listener: None,
            connections: JoinSet::new(),
        })
    }

    /// What was refused, each once.
    pub(super) fn refused(&self) -> Vec<String> {
        self.exit.lock().clone()
    }

    async fn accept(&mut self, reports: &mut Reports) -> io::Result<()> {
        let listener = match &self.listener {
            Some(listener) => listener,
            None => match reports.listener().await? {
                Some(listener) => self.listener.insert(listener),
                None => return Ok(()),
            },
        };
        loop {
            while self.connections.len() >= MAX_CONNECTIONS {
                self.connections.join_next().await;
            }
            tokio::select! {
                accepted = listener.accept() => {
                    let (client, _) = accepted?;
                    let exit = Arc::clone(&self.exit);
                    self.connections.spawn(async move {
                        if let Err(error) = handle(client, &exit).await {
                            tracing::debug!(%error, "a connection of a process broke");
                        }
                    });
                }
                Some(_) = self.connections.join_next() => {}
            }
        }
    }
}

/// Where one process may connect to.
struct Exit {
    hosts: Hosts,
    gate: Option<Arc<dyn EgressGate>>,
    policy: Arc<EgressPolicy>,
    refused: Mutex<Vec<String>>,
    told: Option<RefusalSink>,
}

impl Exit {
    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<String>> {
        // A list of sentences is one at any time.
        self.refused.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn refuse(&self, why: String) -> Answer {
        let mut refused = self.lock();
        if refused.len() < MAX_REFUSALS && !refused.contains(&why) {
            refused.push(why.clone());
            if let Some(told) = &self.told {
                told(&why);
            }
        }
        drop(refused);
        Answer::new("403 Forbidden", why)
    }

    async fn connect(&self, target: &Url) -> Result<TcpStream, Answer> {
        let Some((host, port)) = destination(target) else {
            return Err(Answer::new("400 Bad Request", "it names no host"));
        };
        if !self.hosts.allow(&host, port) {
            let why = format!("`{host}:{port}` is not granted by `capabilities`");
            return Err(self.refuse(why));
        }
        let checked = self.policy.check_url(target);
        checked.map_err(|error| self.refuse(error.to_string()))?;
        if let Some(gate) = &self.gate {
            let allowed = gate.connect(&host, port);
            allowed.map_err(|error| self.refuse(error.message))?;
        }
        let unreachable = |why: String| Answer::new("502 Bad Gateway", format!("`{host}`: {why}"));
        let found = timeout(PATIENCE, lookup_host((host.as_str(), port))).await;
        let found = found.map_err(|_| unreachable("no address in time".to_owned()))?;
        let found = found.map_err(|error| unreachable(error.to_string()))?;
        let found: Vec<SocketAddr> = found.collect();
        let addresses = found.iter().map(SocketAddr::ip);
        let checked = self.policy.check_resolved(&host, addresses);
        checked.map_err(|error| self.refuse(error.to_string()))?;
        let connected = timeout(PATIENCE, TcpStream::connect(found.as_slice())).await;
        let connected = connected.map_err(|_| unreachable("no answer in time".to_owned()))?;
        connected.map_err(|error| unreachable(error.to_string()))
    }
}

/// An answer of the proxy's own.
struct Answer {
    status: &'static str,
    message: String,
}

impl Answer {
    fn new(status: &'static str, message: impl Into<String>) -> Self {
        Self {
            status,
            message: message.into(),
        }
    }

    fn bytes(&self) -> Vec<u8> {
        let body = format!("sandbox: {}\n", self.message);
        let (status, length) = (self.status, body.len());
        format!(
            "HTTP/1.1 {status}\r\ncontent-type: text/plain; charset=utf-8\r\n\
             content-length: {length}\r\nconnection: close\r\n\r\n{body}"
        )
        .into_bytes()
    }
}

/// Serves the connections of a process until it is dropped. Goes on where it was when it is called again.
pub(super) async fn serve(
    filter: Option<&mut Filter>,
    reports: Option<&mut Reports>,
) -> Infallible {
    if let (Some(filter), Some(reports)) = (filter, reports)
        && let Err(error) = filter.accept(reports).await
    {
        tracing::warn!(%error, "the connections of a process cannot be served");
    }
    pending().await
}

async fn handle(mut client: TcpStream, exit: &Exit) -> io::Result<()> {
    let refuse = match timeout(PATIENCE, request(&mut client)).await {
        Err(_) => return Ok(()),
        Ok(Err(error)) => return Err(error),
        Ok(Ok(Err(why))) => Answer::new("400 Bad Request", why),
        Ok(Ok(Ok((request, rest)))) => match exit.connect(&request.target).await {
            Err(answer) => answer,
            Ok(mut server) => {
                if request.is_tunnel {
                    client.write_all(b"HTTP/1.1 200 Connected\r\n\r\n").await?;
                } else {
                    server.write_all(request.head.as_bytes()).await?;
                }
                server.write_all(&rest).await?;
                return copy_bidirectional(&mut client, &mut server).await.map(drop);
            }
        },
    };
    client.write_all(&refuse.bytes()).await?;
    client.shutdown().await
}

/// The head of a request, and what came behind it.
async fn request(
    client: &mut TcpStream,
) -> io::Result<Result<(ProxyRequest, Vec<u8>), &'static str>> {
    let mut read = Vec::new();
    loop {
        match parse_proxy_request(&read) {
            Err(why) => return Ok(Err(why)),
            Ok(Some(request)) => {
                let rest = read.split_off(request.bytes);
                return Ok(Ok((request, rest)));
            }
            Ok(None) if read.len() > MAX_HEAD_BYTES => return Ok(Err("its head is too long")),
            Ok(None) => {}
        }
        if client.read_buf(&mut read).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
}

/// The head of a request to a proxy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProxyRequest {
    /// Where it leads: scheme `http`, host and port count.
    pub target: Url,
    /// Whether everything behind the head is passed on as it is.
    pub is_tunnel: bool,
    /// The head as the server gets it; empty where it gets none.
    pub head: String,
    /// Bytes of the head that was read.
    pub bytes: usize,
}

/// Parses the head of a request; `None` where it is not whole yet.
///
/// # Errors
/// A sentence for the client.
pub fn parse_proxy_request(bytes: &[u8]) -> Result<Option<ProxyRequest>, &'static str> {
    let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut request = httparse::Request::new(&mut headers);
    let length = match request.parse(bytes) {
        Ok(httparse::Status::Complete(length)) => length,
        Ok(httparse::Status::Partial) => return Ok(None),
        Err(_) => return Err("it is not HTTP"),
    };
    let (Some(method), Some(path)) = (request.method, request.path) else {
        return Err("it is not HTTP");
    };
    if method == "CONNECT" {
        return Ok(Some(ProxyRequest {
            target: authority(path).ok_or("CONNECT takes HOST:PORT")?,
            is_tunnel: true,
            head: String::new(),
            bytes: length,
        }));
    }
    let target = Url::parse(path).map_err(|_| "a proxy takes a whole URL, or CONNECT")?;
    if target.scheme() != "http" {
        return Err("other schemes than http take CONNECT");
    }
    // The root of all names is none.
    let host = target.host_str().filter(|host| *host != ".");
    let host = host.ok_or("it names no host")?;
    let mut head = format!("{method} {}", target.path());
    if let Some(query) = target.query() {
        // Writing to a string cannot fail.
        let _ = write!(head, "?{query}");
    }
    let _ = write!(head, " HTTP/1.1\r\nhost: {host}");
    if let Some(port) = target.port() {
        let _ = write!(head, ":{port}");
    }
    head.push_str("\r\nconnection: close\r\n");
    let own = ["host", "connection", "keep-alive", "upgrade", "te"];
    for header in request.headers.iter() {
        let name = header.name.to_ascii_lowercase();
        if own.contains(&name.as_str()) || name.starts_with("proxy-") {
            continue;
        }
        let value = std::str::from_utf8(header.value).map_err(|_| "a header is not UTF-8")?;
        let _ = write!(head, "{name}: {value}\r\n");
    }
    head.push_str("\r\n");
    Ok(Some(ProxyRequest {
        target,
        is_tunnel: false,
        head,
        bytes: length,
    }))
}

fn authority(text: &str) -> Option<Url> {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || ".-_:[]".contains(c);
    let port = text.rsplit_once(':')?.1;
    port.parse::<u16>().ok()?;
    text.chars()
        .all(is_plain)
        .then(|| Url::parse(&format!("http://{text}/")).ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Option<ProxyRequest> {
        parse_proxy_request(text.as_bytes()).unwrap()
    }

    #[test]
    fn passes_a_request_on_to_the_host_of_its_url_and_no_other() {
        let text = "GET http://example.org:8080/a%20b?q=1 HTTP/1.1\r\nHost: evil.test\r\nProxy-Authorization: x\r\nConnection: keep-alive\r\nAccept: */*\r\n\r\nrest";
        let request = parsed(text).unwrap();
        assert_eq!(
            request.head,
            "GET /a%20b?q=1 HTTP/1.1\r\nhost: example.org:8080\r\nconnection: close\r\naccept: */*\r\n\r\n"
        );
        assert_eq!(&text[request.bytes..], "rest");
        assert!(!request.is_tunnel);
        assert_eq!(parsed("GET http://exam"), None);
    }

    #[test]
    fn a_tunnel_leads_to_a_host_and_a_port() {
        for (text, expected) in [
            ("example.org:443", Some(("example.org", 443))),
            ("example.org:80", Some(("example.org", 80))),
            ("[::1]:443", Some(("::1", 443))),
            ("0x7f.1:443", Some(("127.0.0.1", 443))),
            ("example.org", None),
            ("user@example.org:443", None),
            ("example.org:443/path", None),
            ("example.org:99999", None),
        ] {
            let request = format!("CONNECT {text} HTTP/1.1\r\n\r\n");
            let request = parse_proxy_request(request.as_bytes()).ok().flatten();
            let found = request.and_then(|request| destination(&request.target));
            let expected = expected.map(|(host, port)| (host.to_owned(), port));
            assert_eq!(found, expected, "{text}");
        }
    }

    #[test]
    fn refuses_what_leads_nowhere() {
        for text in [
            "GET / HTTP/1.1\r\nHost: example.org\r\n\r\n",
            "GET https://example.org/ HTTP/1.1\r\n\r\n",
            "GET file:///etc/passwd HTTP/1.1\r\n\r\n",
            "GET http://./ HTTP/1.1\r\n\r\n",
            "\u{1}\r\n\r\n",
        ] {
            assert!(parse_proxy_request(text.as_bytes()).is_err(), "{text}");
        }
    }
}
