//! What a model is shown of a tool's output. One that is too large is kept in the object
//! store; the model, and the reader of the journal, see its head, its tail and a handle, and
//! `rune@output-read` reads the rest.

use bytes::Bytes;
use rune_store_runtime::{BlobStore, SpilledOutput, StoreError, StoredImage};
use serde_json::Value;

/// The largest output that is shown whole, in bytes of its text.
pub(crate) const SHOWN_LIMIT: usize = 32 * 1024;
/// Bytes that are shown of the beginning of a larger one.
const HEAD: usize = 8 * 1024;
/// Bytes that are shown of its end.
const TAIL: usize = 4 * 1024;

/// An output as it is stored and shown.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct ShownOutput {
    /// The output, unless it was spilled.
    pub(crate) output: Option<Value>,
    /// What the model is shown.
    pub(crate) content: String,
    /// Where the rest is.
    pub(crate) spilled: Option<SpilledOutput>,
    /// Images that the model is shown beside it.
    pub(crate) images: Vec<StoredImage>,
}

/// Settles what is shown of an output. Where a large one cannot be kept apart, it is cut,
/// visibly, and stays in the journal.
pub(crate) async fn settle(
    blobs: Option<&dyn BlobStore>,
    output: Value,
    images: Vec<StoredImage>,
) -> ShownOutput {
    let text = text(&output);
    if text.len() <= SHOWN_LIMIT {
        return ShownOutput {
            output: Some(output),
            content: text,
            spilled: None,
            images,
        };
    }
    let kept = match blobs {
        Some(blobs) => blobs.put(Bytes::from(text.clone())).await,
        None => Err(StoreError::Unavailable(
            "there is no object store".to_owned(),
        )),
    };
    match kept {
        Ok(digest) => {
            let spilled = SpilledOutput::new(digest, text.len() as u64);
            let more = format!(
                "it is kept as `{}`, read more of it with the tool `output-read`",
                spilled.handle
            );
            ShownOutput {
                output: None,
                content: shortened(&text, &more),
                spilled: Some(spilled),
                images,
            }
        }
        Err(error) => {
            tracing::warn!(%error, bytes = text.len(), "a large tool output is cut");
            ShownOutput {
                output: Some(output),
                content: shortened(&text, "the rest could not be kept"),
                spilled: None,
                images,
            }
        }
    }
}

/// An output as text: a string without its quotes, anything else as JSON.
pub(crate) fn text(output: &Value) -> String {
    match output {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// Both ends of a text with a note of what is between them.
fn shortened(text: &str, more: &str) -> String {
    let head = &text[..text.floor_char_boundary(HEAD)];
    let tail = &text[text.ceil_char_boundary(text.len().saturating_sub(TAIL))..];
    let missing = text.len() - head.len() - tail.len();
    format!(
        "{head}\n[… {missing} bytes from byte {} on are left out; the whole output has {} bytes: {more} …]\n{tail}",
        head.len(),
        text.len()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_large_output_that_cannot_be_kept_is_cut_between_characters_and_says_so() {
        let text = "é".repeat(SHOWN_LIMIT);
        let shown = settle(None, Value::String(text.clone()), Vec::new()).await;
        assert!(shown.content.len() < HEAD + TAIL + 200);
        assert!(
            shown
                .content
                .contains("the whole output has 65536 bytes: the rest could not be kept"),
            "{}",
            shown.content
        );
        assert_eq!((shown.output, shown.spilled), (Some(text.into()), None));
    }

    #[tokio::test]
    async fn a_string_output_is_shown_without_quotes() {
        let text = settle(None, Value::String("a\nb".to_owned()), Vec::new()).await;
        assert_eq!(text.content, "a\nb");
        let json = settle(None, serde_json::json!({"a": 1}), Vec::new()).await;
        assert_eq!(json.content, r#"{"a":1}"#);
    }
}
