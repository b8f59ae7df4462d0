//! File formats of Rune: Runefile, tools, workflows, compose files, channels, packages.
//!
//! Every format exists twice: a *document* (what a person may write, serde with unknown fields denied, the source of
//! the JSON Schema) and a *validated form* (typed, defaults applied, references checked), which is what the rest of
//! Rune sees. Parsing goes one way only: text → document → validated form.
//!
//! What this crate is not: it does not read the environment (`${VAR}` stays raw text; [`interpolate`] resolves it where
//! a value is used), does not run anything, and knows no network.
//!
//! Entry points: [`Runefile::parse`], [`ToolDescriptor::parse`], [`Workflow::parse`], [`Compose::parse`],
//! [`Channels::parse`], [`Script::parse`], [`AgentPackage::load`], [`package::pack`], [`package::unpack`], [`schema`],
//! [`scaffold`].
//!
//! Invariants:
//! * A validated value cannot be built from text that breaks a rule of its format.
//! * Every error names the file, and line and column wherever the text has them; all semantic errors of a file are
//!   reported at once.
//! * No input text makes a parser panic, and every size is bounded by a named constant.
//! * The same directory content always packs to the same bytes.

mod agent_ref;
mod builtin;
mod capability;
mod cassette;
mod channels;
mod checker;
mod compose;
mod document;
mod error;
mod eval;
mod graph;
mod interpolate;
mod mcp_tool;
mod name;
pub mod package;
mod policy;
mod runefile;
mod schema;
mod script;
mod suggest;
mod template;
mod tool;
mod tool_ref;
mod tool_scaffold;
mod workflow;

pub use agent_ref::{AgentRef, LocalAgent};
pub use builtin::{builtin, builtin_names, is_media_tool};
pub use capability::{Access, Capability};
pub use cassette::{
    CASSETTE_VERSION, CassetteFile, CassettePlaces, CassettePrompt, Expectations, ExpectedOutput,
    ExpectedStatus, ExpectedVerdict, MeasuredPrompt,
};
pub use channels::{CHANNEL_TYPES, Channel, ChannelAccess, Channels};
pub use compose::{Compose, ComposeAgent, ComposeSource, Lookup};
pub use document::{MAX_DEPTH, MAX_FILE_BYTES};
pub use error::{InvalidValue, SpecError, SpecErrors};
pub use eval::{
    EVAL_VERSION, EvalCall, EvalCase, EvalExpectations, EvalFile, EvalModel, EvalOutput,
    EvalPlaces, EvalSubject, GOLDEN_DIR, json_contains,
};
pub use interpolate::{MissingVariable, interpolate};
pub use mcp_tool::McpTool;
pub use name::AgentName;
pub use package::{
    AgentPackage, McpSelection, OUTPUT_READ, PackageError, PackageTool, PackedPackage, PolicyFile,
    TOOL_SEARCH,
};
pub use policy::{
    Approval, ApprovalDefault, Glob, GlobToken, Policy, PolicyMode, PolicyRule, RuleArguments,
};
pub use runefile::{
    Budget, CheckpointPolicy, Endpoint, FallbackPolicy, HealthProbe, Instructions, McpServer,
    McpTransport, MemoryProfile, ModelName, Models, Protocol, ReasoningEffort, ResourceProfile,
    Runefile, RuntimeSettings, SafetyPolicy, SessionBudget, ToolSearch,
};
pub use schema::{SchemaKind, schema};
pub use script::{
    Script, ScriptError, ScriptFault, ScriptFaultKind, ScriptReply, ScriptToolCall,
    ScriptToolResult, ScriptTurn,
};
pub use suggest::nearest;
pub use template::{ScaffoldError, TEMPLATES, Template, scaffold};
pub use tool::{Limits, RetryPolicy, ToolDescriptor, ToolRuntime};
pub use tool_ref::ToolRef;
pub use tool_scaffold::{NewTool, NewToolError, ToolLanguage, ToolsetChange, new_tool};
pub use workflow::{Condition, OutputStep, Step, Workflow};
