//! Agents as the models of OpenAI's API.

use std::sync::Arc;

use axum::extract::State;
use rune_http::{ApiError, Json, OpenAiErrorBody, Path};
use rune_store_runtime::{DeploymentFilter, DeploymentRow, DeploymentState, PageRequest};
use serde::Serialize;
use utoipa::ToSchema;

use crate::gateway::Shared;
use crate::openai::model::{Model, name_of};
use crate::openai::seconds;

/// An agent as a model.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ModelView {
    /// `[NAMESPACE/]AGENT[:ALIAS]`, without what is `dev` or `stable`.
    id: String,
    /// `model`.
    object: &'static str,
    /// When it was deployed first, in seconds since the epoch.
    created: i64,
    /// The namespace.
    owned_by: String,
}

impl From<&DeploymentRow> for ModelView {
    fn from(row: &DeploymentRow) -> Self {
        Self {
            id: name_of(row),
            object: "model",
            created: seconds(row.created_at),
            owned_by: row.namespace.clone(),
        }
    }
}

/// Every model.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ModelList {
    /// `list`.
    object: &'static str,
    data: Vec<ModelView>,
}

/// The deployed agents that are not stopped, as models.
#[utoipa::path(
    get, path = "/v1/models", tag = "openai",
    responses(
        (status = 200, body = ModelList, description = "All of them; the list has no pages"),
    )
)]
pub(crate) async fn list(State(shared): State<Arc<Shared>>) -> Result<Json<ModelList>, ApiError> {
    let mut page = PageRequest::first(PageRequest::MAX_LIMIT);
    let mut data = Vec::new();
    loop {
        let store = shared.engine.store();
        let found = store
            .deployments(&DeploymentFilter::default(), &page)
            .await?;
        let rows = found.items.iter();
        let rows = rows.filter(|row| row.state != DeploymentState::Stopped);
        data.extend(rows.map(ModelView::from));
        page.cursor = found.next;
        if page.cursor.is_none() {
            break;
        }
    }
    Ok(Json(ModelList {
        object: "list",
        data,
    }))
}

/// One model.
#[utoipa::path(
    get, path = "/v1/models/{model}", tag = "openai",
    params(("model" = String, Path, description = "`[NAMESPACE/]AGENT[:ALIAS]`, with `/` as `%2F`", example = "hello")),
    responses(
        (status = 200, body = ModelView, description = "The model"),
        (status = 404, body = OpenAiErrorBody, description = "The agent is not deployed"),
    )
)]
pub(crate) async fn get(
    State(shared): State<Arc<Shared>>,
    Path(name): Path<String>,
) -> Result<Json<ModelView>, ApiError> {
    let deployment = Model::parse(&name).deployment(&shared.engine)?;
    Ok(Json(ModelView {
        id: name,
        ..ModelView::from(&*deployment)
    }))
}
