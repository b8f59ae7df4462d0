//! One file per built-in tool.

mod apply_patch;
mod file_list;
mod file_read;
mod file_write;
mod memory_list;
mod memory_recall;
mod memory_store;
mod output_read;
mod shell_exec;
mod system_time;
mod web_fetch;

pub(crate) use apply_patch::ApplyPatch;
pub(crate) use file_list::FileList;
pub(crate) use file_read::FileRead;
pub(crate) use file_write::FileWrite;
pub(crate) use memory_list::MemoryList;
pub(crate) use memory_recall::MemoryRecall;
pub(crate) use memory_store::MemoryStore;
pub(crate) use output_read::OutputRead;
pub(crate) use shell_exec::ShellExec;
pub(crate) use system_time::SystemTime;
pub(crate) use web_fetch::WebFetch;

use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::ToolError;

/// Room in an answer for everything but its main text.
const ENVELOPE_BYTES: usize = 1024;

/// The typed form of an input.
fn parse<T: DeserializeOwned>(input: Value) -> Result<T, ToolError> {
    serde_json::from_value(input)
        .map_err(|error| ToolError::invalid(format!("the input is not valid: {error}")))
}
