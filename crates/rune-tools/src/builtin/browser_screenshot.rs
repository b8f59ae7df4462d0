//! `rune@browser-screenshot`: takes a picture of a page.

use std::sync::Arc;

use async_trait::async_trait;
use serde::Deserialize;
use serde_json::Value;

use super::browser::until_cancelled;
use super::parse;
use crate::browser::{Browsers, Shot, Target};
use crate::{BuiltinTool, ToolContext, ToolError};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Input {
    #[serde(default)]
    full_page: bool,
    target: Option<String>,
}

/// Shows the model a picture of the page.
pub(crate) struct BrowserScreenshot(pub(crate) Arc<Browsers>);

#[async_trait]
impl BuiltinTool for BrowserScreenshot {
    fn name(&self) -> &'static str {
        "browser-screenshot"
    }

    async fn call(&self, context: &ToolContext, input: Value) -> Result<Value, ToolError> {
        let input: Input = parse(input)?;
        let shot = match (input.target, input.full_page) {
            (Some(_), true) => {
                let why = "a picture is of the whole page or of one element, not of both";
                return Err(ToolError::invalid(why));
            }
            (Some(target), false) => Shot::Element(Target::from(target)),
            (None, true) => Shot::Page,
            (None, false) => Shot::View,
        };
        let taken = async { self.0.turn(context).await?.picture(context, &shot).await };
        until_cancelled(context, taken).await
    }
}
