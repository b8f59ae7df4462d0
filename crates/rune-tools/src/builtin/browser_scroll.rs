//! `rune@browser-scroll`: scrolls a page.

use std::sync::Arc;

use async_trait::async_trait;
use serde::Deserialize;
use serde_json::Value;

use super::browser::until_cancelled;
use super::parse;
use crate::browser::{Browsers, Scroll, Target};
use crate::{BuiltinTool, ToolContext, ToolError};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Input {
    target: Option<String>,
    direction: Option<Scroll>,
    pixels: Option<u32>,
}

/// Scrolls the page, what is around an element, or to an element.
pub(crate) struct BrowserScroll(pub(crate) Arc<Browsers>);

#[async_trait]
impl BuiltinTool for BrowserScroll {
    fn name(&self) -> &'static str {
        "browser-scroll"
    }

    async fn call(&self, context: &ToolContext, input: Value) -> Result<Value, ToolError> {
        let input: Input = parse(input)?;
        let target = input.target.map(Target::from);
        let scrolled = async {
            let turn = self.0.turn(context).await?;
            turn.scroll(target.as_ref(), input.direction, input.pixels)
                .await
        };
        until_cancelled(context, scrolled).await
    }
}
