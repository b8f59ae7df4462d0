//! An agent that is ready to run: its package, its tools with their runners and
//! validators, its models and its limits.

mod changed;
mod deferred;
mod error;
mod loader;
mod mcp;
mod models;
mod reach;
mod schema;
mod tool;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use jsonschema::Validator;
use rune_spec::{AgentPackage, Runefile, TOOL_SEARCH};
use rune_store_runtime::{ErrorCode, Failure, PromptParts};
use rune_tools::{Diagnostics, ProcessRunner, RemoteAgents};
use rune_wasm::WasmAgent;
use serde_json::Value;

use crate::budget::micro_usd;
use crate::model::media::{MediaCandidate, MediaRequest, candidates};
use crate::model::{ProviderPool, Providers, ProvidersConfig, ToolDefinition};
use crate::policy::PolicyEngine;
use crate::secrets::SecretVault;
use crate::tokens;

use deferred::Offer;
pub use deferred::ToolCost;
pub(crate) use deferred::{MAX_PROMPT_TOOLS, found_in, visible};
pub use error::AgentError;
pub use loader::{AgentLoader, VariableLookup};
use mcp::McpTools;
pub use mcp::{McpRunner, McpServerReport, McpToolReport};
pub use schema::SchemaMismatch;
use schema::{check, mismatch};
pub(crate) use tool::{AGENT_SPAWN, named_agent};
pub use tool::{AgentTarget, AgentTool, Tool, ToolRunner};

/// Mismatches of an answer that the model is told at once.
const MISMATCHES_SHOWN: usize = 5;

/// An agent that is ready to run. Immutable and shared by every request it serves.
pub struct Agent {
    package: AgentPackage,
    system: String,
    tools: Arc<BTreeMap<String, Arc<Tool>>>,
    /// Finds those of them that a model is not shown.
    searcher: Arc<Tool>,
    offer: Offer,
    fixed_prompt: PromptParts,
    /// What its MCP servers offer.
    mcp: Option<Arc<McpTools>>,
    models: Providers,
    /// What `models` was made of, for a fork that asks others.
    models_config: ProvidersConfig,
    pool: ProviderPool,
    policy: Arc<PolicyEngine>,
    runner: ProcessRunner,
    secrets: SecretVault,
    diagnostics: Diagnostics,
    input: Option<Arc<Validator>>,
    output: Option<Arc<OutputContract>>,
    workspace: PathBuf,
    /// What runs in the planner's place.
    component: Option<Arc<WasmAgent>>,
    remotes: RemoteAgents,
}

impl Agent {
    /// What the Runefile says.
    #[must_use]
    pub const fn spec(&self) -> &Runefile {
        &self.package.runefile
    }

    /// The package.
    #[must_use]
    pub const fn package(&self) -> &AgentPackage {
        &self.package
    }

    /// Reaches agents of other installations.
    pub(crate) const fn remotes(&self) -> &RemoteAgents {
        &self.remotes
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        self.package.runefile.name.as_str()
    }

    /// The system prompt.
    #[must_use]
    pub fn system(&self) -> &str {
        &self.system
    }

    /// The tool with this model-visible name.
    #[must_use]
    pub fn tool(&self, visible_name: &str) -> Option<&Tool> {
        let searcher =
            || (self.defers() && visible_name == visible(TOOL_SEARCH)).then_some(&self.searcher);
        let tool = self.tools.get(visible_name).or_else(searcher);
        tool.map(AsRef::as_ref)
    }

    /// Its tools by model-visible name.
    pub fn tools(&self) -> impl Iterator<Item = (&str, &Tool)> {
        let tools = self.tools.iter();
        tools.map(|(name, tool)| (name.as_str(), tool.as_ref()))
    }

    /// The tool with this name in the package, where it works with containers.
    pub(crate) fn docker_tool(&self, name: &str) -> Option<&Arc<Tool>> {
        let mut tools = self.tools.values();
        tools.find(|tool| tool.name == name && tool.needs_docker())
    }

    /// How much its tools have begun that goes on in this process beside requests: processes, pages of a browser.
    #[must_use]
    pub fn held(&self) -> usize {
        let held = |tool: &Arc<Tool>| match &tool.runner {
            ToolRunner::Builtin(builtin) => builtin.held(),
            ToolRunner::Process(_)
            | ToolRunner::Wasm(_)
            | ToolRunner::Container(_)
            | ToolRunner::Agent(_)
            | ToolRunner::Mcp(_) => 0,
        };
        self.tools.values().map(held).sum()
    }

    /// Looks for what its tools need from outside: the images of those that are containers.
    ///
    /// # Errors
    /// An [`AgentError`] that names the tool and what is missing.
    pub async fn prepare(&self) -> Result<(), AgentError> {
        for tool in self.tools.values() {
            if let ToolRunner::Container(container) = &tool.runner {
                let prepared = container.prepare().await;
                prepared.map_err(|source| AgentError::Container {
                    tool: tool.name.clone(),
                    source,
                })?;
            }
        }
        Ok(())
    }

    /// The component that runs in the planner's place, where the Runefile names one.
    #[must_use]
    pub const fn component(&self) -> Option<&Arc<WasmAgent>> {
        self.component.as_ref()
    }

    /// Whether its tools can be others from one moment to the next.
    pub(crate) const fn has_mcp_servers(&self) -> bool {
        self.mcp.is_some()
    }

    /// The models that answer to an alias, in order of preference.
    ///
    /// # Errors
    /// What is wrong with the alias, for whoever asked for it.
    pub(crate) fn models_of(&self, alias: &str) -> Result<Providers, String> {
        if !self.models_config.model_mapping.contains_key(alias) {
            return Err(format!("`{alias}` is no alias of `models.model_mapping`"));
        }
        let config = self.models_config.asking(alias);
        Providers::new(&config, &self.pool).map_err(|error| error.to_string())
    }

    /// What the model is told in every prompt about the tools, sorted by name.
    #[must_use]
    pub fn definitions(&self) -> &[ToolDefinition] {
        &self.offer.shown
    }

    /// The part of every prompt that is the same for all requests, in estimated tokens.
    #[must_use]
    pub const fn fixed_prompt(&self) -> PromptParts {
        self.fixed_prompt
    }

    /// The models that answer, in order of preference.
    #[must_use]
    pub const fn models(&self) -> &Providers {
        &self.models
    }

    /// The models that can do something that is no conversation, in order of preference.
    ///
    /// # Errors
    /// Why there is none, and what to do.
    pub(crate) fn media_models(
        &self,
        request: &MediaRequest,
    ) -> Result<Vec<MediaCandidate>, String> {
        candidates(&self.models_config, &self.pool, request)
    }

    /// What it may do.
    #[must_use]
    pub const fn policy(&self) -> &Arc<PolicyEngine> {
        &self.policy
    }

    /// What runs its process tools.
    #[must_use]
    pub const fn runner(&self) -> &ProcessRunner {
        &self.runner
    }

    /// The secrets that its tools are granted of.
    #[must_use]
    pub const fn secrets(&self) -> &SecretVault {
        &self.secrets
    }

    /// Where goes what its tools say beside their answers.
    #[must_use]
    pub const fn diagnostics(&self) -> &Diagnostics {
        &self.diagnostics
    }

    /// The directory its tools may read and write.
    #[must_use]
    pub fn workspace(&self) -> &Path {
        &self.workspace
    }

    /// Requests a replica runs at the most.
    #[must_use]
    pub const fn concurrency_limit(&self) -> u32 {
        self.package.runefile.runtime.concurrency_limit
    }

    /// Longest time a request may take.
    #[must_use]
    pub fn timeout(&self) -> Duration {
        let spec = self.spec();
        let workflow = self.package.workflow.as_ref();
        let wall = spec.budget.wall_ms.map(Duration::from_millis);
        let limits = [
            Some(spec.timeout),
            wall,
            workflow.map(|workflow| workflow.timeout),
        ];
        limits.into_iter().flatten().min().unwrap_or(spec.timeout)
    }

    /// What a request may cost, in millionths of a US dollar.
    #[must_use]
    pub fn cost_budget(&self) -> Option<u64> {
        self.spec().budget.cost_usd.map(micro_usd)
    }

    /// Whether its requests can make requests of other agents.
    #[must_use]
    pub fn calls_agents(&self) -> bool {
        let mut tools = self.tools.values();
        self.package.workflow.is_some()
            || tools.any(|tool| matches!(tool.runner, ToolRunner::Agent(_)))
    }

    /// The end of `what`, a request or a workflow, that took longer than [`Agent::timeout`].
    #[must_use]
    pub fn out_of_time(&self, what: &str) -> Failure {
        let limit = self.timeout();
        let spec = self.spec();
        let workflow = self.package.workflow.as_ref();
        let timeout = workflow.map_or(spec.timeout, |workflow| workflow.timeout.min(spec.timeout));
        let (code, name) = if limit < timeout {
            (ErrorCode::LimitExceeded, "budget.wall_ms")
        } else {
            (ErrorCode::Timeout, "timeout_ms")
        };
        let message = format!(
            "the {what} did not end within {} ms (`{name}`)",
            limit.as_millis()
        );
        Failure::new(code, message)
    }

    /// The setting that [`Agent::token_budget`] comes from.
    #[must_use]
    pub fn token_budget_name(&self) -> &'static str {
        let spec = self.spec();
        match spec.budget.tokens {
            Some(cap) if cap < spec.models.token_budget => "budget.tokens",
            _ => "token_budget",
        }
    }

    /// Tokens a request may use.
    #[must_use]
    pub fn token_budget(&self) -> u64 {
        let spec = self.spec();
        spec.budget.tokens.map_or(spec.models.token_budget, |cap| {
            cap.min(spec.models.token_budget)
        })
    }

    /// The schema of its answers, where it has one.
    #[must_use]
    pub fn output_schema(&self) -> Option<&Arc<Value>> {
        self.output.as_ref().map(|output| &output.schema)
    }

    /// The ways in which an answer breaks `output_schema`, a few of them; none where it
    /// does not.
    #[must_use]
    pub fn output_mismatches(&self, output: &Value) -> Vec<SchemaMismatch> {
        let Some(contract) = &self.output else {
            return Vec::new();
        };
        let errors = contract.validator.iter_errors(output);
        errors.take(MISMATCHES_SHOWN).map(mismatch).collect()
    }

    /// The first way in which the input of a request breaks `input_schema`.
    ///
    /// # Errors
    /// A sentence for the caller.
    pub fn check_input(&self, input: &Value) -> Result<(), SchemaMismatch> {
        self.input
            .as_ref()
            .map_or(Ok(()), |validator| check(validator, input))
    }

    /// What somebody says who has only words, as the agent takes it: text that is JSON is
    /// handed over as such where `input_schema` wants no text.
    #[must_use]
    pub fn fit_input(&self, input: Value) -> Value {
        let Value::String(text) = &input else {
            return input;
        };
        if self.check_input(&input).is_ok() {
            return input;
        }
        match serde_json::from_str(text) {
            Ok(parsed) if self.check_input(&parsed).is_ok() => parsed,
            _ => input,
        }
    }
}

/// What an answer of an agent has to be.
struct OutputContract {
    schema: Arc<Value>,
    validator: Validator,
}

/// What every prompt begins with.
fn fixed_prompt(system: &str, tools: &[ToolDefinition], schema: Option<&Value>) -> PromptParts {
    let schema_bytes = schema.map_or(0, |schema| schema.to_string().len());
    PromptParts {
        instructions: tokens::tokens_of(system.len() + schema_bytes),
        tools: tokens::of_tools(tools),
        ..PromptParts::default()
    }
}
