//! A proxy for programs that open their connections themselves: the browser, and confined processes.

mod target;

use std::collections::VecDeque;
use std::convert::Infallible;
use std::error::Error;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use http_body_util::{Either, Full};
use hyper::body::{Bytes, Incoming};
use hyper::header::{CONNECTION, CONTENT_TYPE, HOST, HeaderMap, HeaderName, HeaderValue};
use hyper::service::service_fn;
use hyper::upgrade::OnUpgrade;
use hyper::{Request, Response, StatusCode, Uri, Version};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::hosts::Hosts;
use super::policy::{EgressPolicy, destination};
use crate::EgressGate;
pub use target::{ProxyTarget, parse_proxy_target};

/// Connections to one proxy at the same time; more wait.
const MAX_CONNECTIONS: usize = 128;
/// Refusals that are remembered; the oldest are forgotten.
const MAX_REFUSALS: usize = 64;
/// The longest that finding and reaching a host may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// The longest silence before a request, and the longest that its head may take.
const HEAD_TIMEOUT: Duration = Duration::from_secs(60);
/// The largest head of a request.
const MAX_HEAD: usize = 64 * 1024;
/// The pause after a connection that cannot be accepted.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Headers that are about one connection, not about the request.
const HOP_BY_HOP: [&str; 8] = [
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

type Body = Either<Incoming, Full<Bytes>>;

/// An HTTP proxy (`CONNECT`, and requests for `http` URLs) that goes only where [`Hosts`], an [`EgressPolicy`] and an
/// [`EgressGate`] allow, and connects to the address that was checked. Each request is decided by itself, also where several
/// come over one connection.
pub struct EgressProxy {
    hosts: Hosts,
    policy: Arc<EgressPolicy>,
    gate: Option<Arc<dyn EgressGate>>,
    refusals: Mutex<VecDeque<ProxyRefusal>>,
    told: Option<RefusalSink>,
}

/// Is told what was refused, each once. The sentence may hold a secret of whoever connects.
pub type RefusalSink = Arc<dyn Fn(&str) + Send + Sync>;

/// A proxy on a port of the loopback interface. Dropped, it ends with every connection through it.
///
/// Whoever can connect to the port can use it: it opens nothing that its owner may not reach.
pub struct LoopbackProxy {
    address: SocketAddr,
    proxy: Arc<EgressProxy>,
    _serving: JoinSet<()>,
}

/// A destination that a proxy has refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProxyRefusal {
    /// The host, in the form of [`destination`].
    pub host: String,
    /// The port.
    pub port: u16,
    /// Why, for a model or a person.
    pub reason: String,
}

/// One connection of a client.
#[derive(Default)]
struct Connection {
    /// What becomes a tunnel once the client has its answer.
    tunnel: Mutex<Option<(OnUpgrade, TcpStream)>>,
    /// The connections to servers; they end with this.
    servers: Mutex<JoinSet<()>>,
}

/// Why there is no connection.
enum Failed {
    /// The request makes no sense.
    Request(&'static str),
    /// It is not allowed.
    Refused(String),
    /// The host is not there.
    Unreachable(String),
}

impl LoopbackProxy {
    /// Starts a proxy.
    ///
    /// # Errors
    /// Where no port can be opened.
    pub async fn start(proxy: EgressProxy) -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        let proxy = Arc::new(proxy);
        let mut serving = JoinSet::new();
        serving.spawn(Arc::clone(&proxy).serve(listener));
        Ok(Self {
            address,
            proxy,
            _serving: serving,
        })
    }

    /// Where it listens.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// As [`EgressProxy::take_refusals`].
    #[must_use]
    pub fn take_refusals(&self) -> Vec<ProxyRefusal> {
        self.proxy.take_refusals()
    }
}

impl EgressProxy {
    /// A proxy that lets through what all three allow.
    #[must_use]
    pub fn new(hosts: Hosts, policy: Arc<EgressPolicy>, gate: Option<Arc<dyn EgressGate>>) -> Self {
        Self {
            hosts,
            policy,
            gate,
            refusals: Mutex::default(),
            told: None,
        }
    }

    /// The same that tells of what it refuses at once.
    #[must_use]
    pub(crate) fn telling(self, told: Option<RefusalSink>) -> Self {
        Self { told, ..self }
    }

    /// What was refused since the last call of this, oldest first; each destination and reason once.
    #[must_use]
    pub fn take_refusals(&self) -> Vec<ProxyRefusal> {
        lock(&self.refusals).drain(..).collect()
    }

    /// Serves the connections of a listener until it is dropped.
    pub(crate) async fn serve(self: Arc<Self>, listener: TcpListener) {
        let mut connections = JoinSet::new();
        loop {
            while connections.len() >= MAX_CONNECTIONS {
                connections.join_next().await;
            }
            tokio::select! {
                accepted = listener.accept() => match accepted {
                    Ok((stream, _)) => {
                        let proxy = Arc::clone(&self);
                        connections.spawn(async move {
                            if let Err(error) = proxy.attend(stream).await {
                                tracing::debug!(%error, "a connection through a proxy broke off");
                            }
                        });
                    }
                    Err(error) => {
                        // Out of descriptors, most likely; those that are open end some time.
                        tracing::warn!(%error, "a proxy cannot accept a connection");
                        sleep(ACCEPT_PAUSE).await;
                    }
                },
                Some(_) = connections.join_next() => {}
            }
        }
    }

    /// One connection to its end.
    async fn attend(
        self: Arc<Self>,
        stream: TcpStream,
    ) -> Result<(), Box<dyn Error + Send + Sync>> {
        let connection = Arc::new(Connection::default());
        let (proxy, own) = (Arc::clone(&self), Arc::clone(&connection));
        let service = service_fn(move |request: Request<Incoming>| {
            let (proxy, own) = (Arc::clone(&proxy), Arc::clone(&own));
            async move { Ok::<_, Infallible>(proxy.answer(request, &own).await) }
        });
        hyper::server::conn::http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD_TIMEOUT)
            .max_buf_size(MAX_HEAD)
            .preserve_header_case(true)
            .serve_connection(TokioIo::new(stream), service)
            .with_upgrades()
            .await?;
        let tunnel = lock(&connection.tunnel).take();
        if let Some((upgrade, mut server)) = tunnel {
            let mut client = TokioIo::new(upgrade.await?);
            tokio::io::copy_bidirectional(&mut client, &mut server).await?;
        }
        Ok(())
    }

    async fn answer(&self, request: Request<Incoming>, connection: &Connection) -> Response<Body> {
        let answered = self.pass_on(request, connection).await;
        answered.unwrap_or_else(|failed| {
            let (status, why) = match failed {
                Failed::Request(why) => (StatusCode::BAD_REQUEST, why.to_owned()),
                Failed::Refused(why) => (StatusCode::FORBIDDEN, why),
                Failed::Unreachable(why) => (StatusCode::BAD_GATEWAY, why),
            };
            let mut response = Response::new(Either::Right(Full::from(format!("{why}\n"))));
            *response.status_mut() = status;
            let text = HeaderValue::from_static("text/plain; charset=utf-8");
            response.headers_mut().insert(CONTENT_TYPE, text);
            response
        })
    }

    async fn pass_on(
        &self,
        mut request: Request<Incoming>,
        connection: &Connection,
    ) -> Result<Response<Body>, Failed> {
        let asked = request.uri().to_string();
        let target = parse_proxy_target(request.method().as_str(), &asked);
        let target = target.map_err(Failed::Request)?;
        let server = self.open(&target).await?;
        if target.is_tunnel {
            // Bytes to and fro once the client knows.
            *lock(&connection.tunnel) = Some((hyper::upgrade::on(&mut request), server));
            return Ok(Response::new(Either::Right(Full::default())));
        }
        let broken = |error: hyper::Error| Failed::Unreachable(format!("`{asked}`: {error}"));
        let (mut sender, driver) = hyper::client::conn::http1::Builder::new()
            .preserve_header_case(true)
            .handshake(TokioIo::new(server))
            .await
            .map_err(broken)?;
        connection.drive(async move {
            if let Err(error) = driver.await {
                tracing::debug!(%error, "a connection of a proxy broke off");
            }
        });
        let bad = || Failed::Request("its URL cannot be passed on");
        *request.uri_mut() = target.origin().parse::<Uri>().map_err(|_| bad())?;
        *request.version_mut() = Version::HTTP_11;
        let host = HeaderValue::try_from(target.host()).map_err(|_| bad())?;
        leave_out_hops(request.headers_mut());
        request.headers_mut().insert(HOST, host);
        let mut response = sender.send_request(request).await.map_err(broken)?;
        leave_out_hops(response.headers_mut());
        Ok(response.map(Either::Left))
    }

    /// A connection to a target, where that is allowed.
    async fn open(&self, target: &ProxyTarget) -> Result<TcpStream, Failed> {
        let url = &target.url;
        let Some((host, port)) = destination(url) else {
            return Err(Failed::Request("it names no host"));
        };
        let refuse = |reason: String| self.refuse(&host, port, reason);
        if !self.hosts.allow(&host, port) {
            let reason = format!("`{host}:{port}` is not granted by `capabilities`");
            return Err(refuse(reason));
        }
        let checked = self.policy.check_url(url);
        checked.map_err(|error| refuse(error.to_string()))?;
        if let Some(gate) = &self.gate {
            let allowed = gate.connect(&host, port);
            allowed.map_err(|error| refuse(error.message))?;
        }
        let opened = timeout(CONNECT_TIMEOUT, async {
            let found = tokio::net::lookup_host((host.as_str(), port)).await;
            let found: Vec<SocketAddr> = found
                .map_err(|error| Failed::Unreachable(format!("`{host}` is not found: {error}")))?
                .collect();
            self.policy
                .check_resolved(&host, found.iter().map(SocketAddr::ip))
                .map_err(|error| refuse(error.to_string()))?;
            // To what was checked: the name is not asked for again.
            let stream = TcpStream::connect(found.as_slice())
                .await
                .map_err(|error| {
                    Failed::Unreachable(format!("`{host}:{port}` is not reached: {error}"))
                })?;
            // Small answers are not held back; where that cannot be had it is slower.
            let _ = stream.set_nodelay(true);
            Ok(stream)
        });
        opened.await.unwrap_or_else(|_| {
            Err(Failed::Unreachable(format!(
                "`{host}:{port}` was not reached within {} s",
                CONNECT_TIMEOUT.as_secs()
            )))
        })
    }

    fn refuse(&self, host: &str, port: u16, reason: String) -> Failed {
        let refusal = ProxyRefusal {
            host: host.to_owned(),
            port,
            reason: reason.clone(),
        };
        let mut refusals = lock(&self.refusals);
        if !refusals.contains(&refusal) {
            if refusals.len() == MAX_REFUSALS {
                refusals.pop_front();
            }
            refusals.push_back(refusal);
            if let Some(told) = &self.told {
                told(&reason);
            }
        }
        Failed::Refused(reason)
    }
}

impl Connection {
    /// Runs the connection to a server.
    fn drive(&self, driver: impl Future<Output = ()> + Send + 'static) {
        let mut servers = lock(&self.servers);
        while servers.try_join_next().is_some() {}
        servers.spawn(driver);
    }
}

fn leave_out_hops(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = headers
        .get_all(CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| name.trim().parse().ok())
        .collect();
    for name in named {
        headers.remove(name);
    }
    headers.remove(CONNECTION);
    for name in HOP_BY_HOP {
        headers.remove(name);
    }
}

/// What is behind these locks is whole at any time.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
