//! A proxy for programs that open their connections themselves.

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
use hyper::{Method, Request, Response, StatusCode, Uri, Version};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::timeout;
use url::Url;

use super::policy::{EgressPolicy, destination};
use crate::EgressGate;

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

/// An HTTP proxy on a port of the loopback interface (`CONNECT`, and requests for `http` URLs) that goes only where an
/// [`EgressPolicy`] and an [`EgressGate`] allow, and connects to the address that was checked. Dropped, it ends with
/// every connection through it.
///
/// Whoever can connect to the port can use it: it opens nothing that its owner may not reach.
pub struct EgressProxy {
    address: SocketAddr,
    shared: Arc<Shared>,
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

struct Shared {
    policy: Arc<EgressPolicy>,
    gate: Arc<dyn EgressGate>,
    refusals: Mutex<VecDeque<ProxyRefusal>>,
    slots: Arc<Semaphore>,
    tasks: Mutex<JoinSet<()>>,
}

/// Why there is no connection.
enum Failed {
    /// The request makes no sense.
    Request(String),
    /// It is not allowed.
    Refused(String),
    /// The host is not there.
    Unreachable(String),
}

impl EgressProxy {
    /// Starts a proxy.
    ///
    /// # Errors
    /// Where no port can be opened.
    pub async fn start(policy: Arc<EgressPolicy>, gate: Arc<dyn EgressGate>) -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared {
            policy,
            gate,
            refusals: Mutex::default(),
            slots: Arc::new(Semaphore::new(MAX_CONNECTIONS)),
            tasks: Mutex::default(),
        });
        let serving = Arc::clone(&shared);
        lock(&shared.tasks).spawn(async move { serving.serve(listener).await });
        Ok(Self { address, shared })
    }

    /// Where it listens.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// What was refused since the last call of this, oldest first; each destination once.
    #[must_use]
    pub fn take_refusals(&self) -> Vec<ProxyRefusal> {
        lock(&self.shared.refusals).drain(..).collect()
    }
}

impl Drop for EgressProxy {
    fn drop(&mut self) {
        lock(&self.shared.tasks).abort_all();
    }
}

impl Shared {
    async fn serve(self: Arc<Self>, listener: TcpListener) {
        loop {
            let Ok(slot) = Arc::clone(&self.slots).acquire_owned().await else {
                return;
            };
            let stream = match listener.accept().await {
                Ok((stream, _)) => stream,
                Err(error) => {
                    // Out of descriptors, most likely; those that are open end some time.
                    tracing::warn!(%error, "a proxy cannot accept a connection");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            };
            let shared = Arc::clone(&self);
            let mut tasks = lock(&self.tasks);
            while tasks.try_join_next().is_some() {}
            tasks.spawn(async move {
                if let Err(error) = shared.attend(stream).await {
                    tracing::debug!(%error, "a connection through a proxy broke off");
                }
                drop(slot);
            });
        }
    }

    /// One connection to its end.
    async fn attend(
        self: Arc<Self>,
        stream: TcpStream,
    ) -> Result<(), Box<dyn Error + Send + Sync>> {
        let tunnel: Arc<Mutex<Option<(OnUpgrade, TcpStream)>>> = Arc::default();
        let (shared, opened) = (Arc::clone(&self), Arc::clone(&tunnel));
        let service = service_fn(move |request: Request<Incoming>| {
            let (shared, opened) = (Arc::clone(&shared), Arc::clone(&opened));
            async move { Ok::<_, Infallible>(shared.answer(request, &opened).await) }
        });
        hyper::server::conn::http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD_TIMEOUT)
            .max_buf_size(MAX_HEAD)
            .preserve_header_case(true)
            .serve_connection(TokioIo::new(stream), service)
            .with_upgrades()
            .await?;
        let opened = lock(&tunnel).take();
        if let Some((upgrade, mut upstream)) = opened {
            let mut client = TokioIo::new(upgrade.await?);
            tokio::io::copy_bidirectional(&mut client, &mut upstream).await?;
        }
        Ok(())
    }

    async fn answer(
        &self,
        request: Request<Incoming>,
        tunnel: &Mutex<Option<(OnUpgrade, TcpStream)>>,
    ) -> Response<Body> {
        let answered = if request.method() == Method::CONNECT {
            self.tunnel(request, tunnel).await
        } else {
            self.forward(request).await
        };
        answered.unwrap_or_else(|failed| {
            let (status, why) = match failed {
                Failed::Request(why) => (StatusCode::BAD_REQUEST, why),
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

    /// `CONNECT`: bytes to and fro once the connection is there.
    async fn tunnel(
        &self,
        mut request: Request<Incoming>,
        tunnel: &Mutex<Option<(OnUpgrade, TcpStream)>>,
    ) -> Result<Response<Body>, Failed> {
        let authority = request.uri().authority();
        let authority = authority.filter(|authority| authority.port().is_some());
        let Some(authority) = authority else {
            return Err(Failed::Request(
                "CONNECT names a host and a port".to_owned(),
            ));
        };
        let upstream = self.open(&url(&format!("http://{authority}/"))?).await?;
        *lock(tunnel) = Some((hyper::upgrade::on(&mut request), upstream));
        Ok(Response::new(Either::Right(Full::default())))
    }

    /// A request for an `http` URL.
    async fn forward(&self, mut request: Request<Incoming>) -> Result<Response<Body>, Failed> {
        let target = request.uri().to_string();
        if request.uri().scheme_str() != Some("http") {
            let what = "a proxy is asked with CONNECT, or for a URL that begins with http://";
            return Err(Failed::Request(what.to_owned()));
        }
        let target = url(&target)?;
        let upstream = self.open(&target).await?;
        let broken = |error: hyper::Error| Failed::Unreachable(format!("{target}: {error}"));
        let (mut sender, connection) = hyper::client::conn::http1::Builder::new()
            .preserve_header_case(true)
            .handshake(TokioIo::new(upstream))
            .await
            .map_err(broken)?;
        lock(&self.tasks).spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "a connection of a proxy broke off");
            }
        });
        let path = request
            .uri()
            .path_and_query()
            .map_or("/", |path| path.as_str());
        let host = request.uri().authority().map(ToString::to_string);
        let origin = path.parse::<Uri>().map_err(|_| bad(path))?;
        let host = HeaderValue::from_str(&host.unwrap_or_default()).map_err(|_| bad(path))?;
        *request.uri_mut() = origin;
        *request.version_mut() = Version::HTTP_11;
        leave_out_hops(request.headers_mut());
        request.headers_mut().insert(HOST, host);
        let mut response = sender.send_request(request).await.map_err(broken)?;
        leave_out_hops(response.headers_mut());
        Ok(response.map(Either::Left))
    }

    /// A connection to what a URL names, where that is allowed.
    async fn open(&self, url: &Url) -> Result<TcpStream, Failed> {
        let Some((host, port)) = destination(url) else {
            return Err(Failed::Request(format!("`{url}` names no host")));
        };
        let refuse = |reason: String| {
            self.remember(ProxyRefusal {
                host: host.clone(),
                port,
                reason: reason.clone(),
            });
            Failed::Refused(reason)
        };
        self.policy
            .check_url(url)
            .map_err(|error| refuse(error.to_string()))?;
        self.gate
            .connect(&host, port)
            .map_err(|error| refuse(error.message))?;
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

    fn remember(&self, refusal: ProxyRefusal) {
        let mut refusals = lock(&self.refusals);
        if refusals.contains(&refusal) {
            return;
        }
        if refusals.len() == MAX_REFUSALS {
            refusals.pop_front();
        }
        refusals.push_back(refusal);
    }
}

fn url(text: &str) -> Result<Url, Failed> {
    Url::parse(text).map_err(|_| bad(text))
}

fn bad(text: &str) -> Failed {
    Failed::Request(format!("`{text}` is not a URL"))
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
