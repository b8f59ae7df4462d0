//! A tool of an MCP server, as the server describes it.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::tool::{
    Limits, RetryPolicy, ToolDescriptor, ToolRuntime, first_required, object_schema,
};

/// What a server says of one of its tools, within the limits that a client puts on it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct McpTool {
    /// The server's name in the Runefile.
    pub server: String,
    /// The tool's name on that server.
    pub name: String,
    /// Told to the model.
    #[serde(default)]
    pub description: String,
    /// JSON Schema of the input.
    pub input_schema: Value,
    /// JSON Schema of the output.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub output_schema: Option<Value>,
    /// Whether it changes nothing; only from a server whose word counts.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub read_only: bool,
    /// Whether calling it twice is the same as once; only from a server whose word counts.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub idempotent: bool,
}

impl McpTool {
    /// The tool as the toolset has it; `timeout` is the longest that a call may take.
    ///
    /// # Errors
    /// Why its input schema is none of a tool.
    pub fn descriptor(&self, timeout: Duration) -> Result<ToolDescriptor, String> {
        let input_schema = object_schema(self.input_schema.clone())?;
        Ok(ToolDescriptor {
            name: self.name.clone(),
            description: self.description.clone(),
            version: semver::Version::new(0, 1, 0),
            runtime: ToolRuntime::Mcp {
                mcp_server: self.server.clone(),
            },
            timeout,
            retry_policy: RetryPolicy {
                max_attempts: 1,
                backoff: Duration::ZERO,
            },
            idempotent: self.idempotent,
            read_only: self.read_only,
            capabilities: Vec::new(),
            primary_argument: first_required(&input_schema),
            input_schema,
            input_schema_ref: None,
            output_schema: self.output_schema.clone(),
            output_schema_ref: None,
            limits: Limits::default(),
        })
    }

    /// What stands for a tool of a server that has not been heard of yet.
    #[must_use]
    pub fn unheard(server: &str, name: &str) -> Self {
        Self {
            server: server.to_owned(),
            name: name.to_owned(),
            description: format!(
                "A tool of the MCP server `{server}`, which has not answered yet."
            ),
            input_schema: json!({ "type": "object" }),
            output_schema: None,
            read_only: false,
            idempotent: false,
        }
    }
}
