//! The most tokens that a prompt can have.
//!
//! A token is at least one byte of what it stands for, so the bytes of a prompt are a bound
//! that needs no tokenizer. Once a model has said how many tokens a prompt had, the bound
//! of the next one is that number and the bytes of what was added.

use rune_store_runtime::{Block, Message};
use sha2::{Digest as _, Sha256};

use crate::model::ModelRequest;

/// Tokens that a provider adds to a prompt of its own: instructions for tools, markers.
const PROMPT_ALLOWANCE: u64 = 1024;
/// Tokens around each block of a message.
const BLOCK_ALLOWANCE: u64 = 16;
/// Tokens around the definition of a tool.
const TOOL_ALLOWANCE: u64 = 64;
/// More than any provider bills for one image.
const IMAGE_TOKENS: u64 = 16_384;

/// A prompt of which the tokens are known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Anchor {
    provider: String,
    /// Of the model, what stands in front of the messages, and the messages.
    digest: [u8; 32],
    messages: usize,
    tokens: u64,
}

impl Anchor {
    /// The prompt of a call to which the provider reported so many tokens.
    pub(super) fn new(provider: &str, request: &ModelRequest, tokens: u64) -> Option<Self> {
        let messages = request.messages.len();
        Some(Self {
            provider: provider.to_owned(),
            digest: digest(request, messages)?,
            messages,
            tokens,
        })
    }

    fn is_start_of(&self, provider: &str, request: &ModelRequest) -> bool {
        self.provider == provider
            && self.messages <= request.messages.len()
            && digest(request, self.messages) == Some(self.digest)
    }
}

/// The most tokens that the prompt of a call can have.
fn prompt_bound(request: &ModelRequest) -> u64 {
    let schema = request.output_schema.as_ref();
    let schema = schema.map_or(0, |schema| schema.to_string().len());
    let text = bytes(request.system_with_schema().len() + schema);
    let tools = request.tools.iter().map(|tool| {
        let schema = tool.input_schema.to_string().len();
        TOOL_ALLOWANCE + bytes(tool.name.len() + tool.description.len() + schema)
    });
    let fixed = tools.fold(text.saturating_add(PROMPT_ALLOWANCE), u64::saturating_add);
    fixed.saturating_add(messages_bound(&request.messages))
}

/// [`prompt_bound`], or less where the beginning of the prompt is known.
pub(super) fn bound_behind(anchor: Option<&Anchor>, provider: &str, request: &ModelRequest) -> u64 {
    let whole = prompt_bound(request);
    let Some(anchor) = anchor.filter(|anchor| anchor.is_start_of(provider, request)) else {
        return whole;
    };
    let added = request.messages.get(anchor.messages..).unwrap_or_default();
    whole.min(anchor.tokens.saturating_add(messages_bound(added)))
}

fn messages_bound(messages: &[Message]) -> u64 {
    let blocks = messages.iter().flat_map(|message| &message.blocks);
    blocks.map(block_bound).fold(0, u64::saturating_add)
}

fn block_bound(block: &Block) -> u64 {
    let length = match block {
        Block::Text { text, .. } | Block::Reasoning { text, .. } => text.len(),
        Block::ToolCall {
            id, name, input, ..
        } => id.len() + name.len() + input.to_string().len(),
        Block::ToolResult {
            call_id,
            name,
            content,
            ..
        } => call_id.len() + name.len() + content.len(),
        Block::Image { .. } => return IMAGE_TOKENS,
        Block::Opaque { native } => native.json.to_string().len(),
    };
    BLOCK_ALLOWANCE.saturating_add(bytes(length))
}

fn bytes(length: usize) -> u64 {
    u64::try_from(length).unwrap_or(u64::MAX)
}

/// Nothing where a message cannot be written as JSON, which cannot be.
fn digest(request: &ModelRequest, messages: usize) -> Option<[u8; 32]> {
    let tools = request.tools.iter();
    let tools: Vec<_> = tools
        .map(|tool| (&tool.name, &tool.description, &tool.input_schema))
        .collect();
    let start = (
        &request.model,
        &request.system,
        tools,
        &request.output_schema.as_deref(),
        request.messages.get(..messages)?,
    );
    let text = serde_json::to_vec(&start).ok()?;
    Some(Sha256::digest(text).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(texts: &[&str]) -> ModelRequest {
        ModelRequest {
            model: "m".to_owned(),
            system: "Be kind.".to_owned(),
            messages: texts.iter().map(|text| Message::user(*text)).collect(),
            tools: Vec::new(),
            max_output_tokens: None,
            temperature: None,
            reasoning_effort: None,
            output_schema: None,
        }
    }

    #[test]
    fn a_token_is_a_byte_at_the_least() {
        let text = "x".repeat(5000);
        assert!(prompt_bound(&request(&[&text])) >= 5000);
        assert!(prompt_bound(&request(&[])) >= PROMPT_ALLOWANCE);
    }

    #[test]
    fn what_the_provider_counted_takes_the_place_of_bytes() {
        let long = "word ".repeat(2000);
        let first = request(&[&long]);
        let anchor = Anchor::new("p", &first, 2100).unwrap();
        let next = request(&[&long, "and now?"]);
        let bound = bound_behind(Some(&anchor), "p", &next);
        assert_eq!(bound, 2100 + BLOCK_ALLOWANCE + 8);
        // Another provider counts in its own way, and another beginning is another prompt.
        assert_eq!(bound_behind(Some(&anchor), "q", &next), prompt_bound(&next));
        let other = request(&["short", "and now?"]);
        assert_eq!(
            bound_behind(Some(&anchor), "p", &other),
            prompt_bound(&other)
        );
        let shorter = request(&[]);
        let bound = bound_behind(Some(&anchor), "p", &shorter);
        assert_eq!(bound, prompt_bound(&shorter));
    }
}
