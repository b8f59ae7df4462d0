//! The registry of agent versions.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http::StatusCode;
use http::header::CONTENT_TYPE;
use rune_http::{
    ApiError, Caller, ErrorBody, Json, List, ListPage, MAX_PACKAGE_BYTES, PageQuery, Path,
    read_body,
};
use rune_oci::{Digest, MAX_LAYOUT_BYTES, media_type};
use rune_store_runtime::{PublishVersion, Timestamp, VersionFilter, VersionId, VersionRow};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use crate::admission::{Asked, Upload};
use crate::audit;
use crate::control_plane::Shared;
use crate::package::{Checked, check};

/// The types a package may be sent as; the last is an OCI layout with the package and its signatures.
const PACKAGE_TYPES: [&str; 3] = [
    "application/octet-stream",
    "application/x-tar",
    media_type::LAYOUT,
];

/// An immutable version of an agent package.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct VersionView {
    #[schema(value_type = String)]
    id: VersionId,
    agent: String,
    /// Semantic version, from the Runefile.
    version: String,
    description: String,
    /// `sha256:` and 64 hexadecimal digits.
    digest: String,
    /// Size of the package in bytes.
    size: u64,
    /// The image that its replicas run in, as the Runefile writes it (`runtime.image`); without one it is the daemon's.
    #[serde(skip_serializing_if = "Option::is_none")]
    image: Option<String>,
    /// Fewest replicas, from the Runefile.
    min_replicas: u32,
    /// Most replicas.
    max_replicas: u32,
    /// The signature that it was admitted with: a DSSE envelope.
    #[serde(skip_serializing_if = "Option::is_none")]
    signature: Option<String>,
    #[schema(value_type = String, format = DateTime)]
    created_at: Timestamp,
}

impl From<VersionRow> for VersionView {
    fn from(row: VersionRow) -> Self {
        Self {
            id: row.id,
            agent: row.agent,
            version: row.version,
            description: row.description,
            digest: row.digest,
            size: row.size,
            image: row.image,
            min_replicas: row.scaling.min,
            max_replicas: row.scaling.max,
            signature: row.signature,
            created_at: row.created_at,
        }
    }
}

/// A tar archive.
#[derive(ToSchema)]
#[schema(value_type = String, format = Binary)]
struct Package(#[expect(dead_code, reason = "stands for bytes in the document")] Vec<u8>);

/// Which versions to list.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(crate) struct ListQuery {
    /// Only of this agent.
    agent: Option<String>,
    /// Only with this digest.
    digest: Option<String>,
}

/// Publishes a package: a tar archive of 64 MiB at the most, or an OCI layout with one and its signatures, as `rune build` and
/// `rune sign` make it. Publishing the same package again answers the version that is there.
#[utoipa::path(
    post, path = "/v1/agent-versions", tag = "agent versions",
    request_body(content((inline(Package) = "application/octet-stream"), (inline(Package) = "application/x-tar"), (inline(Package) = "application/vnd.rune.agent.layout.v1.tar")), description = "The archive"),
    responses(
        (status = 201, body = VersionView, description = "Published"),
        (status = 200, body = VersionView, description = "It was there already"),
        (status = 403, body = ErrorBody, description = "No trusted key has signed it, or a policy of the operator forbids it"),
    )
)]
pub(crate) async fn publish(
    State(shared): State<Arc<Shared>>,
    caller: Caller,
    request: Request,
) -> Result<(StatusCode, Json<VersionView>), ApiError> {
    let sent_as = request
        .headers()
        .get(CONTENT_TYPE)
        .and_then(|value| value.to_str().ok());
    let sent_as = PACKAGE_TYPES.into_iter().find(|kind| sent_as == Some(kind));
    let Some(sent_as) = sent_as else {
        let types = PACKAGE_TYPES.join("` or `");
        return Err(ApiError::invalid(format!(
            "the package needs `content-type: {types}`"
        )));
    };
    let is_layout = sent_as == media_type::LAYOUT;
    let limit = match is_layout {
        true => usize::try_from(MAX_LAYOUT_BYTES).unwrap_or(usize::MAX),
        false => MAX_PACKAGE_BYTES,
    };
    let body = read_body(request, limit).await?;
    let asked = Asked {
        shared: &shared,
        caller: &caller,
        kind: "version.publish",
    };
    // Whose package it is, is not known before it was read.
    let sent = Digest::of(&body).to_string();
    let (upload, checked) = asked.audited(sent, read(body, is_layout)).await?;
    let resource = checked.version.id();
    let admitted = admitted(&asked, upload, checked);
    let (row, is_new) = asked.audited(resource, admitted).await?;
    let status = match is_new {
        true => StatusCode::CREATED,
        false => StatusCode::OK,
    };
    Ok((status, Json(row.into())))
}

/// What was sent, and the package in it, which could run.
async fn read(body: Bytes, is_layout: bool) -> Result<(Upload, Checked), ApiError> {
    let upload = match is_layout {
        true => Upload::layout(body).await?,
        false => Upload::package(body),
    };
    let checked = check(upload.package.clone()).await?;
    Ok((upload, checked))
}

/// Admits and registers a package; answers whether it was not there before.
async fn admitted(
    asked: &Asked<'_>,
    upload: Upload,
    checked: Checked,
) -> Result<(VersionRow, bool), ApiError> {
    let Checked {
        mut version,
        description,
        scaling,
    } = checked;
    let signature = asked.publish(&mut version, &upload)?;
    let size = upload.package.len() as u64;
    let digest = asked.shared.blobs.put(upload.package).await?;
    let resource = version.id();
    let publish = PublishVersion {
        version_id: VersionId::generate(),
        agent: version.agent,
        version: version.version,
        description,
        digest,
        size,
        image: version.image,
        scaling,
        signature: signature.as_ref().map(|found| found.envelope.clone()),
    };
    let new_id = publish.version_id;
    let reason = match signature {
        Some(found) => format!("{}, signed by key {}", publish.digest, found.key),
        None => publish.digest.clone(),
    };
    let audit = audit::row(asked.caller, asked.kind, resource, reason);
    let row = asked.shared.store.write_audited(publish, audit).await?;
    let is_new = row.id == new_id;
    Ok((row, is_new))
}

/// Versions, newest first.
#[utoipa::path(
    get, path = "/v1/agent-versions", tag = "agent versions", params(ListQuery, PageQuery),
    responses(
        (status = 200, body = ListPage<VersionView>, description = "A part of the list"),
    )
)]
pub(crate) async fn list(
    State(shared): State<Arc<Shared>>,
    List {
        filter: query,
        page,
    }: List<ListQuery>,
) -> Result<Json<ListPage<VersionView>>, ApiError> {
    let filter = VersionFilter {
        agent: query.agent,
        digest: query.digest,
    };
    let found = shared
        .store
        .versions(&filter, &page)
        .await?
        .map(VersionView::from);
    Ok(Json(found.into()))
}

/// One version.
#[utoipa::path(
    get, path = "/v1/agent-versions/{id}", tag = "agent versions",
    params(("id" = String, Path, description = "The version", pattern = "^ver_[0-9a-f]{32}$")),
    responses(
        (status = 200, body = VersionView, description = "The version"),
        (status = 404, body = ErrorBody, description = "The version does not exist"),
    )
)]
pub(crate) async fn get(
    State(shared): State<Arc<Shared>>,
    Path(id): Path<VersionId>,
) -> Result<Json<VersionView>, ApiError> {
    let row = shared.store.version(id).await?;
    row.map(|row| Json(row.into()))
        .ok_or_else(|| ApiError::not_found("version", &id))
}

/// The package of a version, as it was published: a tar archive.
#[utoipa::path(
    get, path = "/v1/agent-versions/{id}/package", tag = "agent versions",
    params(("id" = String, Path, description = "The version", pattern = "^ver_[0-9a-f]{32}$")),
    responses(
        (status = 200, body = inline(Package), content_type = "application/x-tar", description = "The package"),
        (status = 404, body = ErrorBody, description = "The version does not exist"),
    )
)]
pub(crate) async fn package(
    State(shared): State<Arc<Shared>>,
    Path(id): Path<VersionId>,
) -> Result<Response, ApiError> {
    let row = shared.store.version(id).await?;
    let row = row.ok_or_else(|| ApiError::not_found("version", &id))?;
    let bytes = shared.blobs.get(&row.digest).await?;
    Ok(([(CONTENT_TYPE, "application/x-tar")], bytes).into_response())
}
