//! Replicas.

use std::sync::Arc;

use axum::extract::State;
use rune_http::{ApiError, ErrorBody, Json, List, PageQuery, ReplicaView};
use rune_store_runtime::{DeploymentId, ReplicaFilter};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use crate::control_plane::Shared;

/// Replicas, oldest first.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ReplicaPage {
    items: Vec<ReplicaView>,
    /// The `cursor` of the next page; absent on the last.
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<String>,
}

/// Which replicas to list.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(crate) struct ListQuery {
    /// Only of this deployment.
    #[param(value_type = Option<String>)]
    deployment: Option<DeploymentId>,
}

/// Replicas with their state and load, oldest first.
#[utoipa::path(
    get, path = "/v1/replicas", tag = "replicas", params(ListQuery, PageQuery),
    responses(
        (status = 200, body = ReplicaPage, description = "A part of the list"),
        (status = "default", body = ErrorBody, description = "An error"),
    )
)]
pub(crate) async fn list(
    State(shared): State<Arc<Shared>>,
    List {
        filter: query,
        page,
    }: List<ListQuery>,
) -> Result<Json<ReplicaPage>, ApiError> {
    let filter = ReplicaFilter {
        deployment_id: query.deployment,
    };
    let found = shared.store.replicas(&filter, &page).await?;
    let found = found.map(|row| ReplicaView::new(row, &shared.router));
    Ok(Json(ReplicaPage {
        items: found.items,
        next: found.next,
    }))
}
