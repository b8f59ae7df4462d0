//! An agent directory as a whole: loading, packing, unpacking.

mod archive;
mod file;
mod load;
mod walk;

pub use load::{OUTPUT_READ, TOOL_SEARCH};

use std::path::PathBuf;

pub use archive::{PackageEntry, digest, inspect, pack, unpack};
pub use file::replace_file;
pub use walk::{FileStamp, is_ignored, stamps};

use crate::channels::Channels;
use crate::runefile::Runefile;
use crate::script::Script;
use crate::tool::ToolDescriptor;
use crate::tool_ref::ToolRef;
use crate::workflow::Workflow;

/// The file every package has.
pub const RUNEFILE: &str = "Runefile";
/// Largest package, packed, in bytes.
pub const MAX_PACKAGE_BYTES: u64 = 64 * 1024 * 1024;
/// Most files of a package.
pub const MAX_PACKAGE_FILES: usize = 10_000;

/// A loaded and checked agent directory.
#[derive(Debug, Clone, PartialEq)]
pub struct AgentPackage {
    /// The directory, absolute and without symlinks.
    pub dir: PathBuf,
    /// The Runefile.
    pub runefile: Runefile,
    /// The system prompt, also when it is in a file of its own.
    pub instructions: String,
    /// The described tools of the toolset: built-in and the package's own, in the order of the toolset. Where there is
    /// one, `rune@output-read` is there too.
    pub tools: Vec<PackageTool>,
    /// The toolset's entries that an MCP server describes.
    pub mcp_tools: Vec<McpSelection>,
    /// `workflow.yaml`.
    pub workflow: Option<Workflow>,
    /// `channels.yaml`.
    pub channels: Option<Channels>,
    /// `script.yaml`: what the `offline` model answers.
    pub script: Option<Script>,
    /// The Cedar policy: `policy.file`, else `policy.cedar`. Its text is not checked here.
    pub policy: Option<PolicyFile>,
    /// The files below `evals/`, relative to `dir`, sorted.
    pub evals: Vec<PathBuf>,
}

/// A tool of the toolset with its description.
#[derive(Debug, Clone, PartialEq)]
pub struct PackageTool {
    /// The entry of the toolset.
    pub reference: ToolRef,
    /// The name the model sees.
    pub visible_name: String,
    /// What the tool is.
    pub descriptor: ToolDescriptor,
}

/// A Cedar policy file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PolicyFile {
    /// The file, as messages name it.
    pub path: PathBuf,
    /// What it says.
    pub text: String,
}

/// `SERVER/TOOL` or `SERVER/*`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct McpSelection {
    /// The server's name.
    pub server: String,
    /// One tool, or all of them.
    pub tool: Option<String>,
}

/// A packed agent directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PackedPackage {
    /// A tar archive.
    pub bytes: Vec<u8>,
    /// `sha256:` and the hex digest of `bytes`.
    pub digest: String,
    /// What is inside.
    pub files: Vec<PackageEntry>,
}

/// Packing or unpacking failed.
#[derive(Debug, thiserror::Error)]
pub enum PackageError {
    /// The file system failed.
    #[error("cannot {operation} {path}", path = path.display())]
    Io {
        /// What was tried.
        operation: &'static str,
        /// On what.
        path: PathBuf,
        /// Why it failed.
        #[source]
        source: std::io::Error,
    },
    /// The directory has no Runefile.
    #[error("{path} has no {RUNEFILE}", path = dir.display())]
    NoRunefile {
        /// The directory.
        dir: PathBuf,
    },
    /// A symbolic link leads to a directory or out of the package.
    #[error("{path} is a symbolic link to a directory or out of the package", path = path.display())]
    Link {
        /// The link.
        path: PathBuf,
    },
    /// A path that is not UTF-8, absolute, or has `..` in it.
    #[error("the path {path:?} is not allowed in a package")]
    UnsafePath {
        /// The path.
        path: String,
    },
    /// Something that is neither a file nor a directory.
    #[error("{path:?} is neither a file nor a directory")]
    UnsupportedEntry {
        /// The entry.
        path: String,
    },
    /// The same path twice, or a path below a file.
    #[error("{path:?} is in the package twice")]
    Duplicate {
        /// The path.
        path: String,
    },
    /// More bytes than [`MAX_PACKAGE_BYTES`].
    #[error("the package is larger than {MAX_PACKAGE_BYTES} bytes")]
    TooLarge,
    /// More files than [`MAX_PACKAGE_FILES`].
    #[error("the package has more than {MAX_PACKAGE_FILES} files")]
    TooManyFiles,
    /// Not a tar archive.
    #[error("the package is not a valid archive")]
    Archive(#[source] std::io::Error),
}
