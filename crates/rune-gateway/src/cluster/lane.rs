//! What nodes ask each other for their clients.

use std::time::Duration;

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
use metrics::counter;
use rune_cluster::{Clients, FORWARDED, PeerBody};
use rune_raft::{CallError, Lead, NodeId};

use super::cut::Cut;
use super::front::{Api, Asked, ClusterFront};
use crate::hop::sent_on;

/// How long a node that was asked has to say what it did, once it does not lead any more: one that is there says it at once.
const LAST_WORD: Duration = Duration::from_millis(50);
/// The host that a client named, which the connection between nodes has one of its own in the place of.
const NAMED_HOST: HeaderName = HeaderName::from_static("x-rune-host");
/// What the node that was asked says to the node that asked: that nothing was done, or that it is not known what was.
const SAID: HeaderName = HeaderName::from_static("x-rune-cluster");
const REFUSED: &str = "refused";
const LOST: &str = "lost";
/// What no client says.
pub(super) const BETWEEN_NODES: [HeaderName; 3] = [FORWARDED, NAMED_HOST, SAID];

impl ClusterFront {
    /// Has the node that leads answer for a client, and counts what came of it.
    pub(super) async fn there(
        &self,
        node: NodeId,
        addr: &str,
        api: Api,
        request: &http::Request<Bytes>,
    ) -> Asked {
        let asked = self.forward(node, addr, api, request).await;
        let outcome = match &asked {
            Asked::Answered(_) => "answered",
            Asked::Refused => "refused",
            Asked::Lost => "lost",
        };
        counter!("rune_cluster_forwarded_total", "outcome" => outcome).increment(1);
        asked
    }

    /// Asks the node that leads.
    pub(super) async fn forward(
        &self,
        node: NodeId,
        addr: &str,
        api: Api,
        request: &http::Request<Bytes>,
    ) -> Asked {
        // It is kept as long as the answer comes.
        let Ok(place) = self.forwarded().try_acquire_owned() else {
            tracing::warn!("as many requests as may be are under way at the leader");
            return Asked::Refused;
        };
        let mut sent = http::Request::new(request.body().clone());
        *sent.method_mut() = request.method().clone();
        *sent.uri_mut() = request.uri().clone();
        *sent.headers_mut() = headers_to(api, request);
        let transport = self.member().transport();
        let gone = || {
            let mut leader = self.member().leader();
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
        let shutdown = self.shutdown();
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
            drop(place);
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
            let Some(leading) = front.begun().await else {
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
