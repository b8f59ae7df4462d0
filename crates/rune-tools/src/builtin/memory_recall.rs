//! `rune@memory-recall`: gets remembered values.

use std::cmp::Reverse;

use async_trait::async_trait;
use rune_store_runtime::{MemoryQuery, MemoryRow, PageRequest};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{ENVELOPE_BYTES, parse};
use crate::{BuiltinTool, ToolContext, ToolError};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Input {
    key: Option<String>,
    query: Option<String>,
    #[serde(default = "default_limit")]
    limit: usize,
}

fn default_limit() -> usize {
    10
}

/// Gets the value of a key, or those that match all words of a query, best first; a key
/// is more exact and wins. Finding nothing is an answer, not an error.
pub(crate) struct MemoryRecall;

#[async_trait]
impl BuiltinTool for MemoryRecall {
    fn name(&self) -> &'static str {
        "memory-recall"
    }

    async fn call(&self, context: &ToolContext, input: Value) -> Result<Value, ToolError> {
        let input: Input = parse(input)?;
        match (input.key, input.query) {
            (Some(key), _) => {
                let row = context.store.memory(&context.scope, &key).await?;
                let rows: Vec<Value> = row.iter().map(show).collect();
                Ok(json!({ "memories": rows, "truncated": false }))
            }
            (None, Some(query)) => search(context, &query, input.limit).await,
            (None, None) => Err(ToolError::invalid("give `key` or `query`")),
        }
    }
}

async fn search(context: &ToolContext, query: &str, limit: usize) -> Result<Value, ToolError> {
    let filter = MemoryQuery {
        prefix: None,
        text: Some(query.to_owned()),
    };
    // Ranked among the first matches by key; an agent with more is told so.
    let page = PageRequest::first(PageRequest::MAX_LIMIT);
    let page = context
        .store
        .memories(&context.scope, &filter, &page)
        .await?;
    let mut rows = page.items;
    rows.sort_by_cached_key(|row| Reverse((score(row, query), row.updated_at)));
    let matches = rows.len();
    let mut left = context.output_limit.saturating_sub(ENVELOPE_BYTES);
    let memories: Vec<Value> = rows
        .iter()
        .take(limit)
        .map(show)
        .map_while(|row| {
            left = left.checked_sub(row.to_string().len() + 1)?;
            Some(row)
        })
        .collect();
    Ok(json!({
        "truncated": memories.len() < matches || page.next.is_some(),
        "memories": memories,
    }))
}

/// A word in the key says more than one in a tag, and that more than one in the value.
fn score(row: &MemoryRow, query: &str) -> usize {
    let key = row.key.to_ascii_lowercase();
    let tags = row.tags.join(" ").to_ascii_lowercase();
    query
        .to_ascii_lowercase()
        .split_whitespace()
        .map(|word| 2 * usize::from(key.contains(word)) + usize::from(tags.contains(word)))
        .sum()
}

fn show(row: &MemoryRow) -> Value {
    json!({
        "key": row.key,
        "value": row.value,
        "tags": row.tags,
        "updated_at": row.updated_at,
    })
}
