//! What a process may reach, where it is confined.

use std::path::{Component, Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::egress::{EgressPolicy, Hosts};
use crate::{EgressGate, ToolContext, ToolError, open_directory};

/// Directories of the kernel, of which a process has its own.
const KERNEL: [&str; 3] = ["/proc", "/sys", "/dev"];

/// What a process may use up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessLimits {
    /// Memory in bytes: of one process, and of all of them together.
    pub memory: u64,
    /// CPU time of all processes together; absent: only the clock counts.
    pub cpu: Option<Duration>,
    /// Processes and threads at a time.
    pub processes: u64,
    /// Bytes of one file.
    pub file: u64,
    /// Open files of one process.
    pub open_files: u64,
}

impl ProcessLimits {
    /// Of a tool whose description says nothing else.
    pub const TOOL: Self = Self {
        memory: 1 << 30,
        cpu: None,
        processes: 128,
        file: 1 << 30,
        open_files: 1024,
    };

    /// Of a command line.
    pub const SHELL: Self = Self {
        memory: 4 << 30,
        cpu: None,
        processes: 512,
        file: 4 << 30,
        open_files: 4096,
    };
}

/// A file or directory that a process is granted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct PathGrant {
    /// Its absolute path, in the process as outside.
    pub(crate) path: PathBuf,
    /// The directory that it lies in, whatever symbolic links are on the way: one that an agent or the process may change;
    /// absent where the path is what it is.
    pub(crate) inside: Option<PathBuf>,
    /// Whether it may be changed.
    pub(crate) write: bool,
}

/// What one process may reach. It counts where a [`Launcher`](super::Launcher) confines.
#[derive(Clone)]
pub struct Reach {
    pub(crate) paths: Vec<PathGrant>,
    /// The agent's package: it can be read, and never changed.
    pub(crate) package: Option<PathBuf>,
    /// Where the process would be at home.
    pub(crate) workspace: PathBuf,
    pub(crate) hosts: Hosts,
    pub(crate) gate: Option<Arc<dyn EgressGate>>,
    pub(crate) egress: Arc<EgressPolicy>,
    pub(crate) limits: ProcessLimits,
}

impl Reach {
    /// What a command line reaches: the workspace.
    pub(crate) fn workspace(context: &ToolContext) -> Self {
        let path = context.workspace.clone();
        Self {
            paths: vec![PathGrant {
                path: path.clone(),
                inside: None,
                write: true,
            }],
            package: None,
            workspace: path,
            hosts: Hosts::default(),
            gate: None,
            egress: Arc::default(),
            limits: ProcessLimits::SHELL,
        }
    }

    /// Whether something of the workspace can be reached, so that the process can be there.
    pub(crate) fn has_workspace(&self) -> bool {
        let mut paths = self.paths.iter();
        paths.any(|grant| grant.path.starts_with(&self.workspace))
    }

    /// Whether it connects as it likes: to every host, and nobody asks about one of them.
    pub(crate) fn is_unfiltered(&self) -> bool {
        self.hosts.is_every() && self.gate.is_none()
    }

    fn is_in_workspace(&self, grant: &PathGrant) -> bool {
        grant.inside.as_ref() == Some(&self.workspace)
    }

    /// Makes the directories of the workspace that are granted for writing, and checks the grants. Blocks as the file system
    /// does.
    pub(crate) fn prepare(&self, hidden: &[PathBuf]) -> Result<(), ToolError> {
        for grant in self.paths.iter().filter(|grant| grant.write) {
            if self.is_in_workspace(grant) && !grant.path.exists() {
                let path = grant.path.to_string_lossy();
                open_directory(&self.workspace, &path, true)?;
            }
        }
        self.check(hidden)
    }

    /// Refuses grants that cannot be kept: the root, the kernel's directories, and what is Rune's own.
    fn check(&self, hidden: &[PathBuf]) -> Result<(), ToolError> {
        let own: Vec<PathBuf> = hidden.iter().filter_map(|path| real(path)).collect();
        let workspace = real(&self.workspace);
        let paths = self.paths.iter();
        for grant in paths.filter(|grant| !self.is_in_workspace(grant)) {
            let path = &grant.path;
            let shown = path.display();
            let Some(real) = real(path) else {
                return Err(ToolError::unavailable(format!(
                    "sandbox: `{shown}`, which is granted, does not exist or cannot be read"
                )));
            };
            let kernel = KERNEL.iter().any(|kernel| real.starts_with(kernel));
            let dotted = path.components().any(|part| part == Component::ParentDir);
            if real == Path::new("/") || kernel || dotted {
                return Err(ToolError::denied(format!(
                    "sandbox: `{shown}` cannot be granted; name a directory below `/`, without `..`, that is not in /proc, /sys or /dev"
                )));
            }
            let home = workspace
                .as_ref()
                .is_some_and(|home| real.starts_with(home));
            if !home && own.iter().any(|own| real.starts_with(own)) {
                return Err(ToolError::denied(format!(
                    "sandbox: `{shown}` is Rune's own data and cannot be granted"
                )));
            }
        }
        Ok(())
    }
}

fn real(path: &Path) -> Option<PathBuf> {
    std::fs::canonicalize(path).ok()
}
