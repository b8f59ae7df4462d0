//! Replicas.

use std::sync::Arc;

use axum::extract::State;
use rune_http::{ApiError, ErrorBody, Json, List, ListPage, PageQuery, Path, Query, ReplicaView};
use rune_store_runtime::{DeploymentId, ReplicaFilter, ReplicaId};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use crate::control_plane::Shared;

/// Lines of a log without a wish.
const DEFAULT_LINES: u32 = 200;
/// Lines of a log at the most.
const MAX_LINES: u32 = 10_000;

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

/// How much of a log.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(crate) struct LogQuery {
    /// Lines at the most, from the end: 1 to 10000, 200 by default.
    #[param(minimum = 1, maximum = 10_000)]
    lines: Option<u32>,
}

/// What a replica has logged.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ReplicaLog {
    /// The replica.
    #[schema(value_type = String)]
    replica_id: ReplicaId,
    /// The last lines; absent where it has no log of its own, as a part of the daemon has none.
    #[serde(skip_serializing_if = "Option::is_none")]
    lines: Option<Vec<String>>,
}

/// The end of a replica's own log, as its platform has it.
#[utoipa::path(
    get, path = "/v1/replicas/{id}/logs", tag = "replicas",
    params(("id" = String, Path, description = "The replica", pattern = "^rep_[0-9a-f]{32}$"), LogQuery),
    responses(
        (status = 200, body = ReplicaLog, description = "Its last lines"),
        (status = 400, body = ErrorBody, description = "The number of lines is not valid"),
        (status = 404, body = ErrorBody, description = "The replica does not exist"),
        (status = 503, body = ErrorBody, description = "The platform does not answer"),
    )
)]
pub(crate) async fn logs(
    State(shared): State<Arc<Shared>>,
    Path(id): Path<ReplicaId>,
    Query(query): Query<LogQuery>,
) -> Result<Json<ReplicaLog>, ApiError> {
    let lines = query.lines.unwrap_or(DEFAULT_LINES);
    if !(1..=MAX_LINES).contains(&lines) {
        let message = format!("`lines` must be 1 to {MAX_LINES}");
        return Err(ApiError::invalid(message).of_param("lines"));
    }
    let row = shared.store.replica(id).await?;
    row.ok_or_else(|| ApiError::not_found("replica", &id))?;
    let lines = usize::try_from(lines).unwrap_or(usize::MAX);
    let log = shared.reconcile.replica_log(id, lines).await;
    let log = log.map_err(|error| ApiError::unavailable(error.to_string()))?;
    Ok(Json(ReplicaLog {
        replica_id: id,
        lines: log.map(|log| log.lines().map(str::to_owned).collect()),
    }))
}
