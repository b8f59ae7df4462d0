//! Bytes under their hash.

use async_trait::async_trait;
use bytes::Bytes;
use rune_store_runtime::limits::MAX_OBJECT_BYTES;
use rune_store_runtime::{BlobStore, Reject, StoreError};
use sha2::{Digest as _, Sha256};

use super::connection::CallError;
use super::{RemoteStore, unreadable};
use crate::call::BLOBS;

#[async_trait]
impl BlobStore for RemoteStore {
    async fn put(&self, bytes: Bytes) -> Result<String, StoreError> {
        if bytes.len() > MAX_OBJECT_BYTES {
            return Err(Reject::invalid(format!(
                "object has {} bytes, the limit is {MAX_OBJECT_BYTES}",
                bytes.len()
            ))
            .into());
        }
        self.patiently(|| async {
            let answer = self.connection.put(BLOBS, bytes.clone()).await?;
            serde_json::from_slice::<Result<String, StoreError>>(&answer)
                .map_err(|error| CallError::Final(unreadable(&error)))
        })
        .await
    }

    async fn get(&self, digest: &str) -> Result<Bytes, StoreError> {
        let hex = digest.strip_prefix("sha256:").unwrap_or_default();
        if hex.len() != 64 || !hex.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(Reject::invalid(format!("`{digest}` is not a digest")).into());
        }
        let path = format!("{BLOBS}/{digest}");
        let bytes = self
            .patiently(|| async {
                let (bytes, is_json) = self.connection.get(&path).await?;
                if is_json {
                    let error = serde_json::from_slice(&bytes);
                    return Ok(Err(error.unwrap_or_else(|error| unreadable(&error))));
                }
                Ok(Ok(bytes))
            })
            .await?;
        let mut found = String::with_capacity(hex.len());
        for byte in Sha256::digest(&bytes) {
            use std::fmt::Write as _;
            // Writing to a string cannot fail.
            let _ = write!(found, "{byte:02x}");
        }
        if found.eq_ignore_ascii_case(hex) {
            return Ok(bytes);
        }
        Err(StoreError::Corrupt {
            what: format!("object {digest}"),
            reason: format!("what came has the digest sha256:{found}"),
        })
    }
}
