//! `rune@browser-navigate`: opens a page in the browser.

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
    url: String,
}

/// Opens a page; the first one of a conversation gives it a part of the browser.
pub(crate) struct BrowserNavigate(pub(crate) Arc<Browsers>);

#[async_trait]
impl BuiltinTool for BrowserNavigate {
    fn name(&self) -> &'static str {
        "browser-navigate"
    }

    fn held(&self) -> usize {
        self.0.conversations()
    }

    async fn call(&self, context: &ToolContext, input: Value) -> Result<Value, ToolError> {
        let input: Input = parse(input)?;
        let url = self.0.check(&input.url)?;
        let opened = async { self.0.first_turn(context).await?.navigate(&url).await };
        until_cancelled(context, opened).await
    }
}
