//! Two nodes of a cluster in this process: their fronts, and what the one that leads has in the place of an engine.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::response::Response;
use http_body_util::BodyExt as _;
use hyper::service::Service as _;
use hyper_util::service::TowerToHyperService;
use rune_cluster::{ClusterSecret, Member, MemberConfig};
use rune_http::{Auth, Edge, Metrics, Readiness};
use rune_mcp::McpAccess;
use rune_raft::{BasicNode, Lead, NodeConfig, NodeId};
use rune_storage::ObjectStore;
use serde_json::Value;
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::cluster::front::FrontLimits;
use crate::{Api, ClusterFront, Leading, NodeGateway, PUBLIC_ROUTES};

/// How long anything may take.
pub(super) const LIMIT: Duration = Duration::from_secs(30);
/// How long requests are held.
pub(super) const HOLD: Duration = Duration::from_millis(1500);

/// What nobody may wait for any longer.
pub(super) async fn soon<F: Future>(what: &str, future: F) -> F::Output {
    let done = tokio::time::timeout(LIMIT, future).await;
    done.unwrap_or_else(|_| panic!("not within {LIMIT:?}: {what}"))
}

pub(super) struct Rig {
    pub(super) leader: Side,
    pub(super) follower: Side,
    _dir: TempDir,
}

/// One node.
pub(super) struct Side {
    pub(super) front: ClusterFront,
    socket: TowerToHyperService<Router>,
}

impl Rig {
    /// Nodes whose clients need no credentials.
    pub(super) async fn start() -> Self {
        Self::with(&Auth::Anonymous, FrontLimits::default()).await
    }

    pub(super) async fn with(auth: &Auth, limits: FrontLimits) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut members = Vec::new();
        let mut addrs = BTreeMap::new();
        for node in 1..=2 {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let addr = listener.local_addr().unwrap().to_string();
            addrs.insert(node, BasicNode::new(&addr));
            members.push(member(node, listener, &dir).await);
        }
        members[0].node().initialize(addrs).await.unwrap();
        let leads = |member: &Arc<Member>| {
            let mut lead = member.leader();
            async move {
                let known = lead.wait_for(|lead| *lead != Lead::Nobody).await;
                matches!(*known.unwrap(), Lead::Own(_))
            }
        };
        let is_first = soon("an election", leads(&members[0])).await;
        soon("who leads", leads(&members[1])).await;
        if !is_first {
            members.reverse();
        }
        let mut sides = members
            .into_iter()
            .map(|member| Side::new(member, auth, limits));
        Self {
            leader: sides.next().unwrap(),
            follower: sides.next().unwrap(),
            _dir: dir,
        }
    }

    /// Has the leader answer with this, until what is given fires.
    pub(super) fn lead(&self, gateway: Router) -> CancellationToken {
        let ended = CancellationToken::new();
        let control_plane = Router::new();
        let leading = Leading::new(gateway, control_plane, ended.clone());
        self.leader.front.lead(Some(leading));
        ended
    }

    /// Has the leader answer like a gateway that asks for no credentials, until what is given fires.
    pub(super) fn lead_openly(&self, routes: Router) -> CancellationToken {
        let edge = Edge::new("engine", Auth::Anonymous, PUBLIC_ROUTES);
        self.lead(edge.protect(routes))
    }

    /// Has the term of the leader end, and everything with it that was not answered.
    pub(super) fn depose(&self, ended: &CancellationToken) {
        self.leader.front.lead(None);
        ended.cancel();
    }
}

async fn member(node: NodeId, listener: TcpListener, dir: &TempDir) -> Arc<Member> {
    let dir = dir.path().join(node.to_string());
    let secret = "a secret of a cluster in a test, long enough".to_owned();
    let config = MemberConfig {
        secret: ClusterSecret::parse(&secret.into()).unwrap(),
        node,
        listener,
        database: dir.join("rune.db"),
        objects: ObjectStore::open_directory(&dir.join("objects")).unwrap(),
        protocol: NodeConfig {
            heartbeat: Duration::from_millis(100),
            election: Duration::from_millis(500),
            ..NodeConfig::default()
        },
    };
    Arc::new(Member::open(config).await.unwrap())
}

impl Side {
    fn new(member: Arc<Member>, auth: &Auth, limits: FrontLimits) -> Self {
        let shutdown = CancellationToken::new();
        let front = ClusterFront::limited(member, HOLD, shutdown, limits);
        let own = NodeGateway {
            auth: auth.clone(),
            mcp: McpAccess::default(),
            public_cards: true,
            readiness: Readiness::default(),
            metrics: Metrics::default(),
        };
        let socket = front.router(Api::Gateway, own.router());
        let socket = TowerToHyperService::new(socket);
        Self { front, socket }
    }

    /// What a client is answered.
    pub(super) async fn ask(&self, request: Request) -> Response {
        soon("an answer", self.socket.call(request)).await.unwrap()
    }
}

/// A request of a client on this machine.
pub(super) fn request(method: &str, path: &str, body: impl Into<Body>) -> Request {
    let request = Request::builder().method(method).uri(path);
    let request = request.header("host", "localhost");
    let request = request.header("content-type", "application/json");
    request.body(body.into()).unwrap()
}

pub(super) fn get(path: &str) -> Request {
    request("GET", path, Body::empty())
}

/// A body that begins and does not go on.
pub(super) fn endless() -> Body {
    let begun = futures_util::stream::iter([Ok::<_, std::io::Error>("begun")]);
    let rest = futures_util::stream::pending();
    Body::from_stream(futures_util::StreamExt::chain(begun, rest))
}

pub(super) fn header<'a>(response: &'a Response, name: &str) -> Option<&'a str> {
    response.headers().get(name)?.to_str().ok()
}

pub(super) async fn text(response: Response) -> String {
    let body = soon("the rest of an answer", response.into_body().collect()).await;
    String::from_utf8(body.unwrap().to_bytes().to_vec()).unwrap()
}

pub(super) async fn json(response: Response) -> Value {
    serde_json::from_str(&text(response).await).unwrap()
}

/// How often something happened.
#[derive(Clone, Default)]
pub(super) struct Count(Arc<AtomicUsize>);

impl Count {
    /// It happens; answers how often it had before.
    pub(super) fn add(&self) -> usize {
        self.0.fetch_add(1, Ordering::Relaxed)
    }

    pub(super) fn get(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }
}

/// Waits until something is so.
pub(super) async fn until(what: &str, is_so: impl Fn() -> bool) {
    let waiting = async {
        while !is_so() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    soon(what, waiting).await;
}
