//! Unpacked packages on the local disk, by digest.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rune_spec::package;
use rune_store_runtime::{BlobStore, StoreError};

/// Why a package is not on the disk.
#[derive(Debug, thiserror::Error)]
pub enum PackageCacheError {
    /// The blob store does not have it.
    #[error("package `{digest}` cannot be read: {source}")]
    Blob {
        /// The package.
        digest: String,
        /// Why.
        #[source]
        source: StoreError,
    },
    /// It cannot be unpacked.
    #[error("package `{digest}` cannot be unpacked: {reason}")]
    Unpack {
        /// The package.
        digest: String,
        /// Why.
        reason: String,
    },
}

/// Unpacks packages below a directory, each once.
#[derive(Clone)]
pub struct PackageCache {
    blobs: Arc<dyn BlobStore>,
    dir: PathBuf,
}

impl PackageCache {
    /// A cache below `dir`.
    pub fn new(blobs: Arc<dyn BlobStore>, dir: impl Into<PathBuf>) -> Self {
        Self {
            blobs,
            dir: dir.into(),
        }
    }

    /// The directory that holds the package, unpacked now or earlier.
    ///
    /// # Errors
    /// A [`PackageCacheError`]; nothing half unpacked is left in its place.
    pub async fn get(&self, digest: &str) -> Result<PathBuf, PackageCacheError> {
        let name = digest.strip_prefix("sha256:").unwrap_or(digest);
        let target = self.dir.join(name);
        if target.is_dir() {
            return Ok(target);
        }
        let bytes = self
            .blobs
            .get(digest)
            .await
            .map_err(|source| PackageCacheError::Blob {
                digest: digest.to_owned(),
                source,
            })?;
        let (dir, into) = (self.dir.clone(), target.clone());
        let unpacked = tokio::task::spawn_blocking(move || unpack(&bytes, &dir, &into)).await;
        match unpacked {
            Ok(Ok(())) => Ok(target),
            Ok(Err(reason)) => Err(PackageCacheError::Unpack {
                digest: digest.to_owned(),
                reason: reason.to_string(),
            }),
            Err(error) => Err(PackageCacheError::Unpack {
                digest: digest.to_owned(),
                reason: error.to_string(),
            }),
        }
    }
}

/// Unpacks beside the target and moves the result there, so that the target is whole
/// whenever it exists.
fn unpack(
    bytes: &[u8],
    dir: &Path,
    target: &Path,
) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    std::fs::create_dir_all(dir)?;
    let staging = tempfile::Builder::new()
        .prefix(".unpack-")
        .tempdir_in(dir)?;
    let content = staging.path().join("package");
    package::unpack(bytes, &content)?;
    match std::fs::rename(&content, target) {
        Ok(()) => Ok(()),
        // Somebody else was faster; both unpacked the same bytes.
        Err(_) if target.is_dir() => Ok(()),
        Err(error) => Err(error.into()),
    }
}
