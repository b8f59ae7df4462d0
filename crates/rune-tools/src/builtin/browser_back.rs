//! `rune@browser-back`: goes back to the page before.

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
    #[serde(default = "one")]
    steps: u64,
}

fn one() -> u64 {
    1
}

/// Goes back to the page before.
pub(crate) struct BrowserBack(pub(crate) Arc<Browsers>);

#[async_trait]
impl BuiltinTool for BrowserBack {
    fn name(&self) -> &'static str {
        "browser-back"
    }

    async fn call(&self, context: &ToolContext, input: Value) -> Result<Value, ToolError> {
        let input: Input = parse(input)?;
        let went = async { self.0.turn(context).await?.back(input.steps).await };
        until_cancelled(context, went).await
    }
}
