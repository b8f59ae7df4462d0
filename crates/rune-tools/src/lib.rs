//! Tools: the built-ins and the process runner.
//!
//! * [`BuiltinTool`] is one built-in of the `rune@` family; [`Builtins`] holds
//!   them by name. Their descriptors (schema, read-only, idempotent) are data in
//!   `rune-spec`; this crate holds what they do.
//! * [`ToolContext`] is everything a call may touch: a tool never reads the
//!   environment, the clock of the machine or a path outside its workspace.
//! * [`ProcessRunner`] runs a tool that is a program of the agent's package.
//! * [`Launcher`] says how processes are started; [`serve_launch`] is the launcher. [`Sandbox`] is how it confines them.
//! * [`LiveProcess`] is a process that is written to while it runs.
//! * [`ProcessGroup`] is a child process that leaves nothing behind; what runs programs
//!   that are no tools uses it too.
//! * [`Captured`] and [`parse_answer`] are the protocol that programs answer in, whatever runs them.
//! * [`BrowserConfig`] says which browser the `browser-*` tools drive, over the DevTools protocol.
//! * [`DeferredTool`] is a tool that a model has to search for; [`Diagnostics`] takes what tools write to standard error.
//! * [`Secrets`] are what a call is granted, and are taken out of what it says.
//! * [`MediaAccess`] is what the media tools ask; [`MediaType`] says what a file is.
//! * [`EgressPolicy`] says where outgoing requests may go; [`CheckedResolver`] holds an HTTP client to it.
//! * [`EgressProxy`] holds programs to it that open connections themselves.
//! * [`RemoteAgents`] reaches agents of other installations over A2A, where the policy lets it.
//! * [`parse_patch`] and [`apply_hunks`] are the pure part of `apply-patch`.
//!
//! What is not here: validation against schemas, policy, the journal and retries.
//! The engine's dispatcher does those before and after it calls into this crate.
//!
//! # Invariants
//!
//! * A call ends within a second of `cancel`, and no process of its group is left
//!   running, also where the call's future is dropped. With a launcher that holds where
//!   the whole process is killed.
//! * A process inherits nothing of the daemon's environment.
//! * A process that a launcher confines reaches what its tool is granted, or is not started.
//! * A file tool cannot leave the workspace: paths are resolved by an open directory.
//! * An HTTP request goes to an address that was checked, not to a name that was.
//! * A patch changes all of its files or none.

mod answer;
mod blocking;
mod browser;
mod builtin;
mod builtins;
mod deferred;
mod diagnostics;
mod egress;
mod engine_access;
mod error;
mod glob;
mod identity;
mod image;
mod location;
mod media;
mod output;
mod patch;
mod process;
mod processes;
mod remote;
mod search;
mod secrets;
mod text;
mod tool;
mod web;
mod workspace;

pub use answer::{parse_answer, said, says_crowded};
pub(crate) use blocking::blocking;
pub use browser::{BrowserConfig, find_browser, page_outline};
pub use builtins::{Builtins, BuiltinsConfig};
pub use deferred::DeferredTool;
pub use diagnostics::Diagnostics;
pub use egress::{
    CheckedResolver, EgressError, EgressException, EgressPolicy, EgressProxy, Hosts, LoopbackProxy,
    ProxyRefusal, ProxyTarget, RefusalSink, destination, parse_proxy_target,
};
pub use engine_access::{
    CallChain, EngineAccess, KnownAgent, NewEvent, NewSchedule, NewSpawn, Spawned,
};
pub use error::{ToolError, ToolErrorKind};
pub use image::ShownImages;
pub use media::{
    MadeMedia, MediaAccess, MediaDescription, MediaFile, MediaKind, MediaModel, MediaQuestion,
    MediaSegment, MediaTranscript, MediaType, NewImage, NewSpeech, NewTranscript,
};
pub use output::Outputs;
pub use patch::{FilePatch, Hunk, HunkLine, PatchError, apply_hunks, parse_patch};
pub use process::{
    Captured, Keep, Launcher, LiveJob, LivePipes, LiveProcess, Parts, ProcessGrants, ProcessGroup,
    ProcessLimits, ProcessRunner, ProcessTool, Reach, Sandbox, SandboxSupport, describe_exit,
    find_program, serve_launch,
};
pub use remote::{
    RemoteAgents, RemoteAgentsConfig, RemoteCredential, call_off, code_kind, message_id,
    message_parts, parts_text, parts_value,
};
pub use search::{SearchBackend, SearchConfig, SearchHit, parse_duckduckgo};
pub use secrets::{MIN_SECRET_BYTES, REDACTED, Secrets};
pub use tool::{BuiltinTool, EgressGate, ToolContext};
pub use workspace::open_directory;
