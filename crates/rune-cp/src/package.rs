//! Checking an uploaded package.

use std::path::Path;

use bytes::Bytes;
use rune_http::ApiError;
use rune_oci::Digest;
use rune_runtime::{AdmittedVersion, PolicySet};
use rune_spec::{AgentPackage, SpecErrors, package};
use rune_store_runtime::ScaleBounds;

/// What admission and the registry know of a package.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Checked {
    /// As nobody has signed it.
    pub(crate) version: AdmittedVersion,
    pub(crate) description: String,
    pub(crate) scaling: ScaleBounds,
}

/// Unpacks and loads the package, so that nothing gets into the registry that could not run.
pub(crate) async fn check(bytes: Bytes) -> Result<Checked, ApiError> {
    let checked = tokio::task::spawn_blocking(move || unpack_and_load(&bytes)).await;
    checked.map_err(|error| ApiError::internal(format!("package check: {error}")))?
}

fn unpack_and_load(bytes: &[u8]) -> Result<Checked, ApiError> {
    let dir = tempfile::tempdir()
        .map_err(|error| ApiError::internal(format!("temporary directory: {error}")))?;
    let content = dir.path().join("package");
    package::unpack(bytes, &content).map_err(|error| match &error {
        package::PackageError::Io { source, .. } => {
            ApiError::internal(format!("{error}: {source}"))
        }
        package::PackageError::Archive(source) => ApiError::invalid(format!("{error}: {source}")),
        _ => ApiError::invalid(error.to_string()),
    })?;
    let invalid = |errors: SpecErrors| ApiError::invalid(relative(&errors.to_string(), &content));
    let loaded = AgentPackage::load(&content).map_err(invalid)?;
    PolicySet::compile(&loaded).map_err(invalid)?;
    let digest = Digest::of(bytes).to_string();
    Ok(Checked {
        version: AdmittedVersion::of(&loaded, digest, false),
        description: loaded.runefile.description.unwrap_or_default(),
        scaling: ScaleBounds {
            min: loaded.runefile.runtime.min_replicas,
            max: loaded.runefile.runtime.max_replicas,
        },
    })
}

/// The message with the paths of the package, not those of the temporary directory.
fn relative(message: &str, dir: &Path) -> String {
    let prefix = format!("{}/", dir.display());
    message
        .replace(&prefix, "")
        .replace(&dir.display().to_string(), "the package")
}
