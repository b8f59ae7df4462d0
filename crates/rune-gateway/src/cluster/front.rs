//! Where a request is answered.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::response::Response;
use bytes::Bytes;
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE, HOST};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use hyper::service::Service as _;
use hyper_util::service::TowerToHyperService;
use rune_cluster::{Clients, FORWARDED, Member, PeerBody};
use rune_http::{ApiError, MAX_BODY_BYTES, MAX_PACKAGE_BYTES, read_body};
use rune_raft::{CallError, Lead, NodeId};
use rune_store_runtime::ErrorCode;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::cut::Cut;
use super::follow::Following;
use crate::hop::sent_on;

/// How long a request that nobody answers waits before it is looked again who leads.
const RETRY_PAUSE: Duration = Duration::from_millis(20);
/// How long a node that was asked has to say what it did, once it does not lead any more: one that is there says it at once.
const LAST_WORD: Duration = Duration::from_millis(50);
/// The host that a client named, which the connection between nodes has one of its own in the place of.
const NAMED_HOST: HeaderName = HeaderName::from_static("x-rune-host");
/// What the node that was asked says to the node that asked: that nothing was done, or that it is not known what was.
const SAID: HeaderName = HeaderName::from_static("x-rune-cluster");
const REFUSED: &str = "refused";
const LOST: &str = "lost";
/// What no client says.
const BETWEEN_NODES: [HeaderName; 3] = [FORWARDED, NAMED_HOST, SAID];
/// What every node answers itself.
const OWN: [&str; 4] = ["/health", "/ready", "/openapi.json", "/docs"];
/// What a node answers itself unless it leads.
const METRICS: &str = "/metrics";
/// Where the routes about the cluster begin, which every node answers itself.
const CLUSTER: &str = "/v1/cluster/";
/// Which node it is.
const STATUS: &str = "/v1/status";

/// What of a query says how new an answer has to be.
const LINEARIZABLE: &str = "consistency=linearizable";
const CONSISTENCIES: [&str; 2] = [LINEARIZABLE, "consistency=local"];

const NO_LEADER: &str =
    "the cluster has no leader now, or it does not answer; nothing was done, try again";
const OUTCOME_UNKNOWN: &str = "the node that led was lost before it answered and may have done what was asked; requests that it \
                               has accepted go on, and with an `Idempotency-Key` asking again is safe";

/// Which API a client asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Api {
    /// The public one.
    Gateway,
    /// That of the control plane.
    ControlPlane,
}

impl Api {
    const fn name(self) -> &'static str {
        match self {
            Self::Gateway => "gateway",
            Self::ControlPlane => "control-plane",
        }
    }

    fn named(name: &HeaderValue) -> Option<Self> {
        let apis = [Self::Gateway, Self::ControlPlane];
        apis.into_iter().find(|api| name == api.name())
    }

    /// The largest body of a request.
    const fn max_body(self) -> usize {
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
    own: OnceLock<[TowerToHyperService<Router>; 2]>,
    /// How long a request is held while nobody answers it.
    hold: Duration,
    /// Fires when the process is to end; streams of other nodes end with it.
    shutdown: CancellationToken,
}

/// What came of asking.
enum Asked {
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
        let front = Self(Arc::new(Inner {
            member,
            leading: watch::Sender::new(None),
            own: OnceLock::new(),
            hold,
            shutdown,
        }));
        front.0.member.answer_with(Arc::new(front.clone()));
        front
    }

    /// Has this node answer with these APIs, or with none any more.
    pub fn lead(&self, leading: Option<Leading>) {
        self.0.leading.send_replace(leading);
    }

    /// What every node answers itself, of both APIs; the first ones given count.
    pub fn answer_own(&self, gateway: Router, control_plane: Router) {
        let own = [gateway, control_plane].map(TowerToHyperService::new);
        self.0.own.get_or_init(|| own);
    }

    /// Everything that is asked of an API at a socket of this node.
    pub fn router(&self, api: Api) -> Router {
        let front = self.clone();
        Router::new().fallback(move |request: Request| {
            let front = front.clone();
            async move { front.answer(api, request).await }
        })
    }

    /// Tells whether requests are answered, here or at another node, as often as that may have changed.
    pub async fn watch(&self, tell: impl Fn(bool)) {
        let (mut leader, mut leading) = (self.0.member.leader(), self.0.leading.subscribe());
        loop {
            let is_elsewhere = matches!(*leader.borrow_and_update(), Lead::Other { .. });
            tell(is_elsewhere || leading.borrow_and_update().is_some());
            let changed = tokio::select! {
                changed = leader.changed() => changed,
                changed = leading.changed() => changed,
            };
            if changed.is_err() {
                return tell(false);
            }
        }
    }

    async fn answer(&self, api: Api, request: Request) -> Response {
        if let Some(own) = self.own(api, request.uri().path()) {
            return called(own, request).await;
        }
        match self.whole(api, request).await {
            Ok(request) => {
                let answer = self.have_answered(api, &request).await;
                Following::of(self, api, &request, answer)
            }
            Err(error) => error.before_the_edge(),
        }
    }

    fn own(&self, api: Api, path: &str) -> Option<&TowerToHyperService<Router>> {
        let is_own = OWN.contains(&path)
            || path.starts_with("/docs/")
            || (path == METRICS && self.0.leading.borrow().is_none())
            || (api == Api::ControlPlane && (path.starts_with(CLUSTER) || path == STATUS));
        let [gateway, control_plane] = self.0.own.get().filter(|_| is_own)?;
        Some(match api {
            Api::Gateway => gateway,
            Api::ControlPlane => control_plane,
        })
    }

    /// A request as it may be asked again.
    async fn whole(
        &self,
        api: Api,
        mut request: Request,
    ) -> Result<http::Request<Bytes>, ApiError> {
        let headers = request.headers_mut();
        for name in BETWEEN_NODES {
            headers.remove(name);
        }
        let (parts, body) = request.into_parts();
        let body = Request::from_parts(parts.clone(), body);
        let body = read_body(body, api.max_body()).await?;
        Ok(http::Request::from_parts(parts, body))
    }

    /// Whether the process is about to end.
    pub(super) fn is_ending(&self) -> bool {
        self.0.shutdown.is_cancelled()
    }

    /// Has whoever leads answer, as soon as somebody does.
    pub(super) async fn have_answered(&self, api: Api, request: &http::Request<Bytes>) -> Response {
        let is_repeatable =
            request.method().is_safe() || request.headers().contains_key("idempotency-key");
        let mut until = Instant::now() + self.0.hold;
        loop {
            match self.ask(api, request).await {
                Asked::Answered(response) => return response,
                Asked::Refused => {}
                Asked::Lost if is_repeatable => until = Instant::now() + self.0.hold,
                Asked::Lost => {
                    return ApiError::new(ErrorCode::Unavailable, OUTCOME_UNKNOWN)
                        .before_the_edge();
                }
            }
            if Instant::now() >= until {
                return ApiError::new(ErrorCode::Unavailable, NO_LEADER).before_the_edge();
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

    /// The APIs on the engine of this node: where it leads and none runs, as soon as one does. Nothing where it does not lead.
    async fn leading(&self) -> Option<Leading> {
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

    /// Has the engine of this node answer.
    async fn here(&self, leading: &Leading, api: Api, mut request: Request) -> Asked {
        let answer = async {
            if is_linearizable(&mut request) {
                // Who is cut off from the others does not know what they have written since.
                let newest = self.0.member.node().linearizable().await;
                newest.map_err(|error| tracing::debug!(%error, "not read"))?;
            }
            Ok(called(leading.of(api), request).await)
        };
        match leading.ended.run_until_cancelled(answer).await {
            Some(Ok(response)) => {
                let ended = leading.ended.clone().cancelled_owned();
                Asked::Answered(response.map(|body| Body::new(Cut::new(body, ended))))
            }
            Some(Err(())) => Asked::Refused,
            None => Asked::Lost,
        }
    }

    /// Asks the node that leads.
    async fn there(
        &self,
        node: NodeId,
        addr: &str,
        api: Api,
        request: &http::Request<Bytes>,
    ) -> Asked {
        let mut sent = http::Request::new(request.body().clone());
        *sent.method_mut() = request.method().clone();
        *sent.uri_mut() = request.uri().clone();
        *sent.headers_mut() = headers_to(api, request);
        let transport = self.0.member.transport();
        let gone = || {
            let mut leader = self.0.member.leader();
            // It ends with the process.
            async move { drop(leader.wait_for(|now| !is_at(now, node)).await) }
        };
        let answer = transport.forward(node, addr, sent);
        tokio::pin!(answer);
        let answer = tokio::select! {
            answer = &mut answer => answer,
            // Whoever is asked may be there and not know it yet, or not be there and not say so.
            () = gone() => match tokio::time::timeout(LAST_WORD, answer).await {
                Ok(answer) => answer,
                Err(_) => return Asked::Lost,
            },
        };
        let answer = match answer {
            Ok(answer) => answer,
            Err(CallError::Unreachable(reason)) => {
                tracing::debug!(node, reason, "a request was not sent on");
                return Asked::Refused;
            }
            Err(error) => {
                tracing::warn!(node, %error, "a request that was sent on was lost");
                return Asked::Lost;
            }
        };
        match answer.headers().get(SAID) {
            Some(said) if said == REFUSED => return Asked::Refused,
            Some(_) => return Asked::Lost,
            None => {}
        }
        let (parts, body) = answer.into_parts();
        let content_type = parts.headers.get(CONTENT_TYPE).map(HeaderValue::as_bytes);
        let is_stream = content_type == Some(b"text/event-stream");
        let shutdown = self.0.shutdown.clone();
        let (gone, ending) = (gone(), async move {
            match is_stream {
                true => shutdown.cancelled().await,
                false => std::future::pending().await,
            }
        });
        let ended = async move {
            tokio::select! {
                () = gone => {}
                () = ending => {}
            }
        };
        let body = Body::new(Cut::new(Body::new(body), ended));
        let mut response = Response::new(body);
        *response.status_mut() = parts.status;
        *response.headers_mut() = sent_on(&parts.headers, &BETWEEN_NODES);
        if let Some(length) = parts.headers.get(CONTENT_LENGTH) {
            let length = length.clone();
            response.headers_mut().insert(CONTENT_LENGTH, length);
        }
        Asked::Answered(response)
    }
}

impl Clients for ClusterFront {
    fn answer(&self, request: http::Request<Incoming>) -> BoxFuture<'static, Response<PeerBody>> {
        let front = self.clone();
        async move {
            let Some((api, request)) = original(request) else {
                return said(LOST);
            };
            // Whoever asked would only ask again.
            let Some(leading) = front.leading().await else {
                return said(REFUSED);
            };
            match front.here(&leading, api, request).boxed().await {
                Asked::Answered(response) => {
                    response.map(|body| body.map_err(Into::into).boxed_unsync())
                }
                Asked::Refused => said(REFUSED),
                Asked::Lost => said(LOST),
            }
        }
        .boxed()
    }
}

fn is_at(lead: &Lead, node: NodeId) -> bool {
    matches!(lead, Lead::Other { node: leader, .. } if *leader == node)
}

/// Whether a request asks for what was written last, wherever that was. The handlers do not know of it.
fn is_linearizable(request: &mut Request) -> bool {
    let Some((path, query)) = request.uri().path_and_query().and_then(|uri| {
        let query = uri.query()?;
        Some((uri.path().to_owned(), query.to_owned()))
    }) else {
        return false;
    };
    let asked: Vec<&str> = query.split('&').collect();
    let rest: Vec<&str> = asked
        .iter()
        .copied()
        .filter(|pair| !CONSISTENCIES.contains(pair))
        .collect();
    if rest.len() == asked.len() {
        return false;
    }
    let rest = match rest.is_empty() {
        true => path,
        false => format!("{path}?{}", rest.join("&")),
    };
    if let Ok(uri) = rest.parse() {
        *request.uri_mut() = uri;
    }
    asked.contains(&LINEARIZABLE)
}

async fn called(router: &TowerToHyperService<Router>, request: Request) -> Response {
    match router.call(request).await {
        Ok(response) => response,
        Err(never) => match never {},
    }
}

/// The headers of a request as they are sent to another node.
fn headers_to(api: Api, request: &http::Request<Bytes>) -> HeaderMap {
    let mut headers = sent_on(request.headers(), &BETWEEN_NODES);
    let authority = request.uri().authority();
    let host = authority.and_then(|host| HeaderValue::try_from(host.as_str()).ok());
    if let Some(host) = headers.remove(HOST).or(host) {
        headers.insert(NAMED_HOST, host);
    }
    headers.insert(FORWARDED, HeaderValue::from_static(api.name()));
    headers
}

/// A request of another node as its client sent it.
fn original(request: http::Request<Incoming>) -> Option<(Api, Request)> {
    let mut request = request.map(Body::new);
    let api = request.headers().get(FORWARDED).and_then(Api::named)?;
    let path = request.uri().path_and_query()?.as_str().parse().ok()?;
    *request.uri_mut() = path;
    let headers = request.headers_mut();
    let host = headers.remove(NAMED_HOST);
    for name in BETWEEN_NODES {
        headers.remove(name);
    }
    if let Some(host) = host {
        headers.insert(HOST, host);
    }
    Some((api, request))
}

fn said(what: &'static str) -> Response<PeerBody> {
    let body = Body::empty().map_err(Into::into).boxed_unsync();
    let mut response = Response::new(body);
    *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
    response
        .headers_mut()
        .insert(SAID, HeaderValue::from_static(what));
    response
}
