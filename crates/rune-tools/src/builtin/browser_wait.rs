//! `rune@browser-wait`: waits for something on a page.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use serde::Deserialize;
use serde_json::Value;

use super::browser::until_cancelled;
use super::parse;
use crate::browser::{Browsers, Condition};
use crate::{BuiltinTool, ToolContext, ToolError};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Input {
    text: Option<String>,
    selector: Option<String>,
    url: Option<String>,
    #[serde(default)]
    gone: bool,
    #[serde(default = "default_wait")]
    timeout_ms: u64,
}

fn default_wait() -> u64 {
    10_000
}

/// Waits until something is on the page or has gone from it.
pub(crate) struct BrowserWait(pub(crate) Arc<Browsers>);

#[async_trait]
impl BuiltinTool for BrowserWait {
    fn name(&self) -> &'static str {
        "browser-wait"
    }

    async fn call(&self, context: &ToolContext, input: Value) -> Result<Value, ToolError> {
        let input: Input = parse(input)?;
        let limit = Duration::from_millis(input.timeout_ms);
        let condition = Condition {
            text: input.text,
            selector: input.selector,
            url: input.url,
            gone: input.gone,
        };
        let is_pause =
            condition.text.is_none() && condition.selector.is_none() && condition.url.is_none();
        let waited = async {
            let turn = self.0.turn(context).await?;
            if is_pause {
                turn.pause(limit).await
            } else {
                turn.wait(&condition, limit).await
            }
        };
        until_cancelled(context, waited).await
    }
}
