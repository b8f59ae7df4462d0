//! What a person may write in a Runefile.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::Value;

use super::MemoryProfile;
use super::models::ModelsDocument;
use super::settings::RuntimeDocument;
use crate::policy::{ApprovalDefault, PolicyMode};

/// One agent: its instructions, its model, its tools and its limits.
#[derive(Debug, Deserialize, JsonSchema)]
#[schemars(rename = "Runefile")]
#[serde(deny_unknown_fields)]
pub(crate) struct RunefileDocument {
    /// Routing key: 1-63 of `a-z0-9-`, starts and ends alphanumeric.
    #[schemars(regex(pattern = r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$"))]
    pub(crate) name: String,
    /// Semantic version.
    pub(crate) version: String,
    /// Shown in cards and lists.
    pub(crate) description: Option<String>,
    /// System prompt; required unless `instructions_file` names a file.
    pub(crate) instructions: Option<String>,
    /// A file inside the package that holds the system prompt.
    pub(crate) instructions_file: Option<String>,
    /// Alias in `models.model_mapping`.
    pub(crate) default_model: String,
    /// `rune@NAME` built-ins, names from `tools/*.yaml`, `server/tool` or `server/*` from MCP.
    #[serde(default)]
    pub(crate) toolset: Vec<String>,
    /// How many tools the model is shown at once; it finds the others with `rune@tool-search`.
    #[serde(default)]
    pub(crate) tool_search: ToolSearchDocument,
    /// How much of a session the model sees.
    #[serde(default)]
    pub(crate) memory_profile: MemoryProfile,
    /// Model turns per request, hard.
    #[serde(default = "default_max_steps")]
    pub(crate) max_steps: u32,
    /// Hard limit per request, in milliseconds; time parked for approval is not counted.
    #[serde(default = "default_timeout_ms")]
    pub(crate) timeout_ms: u64,
    /// Passed to the router.
    #[serde(default)]
    pub(crate) routing_hints: BTreeMap<String, Value>,
    /// Two agents may call each other only when they share one.
    #[serde(default = "default_networks")]
    pub(crate) networks: Vec<String>,
    /// MCP servers: `{name, url, headers}` or `{name, command, args, env}`; also `required`, `timeout_ms` and
    /// `trust_annotations`.
    #[serde(default)]
    pub(crate) mcp_servers: Vec<McpServerDocument>,
    /// JSON Schema the input is validated against.
    pub(crate) input_schema: Option<Value>,
    /// JSON Schema the output is made to conform to.
    pub(crate) output_schema: Option<Value>,
    /// Which calls run, ask or are refused.
    #[serde(default)]
    pub(crate) policy: PolicyDocument,
    /// Hard limits of consumption.
    #[serde(default)]
    pub(crate) budget: BudgetDocument,
    /// A WASM component exporting the `rune:agent` world, instead of the built-in planner.
    pub(crate) entrypoint: Option<String>,
    /// How replicas run.
    #[serde(default)]
    pub(crate) runtime: RuntimeDocument,
    /// Which models answer.
    #[serde(default)]
    pub(crate) models: ModelsDocument,
}

fn default_max_steps() -> u32 {
    20
}

fn default_timeout_ms() -> u64 {
    120_000
}

fn default_networks() -> Vec<String> {
    vec!["bridge".to_owned()]
}

/// When the model is not shown every tool, and which ones it always is.
#[derive(Debug, Deserialize, JsonSchema)]
#[schemars(rename = "ToolSearch")]
#[serde(deny_unknown_fields, default)]
pub(crate) struct ToolSearchDocument {
    /// `false`: the model is shown every tool, however many there are.
    pub(crate) enabled: bool,
    /// Most tools that it is shown without a search.
    pub(crate) max_tools: u32,
    /// Most tokens that their descriptions and schemas may have together, estimated.
    pub(crate) max_tokens: u64,
    /// Entries of the toolset that it is always shown; `server/tool` and `server/*` of what the toolset takes of a server.
    pub(crate) pinned: Vec<String>,
}

impl Default for ToolSearchDocument {
    fn default() -> Self {
        Self {
            enabled: true,
            max_tools: 40,
            max_tokens: 10_000,
            pinned: Vec::new(),
        }
    }
}

/// An MCP server, reached by URL or started as a child process.
#[derive(Debug, Deserialize, JsonSchema)]
#[schemars(rename = "McpServer")]
#[serde(deny_unknown_fields)]
pub(crate) struct McpServerDocument {
    /// The name used in `toolset` before the `/`.
    pub(crate) name: String,
    /// Streamable HTTP endpoint.
    pub(crate) url: Option<String>,
    /// Sent with each request to `url`.
    #[schemars(with = "Option<BTreeMap<String, crate::checker::Scalar>>")]
    pub(crate) headers: Option<BTreeMap<String, String>>,
    /// Program to start (stdio).
    pub(crate) command: Option<String>,
    /// Arguments of `command`.
    pub(crate) args: Option<Vec<String>>,
    /// Variables for `command`.
    #[schemars(with = "Option<BTreeMap<String, crate::checker::Scalar>>")]
    pub(crate) env: Option<BTreeMap<String, String>>,
    /// What `command` may reach, as of a process tool: `filesystem`, `filesystem:ro:PATH`, `filesystem:rw:PATH`, `network`,
    /// `network:HOST[:PORT]`, `env:NAME`, `secret:NAME`. With `url` only `secret:NAME`: `${NAME}` in `headers`.
    #[serde(default)]
    pub(crate) capabilities: Vec<String>,
    /// What `command` may use up.
    pub(crate) limits: Option<ServerLimitsDocument>,
    /// Whether the agent cannot start without it.
    #[serde(default)]
    pub(crate) required: bool,
    /// The longest that a call of one of its tools may take, in milliseconds.
    #[serde(default = "default_server_timeout_ms")]
    pub(crate) timeout_ms: u64,
    /// Whether what it says of its tools counts: that one changes nothing (`readOnlyHint`) or may be called again
    /// (`idempotentHint`).
    #[serde(default)]
    pub(crate) trust_annotations: bool,
}

/// What a server that is a process may use up; absent means the platform's default.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[schemars(rename = "McpServerLimits")]
#[serde(deny_unknown_fields)]
pub(crate) struct ServerLimitsDocument {
    /// Memory in MiB, of one process and of all together.
    pub(crate) memory_mb: Option<u64>,
    /// CPU time of all its processes together, in milliseconds, from its start on.
    pub(crate) cpu_ms: Option<u64>,
    /// Processes and threads at a time.
    pub(crate) processes: Option<u64>,
}

fn default_server_timeout_ms() -> u64 {
    60_000
}

/// Rules `tool` or `tool(argument-glob)`; deny wins, then ask, then allow.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[schemars(rename = "Policy")]
#[serde(deny_unknown_fields)]
pub(crate) struct PolicyDocument {
    /// What happens to a call that no rule names.
    #[serde(default)]
    pub(crate) mode: PolicyMode,
    /// Calls that run without asking.
    #[serde(default)]
    pub(crate) allow: Vec<String>,
    /// Calls that wait for a person.
    #[serde(default)]
    pub(crate) ask: Vec<String>,
    /// Calls that never run.
    #[serde(default)]
    pub(crate) deny: Vec<String>,
    /// A Cedar policy file inside the package.
    pub(crate) file: Option<String>,
    /// How a person is asked.
    #[serde(default)]
    pub(crate) approval: ApprovalDocument,
}

/// How long a call waits for a person, and what counts then.
#[derive(Debug, Deserialize, JsonSchema)]
#[schemars(rename = "Approval")]
#[serde(deny_unknown_fields, default)]
pub(crate) struct ApprovalDocument {
    /// How long it waits, in milliseconds; 0: without end.
    pub(crate) timeout_ms: u64,
    /// What counts when nobody has decided by then.
    pub(crate) default: ApprovalDefault,
}

impl Default for ApprovalDocument {
    fn default() -> Self {
        Self {
            timeout_ms: 24 * 60 * 60 * 1000,
            default: ApprovalDefault::default(),
        }
    }
}

/// Hard limits of consumption; absent means no limit of this kind.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[schemars(rename = "Budget")]
#[serde(deny_unknown_fields)]
pub(crate) struct BudgetDocument {
    /// Input and output tokens per request.
    pub(crate) tokens: Option<u64>,
    /// Cost per request, in US dollars.
    pub(crate) cost_usd: Option<f64>,
    /// Tool calls per request.
    pub(crate) tool_calls: Option<u64>,
    /// Wall time per request, in milliseconds.
    pub(crate) wall_ms: Option<u64>,
    /// Cost per day of the deployment, in US dollars; days end at midnight in UTC.
    pub(crate) cost_usd_per_day: Option<f64>,
    /// Input and output tokens per day of the deployment.
    pub(crate) tokens_per_day: Option<u64>,
    /// Of all requests of a session together.
    #[serde(default)]
    pub(crate) session: SessionBudgetDocument,
}

/// Hard limits of what all requests of a session consume together.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[schemars(rename = "SessionBudget")]
#[serde(deny_unknown_fields)]
pub(crate) struct SessionBudgetDocument {
    /// Input and output tokens.
    pub(crate) tokens: Option<u64>,
    /// Cost, in US dollars.
    pub(crate) cost_usd: Option<f64>,
}
