//! `rune@text-to-speech`: has a text said.

use async_trait::async_trait;
use serde::Deserialize;
use serde_json::Value;

use super::media::{MAX_QUESTION_BYTES, check_length, sign, until_stopped};
use super::parse;
use crate::media::{MediaKind, NewFile, made};
use crate::{BuiltinTool, MediaType, NewSpeech, ToolContext, ToolError};

/// Characters of the longest text: what OpenAI takes, about five minutes.
const MAX_TEXT_CHARS: usize = 4096;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Input {
    text: String,
    voice: Option<String>,
    instructions: Option<String>,
    format: Option<Format>,
    path: Option<String>,
}

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Format {
    Mp3,
    Wav,
    Flac,
    Opus,
    Aac,
}

impl From<Format> for MediaType {
    fn from(format: Format) -> Self {
        match format {
            Format::Mp3 => Self::Mp3,
            Format::Wav => Self::Wav,
            Format::Flac => Self::Flac,
            Format::Opus => Self::Ogg,
            Format::Aac => Self::Aac,
        }
    }
}

/// Writes a text that is spoken into the workspace.
pub(crate) struct TextToSpeech;

#[async_trait]
impl BuiltinTool for TextToSpeech {
    fn name(&self) -> &'static str {
        "text-to-speech"
    }

    async fn call(&self, context: &ToolContext, input: Value) -> Result<Value, ToolError> {
        let input: Input = parse(input)?;
        let characters = input.text.chars().count();
        if characters > MAX_TEXT_CHARS {
            return Err(ToolError::invalid(format!(
                "`text` has {characters} characters, {MAX_TEXT_CHARS} are allowed; say it in parts"
            )));
        }
        let instructions = input.instructions.as_deref().unwrap_or_default();
        check_length("instructions", instructions, MAX_QUESTION_BYTES)?;
        until_stopped(context, speak(context, input)).await
    }
}

async fn speak(context: &ToolContext, input: Input) -> Result<Value, ToolError> {
    let new = NewFile::new(context, input.path, "speech").await?;
    let wanted = NewSpeech {
        text: input.text,
        voice: input.voice,
        instructions: input.instructions,
        format: input.format.map(MediaType::from),
    };
    let said = context.media()?.speak(wanted).await?;
    let file = made(said.bytes, &said.by.provider)?;
    if file.media_type.kind() == MediaKind::Image {
        let (provider, mime) = (&said.by.provider, file.media_type.mime());
        return Err(ToolError::failed(format!(
            "`{provider}` answered {mime} where a sound was asked for; nothing was written"
        )));
    }
    let mut answer = new.write(context, &file).await?;
    sign(&mut answer, &said.by);
    Ok(answer)
}
