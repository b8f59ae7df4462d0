//! Replicas.

use std::sync::Arc;

use axum::extract::State;
use rune_http::{ApiError, Json, List, ListPage, PageQuery, ReplicaView};
use rune_store_runtime::{DeploymentId, ReplicaFilter};
use serde::Deserialize;
use utoipa::IntoParams;

use crate::control_plane::Shared;

/// Which replicas to list.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(crate) struct ListQuery {
    /// Only of this deployment.
    #[param(value_type = Option<String>, pattern = "^dep_[0-9a-f]{32}$")]
    deployment: Option<DeploymentId>,
}

/// Replicas with their state and load, oldest first.
#[utoipa::path(
    get, path = "/v1/replicas", tag = "replicas", params(ListQuery, PageQuery),
    responses(
        (status = 200, body = ListPage<ReplicaView>, description = "A part of the list"),
    )
)]
pub(crate) async fn list(
    State(shared): State<Arc<Shared>>,
    List {
        filter: query,
        page,
    }: List<ListQuery>,
) -> Result<Json<ListPage<ReplicaView>>, ApiError> {
    let filter = ReplicaFilter {
        deployment_id: query.deployment,
    };
    let found = shared.store.replicas(&filter, &page).await?;
    let found = found.map(|row| ReplicaView::new(row, &shared.router));
    Ok(Json(found.into()))
}
