//! The blob seam: packages and large payloads, kept under their hash.

use async_trait::async_trait;
use bytes::Bytes;

use crate::StoreError;

/// Keeps bytes under their SHA-256. A digest is `sha256:` and 64 hexadecimal digits.
#[async_trait]
pub trait BlobStore: Send + Sync {
    /// Stores bytes durably and answers their digest. Storing them again changes
    /// nothing.
    ///
    /// # Errors
    /// [`StoreError::Rejected`] where they are larger than the limit,
    /// [`StoreError::Unavailable`] where they could not be stored.
    async fn put(&self, bytes: Bytes) -> Result<String, StoreError>;

    /// The bytes of a digest, checked against it.
    ///
    /// # Errors
    /// [`StoreError::Rejected`] with `not_found`, [`StoreError::Corrupt`] where they do
    /// not match, [`StoreError::Unavailable`] otherwise.
    async fn get(&self, digest: &str) -> Result<Bytes, StoreError>;
}
