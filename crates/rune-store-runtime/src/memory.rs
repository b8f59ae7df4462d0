//! What agents remember between sessions.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::Timestamp;

/// Whose memory: one agent of one namespace never sees another's.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct MemoryScope {
    /// Namespace of the agent.
    pub namespace: String,
    /// Name of the agent.
    pub agent: String,
}

/// Remembers a value; an older one under the key is replaced. Reply: unit.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MemoryPut {
    /// Whose memory.
    pub scope: MemoryScope,
    /// The key, 1 to 256 bytes.
    pub key: String,
    /// The value.
    pub value: Value,
    /// Words to find it by.
    #[serde(default)]
    pub tags: Vec<String>,
}

/// Forgets a key. Reply: unit. Forgetting what is not there is no error.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemoryForget {
    /// Whose memory.
    pub scope: MemoryScope,
    /// The key.
    pub key: String,
}

/// A remembered value.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MemoryRow {
    /// The key.
    pub key: String,
    /// The value.
    pub value: Value,
    /// Words to find it by.
    pub tags: Vec<String>,
    /// When it was first remembered.
    pub created_at: Timestamp,
    /// When it was last written.
    pub updated_at: Timestamp,
}

/// Which memories to read, by key. Empty fields match everything.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MemoryQuery {
    /// Only keys that start with this.
    pub prefix: Option<String>,
    /// Only rows where every word of this occurs in the key, a tag or the value's
    /// JSON text, without regard to ASCII case.
    pub text: Option<String>,
}

impl MemoryQuery {
    /// Whether the query asks for this row.
    #[must_use]
    pub fn matches(&self, row: &MemoryRow) -> bool {
        if let Some(prefix) = &self.prefix
            && !row.key.starts_with(prefix.as_str())
        {
            return false;
        }
        let Some(text) = &self.text else {
            return true;
        };
        let key = row.key.to_ascii_lowercase();
        let value = row.value.to_string().to_ascii_lowercase();
        text.split_whitespace().all(|word| {
            let word = word.to_ascii_lowercase();
            let tagged = |tag: &String| tag.to_ascii_lowercase().contains(&word);
            key.contains(&word) || value.contains(&word) || row.tags.iter().any(tagged)
        })
    }
}
