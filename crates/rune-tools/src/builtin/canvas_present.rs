//! `rune@canvas-present`: shows something in a browser.

use std::fmt::Write as _;

use async_trait::async_trait;
use rune_store_runtime::{CANVAS_WINDOW, CachePut, Canvas, CanvasFormat, RequestId};
use serde::Deserialize;
use serde_json::{Value, json};

use super::parse;
use crate::identity::repeatable_id;
use crate::{BuiltinTool, ToolContext, ToolError};

/// The largest content, in bytes.
const MAX_CONTENT_BYTES: usize = 1024 * 1024;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Input {
    title: String,
    format: CanvasFormat,
    content: String,
}

/// Stores a page, a drawing or a text under an id that cannot be guessed.
pub(crate) struct CanvasPresent;

#[async_trait]
impl BuiltinTool for CanvasPresent {
    fn name(&self) -> &'static str {
        "canvas-present"
    }

    async fn call(&self, context: &ToolContext, input: Value) -> Result<Value, ToolError> {
        let input: Input = parse(input)?;
        let bytes = input.content.len();
        if bytes > MAX_CONTENT_BYTES {
            return Err(ToolError::invalid(format!(
                "the content has {bytes} bytes, {MAX_CONTENT_BYTES} are allowed"
            )));
        }
        let Some(blobs) = &context.outputs.blobs else {
            return Err(ToolError::unavailable(
                "there is no object store to keep it in",
            ));
        };
        let digest = blobs.put(input.content.into_bytes().into()).await?;
        let canvas = Canvas {
            title: input.title,
            format: input.format,
            digest,
        };
        let id = fresh_id();
        let value = serde_json::to_value(&canvas)
            .map_err(|error| ToolError::failed(format!("it cannot be stored: {error}")))?;
        let put = CachePut {
            key: Canvas::key(&id),
            value,
            expires_at: context.store.now().plus(CANVAS_WINDOW),
        };
        context.store.write(put).await?;
        Ok(json!({ "canvas_id": id, "path": format!("/canvas/{id}"), "bytes": bytes }))
    }
}

/// Random where request ids are, so twice as much as one of them.
fn fresh_id() -> String {
    let random = format!("{}{}", RequestId::generate(), RequestId::generate());
    let mut id = String::new();
    for byte in repeatable_id(&random, "canvas") {
        // Writing to a string cannot fail.
        let _ = write!(id, "{byte:02x}");
    }
    id
}
