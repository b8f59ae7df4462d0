//! Health of single replicas.

use std::sync::Arc;

use axum::extract::State;
use rune_http::{ApiError, ErrorBody, Json, Path, ReplicaView};
use rune_store_runtime::{ReplicaId, ReplicaState};
use serde::Serialize;
use utoipa::ToSchema;

use crate::gateway::Shared;

/// How a replica is.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ReplicaHealth {
    /// Whether it takes requests.
    healthy: bool,
    #[serde(flatten)]
    replica: ReplicaView,
}

/// How a replica is.
#[utoipa::path(
    get, path = "/v1/replicas/{id}/health", tag = "replicas",
    params(("id" = String, Path, description = "The replica", pattern = "^rep_[0-9a-f]{32}$")),
    responses(
        (status = 200, body = ReplicaHealth, description = "Its health, good or bad"),
        (status = 404, body = ErrorBody, description = "The replica does not exist"),
    )
)]
pub(crate) async fn health(
    State(shared): State<Arc<Shared>>,
    Path(id): Path<ReplicaId>,
) -> Result<Json<ReplicaHealth>, ApiError> {
    let row = shared.engine.store().replica(id).await?;
    let row = row.ok_or_else(|| ApiError::not_found("replica", &id))?;
    let healthy = row.state == ReplicaState::Ready;
    Ok(Json(ReplicaHealth {
        healthy,
        replica: ReplicaView::new(row, shared.engine.router()),
    }))
}
