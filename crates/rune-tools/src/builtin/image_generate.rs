//! `rune@image-generate`: has a picture made.

use async_trait::async_trait;
use serde::Deserialize;
use serde_json::Value;

use super::media::{check_length, sign, until_stopped};
use super::parse;
use crate::image::MAX_IMAGE_BYTES;
use crate::media::{MediaKind, NewFile, made};
use crate::{BuiltinTool, NewImage, ToolContext, ToolError};

/// Bytes of the longest prompt; OpenAI takes 32,000 characters.
const MAX_PROMPT_BYTES: usize = 32_000;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Input {
    prompt: String,
    #[serde(default)]
    shape: Shape,
    path: Option<String>,
}

#[derive(Clone, Copy, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Shape {
    /// The model decides.
    #[default]
    Auto,
    Square,
    Landscape,
    Portrait,
}

impl Shape {
    const fn ratio(self) -> Option<(u32, u32)> {
        match self {
            Self::Auto => None,
            Self::Square => Some((1, 1)),
            Self::Landscape => Some((3, 2)),
            Self::Portrait => Some((2, 3)),
        }
    }
}

/// Makes a picture, writes it into the workspace and shows it to the model.
pub(crate) struct ImageGenerate;

#[async_trait]
impl BuiltinTool for ImageGenerate {
    fn name(&self) -> &'static str {
        "image-generate"
    }

    async fn call(&self, context: &ToolContext, input: Value) -> Result<Value, ToolError> {
        let input: Input = parse(input)?;
        check_length("prompt", &input.prompt, MAX_PROMPT_BYTES)?;
        until_stopped(context, draw(context, input)).await
    }
}

async fn draw(context: &ToolContext, input: Input) -> Result<Value, ToolError> {
    let new = NewFile::new(context, input.path, "image").await?;
    let wanted = NewImage {
        prompt: input.prompt,
        shape: input.shape.ratio(),
    };
    let drawn = context.media()?.draw(wanted).await?;
    let file = made(drawn.bytes, &drawn.by.provider)?;
    if file.media_type.kind() != MediaKind::Image {
        let (provider, mime) = (&drawn.by.provider, file.media_type.mime());
        return Err(ToolError::failed(format!(
            "`{provider}` answered {mime} where a picture was asked for; nothing was written"
        )));
    }
    let mut answer = new.write(context, &file).await?;
    if file.bytes.len() <= MAX_IMAGE_BYTES && context.outputs.blobs.is_some() {
        // It is paid for and written, so it is there without a handle, too.
        match context.images.add(file.media_type.mime(), file.bytes).await {
            Ok(shown) => answer["handle"] = shown.handle().into(),
            Err(error) => {
                answer["not_shown"] = format!(
                    "the picture has no handle and is not shown: {}",
                    error.message
                )
                .into();
            }
        }
    }
    if let Some(text) = drawn.text {
        answer["text"] = text.into();
    }
    sign(&mut answer, &drawn.by);
    Ok(answer)
}
