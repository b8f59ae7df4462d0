//! A reply as it comes out of a decoder.

use rune_store_runtime::{Block, StopReason, Usage};

use crate::model::ModelOutput;
use crate::tokens::tokens_of;

/// What a decoder has read.
#[derive(Debug)]
pub(in crate::model) struct Reply {
    pub(in crate::model) blocks: Vec<Block>,
    /// As the provider says; corrected by [`Reply::into_output`].
    pub(in crate::model) stop: StopReason,
    /// Absent where the provider does not count.
    pub(in crate::model) usage: Option<Usage>,
}

impl Reply {
    /// The reply with the promises of [`ModelOutput`] kept: `ToolUse` exactly where there
    /// is a call, and no call of a reply that was declined half-way.
    pub(in crate::model) fn into_output(mut self, prompt_bytes: usize) -> ModelOutput {
        if self.stop == StopReason::Refusal {
            self.blocks
                .retain(|block| !matches!(block, Block::ToolCall { .. }));
        }
        let calls = self
            .blocks
            .iter()
            .any(|block| matches!(block, Block::ToolCall { .. }));
        let stop = match (calls, self.stop) {
            (true, _) => StopReason::ToolUse,
            (false, StopReason::ToolUse) => StopReason::EndTurn,
            (false, stop) => stop,
        };
        let usage = self
            .usage
            .unwrap_or_else(|| estimate_usage(prompt_bytes, &self.blocks));
        ModelOutput {
            blocks: self.blocks,
            stop,
            usage,
        }
    }
}

fn estimate_usage(prompt_bytes: usize, blocks: &[Block]) -> Usage {
    let output: usize = blocks.iter().map(block_bytes).sum();
    Usage {
        input_tokens: tokens_of(prompt_bytes),
        output_tokens: tokens_of(output),
        ..Usage::default()
    }
}

fn block_bytes(block: &Block) -> usize {
    match block {
        Block::Text { text, .. } | Block::Reasoning { text, .. } => text.len(),
        Block::ToolCall { name, input, .. } => name.len() + input.to_string().len(),
        Block::ToolResult { content, .. } => content.len(),
        Block::Image { .. } | Block::Opaque { .. } => 0,
    }
}
