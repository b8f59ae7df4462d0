//! What a person may write in `tools/*.yaml`.

use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::Value;

/// One tool.
#[derive(Debug, Deserialize, JsonSchema)]
#[schemars(rename = "Tool")]
#[serde(deny_unknown_fields)]
pub(crate) struct ToolDocument {
    /// 1-64 of letters, digits, `_` and `-`.
    pub(crate) name: String,
    /// Told to the model: what the tool does and when to use it.
    #[serde(default)]
    pub(crate) description: String,
    /// Semantic version.
    #[serde(default = "default_version")]
    pub(crate) version: String,
    /// What runs it.
    #[serde(default)]
    pub(crate) runtime: RuntimeKind,
    /// Program or module, relative to the agent directory (process, wasm).
    pub(crate) module: Option<String>,
    /// Hard limit per attempt, in milliseconds; 5000 when absent, for runtime agent what the request has left.
    pub(crate) timeout_ms: Option<u64>,
    /// When a failed call is repeated.
    #[serde(default)]
    pub(crate) retry_policy: RetryPolicyDocument,
    /// Whether running it twice with the same key is the same as once.
    #[serde(default)]
    pub(crate) idempotent: bool,
    /// Whether it changes nothing.
    #[serde(default)]
    pub(crate) read_only: bool,
    /// `filesystem`, `filesystem:ro:PATH`, `filesystem:rw:PATH`, `network`, `network:HOST[:PORT]`, `env:NAME`,
    /// `secret:NAME`.
    #[serde(default)]
    pub(crate) capabilities: Vec<String>,
    /// JSON Schema of the input.
    pub(crate) input_schema: Option<Value>,
    /// File of the package with the JSON Schema of the input.
    pub(crate) input_schema_ref: Option<String>,
    /// JSON Schema of the output.
    pub(crate) output_schema: Option<Value>,
    /// File of the package with the JSON Schema of the output.
    pub(crate) output_schema_ref: Option<String>,
    /// The input property that policy rules `tool(glob)` look at; the first required text when absent, else the first required
    /// one.
    pub(crate) primary_argument: Option<String>,
    /// `local://[NAMESPACE/]NAME[?alias=ALIAS]` or URL (runtime agent).
    pub(crate) agent_ref: Option<String>,
    /// Deepest level below the outermost request on which the agent may be called (runtime agent).
    pub(crate) max_depth: Option<u32>,
    /// Name of the MCP server (runtime mcp).
    pub(crate) mcp_server: Option<String>,
    /// OCI reference (runtime container).
    pub(crate) image: Option<String>,
    /// Limits besides time.
    #[serde(default)]
    pub(crate) limits: LimitsDocument,
}

fn default_version() -> String {
    "0.1.0".to_owned()
}

/// What runs a tool.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum RuntimeKind {
    /// A child process: JSON on stdin, JSON on stdout.
    #[default]
    Process,
    /// A WASI command or a component exporting `rune:tool`.
    Wasm,
    /// A container per call.
    Container,
    /// Another agent.
    Agent,
    /// A tool of an MCP server.
    Mcp,
    /// Part of Rune.
    Builtin,
}

/// When a failed call is repeated.
#[derive(Debug, Deserialize, JsonSchema)]
#[schemars(rename = "RetryPolicy")]
#[serde(deny_unknown_fields, default)]
pub(crate) struct RetryPolicyDocument {
    /// Attempts in total.
    pub(crate) max_attempts: u32,
    /// Wait before the second attempt, in milliseconds; doubles for each further one.
    pub(crate) backoff_ms: u64,
}

impl Default for RetryPolicyDocument {
    fn default() -> Self {
        Self {
            max_attempts: 1,
            backoff_ms: 100,
        }
    }
}

/// Limits besides time; absent means the platform's default.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[schemars(rename = "Limits")]
#[serde(deny_unknown_fields)]
pub(crate) struct LimitsDocument {
    /// Memory in MiB.
    pub(crate) memory_mb: Option<u64>,
    /// WASM fuel.
    pub(crate) fuel: Option<u64>,
    /// CPU time in milliseconds.
    pub(crate) cpu_ms: Option<u64>,
    /// Processes and threads at a time; process tools and containers.
    pub(crate) processes: Option<u64>,
    /// Bytes of output.
    pub(crate) output_bytes: Option<u64>,
}
