//! The Model Context Protocol: the tools of servers for agents, and agents as the tools of a server.
//!
//! As a client:
//! * [`McpClient`] is what all connections of a process share; [`ServerConfig`] is one server as a Runefile describes it,
//!   with every variable resolved.
//! * [`McpServers`] are the servers of one agent: each is connected to, kept connected, and asked for its tools, by a task
//!   of its own. [`ServerStatus`] says how it is.
//! * [`ServerHandle::call`] calls a tool.
//! * [`listing()`] and [`read_result()`] put limits on what a server says; both are pure.
//!
//! As a server: [`AgentSource`] is where the agents are, [`McpEndpoint`] serves them over HTTP, [`serve_stdio`] to a client that
//! has started this process.
//!
//! Both eras of the protocol are spoken, over streamable HTTP and with a child process: `rmcp` does that. What is not here:
//! validation against schemas, policy, the journal and retries, which are the engine's; resources, prompts, sampling and roots;
//! elicitation for servers.
//!
//! # Invariants
//!
//! * What a server says is untrusted: names, descriptions, schemas, results and errors have limits, and its word on what a
//!   tool does counts only where the Runefile says so.
//! * A server that is not there holds nobody up for longer than a few seconds, and is tried again with a back-off.
//! * A header, a variable that was resolved for a server, and a stored secret that it is granted, is in no message, no log and no
//!   result.
//! * A server that is a process reaches what it is granted, or is not started. It ends with [`McpServers`], and with the whole process however that ends.
//! * A call of an agent's tool is a request that was committed; what its client does with the answer does not change it, but for a
//!   cancel.

mod access;
mod call;
mod client;
mod config;
mod connect;
mod error;
mod handler;
mod http;
mod limits;
mod list;
mod listing;
mod offer;
mod result;
mod server;
mod servers;
mod status;
mod stderr;
mod text;

pub use access::{SecretLookup, ServerAccess};
pub use client::{McpClient, UrlLookup};
pub use config::{ServerConfig, Transport};
pub use error::McpError;
pub use handler::{Progress, ProgressSink};
pub use listing::{Listing, SkippedTool, listing};
pub use offer::{
    AgentCall, AgentRun, AgentSource, Answer, Asking, McpAccess, McpAccessError, McpEndpoint,
    OfferedAgent, Question, RunEvent, serve_stdio,
};
pub use result::read_result;
pub use server::ServerHandle;
pub use servers::McpServers;
pub use status::{ServerState, ServerStatus};
pub use text::Text;
