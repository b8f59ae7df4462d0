//! What the request encoders share.

use rune_store_runtime::{Block, Message, NativeBlock};
use serde_json::Value;

use super::Protocol;

/// The provider's own form of a block, where it is of this protocol.
pub(in crate::model) fn native_json(
    native: Option<&NativeBlock>,
    protocol: Protocol,
) -> Option<&Value> {
    native
        .filter(|native| native.protocol == protocol.name())
        .map(|native| &native.json)
}

/// The ids of the calls in a message.
pub(in crate::model) fn call_ids(message: &Message) -> Vec<&str> {
    let ids = message.blocks.iter().filter_map(|block| match block {
        Block::ToolCall { id, .. } => Some(id.as_str()),
        _ => None,
    });
    ids.collect()
}

/// The results in `blocks` in the order of the calls they answer; strays last.
pub(in crate::model) fn ordered_results<'a>(calls: &[&str], blocks: &'a [Block]) -> Vec<&'a Block> {
    let mut results: Vec<&Block> = blocks
        .iter()
        .filter(|block| matches!(block, Block::ToolResult { .. }))
        .collect();
    results.sort_by_key(|block| {
        match block {
            Block::ToolResult { call_id, .. } => calls.iter().position(|id| id == call_id),
            _ => None,
        }
        .unwrap_or(usize::MAX)
    });
    results
}
