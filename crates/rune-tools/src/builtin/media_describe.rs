//! `rune@media-describe`: says what a picture, a sound or a film is about.

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
    question: Option<String>,
}

/// Describes a file of any kind.
pub(crate) struct MediaDescribe(pub(crate) Arc<Sources>);

#[async_trait]
impl BuiltinTool for MediaDescribe {
    fn name(&self) -> &'static str {
        "media-describe"
    }

    async fn call(&self, context: &ToolContext, input: Value) -> Result<Value, ToolError> {
        let input: Input = parse(input)?;
        let question = input.question.as_deref().unwrap_or_default();
        check_length("question", question, MAX_QUESTION_BYTES)?;
        let asked = Asked {
            source: input.source,
            question: input.question,
        };
        let kinds = [MediaKind::Image, MediaKind::Audio, MediaKind::Video];
        until_stopped(context, describe(context, &self.0, asked, &kinds)).await
    }
}
