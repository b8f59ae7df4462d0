//! The side that asks.

use std::collections::{BTreeMap, HashMap};
use std::io::ErrorKind;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::{BoxFuture, FutureExt as _, Shared};
use http::uri::PathAndQuery;
use http::{Method, Request, Response, StatusCode, Version};
use hyper::body::Incoming;
use hyper::client::conn::http2::{Builder, SendRequest};
use hyper_util::rt::{TokioIo, TokioTimer};
use rune_raft::{BasicNode, CallError, Disk, Message, NodeId, Threads, Transport};
use rune_runtime::Tasks;
use tokio::net::TcpStream;
use tokio::sync::broadcast;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::{CertificateError, Error as TlsError};

use crate::Identity;
use crate::server::TaskExecutor;
use crate::wire::{
    MAX_HEADER_LIST_BYTES, MAX_STREAMS, MAX_WINDOW, PATH, PeerBody, PeerMessage, PeerReply,
    collect, encode, parse, whole,
};

/// How long a connection may take to be made.
const CONNECT_LIMIT: Duration = Duration::from_secs(2);
/// How often a node that says nothing is asked whether it is still there, and how long it has to
/// say so.
const PING: Duration = Duration::from_secs(1);
/// How long it has for what clients asked.
const CLIENTS_SILENCE: Duration = Duration::from_secs(10);
/// How long it has among objects, which may be many bytes on a slow line.
const OBJECTS_SILENCE: Duration = Duration::from_secs(20);
/// Bytes that may be under way unacknowledged in one message, and on one connection.
const STREAM_WINDOW: u32 = 4 << 20;
const CONNECTION_WINDOW: u32 = 16 << 20;
/// The same of answers for clients, who need not read them: what one leaves lying takes nothing from the others.
const CLIENTS_STREAM_WINDOW: u32 = 256 << 10;
const CLIENTS_CONNECTION_WINDOW: u32 = MAX_WINDOW;
/// How long a stream is remembered whose client has gone: what comes for it later would count against the connection.
const GONE: Duration = Duration::from_secs(30);

/// How often a machine that closed a connection is asked whether anybody listens there still, and the pause in between: a
/// process that ends closes one thing after the other.
const LISTENS: u32 = 3;
const LISTENS_PAUSE: Duration = Duration::from_millis(5);
/// Nodes that ended and were not heard of yet.
const ENDED: usize = 64;

type Sender = SendRequest<PeerBody>;
/// A connection that is being made, or was.
type Opening = Shared<BoxFuture<'static, Result<Sender, CallError>>>;

/// By node, its address, and what they are for.
type Connections = HashMap<(NodeId, String, Lane), Opening>;

/// What has a connection of its own, so that it waits for nothing larger.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Lane {
    /// What elections hang on: heartbeats and votes.
    Urgent,
    Entries,
    Snapshots,
    /// Writes and reads of this node.
    Requests,
    /// What clients of this node ask of another one.
    Clients,
    /// Objects, which may be large.
    Objects,
}

impl Lane {
    /// What a node has a connection for to every other one before it needs it: whoever begins to lead has no time to make one.
    const READY: [Self; 4] = [Self::Urgent, Self::Entries, Self::Requests, Self::Clients];

    /// How long a node has to say that it is still there. What clients asked is lost with the connection, and a node that is
    /// gone is known by that another one leads. Among objects what it says waits behind them.
    const fn silence(self) -> Duration {
        match self {
            Self::Clients => CLIENTS_SILENCE,
            Self::Objects => OBJECTS_SILENCE,
            _ => PING,
        }
    }

    /// How much may be under way in one message, and on the connection.
    const fn windows(self) -> (u32, u32) {
        match self {
            Self::Clients => (CLIENTS_STREAM_WINDOW, CLIENTS_CONNECTION_WINDOW),
            _ => (STREAM_WINDOW, CONNECTION_WINDOW),
        }
    }

    const fn of(message: &PeerMessage) -> Self {
        match message {
            Message::Append(append) if !append.entries.is_empty() => Self::Entries,
            Message::Append(_)
            | Message::Vote(_)
            | Message::PreVote(_)
            | Message::TransferLeader(_) => Self::Urgent,
            Message::Chunk(..) => Self::Snapshots,
            Message::Write(_) | Message::ReadIndex | Message::Change(_) | Message::About => {
                Self::Requests
            }
        }
    }
}

/// Carries messages to other nodes. Cheap to clone.
#[derive(Clone)]
pub struct PeerTransport {
    identity: Identity,
    tasks: Tasks,
    connections: Arc<Mutex<Connections>>,
    ended: broadcast::Sender<NodeId>,
}

impl PeerTransport {
    /// A transport of this node that has connected to nothing yet. Its connections are `tasks`.
    #[must_use]
    pub fn new(identity: Identity, tasks: Tasks) -> Self {
        Self {
            identity,
            tasks,
            connections: Arc::default(),
            ended: broadcast::Sender::new(ENDED),
        }
    }

    /// Tells of nodes that have ended: their machine closed a connection, and nobody listens there any more. Of one whose
    /// machine is gone as well, or cannot be reached, nothing is told.
    #[must_use]
    pub fn ended(&self) -> broadcast::Receiver<NodeId> {
        self.ended.subscribe()
    }

    /// The connection to a node, made where there is none. Whoever needs it waits for the same one,
    /// and whoever gives up does not stop it from being made.
    fn connection(&self, target: NodeId, addr: &str, lane: Lane) -> Opening {
        let connections = self.connections.lock();
        let mut connections = connections.unwrap_or_else(PoisonError::into_inner);
        let key = (target, addr.to_owned(), lane);
        if let Some(opening) = connections.get(&key) {
            match opening.peek() {
                Some(Ok(sender)) if !sender.is_closed() => return opening.clone(),
                None => return opening.clone(),
                Some(_) => {}
            }
        }
        let connect = connect(self.clone(), target, addr.to_owned(), lane);
        let connecting = self.tasks.spawn("cluster-connect", connect);
        let opening = async move {
            let ended = || CallError::Broken("this node ends".to_owned());
            connecting
                .await
                .ok()
                .flatten()
                .unwrap_or_else(|| Err(ended()))
        };
        let opening = opening.boxed().shared();
        connections.insert(key, opening.clone());
        opening
    }
}

impl PeerTransport {
    /// Asks another node what a client asked of this one, with [`FORWARDED`](crate::FORWARDED) among the headers. The body of
    /// the answer comes as it is made.
    ///
    /// # Errors
    /// [`CallError::Unreachable`] where the request was not sent, [`CallError::Broken`] where it may have been.
    pub async fn forward(
        &self,
        target: NodeId,
        addr: &str,
        request: Request<Bytes>,
    ) -> Result<Response<Incoming>, CallError> {
        self.send(target, addr, Lane::Clients, request).await
    }

    /// Asks another node over a connection for what is asked. The body of the answer comes as it is made.
    ///
    /// # Errors
    /// As of [`PeerTransport::forward`].
    pub(crate) async fn send(
        &self,
        target: NodeId,
        addr: &str,
        lane: Lane,
        request: Request<Bytes>,
    ) -> Result<Response<Incoming>, CallError> {
        let mut sender = self.connection(target, addr, lane).await?;
        let (mut parts, body) = request.into_parts();
        let path = parts.uri.path_and_query().map_or("/", PathAndQuery::as_str);
        let uri = format!("https://{}{path}", self.identity.host_of(target));
        let uri = uri.parse();
        parts.uri = uri.map_err(|error: http::uri::InvalidUri| {
            CallError::Unreachable(format!("node {target}: {error}"))
        })?;
        parts.version = Version::HTTP_2;
        let request = Request::from_parts(parts, whole(body));
        let sent = sender.try_send_request(request).await;
        sent.map_err(|mut failed| match failed.take_message() {
            Some(_) => {
                CallError::Unreachable(format!("node {target} at {addr}: {}", failed.error()))
            }
            None => broken(target, failed.error()),
        })
    }
}

impl Transport<<Threads as Disk>::Runtime> for PeerTransport {
    async fn call(
        &self,
        target: NodeId,
        node: &BasicNode,
        message: PeerMessage,
        _: Duration,
    ) -> Result<PeerReply, CallError> {
        let lane = Lane::of(&message);
        let body = encode(message).map_err(|error| broken(target, &error))?;
        let mut sender = self.connection(target, &node.addr, lane).await?;
        let request = Request::builder()
            .method(Method::POST)
            .uri(format!("https://{}{PATH}", self.identity.host_of(target)))
            .body(whole(body))
            .map_err(|error| broken(target, &error))?;
        let response = sender.send_request(request).await;
        let response = response.map_err(|error| broken(target, &error))?;
        let status = response.status();
        let body = collect(response.into_body()).await;
        let body = body.map_err(|error| broken(target, &error))?;
        if status != StatusCode::OK {
            let reason = String::from_utf8_lossy(&body);
            return Err(broken(target, &format_args!("{status}: {reason}")));
        }
        parse(&body).map_err(|error| broken(target, &error))
    }

    /// Those that answer are connected to for whatever may be said to them.
    fn keep(&self, members: &BTreeMap<NodeId, BasicNode>) {
        let connections = self.connections.lock();
        let mut connections = connections.unwrap_or_else(PoisonError::into_inner);
        // A connection ends when the last one that could use it is gone.
        connections.retain(|(id, addr, _), opening| {
            let is_member = members.get(id).is_some_and(|node| node.addr == *addr);
            is_member || opening.peek().is_none()
        });
        let is_open = |key: &(NodeId, String, Lane)| {
            let opening = connections.get(key).and_then(Shared::peek);
            opening.is_some_and(|opened| matches!(opened, Ok(sender) if !sender.is_closed()))
        };
        let members = members.iter();
        let members = members.map(|(id, node)| (*id, node.addr.clone(), Lane::Requests));
        let there: Vec<_> = members.filter(is_open).collect();
        drop(connections);
        for (id, addr, _) in there {
            for lane in Lane::READY {
                // Looked at, so that one that has ended is made anew the next time.
                drop(self.connection(id, &addr, lane).now_or_never());
            }
        }
    }
}

/// Connects to a node, and knows that it is that node.
async fn connect(
    transport: PeerTransport,
    target: NodeId,
    addr: String,
    lane: Lane,
) -> Result<Sender, CallError> {
    let PeerTransport {
        identity,
        tasks,
        ended: tell,
        ..
    } = transport;
    let connecting = async {
        let unreachable = |why: &dyn std::fmt::Display| {
            CallError::Unreachable(format!("node {target} at {addr}: {why}"))
        };
        let stream = TcpStream::connect(&addr).await;
        let stream = stream.map_err(|error| unreachable(&error))?;
        stream
            .set_nodelay(true)
            .map_err(|error| unreachable(&error))?;
        let name = identity.name_of(target);
        let name = name.ok_or_else(|| unreachable(&"it has no name"))?;
        let tls = TlsConnector::from(identity.client());
        let tls = tls.connect(name, stream).await;
        let tls = tls.map_err(|error| {
            let why = unreachable(&refused(&error, target));
            tracing::warn!("{why}");
            why
        })?;
        let (stream_window, connection_window) = lane.windows();
        let (sender, connection) = Builder::new(TaskExecutor(tasks.clone()))
            .timer(TokioTimer::new())
            .keep_alive_interval(PING)
            .keep_alive_timeout(lane.silence())
            .keep_alive_while_idle(true)
            .initial_stream_window_size(stream_window)
            .initial_connection_window_size(connection_window)
            .max_header_list_size(MAX_HEADER_LIST_BYTES)
            .max_concurrent_reset_streams(MAX_STREAMS as usize)
            .reset_stream_duration(GONE)
            .max_local_error_reset_streams(None)
            .handshake(TokioIo::new(tls))
            .await
            .map_err(|error| unreachable(&error))?;
        let (shutdown, addr) = (tasks.shutdown(), addr.clone());
        let watched = async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, node = target, "connection ended");
            }
            // All end at once, and this one is always there.
            if lane == Lane::Requests && !listens(&addr).await {
                tracing::debug!(node = target, "the node has ended");
                // Nobody may want to know.
                drop(tell.send(target));
            }
        };
        tasks.spawn("cluster-connection", async move {
            shutdown.run_until_cancelled(watched).await;
        });
        Ok(sender)
    };
    let connected = tokio::time::timeout(CONNECT_LIMIT, connecting).await;
    connected.unwrap_or_else(|_| {
        Err(CallError::Unreachable(format!(
            "node {target} at {addr} did not answer within {CONNECT_LIMIT:?}"
        )))
    })
}

/// Whether anybody may listen at an address that a connection to has ended.
async fn listens(addr: &str) -> bool {
    for _ in 0..LISTENS {
        match tokio::time::timeout(CONNECT_LIMIT, TcpStream::connect(addr)).await {
            Ok(Err(error)) if error.kind() == ErrorKind::ConnectionRefused => return false,
            Ok(Ok(_)) => tokio::time::sleep(LISTENS_PAUSE).await,
            Ok(Err(_)) | Err(_) => return true,
        }
    }
    true
}

/// Why a node was not believed, in words that say what to do.
fn refused(error: &std::io::Error, target: NodeId) -> String {
    let cause = error.get_ref().and_then(|error| error.downcast_ref());
    match cause {
        Some(TlsError::InvalidCertificate(
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
        )) => format!("the node there is not node {target}: compare the addresses of the members"),
        Some(TlsError::InvalidCertificate(_)) => {
            "the node there is of another cluster: its secret is not the one of this node"
                .to_owned()
        }
        _ => error.to_string(),
    }
}

fn broken(target: NodeId, error: &dyn std::fmt::Display) -> CallError {
    CallError::Broken(format!("node {target}: {error}"))
}
