//! What stands in the place of the older part of a conversation.

use std::fmt::Write as _;

use serde::{Deserialize, Serialize};

use crate::{RequestId, Usage};

/// The older part of a conversation was replaced by a summary in what the model is shown. What
/// was said stays in the journals. Each summary stands for everything that is older than what it
/// names, earlier summaries included.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Compaction {
    /// The model turn that it makes room for, from 1.
    pub step: u32,
    /// What it stands for.
    pub replaces: Replaced,
    /// What the model wrote; empty where none did.
    pub summary: String,
    /// The tool calls in the replaced part that may have had an effect, oldest first.
    pub effects: Vec<String>,
    /// How many more there were before those.
    #[serde(default)]
    pub more_effects: u32,
    /// Tokens of the prompt without it, estimated.
    pub tokens_before: u64,
    /// Tokens of the prompt with it, estimated.
    pub tokens_after: u64,
    /// The call of the model that wrote the summary.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub call: Option<ModelCall>,
}

/// The part of a conversation that a summary stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Replaced {
    /// Earlier requests of the session.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub requests: Option<RequestSpan>,
    /// The first model turns of the request itself, with the results of their calls. Where there
    /// are any, everything before the request is replaced too.
    #[serde(default)]
    pub steps: u32,
}

/// Requests of a session that follow each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct RequestSpan {
    /// The oldest.
    pub first: RequestId,
    /// The newest.
    pub last: RequestId,
    /// How many they are.
    pub count: u32,
}

/// A model call that is no turn of the conversation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModelCall {
    /// The provider that answered, as named in the Runefile.
    pub provider: String,
    /// The model id the provider was asked for.
    pub model: String,
    /// Tokens of the call.
    pub usage: Usage,
    /// What they cost in millionths of a US dollar; absent where the model has no known price.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cost_micro_usd: Option<u64>,
    /// From sending the call to its end, in milliseconds.
    #[serde(default)]
    pub duration_ms: u64,
}

impl Compaction {
    /// What the model is shown in the place of what was replaced.
    #[must_use]
    pub fn text(&self) -> String {
        let mut text =
            "[The conversation before this was replaced by a summary to save room.]\n\n".to_owned();
        if self.summary.is_empty() {
            text.push_str("No summary could be written of it.");
        } else {
            text.push_str(&self.summary);
        }
        if !self.effects.is_empty() {
            text.push_str("\n\nTool calls that were made; do not repeat what has been done:");
            if self.more_effects > 0 {
                // Writing to a string cannot fail.
                let _ = write!(text, "\n- {} earlier calls", self.more_effects);
            }
            for effect in &self.effects {
                text.push_str("\n- ");
                text.push_str(effect);
            }
        }
        text
    }
}
