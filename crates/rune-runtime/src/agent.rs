//! An agent that is ready to run: its package, its tools with their runners and
//! validators, its models and its limits.

mod changed;
mod deferred;
mod mcp;
mod models;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use jsonschema::{ValidationError, Validator};
use rune_docker::{ContainerTool, DockerEngine, DockerError};
use rune_mcp::{McpClient, McpError, McpServers};
use rune_spec::{
    AgentPackage, AgentRef, LocalAgent, MissingVariable, Runefile, SpecErrors, TOOL_SEARCH,
    ToolDescriptor, ToolRef, ToolRuntime,
};
use rune_store_runtime::{ErrorCode, Failure, PromptParts};
use rune_tools::{BuiltinTool, Builtins, Diagnostics, ProcessRunner, ProcessTool, ToolError};
use rune_wasm::{WasmAgent, WasmError, WasmRuntime, WasmTool};
use serde_json::Value;

use crate::budget::micro_usd;
use crate::model::media::{MediaCandidate, MediaRequest, candidates};
use crate::model::{
    ProviderPool, Providers, ProvidersConfig, ProvidersError, Timeouts, ToolDefinition,
};
use crate::policy::{PolicyEngine, PolicyPrincipal, PolicySet};
use crate::secrets::SecretVault;
use crate::tokens;

use deferred::Offer;
pub use deferred::ToolCost;
pub(crate) use deferred::{MAX_PROMPT_TOOLS, found_in, visible};
use mcp::McpTools;
pub use mcp::{McpRunner, McpServerReport, McpToolReport};

/// Why a package cannot be run.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// A file of the package is not valid.
    #[error(transparent)]
    Spec(#[from] SpecErrors),
    /// A `${VAR}` has no value.
    #[error("{place}: {source}")]
    Variable {
        /// Where it is used.
        place: String,
        /// Which one.
        #[source]
        source: MissingVariable,
    },
    /// A schema of the package is not a JSON Schema.
    #[error("{place} is not a valid JSON Schema: {reason}")]
    Schema {
        /// Which schema.
        place: String,
        /// Why.
        reason: String,
    },
    /// The package asks for something that this Rune cannot run.
    #[error("{place} needs {what}, which this version of Rune cannot run")]
    Unsupported {
        /// Who asks.
        place: String,
        /// For what.
        what: String,
    },
    /// The models cannot be set up.
    #[error(transparent)]
    Providers(#[from] ProvidersError),
    /// A module cannot be a tool as it is described.
    #[error("tool `{tool}`: {source}")]
    Wasm {
        /// The tool.
        tool: String,
        /// Why.
        #[source]
        source: WasmError,
    },
    /// A component cannot be the agent.
    #[error("`entrypoint`: {0}")]
    Entrypoint(#[source] WasmError),
    /// A package says twice what its agent does.
    #[error(
        "`entrypoint` and workflow.yaml: a package has one of them; a workflow calls an agent with an `entrypoint` as \
         any other"
    )]
    TwoPrograms,
    /// A container cannot be a tool as it is described, or not now.
    #[error("tool `{tool}`: {source}")]
    Container {
        /// The tool.
        tool: String,
        /// Why.
        #[source]
        source: DockerError,
    },
    /// An MCP server cannot be used as it is described.
    #[error(transparent)]
    Mcp(#[from] McpError),
    /// A tool cannot be granted what it asks for.
    #[error("tool `{tool}`: {source}")]
    Grant {
        /// The tool.
        tool: String,
        /// Why.
        #[source]
        source: ToolError,
    },
}

impl AgentError {
    /// Whether it can be otherwise without a change of the package.
    #[must_use]
    pub const fn is_transient(&self) -> bool {
        matches!(self, Self::Container { source, .. } if source.is_transient())
    }
}

/// A tool that is ready to run.
pub struct Tool {
    /// The name in the package, such as `rune@file-read`.
    pub name: String,
    /// Its description.
    pub descriptor: ToolDescriptor,
    /// What runs it.
    pub runner: ToolRunner,
    input: Validator,
    output: Option<Validator>,
}

/// What runs a tool.
pub enum ToolRunner {
    /// A part of Rune.
    Builtin(Arc<dyn BuiltinTool>),
    /// A child process.
    Process(ProcessTool),
    /// A WebAssembly module.
    Wasm(Box<WasmTool>),
    /// A container.
    Container(Box<ContainerTool>),
    /// A tool of an MCP server.
    Mcp(McpRunner),
    /// Another agent.
    Agent(AgentTool),
}

/// A tool that is another agent.
pub struct AgentTool {
    /// Which one.
    pub target: AgentTarget,
    /// Deepest level below the outermost request on which it may be called.
    pub max_depth: Option<u32>,
}

/// Which agent a tool calls.
pub enum AgentTarget {
    /// Always this one.
    Fixed(LocalAgent),
    /// The one that the input names in `agent`; it is told the `message`.
    Named,
}

impl AgentTool {
    /// The agent that a call with this input is about.
    ///
    /// # Errors
    /// A failure for the model.
    pub fn target(&self, input: &Value) -> Result<LocalAgent, Failure> {
        match &self.target {
            AgentTarget::Fixed(agent) => Ok(agent.clone()),
            AgentTarget::Named => named_agent(input),
        }
    }
}

/// The agent that an input names in `agent`.
pub(crate) fn named_agent(input: &Value) -> Result<LocalAgent, Failure> {
    let name = input["agent"].as_str().unwrap_or_default();
    let name = name.strip_prefix("local://").unwrap_or(name);
    name.parse()
        .map_err(|error| Failure::new(ErrorCode::InvalidInput, format!("`agent`: {error}")))
}

impl Tool {
    fn new(name: &str, descriptor: ToolDescriptor, runner: ToolRunner) -> Result<Self, AgentError> {
        let place = format!("tool `{name}`");
        let output = descriptor.output_schema.as_ref();
        Ok(Self {
            name: name.to_owned(),
            input: compile(&descriptor.input_schema, &format!("{place}: input_schema"))?,
            output: output
                .map(|s| compile(s, &format!("{place}: output_schema")))
                .transpose()?,
            descriptor,
            runner,
        })
    }

    /// The first way in which the input breaks the schema.
    ///
    /// # Errors
    /// A sentence for the model.
    pub fn check_input(&self, input: &Value) -> Result<(), SchemaMismatch> {
        check(&self.input, input)
    }

    /// The first way in which the output breaks the schema.
    ///
    /// # Errors
    /// A sentence for the model.
    pub fn check_output(&self, output: &Value) -> Result<(), SchemaMismatch> {
        self.output
            .as_ref()
            .map_or(Ok(()), |validator| check(validator, output))
    }
}

/// A value that breaks its schema.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message} (at `{path}`)")]
pub struct SchemaMismatch {
    /// JSON Pointer of the offending part.
    pub path: String,
    /// What is wrong with it.
    pub message: String,
}

/// The built-in tool that is run by the engine as a call of another agent.
const AGENT_SEND: &str = "agent-send";
/// The built-in tool that starts a request of another agent.
pub(crate) const AGENT_SPAWN: &str = "rune@agent-spawn";
/// Longest part of a mismatch message that is shown.
const MISMATCH_MESSAGE_CHARS: usize = 300;
/// Mismatches of an answer that the model is told at once.
const MISMATCHES_SHOWN: usize = 5;

fn check(validator: &Validator, value: &Value) -> Result<(), SchemaMismatch> {
    validator.validate(value).map_err(mismatch)
}

#[expect(
    clippy::needless_pass_by_value,
    reason = "it is the last that is done with it"
)]
fn mismatch(error: ValidationError<'_>) -> SchemaMismatch {
    let path = error.instance_path().to_string();
    let message = error.to_string();
    SchemaMismatch {
        path: if path.is_empty() {
            "/".to_owned()
        } else {
            path
        },
        message: message.chars().take(MISMATCH_MESSAGE_CHARS).collect(),
    }
}

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

/// Looks up a variable for `${VAR}`.
pub type VariableLookup = Arc<dyn Fn(&str) -> Option<String> + Send + Sync>;

/// Makes agents from packages.
pub struct AgentLoader {
    /// The platform's model providers.
    pub providers: rune_env::ProvidersConfig,
    /// How long a provider may take.
    pub timeouts: Timeouts,
    /// Shared by every agent.
    pub pool: ProviderPool,
    /// The built-in tools.
    pub builtins: Builtins,
    /// Runs process tools.
    pub runner: ProcessRunner,
    /// Runs WebAssembly tools.
    pub wasm: WasmRuntime,
    /// Runs tools that are containers.
    pub docker: DockerEngine,
    /// Connects to MCP servers.
    pub mcp: McpClient,
    /// The daemon's variables.
    pub variables: VariableLookup,
    /// The secrets that tools can be granted.
    pub secrets: SecretVault,
    /// Below it every agent gets its workspace.
    pub workspaces: PathBuf,
    /// Where goes what tools say beside their answers.
    pub diagnostics: Diagnostics,
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

impl AgentLoader {
    /// Makes the agent of the package in `dir` for a namespace. `env` holds the
    /// deployment's variables; they win over the daemon's.
    ///
    /// # Errors
    /// An [`AgentError`] that says which file or field is in the way.
    pub fn load(
        &self,
        dir: &Path,
        namespace: &str,
        env: &BTreeMap<String, String>,
    ) -> Result<Agent, AgentError> {
        self.make(AgentPackage::load(dir)?, namespace, env)
    }

    /// Makes the agent of a package, as [`AgentLoader::load`] does.
    ///
    /// # Errors
    /// As there.
    pub fn make(
        &self,
        package: AgentPackage,
        namespace: &str,
        env: &BTreeMap<String, String>,
    ) -> Result<Agent, AgentError> {
        let spec = &package.runefile;
        if spec.entrypoint.is_some() && package.workflow.is_some() {
            return Err(AgentError::TwoPrograms);
        }
        let component = spec.entrypoint.as_ref().map(|path| {
            let module = package.dir.join(path);
            let loaded = self.wasm.load_agent(&module, package.has_memory_tool());
            loaded.map(Arc::new).map_err(AgentError::Entrypoint)
        });
        let component = component.transpose()?;
        let policy = Arc::new(PolicyEngine::new(
            PolicySet::compile(&package)?,
            PolicyPrincipal::of(&package, namespace),
        ));
        for step in package.workflow.iter().flat_map(|workflow| &workflow.steps) {
            local(&format!("step `{}`", step.id), &step.agent_ref)?;
        }
        let lookup = |name: &str| env.get(name).cloned().or_else(|| (self.variables)(name));
        let agent_env = resolve_all(&spec.runtime.env, "runtime.env", &lookup)?;
        let lookup = |name: &str| agent_env.get(name).cloned().or_else(|| lookup(name));

        let system = resolve(&package.instructions, "instructions", &lookup)?;
        let workspace = self.workspaces.join(namespace).join(spec.name.as_str());
        let servers = mcp::servers(&self.mcp, &package, &workspace, &lookup)?;
        let mut tools = BTreeMap::new();
        for tool in &package.tools {
            let ready = self.tool(
                &package,
                &tool.reference.to_string(),
                &tool.descriptor,
                servers.as_ref(),
                &lookup,
            )?;
            tools.insert(tool.visible_name.clone(), Arc::new(ready));
        }
        let searcher = self.searcher(&package, &lookup)?;
        let offer = Offer::new(&package, &tools, &searcher);
        let input = spec
            .input_schema
            .as_ref()
            .map(|s| compile(s, "input_schema").map(Arc::new))
            .transpose()?;
        let output = spec
            .output_schema
            .as_ref()
            .map(|schema| {
                Ok::<_, AgentError>(Arc::new(OutputContract {
                    schema: Arc::new(schema.clone()),
                    validator: compile(schema, "output_schema")?,
                }))
            })
            .transpose()?;
        let models_config = models::config(&package, &self.providers, self.timeouts, &lookup)?;
        let models = Providers::new(&models_config, &self.pool)?;
        let fixed_prompt = fixed_prompt(&system, &offer.shown, spec.output_schema.as_ref());
        let runner = self.runner.clone();
        let tools = Arc::new(tools);
        let mcp = servers.map(|servers| Arc::new(McpTools::new(&package, servers, &tools)));
        Ok(Agent {
            package,
            system,
            tools,
            searcher,
            offer,
            fixed_prompt,
            mcp,
            models,
            models_config,
            pool: self.pool.clone(),
            policy,
            runner,
            secrets: self.secrets.clone(),
            diagnostics: self.diagnostics.clone(),
            input,
            output,
            workspace,
            component,
        })
    }

    /// The tool that finds others.
    fn searcher(
        &self,
        package: &AgentPackage,
        lookup: &dyn Fn(&str) -> Option<String>,
    ) -> Result<Arc<Tool>, AgentError> {
        let name = ToolRef::Builtin(TOOL_SEARCH.to_owned()).to_string();
        let descriptor = rune_spec::builtin(TOOL_SEARCH);
        let descriptor = descriptor.ok_or_else(|| unsupported(&name, "an unknown built-in"))?;
        self.tool(package, &name, descriptor, None, lookup)
            .map(Arc::new)
    }

    fn tool(
        &self,
        package: &AgentPackage,
        name: &str,
        descriptor: &ToolDescriptor,
        servers: Option<&McpServers>,
        lookup: &dyn Fn(&str) -> Option<String>,
    ) -> Result<Tool, AgentError> {
        let place = format!("tool `{name}`");
        let runner = match &descriptor.runtime {
            ToolRuntime::Builtin if descriptor.name == AGENT_SEND => ToolRunner::Agent(AgentTool {
                target: AgentTarget::Named,
                max_depth: None,
            }),
            ToolRuntime::Builtin => {
                let builtin = self.builtins.get(&descriptor.name);
                let builtin = builtin.ok_or_else(|| unsupported(&place, "an unknown built-in"))?;
                ToolRunner::Builtin(Arc::clone(builtin))
            }
            ToolRuntime::Process { module } => {
                let process = ProcessTool::new(package.dir.join(module))
                    .of_package(&package.dir)
                    .with_limits(&descriptor.limits)
                    .with_capabilities(&descriptor.capabilities, lookup);
                let grant = |source| AgentError::Grant {
                    tool: name.to_owned(),
                    source,
                };
                ToolRunner::Process(process.map_err(grant)?)
            }
            ToolRuntime::Wasm { module } => {
                let module = package.dir.join(module);
                let loaded = self.wasm.load(&module, descriptor, lookup);
                ToolRunner::Wasm(Box::new(loaded.map_err(|source| AgentError::Wasm {
                    tool: name.to_owned(),
                    source,
                })?))
            }
            ToolRuntime::Container { image, module } => {
                let module = module.as_ref().map(|module| package.dir.join(module));
                let tool = ContainerTool::new(
                    self.docker.clone(),
                    descriptor,
                    image,
                    module.as_deref(),
                    lookup,
                );
                ToolRunner::Container(Box::new(tool.map_err(|source| AgentError::Container {
                    tool: name.to_owned(),
                    source,
                })?))
            }
            ToolRuntime::Agent {
                agent_ref,
                max_depth,
            } => ToolRunner::Agent(AgentTool {
                target: AgentTarget::Fixed(local(&place, agent_ref)?),
                max_depth: *max_depth,
            }),
            ToolRuntime::Mcp { mcp_server } => {
                let server = servers.and_then(|servers| servers.get(mcp_server));
                let server = server.ok_or_else(|| McpError::Unknown(mcp_server.clone()))?;
                ToolRunner::Mcp(McpRunner {
                    server: server.clone(),
                    tool: descriptor.name.clone(),
                })
            }
        };
        Tool::new(name, descriptor.clone(), runner)
    }
}

fn unsupported(place: &str, what: &str) -> AgentError {
    AgentError::Unsupported {
        place: place.to_owned(),
        what: what.to_owned(),
    }
}

fn local(place: &str, reference: &AgentRef) -> Result<LocalAgent, AgentError> {
    match reference {
        AgentRef::Local(local) => Ok(local.clone()),
        AgentRef::Url(url) => {
            let what = format!("the remote agent `{url}` (`agent_ref` takes local://NAME)");
            Err(unsupported(place, &what))
        }
    }
}

fn compile(schema: &Value, place: &str) -> Result<Validator, AgentError> {
    jsonschema::validator_for(schema).map_err(|error| AgentError::Schema {
        place: place.to_owned(),
        reason: error.to_string(),
    })
}

fn resolve(
    text: &str,
    place: &str,
    lookup: &dyn Fn(&str) -> Option<String>,
) -> Result<String, AgentError> {
    rune_spec::interpolate(text, lookup).map_err(|source| AgentError::Variable {
        place: place.to_owned(),
        source,
    })
}

fn resolve_all(
    map: &BTreeMap<String, String>,
    place: &str,
    lookup: &dyn Fn(&str) -> Option<String>,
) -> Result<BTreeMap<String, String>, AgentError> {
    map.iter()
        .map(|(key, text)| {
            Ok((
                key.clone(),
                resolve(text, &format!("{place}.{key}"), lookup)?,
            ))
        })
        .collect()
}
