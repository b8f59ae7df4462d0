//! A blob store in memory.

use std::collections::BTreeMap;
use std::sync::Mutex;

use async_trait::async_trait;
use bytes::Bytes;
use rune_store_runtime::{BlobStore, Reject, StoreError};

/// Keeps bytes under a number.
#[derive(Default)]
pub(crate) struct MemoryBlobs(Mutex<BTreeMap<String, Bytes>>);

#[async_trait]
impl BlobStore for MemoryBlobs {
    async fn put(&self, bytes: Bytes) -> Result<String, StoreError> {
        let mut blobs = self.0.lock().unwrap();
        let digest = format!("sha256:{:064}", blobs.len());
        blobs.insert(digest.clone(), bytes);
        Ok(digest)
    }

    async fn get(&self, digest: &str) -> Result<Bytes, StoreError> {
        let found = self.0.lock().unwrap().get(digest).cloned();
        found.ok_or_else(|| Reject::not_found("blob", &digest).into())
    }
}
