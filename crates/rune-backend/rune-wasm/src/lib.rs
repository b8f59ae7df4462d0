//! Tools that are WebAssembly modules and components, and agents that are components.
//!
//! * [`WasmRuntime`] compiles and keeps modules; a [`WasmTool`] is one with what its description grants it.
//! * A module is a WASI preview 1 command, a component is a WASI preview 2 command (both speak the protocol of process
//!   tools) or exports the world `rune:tool` of `wit/tool.wit`.
//! * A [`WasmAgent`] is a component of the world `rune:agent` of `wit/agent.wit`; what it imports is an [`AgentHost`].
//! * [`Audit`] says what a module imports and which capability each import takes.
//!
//! What is not here: what an agent's host does, validation against schemas, policy, the journal and retries, which the engine does around a call.
//!
//! # Invariants
//!
//! * A guest reaches what it is granted and nothing else: directories by preopened handles, hosts by the same checks as
//!   `web-fetch`. What it imports without a grant is found before it runs.
//! * A guest never blocks the runtime: it gives the thread back every few milliseconds.
//! * A call ends within a second of `cancel` or of its time, and its memory goes back to the pool.
//! * A secret is never in a guest's memory: the guest holds a placeholder, which is replaced in what it sends;
//!   what a host sends back is masked.
//! * An agent's component has no clock, no random number and no outside world of its own: run again with the same answers
//!   it does the same.
//! * Machine code from disk runs only where its seal holds; anything else is compiled again.

mod agent;
mod audit;
mod call;
mod code_cache;
mod cpu_time;
mod engine;
mod error;
mod files;
mod grants;
mod guest;
mod http;
mod imports;
mod loaded;
mod lookup;
mod mask;
mod output;
mod runtime;
mod secrets;
mod tool;

pub use agent::world::{
    AgentAnswer, AgentFailure, AgentRequest, Ask, LogLevel, Message, Reply, Speaker, StopReason,
    ToolCall, ToolChoice, ToolDefinition, ToolResult, Usage, Utterance,
};
pub use agent::{AgentHost, AgentPlace, AgentRun, AgentRunError, Fixed, RunEnded, WasmAgent};
pub use audit::{Audit, AuditedImport, Metadata};
pub use engine::AGENT_LEVELS;
pub use error::WasmError;
pub use imports::Kind;
pub use runtime::{AgentGrants, WasmConfig, WasmRuntime};
pub use tool::WasmTool;
