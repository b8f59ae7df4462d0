//! Images in the input of a request.

use base64::prelude::{BASE64_STANDARD, Engine as _};
use rune_store_runtime::{BlobStore, input_parts};
use serde_json::{Value, json};

use super::EngineError;
use crate::agent::SchemaMismatch;

/// Images in one input at the most.
pub const MAX_INPUT_IMAGES: usize = 20;
/// Bytes of one image at the most: the least of what the providers take.
pub const MAX_IMAGE_BYTES: usize = 5 << 20;
/// An image whose base64 is longer is kept in the blob store, not in the journal.
const MAX_INLINE_CHARS: usize = 64 << 10;
/// The longest URL of an image, in bytes.
const MAX_URL_BYTES: usize = 2048;
/// What every provider can show its models.
const MEDIA_TYPES: [&str; 4] = ["image/jpeg", "image/png", "image/gif", "image/webp"];

/// The input as it is journaled: images are checked, large ones are in the blob store.
pub(super) async fn settle(
    blobs: Option<&dyn BlobStore>,
    mut input: Value,
) -> Result<Value, EngineError> {
    let Value::Array(parts) = &mut input else {
        return Ok(input);
    };
    if parts.is_empty() || !parts.iter().all(looks_like_part) {
        return Ok(input);
    }
    let mut images = 0;
    for (index, part) in parts.iter_mut().enumerate() {
        let wrong = |message: &str| {
            EngineError::Part(SchemaMismatch {
                path: format!("/{index}"),
                message: message.to_owned(),
            })
        };
        let whole = json!([part]);
        if input_parts(&whole).is_none() || part.get("digest").is_some() {
            return Err(wrong(
                "a part is {\"type\":\"text\",\"text\"}, {\"type\":\"image\",\"media_type\",\"data\"} \
                 or {\"type\":\"image\",\"url\"}, with nothing else in it",
            ));
        }
        if part["type"] == "text" {
            continue;
        }
        images += 1;
        if images > MAX_INPUT_IMAGES {
            return Err(wrong(&format!("more than {MAX_INPUT_IMAGES} images")));
        }
        if let Some(url) = part["url"].as_str() {
            let known = url.starts_with("https://") || url.starts_with("http://");
            if !known || url.len() > MAX_URL_BYTES {
                return Err(wrong("the URL of an image is http or https, and short"));
            }
            continue;
        }
        let media_type = part["media_type"].as_str().unwrap_or_default();
        if !MEDIA_TYPES.contains(&media_type) {
            return Err(wrong(&format!(
                "an image is one of {}",
                MEDIA_TYPES.join(", ")
            )));
        }
        let data = part["data"].as_str().unwrap_or_default();
        if data.len() / 4 * 3 > MAX_IMAGE_BYTES + 3 {
            return Err(EngineError::ImageTooLarge);
        }
        let bytes = BASE64_STANDARD
            .decode(data)
            .map_err(|error| wrong(&format!("the data of an image is not base64: {error}")))?;
        if bytes.len() > MAX_IMAGE_BYTES {
            return Err(EngineError::ImageTooLarge);
        }
        if bytes.is_empty() {
            return Err(wrong("an image has no data"));
        }
        if data.len() > MAX_INLINE_CHARS {
            let blobs = blobs.ok_or_else(|| wrong("large images need an object store"))?;
            let digest = blobs.put(bytes.into()).await?;
            *part = json!({"type": "image", "media_type": media_type, "digest": digest});
        }
    }
    Ok(input)
}

/// Whether something in a list claims to be a part.
fn looks_like_part(part: &Value) -> bool {
    let kind = part.get("type").and_then(Value::as_str);
    matches!(kind, Some("text" | "image"))
}
