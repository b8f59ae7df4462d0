//! Why a module cannot be a tool.

use std::io;
use std::path::PathBuf;

use rune_tools::ToolError;

/// Why a module cannot be a tool.
#[derive(Debug, thiserror::Error)]
pub enum WasmError {
    /// The file cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// Which file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The file is too large to be compiled.
    #[error("{} has {bytes} bytes; a module may have {limit}", path.display())]
    TooLarge {
        /// Which file.
        path: PathBuf,
        /// Its size.
        bytes: u64,
        /// The largest there may be.
        limit: u64,
    },
    /// The file is no valid WebAssembly.
    #[error("{} is not a valid WebAssembly module or component: {reason}", path.display())]
    Invalid {
        /// Which file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// The module cannot be called as a tool.
    #[error(
        "{} is no tool: it exports {found}, but neither `_start` (a WASI command), nor `wasi:cli/run` (a command \
         component), nor `rune:tool/handler@0.1.0`", path.display()
    )]
    NotATool {
        /// Which file.
        path: PathBuf,
        /// What it exports.
        found: String,
    },
    /// The file cannot be the entrypoint of an agent.
    #[error(
        "{} cannot be the entrypoint of an agent: {reason}; that takes a component that exports \
         `rune:agent/handler@0.1.0` with `run`", path.display()
    )]
    NotAnAgent {
        /// Which file.
        path: PathBuf,
        /// What it is instead.
        reason: String,
    },
    /// An agent imports its memory and has none.
    #[error(
        "{} imports `{import}`, which is not granted; add `rune@memory-recall`, `rune@memory-store` or \
         `rune@memory-list` to `toolset`", path.display()
    )]
    NoMemory {
        /// Which file.
        path: PathBuf,
        /// What it imports.
        import: String,
    },
    /// The module imports what its description does not grant.
    #[error(
        "{} imports `{import}`, which is not granted; add `{capability}` to the tool's `capabilities`", path.display()
    )]
    Undeclared {
        /// Which file.
        path: PathBuf,
        /// What it imports.
        import: String,
        /// What would grant it.
        capability: &'static str,
    },
    /// The module imports what nothing grants.
    #[error("{} imports `{import}`, which Rune does not offer{hint}", path.display())]
    Unoffered {
        /// Which file.
        path: PathBuf,
        /// What it imports.
        import: String,
        /// What to use instead.
        hint: &'static str,
    },
    /// The module is larger from the start than it may become.
    #[error(
        "{} starts with {needed} bytes of memory; `limits.memory_mb` allows {limit}", path.display()
    )]
    Memory {
        /// Which file.
        path: PathBuf,
        /// What it needs.
        needed: u64,
        /// What it gets.
        limit: u64,
    },
    /// A limit that cannot be kept.
    #[error("`limits.memory_mb` is {0}; a WebAssembly tool can have 1 to 4096")]
    MemoryLimit(u64),
    /// A capability cannot be granted.
    #[error(transparent)]
    Grant(#[from] ToolError),
    /// WebAssembly cannot be run on this machine.
    #[error("WebAssembly cannot be run here: {0}")]
    Engine(String),
}
