//! `rune@memory-store`: remembers a value.

use async_trait::async_trait;
use rune_store_runtime::MemoryPut;
use serde::Deserialize;
use serde_json::{Value, json};

use super::parse;
use crate::{BuiltinTool, ToolContext, ToolError};

/// Bytes of a value as JSON.
const MAX_VALUE_BYTES: usize = 256 * 1024;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Input {
    key: String,
    value: Value,
    #[serde(default)]
    tags: Vec<String>,
}

/// Remembers a value for the agent, across sessions.
pub(crate) struct MemoryStore;

#[async_trait]
impl BuiltinTool for MemoryStore {
    fn name(&self) -> &'static str {
        "memory-store"
    }

    async fn call(&self, context: &ToolContext, input: Value) -> Result<Value, ToolError> {
        let input: Input = parse(input)?;
        let size = input.value.to_string().len();
        if size > MAX_VALUE_BYTES {
            return Err(ToolError::invalid(format!(
                "the value takes {size} bytes, {MAX_VALUE_BYTES} are allowed; write it to a file \
                 and remember its path"
            )));
        }
        let key = input.key.clone();
        context
            .store
            .write(MemoryPut {
                scope: context.scope.clone(),
                key: input.key,
                value: input.value,
                tags: input.tags,
            })
            .await?;
        Ok(json!({ "key": key, "stored": true }))
    }
}
