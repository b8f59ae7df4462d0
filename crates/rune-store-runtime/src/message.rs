//! Messages as the engine, the store and every provider client share them.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{Compaction, PromptMeasure, RequestId, SessionId, Timestamp};

/// Who speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// The caller of the agent.
    User,
    /// The model.
    Assistant,
    /// The results of the tool calls of the assistant message before.
    Tool,
}

/// A part of a message.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Block {
    /// Plain text.
    Text {
        /// The text.
        text: String,
        /// The provider's own form, see [`NativeBlock`].
        #[serde(default, skip_serializing_if = "Option::is_none")]
        native: Option<NativeBlock>,
    },
    /// An image that the user shows the model.
    Image {
        /// Where it is.
        #[serde(flatten)]
        source: ImageSource,
    },
    /// What the model thought, as far as the provider shows it.
    Reasoning {
        /// The text; may be empty where the provider only gives a signature.
        text: String,
        /// The provider's own form, see [`NativeBlock`].
        #[serde(default, skip_serializing_if = "Option::is_none")]
        native: Option<NativeBlock>,
    },
    /// A tool call by the model.
    ToolCall {
        /// Unique within the request.
        id: String,
        /// The name the model sees, such as `rune__file-read`.
        name: String,
        /// The arguments. An object, or the text as received where it is not JSON.
        input: Value,
        /// The provider's own form, see [`NativeBlock`].
        #[serde(default, skip_serializing_if = "Option::is_none")]
        native: Option<NativeBlock>,
    },
    /// The result of a tool call.
    ToolResult {
        /// The id of the call it answers.
        call_id: String,
        /// The name of the tool that was called.
        name: String,
        /// What the model is shown.
        content: String,
        /// Images that it is shown beside that.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        images: Vec<ImageSource>,
        /// Whether the call failed.
        #[serde(default)]
        is_error: bool,
    },
    /// A part that only the provider understands and wants back unchanged.
    Opaque {
        /// The provider's own form.
        native: NativeBlock,
    },
}

impl Block {
    /// A text block without a native form.
    pub fn text(text: impl Into<String>) -> Self {
        Self::Text {
            text: text.into(),
            native: None,
        }
    }
}

/// An image in the [`BlobStore`](crate::BlobStore).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredImage {
    /// Such as `image/png`.
    pub media_type: String,
    /// Of the bytes.
    pub digest: String,
    /// How many they are.
    pub bytes: u64,
}

/// Digits of the digest that make a handle: enough within one session.
const HANDLE_DIGITS: usize = 16;
/// How the handle of an image begins.
const HANDLE: &str = "img-";

impl StoredImage {
    /// Whether a text has the form of a handle.
    #[must_use]
    pub fn is_handle(text: &str) -> bool {
        text.strip_prefix(HANDLE).is_some_and(|digits| {
            digits.len() == HANDLE_DIGITS && digits.bytes().all(|byte| byte.is_ascii_hexdigit())
        })
    }

    /// By what it can be named within its session.
    #[must_use]
    pub fn handle(&self) -> String {
        handle(HANDLE, &self.digest)
    }
}

/// By what something in the [`BlobStore`](crate::BlobStore) can be named within a session.
pub(crate) fn handle(kind: &str, digest: &str) -> String {
    let hex = digest.rsplit(':').next().unwrap_or(digest);
    let digits: String = hex.chars().take(HANDLE_DIGITS).collect();
    format!("{kind}{digits}")
}

impl From<StoredImage> for ImageSource {
    fn from(image: StoredImage) -> Self {
        Self::Stored {
            media_type: image.media_type,
            digest: image.digest,
        }
    }
}

/// Where an image is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum ImageSource {
    /// Here.
    Data {
        /// Such as `image/png`.
        media_type: String,
        /// The bytes in base64.
        data: String,
    },
    /// In the [`BlobStore`](crate::BlobStore).
    Stored {
        /// Such as `image/png`.
        media_type: String,
        /// Of the bytes.
        digest: String,
    },
    /// Where the provider fetches it.
    Url {
        /// An `http` or `https` URL.
        url: String,
    },
}

/// The JSON of a block exactly as a provider sent it. It is sent back unchanged
/// to the same protocol (signatures depend on it) and left out for any other.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NativeBlock {
    /// The wire protocol: `anthropic`, `openai`, `responses`, `gemini`.
    pub protocol: String,
    /// The block.
    pub json: Value,
}

/// One turn of a conversation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Message {
    /// Who speaks.
    pub role: Role,
    /// What is said, in order.
    pub blocks: Vec<Block>,
}

impl Message {
    /// A user message of one text block.
    pub fn user(text: impl Into<String>) -> Self {
        Self {
            role: Role::User,
            blocks: vec![Block::text(text)],
        }
    }

    /// All text blocks, joined.
    #[must_use]
    pub fn text(&self) -> String {
        let texts = self.blocks.iter().filter_map(|block| match block {
            Block::Text { text, .. } => Some(text.as_str()),
            _ => None,
        });
        texts.collect()
    }
}

/// A message in a session's history.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MessageRow {
    /// The session.
    pub session_id: SessionId,
    /// The request that wrote it.
    pub request_id: RequestId,
    /// The journal entry it is projected from.
    pub seq: u64,
    /// When the entry was committed.
    pub created_at: Timestamp,
    /// The message.
    #[serde(flatten)]
    pub message: Message,
    /// How well the prompt that it answers was estimated, where a model said it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub measure: Option<PromptMeasure>,
    /// What the message stands for, where it is the summary of an older part.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub compaction: Option<Box<Compaction>>,
}

/// Why the model stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StopReason {
    /// It had nothing more to say.
    EndTurn,
    /// It waits for tool results.
    ToolUse,
    /// The output limit was reached.
    MaxTokens,
    /// The model or the provider's filter declined.
    Refusal,
    /// The provider paused a long turn; send the history again to go on.
    Pause,
}

/// Tokens of one or more model calls. `input` counts every prompt token, cached
/// and written ones included; `output` includes reasoning.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Usage {
    /// Prompt tokens, all of them.
    pub input_tokens: u64,
    /// Completion tokens, reasoning included.
    pub output_tokens: u64,
    /// Prompt tokens read from the provider's cache.
    #[serde(default)]
    pub cached_tokens: u64,
    /// Prompt tokens written to the provider's cache.
    #[serde(default)]
    pub cache_write_tokens: u64,
    /// Completion tokens spent on reasoning.
    #[serde(default)]
    pub reasoning_tokens: u64,
}

impl Usage {
    /// Input and output together, what `token_budget` limits.
    #[must_use]
    pub const fn total(&self) -> u64 {
        self.input_tokens.saturating_add(self.output_tokens)
    }

    /// Adds the tokens of another call.
    pub const fn add(&mut self, other: &Self) {
        self.input_tokens = self.input_tokens.saturating_add(other.input_tokens);
        self.output_tokens = self.output_tokens.saturating_add(other.output_tokens);
        self.cached_tokens = self.cached_tokens.saturating_add(other.cached_tokens);
        self.cache_write_tokens = self
            .cache_write_tokens
            .saturating_add(other.cache_write_tokens);
        self.reasoning_tokens = self.reasoning_tokens.saturating_add(other.reasoning_tokens);
    }
}
