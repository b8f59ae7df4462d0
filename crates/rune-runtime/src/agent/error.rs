//! Why a package cannot be run.

use rune_docker::DockerError;
use rune_mcp::McpError;
use rune_spec::{InvalidValue, MissingVariable, SpecErrors};
use rune_tools::ToolError;
use rune_wasm::WasmError;

use crate::model::ProvidersError;

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
    /// A reference to an agent leads nowhere.
    #[error("{place}: {source}")]
    Reference {
        /// Where it is used.
        place: String,
        /// Why.
        #[source]
        source: InvalidValue,
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
