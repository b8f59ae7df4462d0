//! Why a server cannot be used.

use rune_spec::MissingVariable;

/// A server that cannot be configured or connected to. No message holds a secret.
#[derive(Debug, thiserror::Error)]
pub enum McpError {
    /// A `${VAR}` has no value.
    #[error("{place}: {source}")]
    Variable {
        /// Where it is used.
        place: String,
        /// Which one.
        #[source]
        source: MissingVariable,
    },
    /// A value is none of its kind.
    #[error("{place}: {reason}")]
    Value {
        /// Where it is.
        place: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A tool or the toolset names a server that nothing describes.
    #[error("MCP server `{0}` is neither in `mcp_servers` nor in RUNE_MCP_{{SERVER}}_URL")]
    Unknown(String),
    /// It cannot be connected to.
    #[error("{0}")]
    Connect(String),
    /// An agent cannot start without it.
    #[error("MCP server `{server}` is required and unavailable: {reason}")]
    Required {
        /// Which one.
        server: String,
        /// Why.
        reason: String,
    },
}
