//! `rune@file-write`: writes or extends a text file.

use std::io::Write;

use async_trait::async_trait;
use serde::Deserialize;
use serde_json::{Value, json};

use super::parse;
use crate::workspace::{MAX_FILE_BYTES, Workspace, io_error};
use crate::{BuiltinTool, ToolContext, ToolError, blocking};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Input {
    path: String,
    content: String,
    #[serde(default)]
    append: bool,
}

/// Writes a file in one step: a reader sees the old content or the new one, and the
/// new one is on disk when the tool answers. With `append` the text is added to the
/// end, on disk when the tool answers.
pub(crate) struct FileWrite;

#[async_trait]
impl BuiltinTool for FileWrite {
    fn name(&self) -> &'static str {
        "file-write"
    }

    async fn call(&self, context: &ToolContext, input: Value) -> Result<Value, ToolError> {
        let input: Input = parse(input)?;
        if input.content.len() as u64 > MAX_FILE_BYTES {
            return Err(ToolError::invalid(format!(
                "the content is larger than {MAX_FILE_BYTES} bytes"
            )));
        }
        let workspace = context.workspace.clone();
        blocking(move || {
            let workspace = Workspace::open(&workspace)?;
            if input.append {
                append(&workspace, &input)
            } else {
                replace(&workspace, &input)
            }
        })
        .await
    }
}

fn replace(workspace: &Workspace, input: &Input) -> Result<Value, ToolError> {
    workspace
        .stage(&input.path, input.content.as_bytes())?
        .commit()
        .map_err(|error| io_error("write", &input.path, &error))?;
    let bytes = input.content.len();
    Ok(json!({ "path": input.path, "bytes_written": bytes, "size": bytes }))
}

fn append(workspace: &Workspace, input: &Input) -> Result<Value, ToolError> {
    let failed = |error| io_error("write", &input.path, &error);
    let mut file = workspace.open_append(&input.path)?;
    let old = file.metadata().map_err(failed)?.len();
    if old.saturating_add(input.content.len() as u64) > MAX_FILE_BYTES {
        return Err(ToolError::invalid(format!(
            "`{}` would be larger than {MAX_FILE_BYTES} bytes",
            input.path
        )));
    }
    file.write_all(input.content.as_bytes()).map_err(failed)?;
    file.sync_all().map_err(failed)?;
    let size = file.metadata().map_err(failed)?.len();
    Ok(json!({
        "path": input.path,
        "bytes_written": input.content.len(),
        "size": size,
    }))
}
