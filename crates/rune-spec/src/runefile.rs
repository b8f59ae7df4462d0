//! The Runefile: what one agent is.

mod document;
mod mcp_servers;
mod models;
mod settings;
mod validate;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::capability::Capability;
use crate::document::Document;
use crate::error::SpecErrors;
use crate::name::AgentName;
use crate::policy::Policy;
use crate::tool::Limits;
use crate::tool_ref::ToolRef;

pub(crate) use document::{PolicyDocument, RunefileDocument};
pub use models::{
    Endpoint, FallbackPolicy, ModelName, Models, Protocol, ReasoningEffort, SafetyPolicy,
};
pub use settings::{CheckpointPolicy, HealthProbe, ResourceProfile, RuntimeSettings};
pub(crate) use validate::policy;

/// A valid Runefile.
///
/// Strings that may hold `${VAR}` are raw: instructions, MCP URLs, headers and arguments, `runtime.env`,
/// `runtime.image`, endpoint URLs and keys.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Runefile {
    /// Routing key.
    pub name: AgentName,
    /// The agent's version.
    pub version: semver::Version,
    /// Shown in cards and lists.
    pub description: Option<String>,
    /// The system prompt, or the file that holds it.
    pub instructions: Instructions,
    /// Alias in `models.model_mapping`, or a model id when there is no mapping.
    pub default_model: String,
    /// The tools the model may call, in the order of the file.
    pub toolset: Vec<ToolRef>,
    /// When the model is not shown every tool.
    pub tool_search: ToolSearch,
    /// How much of a session the model sees.
    pub memory_profile: MemoryProfile,
    /// Model turns per request, hard.
    pub max_steps: u32,
    /// Hard limit per request; time parked for approval is not counted.
    #[serde(rename = "timeout_ms", serialize_with = "crate::tool::as_millis")]
    pub timeout: Duration,
    /// Passed to the router.
    pub routing_hints: BTreeMap<String, Value>,
    /// Two agents may call each other only when they share one.
    pub networks: Vec<String>,
    /// MCP servers whose tools the toolset may name.
    pub mcp_servers: Vec<McpServer>,
    /// JSON Schema the input is validated against.
    pub input_schema: Option<Value>,
    /// JSON Schema the output is made to conform to.
    pub output_schema: Option<Value>,
    /// Which calls run, ask or are refused.
    pub policy: Policy,
    /// Hard limits of consumption.
    pub budget: Budget,
    /// A WASM component exporting `rune:agent`, instead of the built-in planner.
    pub entrypoint: Option<PathBuf>,
    /// How replicas run.
    pub runtime: RuntimeSettings,
    /// Which models answer.
    pub models: Models,
}

impl Runefile {
    /// Parses and validates the text of a Runefile. `path` only serves the messages.
    ///
    /// # Errors
    /// The first error of the YAML, or every error of meaning.
    pub fn parse(path: &Path, text: &str) -> Result<Self, SpecErrors> {
        Self::parse_with_source(path, text).map(|(runefile, _)| runefile)
    }

    pub(crate) fn parse_with_source(
        path: &Path,
        text: &str,
    ) -> Result<(Self, Document), SpecErrors> {
        let (document, source) = Document::parse::<RunefileDocument>(path, text)?;
        Ok((validate::validate(document, &source)?, source))
    }
}

/// Where the system prompt comes from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Instructions {
    /// In the Runefile.
    Text(String),
    /// In this file of the package; [`crate::AgentPackage`] holds its text.
    File(PathBuf),
}

/// When the model is not shown every tool, and which ones it always is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ToolSearch {
    /// Whether there are tools that it has to search for, where there are many.
    pub enabled: bool,
    /// Most tools that it is shown without a search.
    pub max_tools: u32,
    /// Most tokens that their descriptions and schemas may have together, estimated.
    pub max_tokens: u64,
    /// What it is always shown.
    pub pinned: Vec<ToolRef>,
}

impl ToolSearch {
    /// Whether a tool is always shown; `reference` is its name in the toolset form.
    #[must_use]
    pub fn pins(&self, reference: &str) -> bool {
        self.pinned.iter().any(|pinned| match pinned {
            ToolRef::McpAll(server) => reference
                .split_once('/')
                .is_some_and(|(of, _)| of == server),
            pinned => pinned.to_string() == reference,
        })
    }
}

/// How much of a session the model sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum MemoryProfile {
    /// Only this turn.
    Minimal,
    /// A recent window.
    #[default]
    Standard,
    /// All, up to the token budget, with compaction.
    Extended,
}

/// An MCP server of the agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct McpServer {
    /// The name used in `toolset` before the `/`.
    pub name: String,
    /// How to reach it.
    #[serde(flatten)]
    pub transport: McpTransport,
    /// What it is granted: what a process may reach, and the secrets that `headers` and `env` may name.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub capabilities: Vec<Capability>,
    /// Whether the agent cannot start without it.
    pub required: bool,
    /// The longest that a call of one of its tools may take.
    #[serde(rename = "timeout_ms", serialize_with = "crate::tool::as_millis")]
    pub timeout: Duration,
    /// Whether its own word on a tool counts: `readOnlyHint`, `idempotentHint`.
    pub trust_annotations: bool,
}

/// How to reach an MCP server. Every text is raw.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum McpTransport {
    /// Streamable HTTP.
    Http {
        /// The endpoint.
        url: String,
        /// Sent with each request.
        headers: BTreeMap<String, String>,
    },
    /// A child process speaking over stdin and stdout.
    Stdio {
        /// The program.
        command: String,
        /// Its arguments.
        args: Vec<String>,
        /// Variables added to its otherwise empty environment.
        env: BTreeMap<String, String>,
        /// What it may use up: memory, CPU time and processes.
        limits: Limits,
    },
}

/// Hard limits of consumption; absent means no limit of this kind.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize)]
pub struct Budget {
    /// Input and output tokens per request.
    pub tokens: Option<u64>,
    /// Cost per request, in US dollars.
    pub cost_usd: Option<f64>,
    /// Tool calls per request.
    pub tool_calls: Option<u64>,
    /// Wall time per request, in milliseconds.
    pub wall_ms: Option<u64>,
    /// Cost per day of the deployment, in US dollars.
    pub cost_usd_per_day: Option<f64>,
    /// Input and output tokens per day of the deployment.
    pub tokens_per_day: Option<u64>,
    /// Of all requests of a session together.
    pub session: SessionBudget,
}

/// Hard limits of what all requests of a session consume together.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize)]
pub struct SessionBudget {
    /// Input and output tokens.
    pub tokens: Option<u64>,
    /// Cost, in US dollars.
    pub cost_usd: Option<f64>,
}
