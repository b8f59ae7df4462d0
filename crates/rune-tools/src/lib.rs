//! Tools: the built-ins and the process runner.
//!
//! * [`BuiltinTool`] is one built-in of the `rune@` family; [`Builtins`] holds
//!   them by name. Their descriptors (schema, read-only, idempotent) are data in
//!   `rune-spec`; this crate holds what they do.
//! * [`ToolContext`] is everything a call may touch: a tool never reads the
//!   environment, the clock of the machine or a path outside its workspace.
//!
//! What is not here: validation against schemas, policy, the journal and retries.
//! The engine's dispatcher does those before and after it calls into this crate.

mod error;
mod tool;

pub use error::{ToolError, ToolErrorKind};
pub use tool::{BuiltinTool, ToolContext};
