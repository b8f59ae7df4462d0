use std::time::Duration;

use base64::prelude::{BASE64_STANDARD, Engine as _};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// What the model answers.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Reply {
    /// The text.
    pub text: Text,
    /// Answer `Echo: <last user text>` instead of `text`.
    pub echo: bool,
    /// Stream a text given as one string in this many chunks (0 is 1).
    pub chunks: usize,
    /// The thinking that comes before the text. OpenAI's own API never shows it; here it comes in `reasoning_content`,
    /// as the compatible servers send it.
    pub reasoning: Text,
    /// The tool calls, in order, all in this one answer.
    pub tool_calls: Vec<ToolCall>,
    /// The tokens reported.
    pub usage: Usage,
    /// Why the model stopped; without it [`Stop::ToolUse`] when there are calls, else [`Stop::EndTurn`].
    pub stop: Option<Stop>,
    /// Milliseconds before the first byte (status line included), on top of the script's own latency.
    pub first_byte_ms: u64,
    /// Milliseconds between two pieces of content.
    pub chunk_ms: u64,
    /// Write the stream in pieces of this many bytes, whatever it tears apart (0: a piece per event).
    pub piece_bytes: usize,
    /// The picture or the sound that is answered, where one is asked for.
    pub file: Option<ReplyFile>,
}

/// A file in an answer.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReplyFile {
    /// Its media type, as Gemini says it.
    pub mime: String,
    /// Its bytes in base64.
    pub data: String,
}

impl Reply {
    /// Answers `text`; a list is streamed chunk by chunk.
    #[must_use]
    pub fn text(text: impl Into<Text>) -> Self {
        Self {
            text: text.into(),
            ..Self::default()
        }
    }

    /// Answers `Echo: <last user text>`.
    #[must_use]
    pub fn echo() -> Self {
        Self {
            echo: true,
            ..Self::default()
        }
    }

    /// Calls tools.
    #[must_use]
    pub fn calls(calls: impl IntoIterator<Item = ToolCall>) -> Self {
        Self {
            tool_calls: calls.into_iter().collect(),
            ..Self::default()
        }
    }

    /// Answers a picture or a sound.
    #[must_use]
    pub fn file(mime: impl Into<String>, bytes: &[u8]) -> Self {
        Self {
            file: Some(ReplyFile {
                mime: mime.into(),
                data: BASE64_STANDARD.encode(bytes),
            }),
            ..Self::default()
        }
    }

    /// Says `text` before the calls.
    #[must_use]
    pub fn saying(mut self, text: impl Into<Text>) -> Self {
        self.text = text.into();
        self
    }

    /// Thinks first.
    #[must_use]
    pub fn reasoning(mut self, reasoning: impl Into<Text>) -> Self {
        self.reasoning = reasoning.into();
        self
    }

    /// Streams a text given as one string in `n` chunks.
    #[must_use]
    pub fn chunks(mut self, n: usize) -> Self {
        self.chunks = n;
        self
    }

    /// Reports `usage`.
    #[must_use]
    pub fn usage(mut self, usage: Usage) -> Self {
        self.usage = usage;
        self
    }

    /// Stops for this reason.
    #[must_use]
    pub fn stop(mut self, stop: Stop) -> Self {
        self.stop = Some(stop);
        self
    }

    /// Waits before the first byte.
    #[must_use]
    pub fn first_byte_after(mut self, wait: Duration) -> Self {
        self.first_byte_ms = millis(wait);
        self
    }

    /// Waits between two pieces of content.
    #[must_use]
    pub fn chunk_every(mut self, wait: Duration) -> Self {
        self.chunk_ms = millis(wait);
        self
    }

    /// Writes the stream in pieces of `n` bytes, so that events and characters are torn apart.
    #[must_use]
    pub fn in_pieces_of(mut self, n: usize) -> Self {
        self.piece_bytes = n;
        self
    }
}

pub(crate) fn millis(wait: Duration) -> u64 {
    u64::try_from(wait.as_millis()).unwrap_or(u64::MAX)
}

/// A text: one string, or the chunks it is streamed in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Text {
    /// One string.
    Whole(String),
    /// The chunks.
    Chunks(Vec<String>),
}

impl Text {
    /// The pieces it is streamed in: as given, or a whole one cut in `n`. None is empty.
    pub(crate) fn pieces(&self, n: usize) -> Vec<String> {
        match self {
            Self::Whole(text) => split(text, n.max(1)),
            Self::Chunks(chunks) => chunks
                .iter()
                .filter(|chunk| !chunk.is_empty())
                .cloned()
                .collect(),
        }
    }
}

impl Default for Text {
    fn default() -> Self {
        Self::Chunks(Vec::new())
    }
}

impl From<&str> for Text {
    fn from(text: &str) -> Self {
        Self::Whole(text.to_owned())
    }
}

impl From<String> for Text {
    fn from(text: String) -> Self {
        Self::Whole(text)
    }
}

impl<const N: usize> From<[&str; N]> for Text {
    fn from(chunks: [&str; N]) -> Self {
        Self::Chunks(chunks.into_iter().map(str::to_owned).collect())
    }
}

/// Cuts `text` in at most `n` pieces of about the same number of characters.
pub(crate) fn split(text: &str, n: usize) -> Vec<String> {
    let chars: Vec<char> = text.chars().collect();
    let size = chars.len().div_ceil(n.max(1)).max(1);
    chars
        .chunks(size)
        .map(|piece| piece.iter().collect())
        .collect()
}

/// A tool call of a [`Reply`]. The id is made by the server in the vendor's style.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ToolCall {
    /// The tool's name as the model sees it.
    pub name: String,
    /// The arguments, an object.
    #[serde(default = "empty_object")]
    pub input: Value,
    /// Sent as the arguments instead of `input`, valid JSON or not. Gemini cannot carry such a call and finishes with
    /// `MALFORMED_FUNCTION_CALL` instead.
    #[serde(default)]
    pub raw_arguments: Option<String>,
}

impl ToolCall {
    /// A call of `name` with `input`.
    #[must_use]
    pub fn new(name: impl Into<String>, input: Value) -> Self {
        Self {
            name: name.into(),
            input,
            raw_arguments: None,
        }
    }

    /// A call whose arguments are `raw`, for instance broken JSON.
    #[must_use]
    pub fn malformed(name: impl Into<String>, raw: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            input: empty_object(),
            raw_arguments: Some(raw.into()),
        }
    }
}

fn empty_object() -> Value {
    Value::Object(serde_json::Map::new())
}

/// Token counts, the same meaning for all protocols.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Usage {
    /// The whole input, cached and newly cached tokens included.
    pub input: u64,
    /// The whole output, reasoning included.
    pub output: u64,
    /// Of the input: read from the cache.
    pub cached: u64,
    /// Of the input: written to the cache.
    pub cache_write: u64,
    /// Of the output: thinking.
    pub reasoning: u64,
}

impl Default for Usage {
    fn default() -> Self {
        Self {
            input: 10,
            output: 5,
            cached: 0,
            cache_write: 0,
            reasoning: 0,
        }
    }
}

/// Why the model stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stop {
    /// It is done.
    EndTurn,
    /// It waits for tool results.
    ToolUse,
    /// The output limit was reached.
    MaxTokens,
    /// The vendor's filter or the model refused.
    Refusal,
}
