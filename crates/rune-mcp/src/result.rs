//! What a call of a tool comes to.

use rmcp::model::{CallToolResult, ContentBlock};
use rune_tools::{ToolError, ToolErrorKind};
use serde_json::{Value, json};

use crate::limits::ERROR_CHARS;
use crate::listing::clean;

/// The output of a tool: its structured content, else its text, else all blocks of its content.
///
/// # Errors
/// [`ToolErrorKind::Failed`] where the server says that the call failed; `OutputTooLarge` beyond `limit` bytes.
pub fn read_result(result: CallToolResult, limit: usize) -> Result<Value, ToolError> {
    if result.is_error == Some(true) {
        let text = texts(&result.content);
        let message = match clean(&text, ERROR_CHARS) {
            text if text.is_empty() => {
                "the server says that the call failed, and not why".to_owned()
            }
            text => text,
        };
        return Err(ToolError::new(ToolErrorKind::Failed, message));
    }
    let output = match (result.structured_content, result.content.as_slice()) {
        (Some(structured), _) => structured,
        (None, []) => Value::Null,
        (None, [ContentBlock::Text(text)]) => Value::String(text.text.clone()),
        (None, blocks) => json!({ "content": blocks }),
    };
    let bytes = output.to_string().len();
    if bytes > limit {
        return Err(ToolError::new(
            ToolErrorKind::OutputTooLarge,
            format!("the server answered {bytes} bytes, more than {limit}"),
        ));
    }
    Ok(output)
}

fn texts(blocks: &[ContentBlock]) -> String {
    let texts = blocks.iter().filter_map(|block| match block {
        ContentBlock::Text(text) => Some(text.text.as_str()),
        _ => None,
    });
    texts.collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(result: Value) -> Result<Value, String> {
        let result = serde_json::from_value(result).unwrap();
        read_result(result, 100).map_err(|error| error.message)
    }

    #[test]
    fn takes_what_a_model_can_use_best() {
        let text = |text: &str| json!({"type": "text", "text": text});
        let image = json!({"type": "image", "data": "AA==", "mimeType": "image/png"});
        for (result, expected) in [
            (
                json!({"content": [text("5")], "structuredContent": {"sum": 5}}),
                json!({"sum": 5}),
            ),
            (json!({"content": [text("five")]}), json!("five")),
            (json!({"content": []}), Value::Null),
            (
                json!({"content": [text("a"), image.clone()]}),
                json!({"content": [text("a"), image]}),
            ),
        ] {
            assert_eq!(read(result), Ok(expected));
        }
    }

    #[test]
    fn an_error_and_an_output_that_is_too_large_are_failures() {
        let error = json!({"content": [{"type": "text", "text": "no such file"}], "isError": true});
        assert_eq!(read(error), Err("no such file".to_owned()));
        let large = json!({"content": [{"type": "text", "text": "x".repeat(200)}]});
        assert!(read(large).unwrap_err().contains("202 bytes"));
    }
}
