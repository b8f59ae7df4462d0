//! `rune@file-read`: lines of a text file.

use async_trait::async_trait;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{ENVELOPE_BYTES, parse};
use crate::workspace::Workspace;
use crate::{BuiltinTool, ToolContext, ToolError, blocking, text};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Input {
    path: String,
    #[serde(default = "first_line")]
    offset: u64,
    limit: Option<u64>,
}

fn first_line() -> u64 {
    1
}

/// Reads lines of a text file. The content keeps its line endings. A file that is
/// not UTF-8 is reported with its size, not shown.
pub(crate) struct FileRead;

#[async_trait]
impl BuiltinTool for FileRead {
    fn name(&self) -> &'static str {
        "file-read"
    }

    async fn call(&self, context: &ToolContext, input: Value) -> Result<Value, ToolError> {
        let input: Input = parse(input)?;
        if input.offset == 0 {
            return Err(ToolError::invalid("`offset` counts lines from 1"));
        }
        let workspace = context.workspace.clone();
        let limit = context.output_limit.min(context.shown_limit);
        let budget = limit.saturating_sub(ENVELOPE_BYTES);
        blocking(move || {
            let bytes = Workspace::open(&workspace)?.read(&input.path)?;
            Ok(show(&input, &bytes, budget))
        })
        .await
    }
}

fn show(input: &Input, bytes: &[u8], budget: usize) -> Value {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return json!({ "path": input.path, "binary": true, "size": bytes.len() });
    };
    let total = text.split_inclusive('\n').count() as u64;
    let skip = usize::try_from(input.offset - 1).unwrap_or(usize::MAX);
    let take = input.limit.map_or(usize::MAX, |limit| {
        usize::try_from(limit).unwrap_or(usize::MAX)
    });
    let mut content = String::new();
    let mut left = budget;
    let mut lines = 0_u64;
    let mut line_cut = false;
    for line in text.split_inclusive('\n').skip(skip).take(take) {
        let shown = text::prefix(line, left);
        if shown.len() < line.len() {
            // A first line that does not fit is shown in part: there is no other way to
            // see anything of it.
            if lines == 0 {
                content.push_str(shown);
                lines = 1;
                line_cut = true;
            }
            break;
        }
        content.push_str(shown);
        left -= text::json_bytes(shown);
        lines += 1;
    }
    let next = input.offset.saturating_add(lines);
    let truncated = line_cut || next <= total;
    let mut answer = json!({
        "path": input.path,
        "content": content,
        "offset": input.offset,
        "lines": lines,
        "total_lines": total,
        "size": bytes.len(),
        "truncated": truncated,
    });
    if next <= total {
        answer["next_offset"] = next.into();
    }
    if line_cut {
        answer["line_cut"] = true.into();
    }
    answer
}
