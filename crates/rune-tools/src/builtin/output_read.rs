//! `rune@output-read`: parts of an output that was too large to be shown.

use async_trait::async_trait;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{ENVELOPE_BYTES, parse};
use crate::{BuiltinTool, ToolContext, ToolError, text};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Input {
    handle: String,
    #[serde(default)]
    offset: u64,
    length: Option<u64>,
}

/// Reads a range of an output of the same session. What it returns is never too large to be
/// shown itself.
pub(crate) struct OutputRead;

#[async_trait]
impl BuiltinTool for OutputRead {
    fn name(&self) -> &'static str {
        "output-read"
    }

    async fn call(&self, context: &ToolContext, input: Value) -> Result<Value, ToolError> {
        let input: Input = parse(input)?;
        let (store, session) = (&context.store, &context.session_id);
        let output = context.outputs.read(store, session, &input.handle).await?;
        let limit = context.shown_limit.min(context.output_limit);
        show(&input, &output, limit.saturating_sub(ENVELOPE_BYTES))
    }
}

fn show(input: &Input, output: &str, budget: usize) -> Result<Value, ToolError> {
    let size = output.len();
    let begin = usize::try_from(input.offset).unwrap_or(usize::MAX);
    if begin > size {
        return Err(ToolError::invalid(format!(
            "`offset` is {}, the output has {size} bytes",
            input.offset
        )));
    }
    let begin = output.floor_char_boundary(begin);
    let length = input.length.and_then(|length| usize::try_from(length).ok());
    // A character that does not fit is shown, so that reading on always leads further.
    let end = output.floor_char_boundary(begin.saturating_add(length.unwrap_or(usize::MAX)));
    let first = output[begin..].chars().next().map_or(0, char::len_utf8);
    let content = text::prefix(&output[begin..end.max(begin + first)], budget);
    let mut answer = json!({
        "handle": input.handle,
        "offset": begin,
        "length": content.len(),
        "size": size,
        "content": content,
    });
    let next = begin + content.len();
    if next < size {
        answer["next_offset"] = next.into();
    }
    Ok(answer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reading_on_gives_the_whole_output() {
        let output = "a\"é€😀\n".repeat(30);
        for (length, budget) in [(None, 60), (Some(1), 60), (Some(7), 1000), (None, 1000)] {
            let (mut read, mut offset) = (String::new(), 0);
            loop {
                let input = Input {
                    handle: "h".to_owned(),
                    offset,
                    length,
                };
                let part = show(&input, &output, budget).unwrap();
                read.push_str(part["content"].as_str().unwrap());
                let Some(next) = part["next_offset"].as_u64() else {
                    break;
                };
                assert!(next > offset);
                offset = next;
            }
            assert_eq!(read, output, "{length:?} {budget}");
        }
    }
}
