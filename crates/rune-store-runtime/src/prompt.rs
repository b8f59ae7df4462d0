//! What filled the window of a model.

use serde::{Deserialize, Serialize};

/// What the prompt of a model call was made of, in tokens as estimated from its bytes.
/// What the provider counted is in the usage of the reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct PromptParts {
    /// The system prompt.
    pub instructions: u64,
    /// The definitions of the tools.
    pub tools: u64,
    /// The summary of what was compacted.
    #[serde(default)]
    pub summary: u64,
    /// The messages of earlier requests of the session.
    pub earlier: u64,
    /// The messages of the request itself.
    pub own: u64,
    /// How many earlier requests of the session are shown: the ones right before it.
    pub earlier_requests: u32,
}

impl PromptParts {
    /// All of it.
    #[must_use]
    pub const fn total(&self) -> u64 {
        self.instructions
            .saturating_add(self.tools)
            .saturating_add(self.summary)
            .saturating_add(self.earlier)
            .saturating_add(self.own)
    }
}

/// A prompt as it was estimated and as its provider counted it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct PromptMeasure {
    /// [`PromptParts::total`].
    pub estimated: u64,
    /// The input tokens of the call.
    pub reported: u64,
}
