//! Nodes.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::extract::State;
use rune_http::Json;
use rune_store_runtime::Timestamp;
use serde::Serialize;
use utoipa::ToSchema;

use crate::control_plane::Shared;

/// A node of Rune.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct NodeView {
    id: String,
    /// Version of Rune.
    version: &'static str,
    /// Where its public API listens.
    #[schema(value_type = Option<String>)]
    gateway_addr: Option<SocketAddr>,
    /// Where its control plane listens.
    #[schema(value_type = Option<String>)]
    control_plane_addr: Option<SocketAddr>,
    #[schema(value_type = String, format = DateTime)]
    started_at: Timestamp,
}

/// Every node.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct NodeList {
    items: Vec<NodeView>,
}

/// The nodes of this Rune.
#[utoipa::path(
    get, path = "/v1/nodes", tag = "nodes",
    responses(
        (status = 200, body = NodeList, description = "The nodes"),
    )
)]
pub(crate) async fn list(State(shared): State<Arc<Shared>>) -> Json<NodeList> {
    let node = &shared.node;
    let view = NodeView {
        id: node.id.clone(),
        version: env!("CARGO_PKG_VERSION"),
        gateway_addr: node.gateway_addr,
        control_plane_addr: node.control_plane_addr,
        started_at: node.started_at,
    };
    Json(NodeList { items: vec![view] })
}
