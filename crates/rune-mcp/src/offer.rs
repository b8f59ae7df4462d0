//! Agents as the tools of an MCP server.
//!
//! [`AgentSource`] is where the agents are: the engine of this process, or a daemon elsewhere. [`McpEndpoint`] serves them
//! over streamable HTTP, [`serve_stdio`] to a client that has started this process. A call of a tool is a request of its agent,
//! and the tool's answer is made of the request's events.

mod approval;
mod call;
mod endpoint;
mod handler;
mod progress;
mod schema;
mod sessions;
mod source;
mod stdio;

pub use endpoint::{McpAccess, McpAccessError, McpEndpoint};
pub use source::{
    AgentCall, AgentRun, AgentSource, Answer, Asking, OfferedAgent, Question, RunEvent,
};
pub use stdio::serve_stdio;
