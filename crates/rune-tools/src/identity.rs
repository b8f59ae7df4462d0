//! Ids that a repeated call finds again.

use sha2::{Digest, Sha256};

/// Sixteen bytes that are the same for every run of one call, and for nothing else.
pub(crate) fn repeatable_id(idempotency_key: &str, what: &str) -> [u8; 16] {
    let mut hash = Sha256::new();
    hash.update(what);
    hash.update([0]);
    hash.update(idempotency_key);
    let digest: [u8; 32] = hash.finalize().into();
    let mut id = [0; 16];
    id.copy_from_slice(&digest[..16]);
    id
}
