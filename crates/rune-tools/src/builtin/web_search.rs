//! `rune@web-search`: searches the web.

use async_trait::async_trait;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::time::timeout;

use super::answer::fitting;
use super::parse;
use crate::search::{SearchHit, Searcher};
use crate::{BuiltinTool, ToolContext, ToolError};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Input {
    query: String,
    #[serde(default = "default_limit")]
    limit: usize,
}

fn default_limit() -> usize {
    8
}

/// Asks the backend that the operator has chosen.
pub(crate) struct WebSearch(pub(crate) Searcher);

#[async_trait]
impl BuiltinTool for WebSearch {
    fn name(&self) -> &'static str {
        "web-search"
    }

    async fn call(&self, context: &ToolContext, input: Value) -> Result<Value, ToolError> {
        let input: Input = parse(input)?;
        let gate = context.egress.as_deref();
        let search = self.0.search(&input.query, input.limit, gate);
        let backend = self.0.backend().name();
        let hits = tokio::select! {
            biased;
            () = context.cancel.cancelled() => return Err(ToolError::cancelled()),
            hits = timeout(context.timeout, search) => hits.map_err(|_| {
                ToolError::timeout(format!(
                    "{backend} did not answer within {} ms",
                    context.timeout.as_millis()
                ))
            })??,
        };
        let (results, truncated) = fitting(&hits, context.answer_budget(), show);
        Ok(json!({ "backend": backend, "results": results, "truncated": truncated }))
    }
}

fn show(hit: &SearchHit) -> Value {
    json!({ "title": hit.title, "url": hit.url, "snippet": hit.snippet })
}
