//! A tool that is ready to run, and what runs it.

use std::sync::Arc;

use jsonschema::Validator;
use rune_docker::ContainerTool;
use rune_spec::{AgentRef, LocalAgent, ToolDescriptor};
use rune_store_runtime::{ErrorCode, Failure};
use rune_tools::{BuiltinTool, ProcessTool};
use rune_wasm::WasmTool;
use serde_json::Value;

use super::schema::{SchemaMismatch, check, compile};
use super::{AgentError, McpRunner};

/// The built-in tool that starts a request of another agent.
pub(crate) const AGENT_SPAWN: &str = "rune@agent-spawn";

/// The built-in tool that works with containers.
const DOCKER_EXEC: &str = "docker-exec";

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
    Fixed(AgentRef),
    /// The one that the input names in `agent`; it is told the `message`.
    Named,
}

impl AgentTool {
    /// The agent that a call with this input is about.
    ///
    /// # Errors
    /// A failure for the model.
    pub fn target(&self, input: &Value) -> Result<AgentRef, Failure> {
        match &self.target {
            AgentTarget::Fixed(agent) => Ok(agent.clone()),
            AgentTarget::Named => named_agent(input).map(AgentRef::Local),
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
    pub(super) fn new(
        name: &str,
        descriptor: ToolDescriptor,
        runner: ToolRunner,
    ) -> Result<Self, AgentError> {
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

    /// Whether it works with containers of Docker Engine.
    #[must_use]
    pub fn needs_docker(&self) -> bool {
        match &self.runner {
            ToolRunner::Container(_) => true,
            ToolRunner::Builtin(builtin) => builtin.name() == DOCKER_EXEC,
            ToolRunner::Process(_)
            | ToolRunner::Wasm(_)
            | ToolRunner::Agent(_)
            | ToolRunner::Mcp(_) => false,
        }
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
