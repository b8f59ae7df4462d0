//! What a client asks at a socket of a node.

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::response::Response;
use bytes::Bytes;
use http::request::Parts;
use hyper_util::service::TowerToHyperService;
use rune_http::{Admission, ApiError, admission, read_body_within, refusal};
use tokio::sync::OwnedSemaphorePermit;

use super::follow::Following;
use super::front::{Api, ClusterFront, called};
use super::lane::BETWEEN_NODES;
use super::repeats;

/// What every node answers itself.
const OWN: [&str; 4] = ["/health", "/ready", "/openapi.json", "/docs"];
/// What a node answers itself unless it leads.
const METRICS: &str = "/metrics";
/// Where the routes about the cluster begin, which every node answers itself.
const CLUSTER: &str = "/v1/cluster/";
/// Which node it is.
const STATUS: &str = "/v1/status";

/// A socket of one API. Cheap to clone.
#[derive(Clone)]
pub(super) struct Socket {
    front: ClusterFront,
    api: Api,
    own: TowerToHyperService<Router>,
}

impl Socket {
    pub(super) fn new(front: ClusterFront, api: Api, own: Router) -> Self {
        let own = TowerToHyperService::new(own);
        Self { front, api, own }
    }

    pub(super) async fn answer(&self, mut request: Request) -> Response {
        if self.is_own(request.uri().path()) {
            return called(&self.own, request).await;
        }
        let headers = request.headers_mut();
        for name in BETWEEN_NODES {
            headers.remove(name);
        }
        let (head, body) = request.into_parts();
        // Before anything of a body is kept, or of a head is sent to another node.
        let is_known = match admission(&self.own, head.clone()).await {
            Admission::Granted(admitted) => admitted.is_known,
            Admission::Answered(response) => return response,
        };
        let (body, space) = match self.whole(&head, body, is_known).await {
            Ok(whole) => whole,
            Err(error) => return refusal(&self.own, head, error).await,
        };
        let mut request = http::Request::from_parts(head, body);
        repeats::name(self.api, &mut request);
        let answer = self.front.have_answered(self.api, &request).await;
        let response = match answer {
            Ok(answer) => Following::of(&self.front, self.api, &request, answer),
            Err(error) => refusal(&self.own, request.into_parts().0, error).await,
        };
        drop(space);
        response
    }

    fn is_own(&self, path: &str) -> bool {
        OWN.contains(&path)
            || path.starts_with("/docs/")
            || (path == METRICS && self.front.leading().borrow().is_none())
            || (self.api == Api::ControlPlane && (path.starts_with(CLUSTER) || path == STATUS))
    }

    /// The body of a request, so that it can be asked again, with the space that it takes.
    async fn whole(
        &self,
        head: &Parts,
        body: Body,
        is_known: bool,
    ) -> Result<(Bytes, Option<OwnedSemaphorePermit>), ApiError> {
        if self.api == Api::Gateway && !is_known {
            // What is for everybody has none, or passes it over.
            return Ok((Bytes::new(), None));
        }
        let space = self.front.space(is_known);
        read_body_within(&head.headers, body, self.api.max_body(), space).await
    }
}
