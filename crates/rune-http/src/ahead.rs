//! Asking an edge ahead, for what stands before it and has requests be answered elsewhere.
//!
//! Whom the edge lets in, it says without an answer. What must not get any further, and what was not answered elsewhere, is
//! answered by the edge: in the form of its routes, with an id, in the log and in the metrics.

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::response::{IntoResponse, Response};
use http::request::Parts;
use hyper::service::Service as _;
use hyper_util::service::TowerToHyperService;

use crate::ApiError;

/// What an edge is asked.
#[derive(Debug, Clone)]
pub(crate) enum Ahead {
    /// Whether it lets a request in.
    Admission,
    /// To answer one with an error, unless it has a reason of its own.
    Refusal(ApiError),
}

/// A request that is let in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Admitted {
    /// Whether the edge knows who sent it. Otherwise its route is for everybody, or authenticates callers itself.
    pub is_known: bool,
}

impl IntoResponse for Admitted {
    fn into_response(self) -> Response {
        let mut response = Response::new(Body::empty());
        response.extensions_mut().insert(self);
        response
    }
}

/// What an edge says of a request.
#[derive(Debug)]
pub enum Admission {
    /// It is let in.
    Granted(Admitted),
    /// It is answered.
    Answered(Response),
}

/// What the edge around a router says of a request with this head.
pub async fn admission(router: &TowerToHyperService<Router>, head: Parts) -> Admission {
    let response = ask(router, head, Ahead::Admission).await;
    match response.extensions().get().copied() {
        Some(admitted) => Admission::Granted(admitted),
        None => Admission::Answered(response),
    }
}

/// Has the edge around a router answer a request with this head with an error.
pub async fn refusal(
    router: &TowerToHyperService<Router>,
    head: Parts,
    error: ApiError,
) -> Response {
    ask(router, head, Ahead::Refusal(error)).await
}

async fn ask(router: &TowerToHyperService<Router>, head: Parts, what: Ahead) -> Response {
    let mut request = Request::from_parts(head, Body::empty());
    request.extensions_mut().insert(what);
    match router.call(request).await {
        Ok(response) => response,
        Err(never) => match never {},
    }
}
