//! Where a request is answered.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::response::Response;
use axum::routing::any;
use bytes::Bytes;
use futures_util::FutureExt as _;
use http::header::HOST;
use http::{HeaderValue, StatusCode};
use hyper::service::Service as _;
use hyper_util::service::TowerToHyperService;
use rune_cluster::Member;
use rune_http::{ApiError, MAX_BODY_BYTES, MAX_PACKAGE_BYTES};
use rune_raft::Lead;
use rune_store_runtime::ErrorCode;
use tokio::sync::{Semaphore, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::consistency::is_linearizable;
use super::cut::Cut;
use super::repeats::{Key, is_repeatable};
use super::socket::Socket;

/// How long a request that nobody answers waits before it is looked again who leads.
const RETRY_PAUSE: Duration = Duration::from_millis(20);
/// What is for replicas alone, which is a part of the control plane.
const INTERNAL: &str = "/internal/v1/{*path}";
const LOCALHOST: HeaderValue = HeaderValue::from_static("localhost");
/// How often a request is asked again that may have been done: one that takes every node with it is not to go on for ever.
const REPEATS: u32 = 3;

const NO_LEADER: &str =
    "the cluster has no leader now, or it does not answer; nothing was done, try again";
const LOST_AGAIN: &str = "nodes that led were lost again and again before they answered; requests that they have accepted go \
                          on, and asking again is safe";
const OUTCOME_UNKNOWN: &str = "the node that led was lost before it answered and may have done what was asked; look whether it \
                               has before you ask again";

/// How much a node takes upon itself for its clients.
#[derive(Debug, Clone, Copy)]
pub(super) struct FrontLimits {
    /// Requests that are under way at the leader, or are followed there: fewer than a connection between nodes has streams.
    pub(super) forwarded: usize,
    /// Bytes of the bodies of requests that are not answered yet.
    pub(super) bodies: usize,
    /// The same of callers that nobody knows.
    pub(super) unknown_bodies: usize,
}

impl Default for FrontLimits {
    fn default() -> Self {
        Self {
            forwarded: 8_000,
            bodies: 512 << 20,
            unknown_bodies: 128 << 20,
        }
    }
}

/// Which API a client asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Api {
    /// The public one.
    Gateway,
    /// That of the control plane.
    ControlPlane,
}

impl Api {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Gateway => "gateway",
            Self::ControlPlane => "control-plane",
        }
    }

    pub(super) fn named(name: &HeaderValue) -> Option<Self> {
        let apis = [Self::Gateway, Self::ControlPlane];
        apis.into_iter().find(|api| name == api.name())
    }

    /// The largest body of a request.
    pub(super) const fn max_body(self) -> usize {
        match self {
            Self::Gateway => MAX_BODY_BYTES,
            Self::ControlPlane => MAX_PACKAGE_BYTES,
        }
    }
}

/// The APIs on the engine of a node that leads. Cheap to clone.
#[derive(Clone)]
pub struct Leading {
    gateway: TowerToHyperService<Router>,
    control_plane: TowerToHyperService<Router>,
    ended: CancellationToken,
}

impl Leading {
    /// These APIs, until the token fires: what they have not answered then they do not answer any more.
    #[must_use]
    pub fn new(gateway: Router, control_plane: Router, ended: CancellationToken) -> Self {
        Self {
            gateway: TowerToHyperService::new(gateway),
            control_plane: TowerToHyperService::new(control_plane),
            ended,
        }
    }

    const fn of(&self, api: Api) -> &TowerToHyperService<Router> {
        match api {
            Api::Gateway => &self.gateway,
            Api::ControlPlane => &self.control_plane,
        }
    }
}

/// Has requests be answered where the engine runs. Cheap to clone.
#[derive(Clone)]
pub struct ClusterFront(Arc<Inner>);

struct Inner {
    member: Arc<Member>,
    leading: watch::Sender<Option<Leading>>,
    /// How long a request is held while nobody answers it.
    hold: Duration,
    /// Fires when the process is to end; streams of other nodes end with it.
    shutdown: CancellationToken,
    forwarded: Arc<Semaphore>,
    bodies: Arc<Semaphore>,
    unknown_bodies: Arc<Semaphore>,
}

/// What came of asking.
pub(super) enum Asked {
    Answered(Response),
    /// Nothing was done.
    Refused,
    /// It may have been done.
    Lost,
}

impl ClusterFront {
    /// A front of this node, which answers for the others when they ask it to. What nobody answers it holds for `hold`.
    #[must_use]
    pub fn new(member: Arc<Member>, hold: Duration, shutdown: CancellationToken) -> Self {
        Self::limited(member, hold, shutdown, FrontLimits::default())
    }

    /// The same with other limits.
    pub(super) fn limited(
        member: Arc<Member>,
        hold: Duration,
        shutdown: CancellationToken,
        limits: FrontLimits,
    ) -> Self {
        let front = Self(Arc::new(Inner {
            member,
            leading: watch::Sender::new(None),
            hold,
            shutdown,
            forwarded: Arc::new(Semaphore::new(limits.forwarded)),
            bodies: Arc::new(Semaphore::new(limits.bodies)),
            unknown_bodies: Arc::new(Semaphore::new(limits.unknown_bodies)),
        }));
        front.0.member.answer_with(Arc::new(front.clone()));
        front
    }

    /// Has this node answer with these APIs, or with none any more.
    pub fn lead(&self, leading: Option<Leading>) {
        self.0.leading.send_replace(leading);
    }

    /// Everything that is asked of an API at a socket of this node. `own` is what every node answers itself; its edge says
    /// who may ask at all, and has to know every path of the API.
    pub fn router(&self, api: Api, own: Router) -> Router {
        let socket = Socket::new(self.clone(), api, own);
        Router::new().fallback(move |request: Request| {
            let socket = socket.clone();
            async move { socket.answer(request).await }
        })
    }

    /// What replicas ask at a socket of this node that is only theirs.
    pub fn router_for_replicas(&self, own: Router) -> Router {
        let socket = Socket::new(self.clone(), Api::ControlPlane, own);
        let answer = move |mut request: Request| {
            let socket = socket.clone();
            // They show a token, wherever they have found this node: no page in a browser does.
            request.headers_mut().insert(HOST, LOCALHOST);
            async move { socket.answer(request).await }
        };
        Router::new().route(INTERNAL, any(answer))
    }

    pub(super) fn member(&self) -> &Member {
        &self.0.member
    }

    /// The APIs on the engine of this node, where one runs.
    pub(super) fn leading(&self) -> watch::Receiver<Option<Leading>> {
        self.0.leading.subscribe()
    }

    pub(super) fn hold(&self) -> Duration {
        self.0.hold
    }

    /// Fires when the process is about to end.
    pub(super) fn shutdown(&self) -> CancellationToken {
        self.0.shutdown.clone()
    }

    /// Room for requests that are under way at the leader.
    pub(super) fn forwarded(&self) -> Arc<Semaphore> {
        Arc::clone(&self.0.forwarded)
    }

    /// The space for bodies, in bytes.
    pub(super) fn space(&self, is_known: bool) -> &Arc<Semaphore> {
        match is_known {
            true => &self.0.bodies,
            false => &self.0.unknown_bodies,
        }
    }

    /// Has whoever leads answer, as soon as somebody does.
    ///
    /// # Errors
    /// `unavailable` where nobody does, or where it is not known what was done.
    pub(super) async fn have_answered(
        &self,
        api: Api,
        request: &http::Request<Bytes>,
    ) -> Result<Response, ApiError> {
        let unavailable = |why| ApiError::new(ErrorCode::Unavailable, why);
        let mut until = Instant::now() + self.0.hold;
        let mut repeats = 0;
        loop {
            match self.ask(api, request).await {
                Asked::Answered(response) => return Ok(response),
                Asked::Refused => {}
                Asked::Lost if !is_repeatable(api, request) => {
                    return Err(unavailable(OUTCOME_UNKNOWN).unsure());
                }
                Asked::Lost if repeats == REPEATS => {
                    return Err(match Key::of(request.headers()) {
                        Key::Ours => unavailable(OUTCOME_UNKNOWN).unsure(),
                        Key::Theirs | Key::None => unavailable(LOST_AGAIN),
                    });
                }
                Asked::Lost => {
                    repeats += 1;
                    until = Instant::now() + self.0.hold;
                }
            }
            if Instant::now() >= until {
                return Err(unavailable(NO_LEADER));
            }
            self.changed().await;
        }
    }

    /// Returns when somebody else may lead.
    async fn changed(&self) {
        let (mut leader, mut leading) = (self.0.member.leader(), self.0.leading.subscribe());
        // What fails has ended, and so has the process soon.
        tokio::select! {
            _ = leader.changed() => {}
            _ = leading.changed() => {}
            () = tokio::time::sleep(RETRY_PAUSE) => {}
        }
    }

    /// The APIs on the engine of this node: where it leads and none runs, as soon as one does. Nothing where it does not lead.
    pub(super) async fn begun(&self) -> Option<Leading> {
        let (mut leader, mut leading) = (self.0.member.leader(), self.0.leading.subscribe());
        let begun = async {
            loop {
                if let Some(leading) = leading.borrow_and_update().clone() {
                    return Some(leading);
                }
                if !matches!(*leader.borrow_and_update(), Lead::Own(_)) {
                    return None;
                }
                let changed = tokio::select! {
                    changed = leader.changed() => changed,
                    changed = leading.changed() => changed,
                };
                // It ends with the process.
                changed.ok()?;
            }
        };
        let begun = tokio::time::timeout(self.0.hold, begun).await;
        begun.ok().flatten()
    }

    async fn ask(&self, api: Api, request: &http::Request<Bytes>) -> Asked {
        let leading = self.0.leading.borrow().clone();
        if let Some(leading) = leading {
            let request = request.clone().map(Body::from);
            return self.here(&leading, api, request).boxed().await;
        }
        let leader = self.0.member.leader().borrow().clone();
        match leader {
            Lead::Other { node, addr } => self.there(node, &addr, api, request).boxed().await,
            Lead::Own(_) | Lead::Nobody => Asked::Refused,
        }
    }

    /// Has the engine of this node answer.
    pub(super) async fn here(&self, leading: &Leading, api: Api, mut request: Request) -> Asked {
        let answer = async {
            if is_linearizable(&mut request) {
                // Who is cut off from the others does not know what they have written since.
                let newest = self.0.member.node().linearizable().await;
                newest.map_err(|error| tracing::debug!(%error, "not read"))?;
            }
            Ok(called(leading.of(api), request).await)
        };
        match leading.ended.run_until_cancelled(answer).await {
            // It was asked before it was known here that it ends, and refuses what is new: the next one does not.
            Some(Ok(response))
                if response.status() == StatusCode::SERVICE_UNAVAILABLE
                    && self.0.leading.borrow().is_none() =>
            {
                Asked::Lost
            }
            Some(Ok(response)) => {
                let ended = leading.ended.clone().cancelled_owned();
                Asked::Answered(response.map(|body| Body::new(Cut::new(body, ended))))
            }
            Some(Err(())) => Asked::Refused,
            None => Asked::Lost,
        }
    }
}

pub(super) async fn called(router: &TowerToHyperService<Router>, request: Request) -> Response {
    match router.call(request).await {
        Ok(response) => response,
        Err(never) => match never {},
    }
}
