//! `rune@memory-list`: what is remembered.

use async_trait::async_trait;
use rune_store_runtime::{MemoryQuery, PageRequest};
use serde::Deserialize;
use serde_json::{Value, json};

use super::parse;
use crate::{BuiltinTool, ToolContext, ToolError};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Input {
    #[serde(default)]
    prefix: String,
    #[serde(default = "default_limit")]
    limit: u32,
    cursor: Option<String>,
}

fn default_limit() -> u32 {
    100
}

/// Lists remembered keys with their tags and times, without the values.
pub(crate) struct MemoryList;

#[async_trait]
impl BuiltinTool for MemoryList {
    fn name(&self) -> &'static str {
        "memory-list"
    }

    async fn call(&self, context: &ToolContext, input: Value) -> Result<Value, ToolError> {
        let input: Input = parse(input)?;
        let filter = MemoryQuery {
            prefix: Some(input.prefix).filter(|prefix| !prefix.is_empty()),
            text: None,
        };
        let page = PageRequest {
            cursor: input.cursor,
            ..PageRequest::first(input.limit)
        };
        let page = context
            .store
            .memories(&context.scope, &filter, &page)
            .await?;
        let rows: Vec<Value> = page
            .items
            .iter()
            .map(|row| {
                json!({
                    "key": row.key,
                    "tags": row.tags,
                    "created_at": row.created_at,
                    "updated_at": row.updated_at,
                })
            })
            .collect();
        let mut answer = json!({ "memories": rows });
        if let Some(next) = page.next {
            answer["cursor"] = next.into();
        }
        Ok(answer)
    }
}
