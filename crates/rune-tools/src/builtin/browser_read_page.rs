//! `rune@browser-read-page`: reads a page as text.

use std::sync::Arc;

use async_trait::async_trait;
use serde::Deserialize;
use serde_json::Value;

use super::browser::until_cancelled;
use super::parse;
use crate::browser::Browsers;
use crate::{BuiltinTool, ToolContext, ToolError};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Input {
    #[serde(default)]
    offset: usize,
    #[serde(default = "default_bytes")]
    max_bytes: usize,
}

fn default_bytes() -> usize {
    16 * 1024
}

/// Answers the page as text, with a number on everything that can be used.
pub(crate) struct BrowserReadPage(pub(crate) Arc<Browsers>);

#[async_trait]
impl BuiltinTool for BrowserReadPage {
    fn name(&self) -> &'static str {
        "browser-read-page"
    }

    async fn call(&self, context: &ToolContext, input: Value) -> Result<Value, ToolError> {
        let input: Input = parse(input)?;
        let limit = context.shown_limit.min(context.answer_budget()) / 2;
        let read = async {
            let turn = self.0.turn(context).await?;
            turn.read(input.offset, input.max_bytes.min(limit)).await
        };
        until_cancelled(context, read).await
    }
}
