//! The audit trail.

use std::sync::Arc;

use axum::extract::State;
use rune_http::{ApiError, Json, List, ListPage, PageQuery};
use rune_store_runtime::{AuditFilter, AuditId, AuditRow, AuditVerdict, RequestId, Timestamp};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use crate::control_plane::Shared;

/// Who was allowed or refused what.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct AuditView {
    #[schema(value_type = String)]
    id: AuditId,
    #[schema(value_type = String, format = DateTime)]
    at: Timestamp,
    /// What was asked for, such as `tool` or `deployment.apply`.
    kind: String,
    /// On what.
    resource: String,
    /// `allowed`, `denied` or `asked`.
    verdict: &'static str,
    reason: String,
    caller: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    request_id: Option<RequestId>,
}

impl From<AuditRow> for AuditView {
    fn from(row: AuditRow) -> Self {
        Self {
            id: row.id,
            at: row.at,
            kind: row.kind,
            resource: row.resource,
            verdict: row.verdict.as_str(),
            reason: row.reason,
            caller: row.caller,
            request_id: row.request_id,
        }
    }
}

/// Which audit rows to list.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(crate) struct ListQuery {
    /// Only of this kind.
    kind: Option<String>,
    /// Only of this request.
    #[param(value_type = Option<String>, pattern = "^req_[0-9a-f]{32}$")]
    request: Option<RequestId>,
    /// Only with this verdict: `allowed`, `denied` or `asked`.
    #[param(value_type = Option<String>)]
    verdict: Option<AuditVerdict>,
}

/// The audit trail, newest first.
#[utoipa::path(
    get, path = "/v1/audit", tag = "audit", params(ListQuery, PageQuery),
    responses(
        (status = 200, body = ListPage<AuditView>, description = "A part of the list"),
    )
)]
pub(crate) async fn list(
    State(shared): State<Arc<Shared>>,
    List {
        filter: query,
        page,
    }: List<ListQuery>,
) -> Result<Json<ListPage<AuditView>>, ApiError> {
    let filter = AuditFilter {
        kind: query.kind,
        request_id: query.request,
        verdict: query.verdict,
    };
    let found = shared
        .store
        .audit(&filter, &page)
        .await?
        .map(AuditView::from);
    Ok(Json(found.into()))
}
