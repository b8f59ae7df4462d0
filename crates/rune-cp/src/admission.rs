//! Whose packages come in.
//!
//! A package is admitted when it is published, by the signatures that come with it, and once more whenever it is deployed, by
//! the one that was kept: a key that is not trusted any more deploys nothing, nor does what was published before there were
//! keys. What runs already goes on.

use bytes::Bytes;
use rune_http::{ApiError, Caller};
use rune_oci::{Digest, Layout, OciError, Refusal, Signatures, Verified, verify_envelope};
use rune_store_runtime::{ErrorCode, VersionRow};

use crate::audit;
use crate::control_plane::Shared;

/// What was sent.
pub(crate) struct Upload {
    pub(crate) package: Bytes,
    /// The artefact that the signatures are about.
    signed: Option<(Digest, Signatures)>,
}

impl Upload {
    /// A package alone.
    pub(crate) const fn package(package: Bytes) -> Self {
        Self {
            package,
            signed: None,
        }
    }

    /// A layout with a package and its signatures, everything compared with its digest.
    pub(crate) async fn layout(bytes: Bytes) -> Result<Self, ApiError> {
        let read = tokio::task::spawn_blocking(move || Layout::from_tar(&bytes)).await;
        let read = read.map_err(|error| ApiError::internal(format!("layout: {error}")))?;
        let layout = read.map_err(|error| match error {
            OciError::TooLarge { .. } => ApiError::new(ErrorCode::TooLarge, error.to_string()),
            error => ApiError::invalid(error.to_string()),
        })?;
        let digest = layout.artifact.digest().clone();
        Ok(Self {
            package: layout.artifact.package().clone(),
            signed: Some((digest, layout.signatures)),
        })
    }
}

/// The signature of a trusted key, where there has to be one.
pub(crate) async fn admit(
    shared: &Shared,
    caller: &Caller,
    resource: &str,
    upload: &Upload,
) -> Result<Option<Verified>, ApiError> {
    let keys = &shared.trusted_keys;
    if keys.is_empty() {
        return Ok(None);
    }
    let verified = match &upload.signed {
        Some((digest, signatures)) => signatures.verify(keys, digest, None),
        None => Err(Refusal::Unsigned),
    };
    match verified {
        Ok(verified) => Ok(Some(verified)),
        Err(refusal) => Err(refuse(shared, caller, "version.publish", resource, &refusal).await?),
    }
}

/// The same for a version that is there; `kind` is what it is admitted to, for the audit trail.
pub(crate) async fn readmit(
    shared: &Shared,
    caller: &Caller,
    kind: &str,
    version: &VersionRow,
) -> Result<(), ApiError> {
    let keys = &shared.trusted_keys;
    if keys.is_empty() {
        return Ok(());
    }
    // That the envelope is about this package was found when it was published.
    let kept = version.signature.as_deref().ok_or(Refusal::Unsigned);
    match kept.and_then(|envelope| verify_envelope(envelope, keys)) {
        Ok(_) => Ok(()),
        Err(refusal) => {
            let resource = format!("{} {}", version.agent, version.version);
            Err(refuse(shared, caller, kind, &resource, &refusal).await?)
        }
    }
}

/// The refusal for the caller, once it is in the audit trail.
async fn refuse(
    shared: &Shared,
    caller: &Caller,
    kind: &str,
    resource: &str,
    refusal: &Refusal,
) -> Result<ApiError, ApiError> {
    let row = audit::refusal(caller, kind, resource.to_owned(), refusal.to_string());
    shared.store.write(row).await?;
    let message =
        format!("{resource} is not admitted: {refusal}; only signed packages are deployed here");
    Ok(ApiError::new(ErrorCode::Denied, message))
}
