//! `rune@web-fetch`: gets a public web page.

use std::sync::Arc;

use async_trait::async_trait;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::time::timeout;

use super::{ENVELOPE_BYTES, parse};
use crate::web::{Format, WebClient, render};
use crate::{BuiltinTool, ToolContext, ToolError, blocking, text};

/// Bytes of a decoded body that are read at the most, whatever is asked for.
const MAX_BODY_BYTES: usize = 10 * 1024 * 1024;

/// HTML is larger than what a reader sees of it: so many bytes are read for each byte
/// of content.
const HTML_FACTOR: usize = 8;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Input {
    url: String,
    #[serde(default)]
    format: Format,
    #[serde(default = "default_max_bytes")]
    max_bytes: usize,
}

fn default_max_bytes() -> usize {
    256 * 1024
}

/// Fetches a URL and answers its content, whatever the HTTP status is.
pub(crate) struct WebFetch {
    client: Arc<WebClient>,
}

impl WebFetch {
    pub(crate) fn new(client: WebClient) -> Self {
        Self {
            client: Arc::new(client),
        }
    }
}

#[async_trait]
impl BuiltinTool for WebFetch {
    fn name(&self) -> &'static str {
        "web-fetch"
    }

    async fn call(&self, context: &ToolContext, input: Value) -> Result<Value, ToolError> {
        let input: Input = parse(input)?;
        let wanted = match input.format {
            Format::Raw => input.max_bytes,
            Format::Markdown | Format::Text => input.max_bytes.saturating_mul(HTML_FACTOR),
        };
        let gate = context.egress.as_deref();
        let fetch = self
            .client
            .get(&input.url, wanted.min(MAX_BODY_BYTES), gate);
        let page = tokio::select! {
            biased;
            () = context.cancel.cancelled() => return Err(ToolError::cancelled()),
            page = timeout(context.timeout, fetch) => page.map_err(|_| {
                ToolError::timeout(format!(
                    "the page was not there within {} ms",
                    context.timeout.as_millis()
                ))
            })??,
        };
        let budget = context.output_limit.saturating_sub(ENVELOPE_BYTES);
        blocking(move || {
            let content = render(&page, input.format)?;
            let cut = floor_char_boundary(&content, input.max_bytes);
            let shown = text::prefix(&content[..cut], budget);
            Ok(json!({
                "url": page.url.as_str(),
                "status": page.status,
                "content_type": page.content_type,
                "content": shown,
                "truncated": page.truncated || shown.len() < content.len(),
            }))
        })
        .await
    }
}

fn floor_char_boundary(text: &str, index: usize) -> usize {
    (0..=index.min(text.len()))
        .rev()
        .find(|at| text.is_char_boundary(*at))
        .unwrap_or(0)
}
