//! `rune@process-write`: writes to the standard input of a process.

use std::sync::Arc;

use async_trait::async_trait;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{parse, processes};
use crate::processes::Processes;
use crate::{BuiltinTool, ToolContext, ToolError};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Input {
    process_id: String,
    #[serde(default)]
    text: String,
    #[serde(default)]
    close: bool,
}

/// Writes a text as it is; a line needs its newline.
pub(crate) struct ProcessWrite(pub(crate) Arc<Processes>);

#[async_trait]
impl BuiltinTool for ProcessWrite {
    fn name(&self) -> &'static str {
        "process-write"
    }

    async fn call(&self, context: &ToolContext, input: Value) -> Result<Value, ToolError> {
        let input: Input = parse(input)?;
        let Some(process) = processes::find(&self.0, context, &input.process_id).await? else {
            return Err(ToolError::failed("the process ended with the daemon"));
        };
        tokio::select! {
            () = context.cancel.cancelled() => return Err(ToolError::cancelled()),
            written = process.write(input.text.as_bytes(), input.close) => written?,
        }
        Ok(json!({ "process_id": process.id, "written": input.text.len() }))
    }
}
