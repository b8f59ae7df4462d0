//! What the API documents of all listeners have in common.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa::openapi::OpenApi;
use utoipa::openapi::path::{Operation, PathItem};
use utoipa::openapi::security::{
    ApiKey, ApiKeyValue, HttpAuthScheme, HttpBuilder, SecurityRequirement, SecurityScheme,
};

/// The body of every error.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ErrorBody {
    /// The error.
    pub error: ErrorDetail,
}

/// What went wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ErrorDetail {
    /// One of `invalid_input` 400, `unauthenticated` 401, `denied` 403, `not_found` 404,
    /// `conflict` 409, `too_large` 413, `limit_exceeded` 429, `cancelled` 499, `internal` 500,
    /// `model_unavailable` 502, `unavailable` 503, `timeout` 504.
    pub code: String,
    /// For a person.
    pub message: String,
    /// The agent request it belongs to, else the HTTP request (`x-request-id`).
    pub request_id: String,
}

/// Adds the credentials to a document: every operation asks for them but those on
/// `public` paths.
pub fn secure(document: &mut OpenApi, public: &[&str]) {
    let components = document.components.get_or_insert_default();
    components.add_security_scheme(
        "bearer",
        SecurityScheme::Http(HttpBuilder::new().scheme(HttpAuthScheme::Bearer).build()),
    );
    components.add_security_scheme(
        "api_key",
        SecurityScheme::ApiKey(ApiKey::Header(ApiKeyValue::new("X-API-Key"))),
    );
    let none: [&str; 0] = [];
    let asked = vec![
        SecurityRequirement::new("bearer", none),
        SecurityRequirement::new("api_key", none),
    ];
    for (path, item) in &mut document.paths.paths {
        let rule = if public.contains(&path.as_str()) {
            Vec::new()
        } else {
            asked.clone()
        };
        for operation in operations(item) {
            operation.security = Some(rule.clone());
        }
    }
}

/// The paths of a document that ask for no credentials.
#[must_use]
pub fn public_operations(document: &OpenApi) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for (path, item) in &document.paths.paths {
        let mut item = item.clone();
        let public = |op: &mut Operation| op.security.as_ref().is_none_or(Vec::is_empty);
        if operations(&mut item).any(public) {
            found.insert(path.clone());
        }
    }
    found
}

fn operations(item: &mut PathItem) -> impl Iterator<Item = &mut Operation> {
    [
        &mut item.get,
        &mut item.post,
        &mut item.put,
        &mut item.delete,
        &mut item.patch,
    ]
    .into_iter()
    .flatten()
}
