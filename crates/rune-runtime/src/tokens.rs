//! How many tokens something has.
//!
//! No tokenizer is at hand: the vendors whose models are asked most publish none, and one
//! vendor's takes tens of megabytes and is wrong for the others. Bytes are counted
//! instead, and [`TokenScale`] corrects the count by what the provider said of the prompt
//! before, which holds for the model, the language and the kind of text at hand.

use rune_store_runtime::{Block, Message, PromptMeasure};

use crate::model::ToolDefinition;

/// Bytes that stand for a token where no provider has counted.
const BYTES_PER_TOKEN: u64 = 4;
/// Bytes that an image is counted as: about what the providers bill for a large one.
const IMAGE_BYTES: usize = 6400;

/// Tokens of a text of so many bytes, estimated.
pub(crate) const fn tokens_of(bytes: usize) -> u64 {
    (bytes as u64).div_ceil(BYTES_PER_TOKEN)
}

/// Tokens of a message, estimated.
pub(crate) fn of_message(message: &Message) -> u64 {
    let bytes: usize = message
        .blocks
        .iter()
        .map(|block| match block {
            Block::Text { text, .. } | Block::Reasoning { text, .. } => text.len(),
            Block::ToolCall { name, input, .. } => name.len() + input.to_string().len(),
            Block::ToolResult {
                content, images, ..
            } => content.len() + images.len() * IMAGE_BYTES,
            Block::Image { .. } => IMAGE_BYTES,
            Block::Opaque { native } => native.json.to_string().len(),
        })
        .sum();
    tokens_of(bytes)
}

/// Tokens of messages, estimated.
pub(crate) fn of_messages<'a>(messages: impl IntoIterator<Item = &'a Message>) -> u64 {
    messages.into_iter().map(of_message).sum()
}

/// Tokens of the definition of a tool, estimated.
pub(crate) fn of_tool(tool: &ToolDefinition) -> u64 {
    tokens_of(bytes_of(tool))
}

/// Tokens of the definitions of tools, estimated.
pub(crate) fn of_tools(tools: &[ToolDefinition]) -> u64 {
    tokens_of(tools.iter().map(bytes_of).sum())
}

fn bytes_of(tool: &ToolDefinition) -> usize {
    tool.name.len() + tool.description.len() + tool.input_schema.to_string().len()
}

/// What an estimate is multiplied by, from the last prompt that a provider counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TokenScale {
    /// Thousandths.
    permille: u64,
}

impl Default for TokenScale {
    fn default() -> Self {
        Self { permille: 1000 }
    }
}

impl TokenScale {
    /// Of a smaller prompt a provider's fixed additions are too large a part.
    const MIN_ESTIMATED: u64 = 1000;
    /// Denser than this is no text; a provider that reports more counts something else.
    const MAX_PERMILLE: u64 = 3000;
    /// The same for less, such as a count without what was cached.
    const MIN_PERMILLE: u64 = 500;

    /// By what a provider has counted; `None` where that says nothing.
    pub(crate) fn of(measure: PromptMeasure) -> Option<Self> {
        (measure.estimated >= Self::MIN_ESTIMATED).then(|| {
            let permille = measure.reported.saturating_mul(1000) / measure.estimated;
            Self {
                permille: permille.clamp(Self::MIN_PERMILLE, Self::MAX_PERMILLE),
            }
        })
    }

    /// The tokens that an estimate stands for.
    pub(crate) const fn apply(self, estimated: u64) -> u64 {
        estimated.saturating_mul(self.permille).div_ceil(1000)
    }

    /// The largest estimate that stands for no more than these tokens.
    pub(crate) const fn within(self, tokens: u64) -> u64 {
        tokens.saturating_mul(1000) / self.permille
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn an_estimate_follows_what_was_counted_and_stays_within_reason(
            estimated in 0..1_u64 << 40,
            reported in 0..1_u64 << 40,
            one in 0..1_u64 << 40,
            more in 0..1_u64 << 40,
        ) {
            let scale = TokenScale::of(PromptMeasure { estimated, reported }).unwrap_or_default();
            if estimated >= 1000 && (estimated / 2..=estimated * 3).contains(&reported) {
                let again = scale.apply(estimated);
                prop_assert!(again.abs_diff(reported) <= estimated / 1000 + 1);
            }
            prop_assert!(scale.apply(one) <= scale.apply(one + more), "more bytes are no fewer tokens");
            prop_assert!((one / 2..=one * 3).contains(&scale.apply(one)));
            prop_assert!(scale.apply(scale.within(one)) <= one);
        }
    }

    #[test]
    fn a_small_prompt_says_nothing_about_larger_ones() {
        let measure = PromptMeasure {
            estimated: 20,
            reported: 400,
        };
        assert_eq!(TokenScale::of(measure), None);
    }
}
