//! Secrets of tools: names go out, values only come in.

use std::sync::Arc;

use axum::extract::State;
use http::StatusCode;
use rune_http::{ApiError, Caller, ErrorBody, Json, List, ListPage, PageQuery, Path, Query};
use rune_runtime::SecretError;
use rune_store_runtime::{RemoveSecret, SecretFilter, SecretRow, Timestamp, is_secret_name};
use secrecy::SecretString;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::{IntoParams, ToSchema};

use super::deployments::check_label;
use crate::audit;
use crate::control_plane::Shared;

/// A secret, without its value.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct SecretView {
    /// What `secret:NAME` in a tool's `capabilities` names.
    name: String,
    /// Whose agents' tools can be granted it.
    namespace: String,
    /// Who stored it last.
    updated_by: String,
    /// When it was stored first.
    #[schema(value_type = String, format = DateTime)]
    created_at: Timestamp,
    /// When it was stored last.
    #[schema(value_type = String, format = DateTime)]
    updated_at: Timestamp,
}

impl From<SecretRow> for SecretView {
    fn from(row: SecretRow) -> Self {
        Self {
            name: row.name,
            namespace: row.namespace,
            updated_by: row.updated_by,
            created_at: row.created_at,
            updated_at: row.updated_at,
        }
    }
}

/// The value of a secret.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct PutSecretRequest {
    /// 8 to 65536 bytes of text without a zero byte.
    // Whatever it is: the message of a type that does not fit would hold it.
    #[schema(value_type = String, write_only)]
    value: Value,
}

/// Which secrets to list.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(crate) struct ListQuery {
    /// Only of this namespace.
    ns: Option<String>,
}

/// The namespace of a secret.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(crate) struct NamespaceQuery {
    /// `dev` by default.
    #[serde(default = "dev")]
    #[param(required = false)]
    ns: String,
}

fn dev() -> String {
    "dev".to_owned()
}

/// Secrets by namespace and name, without their values.
#[utoipa::path(
    get, path = "/v1/secrets", tag = "secrets", params(ListQuery, PageQuery),
    responses(
        (status = 200, body = ListPage<SecretView>, description = "A part of the list"),
    )
)]
pub(crate) async fn list(
    State(shared): State<Arc<Shared>>,
    List { filter, page }: List<ListQuery>,
) -> Result<Json<ListPage<SecretView>>, ApiError> {
    let filter = SecretFilter {
        namespace: filter.ns,
    };
    let found = shared.store.secrets(&filter, &page).await?;
    Ok(Json(found.map(SecretView::from).into()))
}

/// Stores a secret, encrypted; one of the name is replaced. The next call of a tool that is granted it gets the new value.
#[utoipa::path(
    put, path = "/v1/secrets/{name}", tag = "secrets", request_body(content = PutSecretRequest, example = json!({"value": "a secret value"})),
    params(("name" = String, Path, description = "Letters, digits and `_`, no digit first", example = "API_TOKEN"), NamespaceQuery),
    responses(
        (status = 200, body = SecretView, description = "Stored"),
        (status = 409, body = ErrorBody, description = "The secrets are encrypted with another key, the key cannot be read, or the namespace is full"),
    )
)]
pub(crate) async fn put(
    State(shared): State<Arc<Shared>>,
    Path(name): Path<String>,
    Query(query): Query<NamespaceQuery>,
    caller: Caller,
    Json(body): Json<PutSecretRequest>,
) -> Result<Json<SecretView>, ApiError> {
    check_label("namespace", &query.ns)?;
    let Value::String(value) = body.value else {
        return Err(ApiError::invalid("`value` is not a string"));
    };
    let value = SecretString::from(value);
    let put = shared
        .secrets
        .seal(&query.ns, &name, &value, caller.id.as_ref())
        .await
        .map_err(refused)?;
    let audit = audit::row(
        &caller,
        "secret.set",
        resource(&query.ns, &name),
        "stored".to_owned(),
    );
    shared.store.write_audited(put, audit).await?;
    let row = shared.store.secret(&query.ns, &name).await?;
    let row = row.ok_or_else(|| ApiError::not_found("secret", &name))?;
    Ok(Json(row.into()))
}

/// Deletes a secret. Calls of tools that are granted it fail from then on.
#[utoipa::path(
    delete, path = "/v1/secrets/{name}", tag = "secrets",
    params(("name" = String, Path, description = "Its name"), NamespaceQuery),
    responses(
        (status = 204, description = "Deleted"),
        (status = 404, body = ErrorBody, description = "The secret does not exist"),
    )
)]
pub(crate) async fn delete(
    State(shared): State<Arc<Shared>>,
    Path(name): Path<String>,
    Query(query): Query<NamespaceQuery>,
    caller: Caller,
) -> Result<StatusCode, ApiError> {
    if !is_secret_name(&name) {
        // Somebody who typed a value where a name belongs does not find it in a log.
        return Err(ApiError::invalid(
            "a secret's name holds letters, digits and `_`, and begins with no digit",
        ));
    }
    let audit = audit::row(
        &caller,
        "secret.remove",
        resource(&query.ns, &name),
        "removed".to_owned(),
    );
    let remove = RemoveSecret {
        namespace: query.ns,
        name,
    };
    shared.store.write_audited(remove, audit).await?;
    Ok(StatusCode::NO_CONTENT)
}

fn resource(namespace: &str, name: &str) -> String {
    format!("{namespace}/{name}")
}

fn refused(error: SecretError) -> ApiError {
    match error {
        SecretError::Store(error) => error.into(),
        error => ApiError::new(error.code(), error.to_string()),
    }
}
