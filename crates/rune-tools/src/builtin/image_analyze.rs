//! `rune@image-analyze`: asks a model about a picture.

use std::sync::Arc;

use async_trait::async_trait;
use serde::Deserialize;
use serde_json::Value;

use super::media::{Asked, MAX_QUESTION_BYTES, check_length, describe, until_stopped};
use super::parse;
use crate::media::{MediaKind, Sources};
use crate::{BuiltinTool, ToolContext, ToolError};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Input {
    source: String,
    question: String,
}

/// Answers a question about a picture.
pub(crate) struct ImageAnalyze(pub(crate) Arc<Sources>);

#[async_trait]
impl BuiltinTool for ImageAnalyze {
    fn name(&self) -> &'static str {
        "image-analyze"
    }

    async fn call(&self, context: &ToolContext, input: Value) -> Result<Value, ToolError> {
        let input: Input = parse(input)?;
        check_length("question", &input.question, MAX_QUESTION_BYTES)?;
        let asked = Asked {
            source: input.source,
            question: Some(input.question),
        };
        let kinds = [MediaKind::Image];
        until_stopped(context, describe(context, &self.0, asked, &kinds)).await
    }
}
