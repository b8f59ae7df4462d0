//! `rune@browser-click`: clicks an element of a page.

use std::sync::Arc;

use async_trait::async_trait;
use serde::Deserialize;
use serde_json::Value;

use super::browser::until_cancelled;
use super::parse;
use crate::browser::{Browsers, Target};
use crate::{BuiltinTool, ToolContext, ToolError};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Input {
    target: String,
    #[serde(default)]
    double: bool,
}

/// Clicks an element of the page.
pub(crate) struct BrowserClick(pub(crate) Arc<Browsers>);

#[async_trait]
impl BuiltinTool for BrowserClick {
    fn name(&self) -> &'static str {
        "browser-click"
    }

    async fn call(&self, context: &ToolContext, input: Value) -> Result<Value, ToolError> {
        let input: Input = parse(input)?;
        let target = Target::from(input.target);
        let clicked = async {
            let turn = self.0.turn(context).await?;
            turn.click(&target, input.double).await
        };
        until_cancelled(context, clicked).await
    }
}
