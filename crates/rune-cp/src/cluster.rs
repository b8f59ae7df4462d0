//! What every node of a cluster answers itself of the control-plane API, whichever node leads.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::response::{IntoResponse as _, Response};
use axum::routing::{get, post};
use http::StatusCode;
use rune_cluster::Member;
use rune_http::{ApiError, Auth, Edge, JsonOrDefault, Readiness, ReadyReport, reference};
use rune_raft::{BasicNode, NodeId};
use serde::Deserialize;

use crate::control_plane::PUBLIC_ROUTES;
use crate::routes::status;

/// This node and its cluster.
pub struct ClusterApi {
    /// The node.
    pub member: Arc<Member>,
    /// Those that a cluster begins with, where nobody names others: their numbers and addresses.
    pub first: BTreeMap<NodeId, String>,
    /// Who may call.
    pub auth: Auth,
    /// What `/ready` reports.
    pub readiness: Readiness,
}

/// What a cluster begins with.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Begin {
    /// The nodes with their addresses; absent: those that this node was started with.
    members: Option<BTreeMap<NodeId, String>>,
}

impl ClusterApi {
    /// These routes, protected.
    pub fn router(self) -> Router {
        let auth = self.auth.clone();
        let router = Router::new()
            .route("/health", get(status::health))
            .route("/ready", get(ready))
            .route("/openapi.json", get(status::openapi))
            .route("/docs", get(reference::page))
            .route("/docs/{file}", get(reference::file))
            .route("/v1/cluster/init", post(begin))
            .with_state(Arc::new(self));
        Edge::new("control-plane", auth, PUBLIC_ROUTES).protect(router)
    }
}

async fn ready(State(api): State<Arc<ClusterApi>>) -> Response {
    ReadyReport::new(&api.readiness).into_response()
}

/// Begins a cluster, once, on one of its nodes.
async fn begin(
    State(api): State<Arc<ClusterApi>>,
    JsonOrDefault(begin): JsonOrDefault<Begin>,
) -> Result<StatusCode, ApiError> {
    let members = begin.members.unwrap_or_else(|| api.first.clone());
    let members = members.into_iter();
    let members = members.map(|(id, addr)| (id, BasicNode::new(addr)));
    api.member.node().initialize(members.collect()).await?;
    Ok(StatusCode::NO_CONTENT)
}
