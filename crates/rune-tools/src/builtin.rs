//! One file per built-in tool.

mod answer;
mod apply_patch;
mod file_list;
mod file_read;
mod file_write;
mod knowledge_add_entity;
mod knowledge_add_relation;
mod knowledge_query;
mod memory_list;
mod memory_recall;
mod memory_store;
mod output_read;
mod shell_exec;
mod system_time;
mod web_fetch;

use std::sync::Arc;

use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::tool::ENVELOPE_BYTES;
use crate::web::WebClient;
use crate::{BuiltinTool, BuiltinsConfig, ToolError};

/// Every built-in tool, by name.
pub(crate) fn all(config: BuiltinsConfig) -> Vec<Arc<dyn BuiltinTool>> {
    vec![
        Arc::new(apply_patch::ApplyPatch),
        Arc::new(file_list::FileList),
        Arc::new(file_read::FileRead),
        Arc::new(file_write::FileWrite),
        Arc::new(knowledge_add_entity::KnowledgeAddEntity),
        Arc::new(knowledge_add_relation::KnowledgeAddRelation),
        Arc::new(knowledge_query::KnowledgeQuery),
        Arc::new(memory_list::MemoryList),
        Arc::new(memory_recall::MemoryRecall),
        Arc::new(memory_store::MemoryStore),
        Arc::new(output_read::OutputRead),
        Arc::new(shell_exec::ShellExec::new(
            config.search_path,
            config.launcher,
        )),
        Arc::new(system_time::SystemTime),
        Arc::new(web_fetch::WebFetch::new(WebClient::new(config.egress))),
    ]
}

/// The typed form of an input.
fn parse<T: DeserializeOwned>(input: Value) -> Result<T, ToolError> {
    serde_json::from_value(input)
        .map_err(|error| ToolError::invalid(format!("the input is not valid: {error}")))
}
