//! `rune@browser-run-js`: runs a script in a page.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use serde::Deserialize;
use serde_json::Value;

use super::browser::until_cancelled;
use super::parse;
use crate::browser::Browsers;
use crate::{BuiltinTool, ToolContext, ToolError, text};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Input {
    script: String,
    #[serde(default = "default_limit")]
    timeout_ms: u64,
}

fn default_limit() -> u64 {
    10_000
}

/// Runs a script in the page and answers its value.
pub(crate) struct BrowserRunJs(pub(crate) Arc<Browsers>);

#[async_trait]
impl BuiltinTool for BrowserRunJs {
    fn name(&self) -> &'static str {
        "browser-run-js"
    }

    async fn call(&self, context: &ToolContext, input: Value) -> Result<Value, ToolError> {
        let input: Input = parse(input)?;
        let limit = Duration::from_millis(input.timeout_ms);
        let ran = async { self.0.turn(context).await?.run(&input.script, limit).await };
        let mut report = until_cancelled(context, ran).await?;
        let value = report["value"].to_string();
        let shown = text::prefix(&value, context.answer_budget() / 2);
        if shown.len() < value.len() {
            report["value"] = shown.into();
            report["truncated"] = true.into();
        }
        Ok(report)
    }
}
