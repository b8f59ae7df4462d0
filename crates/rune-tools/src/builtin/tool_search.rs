//! `rune@tool-search`: tools of the agent that the model is not shown, by words.

use async_trait::async_trait;
use serde::Deserialize;
use serde_json::{Value, json};

use super::answer::fitting;
use super::parse;
use crate::{BuiltinTool, DeferredTool, ToolContext, ToolError, deferred, text};

/// Longest part of a description that is shown: the whole one comes with the tool.
const DESCRIPTION_BYTES: usize = 300;
/// Bytes of the names that are listed where nothing is found.
const NAMES_BYTES: usize = 4096;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Input {
    query: String,
    #[serde(default = "default_limit")]
    limit: usize,
}

fn default_limit() -> usize {
    5
}

/// Finds tools. The engine gives those in `tools` of the answer to the model from its next turn on.
pub(crate) struct ToolSearch;

#[async_trait]
impl BuiltinTool for ToolSearch {
    fn name(&self) -> &'static str {
        "tool-search"
    }

    async fn call(&self, context: &ToolContext, input: Value) -> Result<Value, ToolError> {
        let input: Input = parse(input)?;
        let found = deferred::search(&context.deferred, &input.query);
        if found.is_empty() {
            return Ok(nothing(&context.deferred));
        }
        let shown = &found[..found.len().min(input.limit)];
        let (tools, _) = fitting(shown, context.answer_budget(), |tool| {
            json!({
                "name": tool.name,
                "description": text::prefix(&tool.description, DESCRIPTION_BYTES),
            })
        });
        Ok(json!({ "found": found.len(), "tools": tools }))
    }
}

/// What is answered where no tool has the words: what there is to be found.
fn nothing(all: &[DeferredTool]) -> Value {
    let (names, more) = fitting(all, NAMES_BYTES, |tool| tool.name.as_str().into());
    let mut answer = json!({ "found": 0, "tools": [], "names": names });
    if more {
        answer["more_names"] = (all.len() - names.len()).into();
    }
    answer
}
