//! `rune@speech-to-text`: writes down what is said in a sound.

use std::sync::Arc;

use async_trait::async_trait;
use serde::Deserialize;
use serde_json::{Value, json};

use super::media::{MAX_QUESTION_BYTES, add, check_length, sign, until_stopped};
use super::parse;
use crate::media::{MediaKind, Sources};
use crate::{BuiltinTool, NewTranscript, ToolContext, ToolError};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Input {
    source: String,
    language: Option<String>,
    hint: Option<String>,
}

/// Answers what is said.
pub(crate) struct SpeechToText(pub(crate) Arc<Sources>);

#[async_trait]
impl BuiltinTool for SpeechToText {
    fn name(&self) -> &'static str {
        "speech-to-text"
    }

    async fn call(&self, context: &ToolContext, input: Value) -> Result<Value, ToolError> {
        let input: Input = parse(input)?;
        let hint = input.hint.as_deref().unwrap_or_default();
        check_length("hint", hint, MAX_QUESTION_BYTES)?;
        until_stopped(context, self.write_down(context, input)).await
    }
}

impl SpeechToText {
    async fn write_down(&self, context: &ToolContext, input: Input) -> Result<Value, ToolError> {
        // A WebM file without pictures looks like one with them.
        let kinds = [MediaKind::Audio, MediaKind::Video];
        let file = self.0.read(context, &input.source, &kinds).await?;
        let facts = file.facts();
        let wanted = NewTranscript {
            file,
            language: input.language,
            hint: input.hint,
            timestamps: false,
        };
        let said = context.media()?.transcribe(wanted).await?;
        let mut answer = json!({ "text": said.text });
        if let Some(language) = said.language {
            answer["language"] = language.into();
        }
        add(&mut answer, &facts);
        sign(&mut answer, &said.by);
        Ok(answer)
    }
}
