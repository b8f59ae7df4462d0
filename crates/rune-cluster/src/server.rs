//! The side that answers.

use std::convert::Infallible;
use std::future::Future;
use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::{Method, Request, Response, StatusCode};
use hyper::body::Incoming;
use hyper::rt::Executor;
use hyper::server::conn::http2::Builder;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use rune_raft::{Node, NodeId, Threads};
use rune_runtime::Tasks;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;

use crate::objects::{ClusterObjects, OBJECTS};
use crate::wire::{FORWARDED, PATH, PeerBody, PeerMessage, collect, decode, whole};
use crate::{Identity, PeerTransport};

/// Open connections; further ones wait to be accepted. A node has six to each other one.
const MAX_CONNECTIONS: usize = 256;
/// How long a connection has to show who it is.
const HANDSHAKE_LIMIT: Duration = Duration::from_secs(5);
/// Pause after the machine could not accept a connection, such as for want of descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// How often a node that says nothing is asked whether it is still there.
const PING: Duration = Duration::from_secs(10);
/// Bytes that may be under way unacknowledged in one message, and on one connection.
const STREAM_WINDOW: u32 = 4 << 20;
const CONNECTION_WINDOW: u32 = 16 << 20;

/// Requests that one connection may have open: what clients ask may take long, and be followed for long.
const MAX_STREAMS: u32 = 10_000;

/// Answers what clients asked of other nodes.
pub trait Clients: Send + Sync {
    /// The answer to a request as the client sent it, with [`FORWARDED`] among its headers.
    fn answer(&self, request: Request<Incoming>) -> BoxFuture<'static, Response<PeerBody>>;
}

/// Who answers clients, once somebody does.
pub(crate) type ClientsCell = Arc<OnceLock<Arc<dyn Clients>>>;

/// Answers the other nodes of the cluster on a socket.
pub struct PeerServer {
    listener: TcpListener,
    identity: Identity,
    tasks: Tasks,
    clients: ClientsCell,
}

impl PeerServer {
    /// A server of this node. What it does are `tasks`, and it ends with them.
    #[must_use]
    pub fn new(listener: TcpListener, identity: Identity, tasks: Tasks) -> Self {
        Self {
            listener,
            identity,
            tasks,
            clients: ClientsCell::default(),
        }
    }

    /// The same server, for clients of other nodes, too.
    #[must_use]
    pub(crate) fn with_clients(self, clients: ClientsCell) -> Self {
        Self { clients, ..self }
    }

    /// Answers for this node and of its objects until the tasks are asked to end.
    pub async fn run(self, node: Node<Threads, PeerTransport>, objects: ClusterObjects) {
        let Self {
            listener,
            identity,
            tasks,
            clients,
        } = self;
        let (shutdown, places) = (tasks.shutdown(), Arc::new(Semaphore::new(MAX_CONNECTIONS)));
        loop {
            let accept = async {
                let place = Arc::clone(&places).acquire_owned().await;
                let place = place.map_err(std::io::Error::other)?;
                let (stream, from) = listener.accept().await?;
                stream.set_nodelay(true)?;
                Ok::<_, std::io::Error>((stream, from, place))
            };
            let (stream, from, place) = tokio::select! {
                () = shutdown.cancelled() => return,
                accepted = accept => match accepted {
                    Ok(accepted) => accepted,
                    Err(error) => {
                        tracing::warn!(%error, "a connection of a node was not accepted");
                        tokio::time::sleep(ACCEPT_PAUSE).await;
                        continue;
                    }
                },
            };
            let connection = Connection {
                identity: identity.clone(),
                tasks: tasks.clone(),
                node: node.clone(),
                clients: Arc::clone(&clients),
                objects: objects.clone(),
            };
            let shutdown = shutdown.clone();
            tasks.spawn("cluster-peer", async move {
                tokio::select! {
                    () = connection.serve(stream, from) => {}
                    () = shutdown.cancelled() => {}
                }
                drop(place);
            });
        }
    }
}

#[derive(Clone)]
struct Connection {
    identity: Identity,
    tasks: Tasks,
    node: Node<Threads, PeerTransport>,
    clients: ClientsCell,
    objects: ClusterObjects,
}

impl Connection {
    async fn serve(self, stream: TcpStream, addr: SocketAddr) {
        let acceptor = TlsAcceptor::from(self.identity.server());
        let accepted = tokio::time::timeout(HANDSHAKE_LIMIT, acceptor.accept(stream)).await;
        let tls = match accepted {
            Ok(Ok(tls)) => tls,
            Ok(Err(error)) => {
                tracing::warn!(%addr, %error, "refused: not a node of this cluster, or one that takes us for none");
                return;
            }
            Err(_) => {
                tracing::warn!(%addr, "refused: it did not say in time who it is");
                return;
            }
        };
        let certificates = tls.get_ref().1.peer_certificates();
        let Some(from) = self.identity.node_of(certificates) else {
            tracing::warn!(%addr, "refused: its certificate does not name a node");
            return;
        };
        let executor = TaskExecutor(self.tasks.clone());
        let service = service_fn(move |request| self.clone().answer(from, request));
        let served = Builder::new(executor)
            .timer(TokioTimer::new())
            .keep_alive_interval(PING)
            .max_concurrent_streams(MAX_STREAMS)
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .serve_connection(TokioIo::new(tls), service)
            .await;
        if let Err(error) = served {
            tracing::debug!(node = from, %error, "connection ended");
        }
    }

    async fn answer(
        self,
        from: NodeId,
        request: Request<Incoming>,
    ) -> Result<Response<PeerBody>, Infallible> {
        if request.headers().contains_key(FORWARDED) {
            return Ok(match self.clients.get() {
                Some(clients) => clients.answer(request).await,
                None => response(StatusCode::NOT_FOUND, "this node answers no clients"),
            });
        }
        if request.uri().path().starts_with(OBJECTS) {
            return Ok(self.objects.answer(request).await);
        }
        if request.method() != Method::POST || request.uri().path() != PATH {
            return Ok(response(StatusCode::NOT_FOUND, "there is no such path"));
        }
        let message = match collect(request.into_body()).await {
            Ok(bytes) => decode(&bytes),
            Err(error) => Err(error),
        };
        let message: PeerMessage = match message {
            Ok(message) => message,
            Err(error) => return Ok(response(StatusCode::BAD_REQUEST, error.to_string())),
        };
        let node = self.node;
        // Whoever asked may hang up; what was begun is done.
        let serve = async move { node.serve(from, message).await };
        let served = self.tasks.spawn("cluster-message", serve).await;
        let reply = match served.ok().flatten() {
            Some(Ok(reply)) => serde_json::to_vec(&reply).map_err(|error| error.to_string()),
            Some(Err(error)) => Err(error.to_string()),
            None => Err("the node did not answer".to_owned()),
        };
        Ok(match reply {
            Ok(reply) => response(StatusCode::OK, reply),
            Err(reason) => response(StatusCode::INTERNAL_SERVER_ERROR, reason),
        })
    }
}

pub(crate) fn response(status: StatusCode, body: impl Into<Bytes>) -> Response<PeerBody> {
    let mut response = Response::new(whole(body));
    *response.status_mut() = status;
    response
}

/// Lets hyper start the tasks of HTTP/2 streams where all others are started.
#[derive(Clone)]
pub(crate) struct TaskExecutor(pub(crate) Tasks);

impl<F> Executor<F> for TaskExecutor
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    fn execute(&self, future: F) {
        self.0.spawn("http2", future);
    }
}
