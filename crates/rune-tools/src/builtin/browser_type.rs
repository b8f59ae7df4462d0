//! `rune@browser-type`: types into a field of a page.

use std::sync::Arc;

use async_trait::async_trait;
use serde::Deserialize;
use serde_json::Value;

use super::browser::until_cancelled;
use super::parse;
use crate::browser::{Browsers, Target, Typing};
use crate::{BuiltinTool, ToolContext, ToolError};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Input {
    target: String,
    text: String,
    #[serde(default = "replaces")]
    clear: bool,
    #[serde(default)]
    submit: bool,
}

fn replaces() -> bool {
    true
}

/// Types into a field of the page, or chooses an option.
pub(crate) struct BrowserType(pub(crate) Arc<Browsers>);

#[async_trait]
impl BuiltinTool for BrowserType {
    fn name(&self) -> &'static str {
        "browser-type"
    }

    async fn call(&self, context: &ToolContext, input: Value) -> Result<Value, ToolError> {
        let input: Input = parse(input)?;
        let target = Target::from(input.target);
        let typing = Typing {
            text: input.text,
            clear: input.clear,
            submit: input.submit,
        };
        let typed = async {
            let turn = self.0.turn(context).await?;
            turn.enter(&target, &typing).await
        };
        until_cancelled(context, typed).await
    }
}
