//! A blob store in memory.

use std::collections::BTreeMap;
use std::sync::Mutex;

use async_trait::async_trait;
use bytes::Bytes;
use rune_store_runtime::{BlobStore, Reject, StoreError};
use sha2::{Digest, Sha256};

/// Keeps bytes under their SHA-256.
#[derive(Default)]
pub(crate) struct MemoryBlobs(Mutex<BTreeMap<String, Bytes>>);

#[async_trait]
impl BlobStore for MemoryBlobs {
    async fn put(&self, bytes: Bytes) -> Result<String, StoreError> {
        let hash = Bytes::copy_from_slice(&Sha256::digest(&bytes));
        let digest = format!("sha256:{hash:x}");
        self.0.lock().unwrap().insert(digest.clone(), bytes);
        Ok(digest)
    }

    async fn get(&self, digest: &str) -> Result<Bytes, StoreError> {
        let found = self.0.lock().unwrap().get(digest).cloned();
        found.ok_or_else(|| Reject::not_found("blob", &digest).into())
    }
}
