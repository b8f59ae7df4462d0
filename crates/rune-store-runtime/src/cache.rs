//! The cache: small values with a time to live, such as routes.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::Timestamp;

/// Puts a value; an older one under the key is replaced. Reply: unit.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CachePut {
    /// The key, with a prefix for its use.
    pub key: String,
    /// The value.
    pub value: Value,
    /// From then on the key reads as absent.
    pub expires_at: Timestamp,
}

/// Removes a key. Reply: unit. Removing one that is gone is no error.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CacheRemove {
    /// The key.
    pub key: String,
}

/// Deletes the rows that have expired by the command's time. Reply: how many.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CacheSweep {
    /// Rows at the most.
    pub limit: u32,
}

/// A cached value.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CacheRow {
    /// The key.
    pub key: String,
    /// The value.
    pub value: Value,
    /// From then on it reads as absent.
    pub expires_at: Timestamp,
}
