//! `rune@browser-close`: closes the pages of a conversation.

use std::sync::Arc;

use async_trait::async_trait;
use serde::Deserialize;
use serde_json::{Value, json};

use super::browser::until_cancelled;
use super::parse;
use crate::browser::Browsers;
use crate::{BuiltinTool, ToolContext, ToolError};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Input {
    #[serde(default)]
    what: What,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum What {
    #[default]
    All,
    Page,
}

/// Closes the pages of the conversation; its cookies go with them.
pub(crate) struct BrowserClose(pub(crate) Arc<Browsers>);

#[async_trait]
impl BuiltinTool for BrowserClose {
    fn name(&self) -> &'static str {
        "browser-close"
    }

    async fn call(&self, context: &ToolContext, input: Value) -> Result<Value, ToolError> {
        let input: Input = parse(input)?;
        let closed = async {
            let Some(turn) = self.0.open_turn(context).await? else {
                return Ok(json!({ "closed": false }));
            };
            if input.what == What::Page && turn.has_other_pages() {
                return turn.close_page().await;
            }
            self.0.close(turn).await;
            Ok(json!({ "closed": true }))
        };
        until_cancelled(context, closed).await
    }
}
