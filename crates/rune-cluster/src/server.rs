//! The side that answers.

use std::convert::Infallible;
use std::future::Future;
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
use tokio_rustls::server::TlsStream;

use crate::handshakes::Handshakes;
use crate::objects::{ClusterObjects, OBJECTS};
use crate::wire::{
    FORWARDED, MAX_HEADER_LIST_BYTES, MAX_STREAMS, MAX_WINDOW, PATH, PeerBody, PeerMessage,
    collect, decode, whole,
};
use crate::{Identity, PeerTransport};

/// Open connections of nodes. Each has six to every other one.
const MAX_CONNECTIONS: usize = 512;
/// How long a connection has to show who it is.
const HANDSHAKE_LIMIT: Duration = Duration::from_secs(2);
/// Pause after the machine could not accept a connection, such as for want of descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// How often a node that says nothing is asked whether it is still there.
const PING: Duration = Duration::from_secs(10);
/// Bytes that may be under way unacknowledged in one message. What is not taken of one holds up no other.
const STREAM_WINDOW: u32 = 4 << 20;

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
        let handshakes = Handshakes::default();
        loop {
            let accept = async {
                let (stream, from) = listener.accept().await?;
                stream.set_nodelay(true)?;
                Ok::<_, std::io::Error>((stream, from.ip().to_canonical()))
            };
            let (stream, from) = tokio::select! {
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
            let Some(handshake) = handshakes.begin(from) else {
                handshakes.refuse(from, &"others have not shown yet who they are");
                continue;
            };
            let connection = Connection {
                identity: identity.clone(),
                tasks: tasks.clone(),
                node: node.clone(),
                clients: Arc::clone(&clients),
                objects: objects.clone(),
            };
            let (shutdown, handshakes) = (shutdown.clone(), handshakes.clone());
            let places = Arc::clone(&places);
            let served = async move {
                let (tls, node) = match connection.accept(stream).await {
                    Ok(accepted) => accepted,
                    Err(why) => return handshakes.refuse(from, &why),
                };
                drop(handshake);
                match places.try_acquire() {
                    Ok(_place) => connection.serve(tls, node).await,
                    Err(_) => handshakes.refuse(from, &"nodes have too many connections"),
                }
            };
            tasks.spawn("cluster-peer", async move {
                shutdown.run_until_cancelled(served).await;
            });
        }
    }
}

/// Why whoever connected is not taken for a node.
#[derive(Debug, thiserror::Error)]
enum Stranger {
    #[error("it is no node of this cluster, or takes us for none: {0}")]
    Foreign(#[from] std::io::Error),
    #[error("it did not say in time who it is")]
    Silent,
    #[error("its certificate names no node")]
    Nameless,
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
    /// The node that has connected, or why it is none.
    async fn accept(&self, stream: TcpStream) -> Result<(TlsStream<TcpStream>, NodeId), Stranger> {
        let acceptor = TlsAcceptor::from(self.identity.server());
        let accepted = tokio::time::timeout(HANDSHAKE_LIMIT, acceptor.accept(stream)).await;
        let tls = accepted.map_err(|_| Stranger::Silent)??;
        let certificates = tls.get_ref().1.peer_certificates();
        let node = self.identity.node_of(certificates);
        let node = node.ok_or(Stranger::Nameless)?;
        Ok((tls, node))
    }

    async fn serve(self, tls: TlsStream<TcpStream>, from: NodeId) {
        let executor = TaskExecutor(self.tasks.clone());
        let service = service_fn(move |request| self.clone().answer(from, request));
        let served = Builder::new(executor)
            .timer(TokioTimer::new())
            .keep_alive_interval(PING)
            .max_concurrent_streams(MAX_STREAMS)
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(MAX_WINDOW)
            .max_header_list_size(MAX_HEADER_LIST_BYTES)
            // Nodes do no harm on purpose, and clients of theirs that go away are no harm.
            .max_pending_accept_reset_streams(MAX_STREAMS as usize)
            .max_local_error_reset_streams(None)
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

#[cfg(test)]
mod tests {
    use rune_raft::NodeConfig;
    use rune_storage::ObjectStore;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio_rustls::TlsConnector;

    use super::*;
    use crate::{ClusterSecret, Member, MemberConfig};

    const HEADERS: u8 = 1;
    const RESET: u8 = 3;
    const SETTINGS: u8 = 4;
    const PING: u8 = 6;
    const GO_AWAY: u8 = 7;

    /// A frame of HTTP/2 (RFC 9113, 4.1).
    fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
        let [_, length @ ..] = u32::try_from(payload.len()).unwrap().to_be_bytes();
        let stream = stream.to_be_bytes();
        [&length[..], &[kind, flags], &stream, payload].concat()
    }

    #[tokio::test]
    async fn requests_that_are_given_up_at_once_end_no_connection() {
        let dir = tempfile::tempdir().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let secret = "a secret of a cluster in a test, long enough".to_owned();
        let secret = ClusterSecret::parse(&secret.into()).unwrap();
        let opened = Member::open(MemberConfig {
            secret: secret.clone(),
            node: 1,
            listener,
            database: dir.path().join("rune.db"),
            objects: ObjectStore::open_directory(&dir.path().join("objects")).unwrap(),
            protocol: NodeConfig::default(),
        });
        let member = opened.await.unwrap();
        let other = Identity::new(&secret, 2).unwrap();
        let stream = TcpStream::connect(addr).await.unwrap();
        let tls = TlsConnector::from(other.client());
        let name = other.name_of(1).unwrap();
        let mut tls = tls.connect(name, stream).await.unwrap();
        let mut said = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
        said.extend(frame(SETTINGS, 0, 0, &[]));
        for stream in (1..).step_by(2).take(200) {
            // `GET https:/`, whole, and not wanted any more.
            said.extend(frame(HEADERS, 0b101, stream, &[0x82, 0x87, 0x84]));
            said.extend(frame(RESET, 0, stream, &8_u32.to_be_bytes()));
        }
        said.extend(frame(PING, 0, 0, b"is there"));
        tls.write_all(&said).await.unwrap();
        let answered = async {
            loop {
                let mut head = [0; 9];
                tls.read_exact(&mut head).await.unwrap();
                let [a, b, c, kind, flags, ..] = head;
                let length = u32::from_be_bytes([0, a, b, c]);
                let mut payload = vec![0; usize::try_from(length).unwrap()];
                tls.read_exact(&mut payload).await.unwrap();
                match kind {
                    GO_AWAY => panic!("{}", String::from_utf8_lossy(&payload)),
                    PING if flags == 1 => break payload,
                    _ => {}
                }
            }
        };
        let answered = tokio::time::timeout(Duration::from_secs(30), answered).await;
        assert_eq!(answered.unwrap(), b"is there");
        member.close().await.unwrap();
    }
}
