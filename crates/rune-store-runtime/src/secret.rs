//! Secrets: values that tools are granted by name, kept encrypted. No store ever sees one in clear.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::Timestamp;

/// Stores a secret; an older one of the name is replaced. Reply: unit. Rejected with `conflict` where the namespace has
/// too many.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PutSecret {
    /// Namespace of the agents whose tools can be granted it.
    pub namespace: String,
    /// Its name, 1 to [`crate::limits::MAX_SECRET_NAME_BYTES`] of letters, digits and `_`, no digit first.
    pub name: String,
    /// Its value, encrypted by whoever made the command: applying it uses no chance.
    pub sealed: SealedSecret,
    /// Who stores it.
    pub by: String,
}

/// Deletes a secret. Reply: unit. Rejected where there is none.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RemoveSecret {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

/// A value that only the holder of a key can read.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SealedSecret {
    /// Which key: a fingerprint that says nothing of the key itself.
    pub key_id: String,
    /// Nonce and ciphertext.
    pub bytes: Vec<u8>,
}

// By hand: hundreds of numbers that tell nobody anything.
impl fmt::Debug for SealedSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SealedSecret")
            .field("key_id", &self.key_id)
            .field("bytes", &self.bytes.len())
            .finish()
    }
}

/// A secret as it is stored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SecretRow {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its value.
    pub sealed: SealedSecret,
    /// Who stored it last.
    pub updated_by: String,
    /// When it was stored first.
    pub created_at: Timestamp,
    /// When it was stored last.
    pub updated_at: Timestamp,
}

/// Which secrets to list, by namespace and name. An empty filter matches all.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SecretFilter {
    /// Only of this namespace.
    pub namespace: Option<String>,
}

/// Whether a text can be the name of a secret: it becomes the name of a variable.
#[must_use]
pub fn is_secret_name(name: &str) -> bool {
    let is_word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    name.len() <= crate::limits::MAX_SECRET_NAME_BYTES
        && name.bytes().all(is_word)
        && name
            .bytes()
            .next()
            .is_some_and(|first| !first.is_ascii_digit())
}
