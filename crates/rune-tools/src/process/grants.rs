//! What a process is granted, as its description says.

use std::fmt;
use std::iter;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rune_spec::{Access, Capability};

use super::reach::{PathGrant, ProcessLimits, Reach};
use crate::egress::{EgressPolicy, Hosts};
use crate::{EgressGate, ToolError, ToolErrorKind};

/// Names that a grant cannot set: the runner owns them.
const RESERVED_PREFIX: &str = "RUNE_";

/// What a process is granted. The default is nothing.
#[derive(Clone, PartialEq, Eq)]
pub struct ProcessGrants {
    /// Variables.
    pub env: Vec<(String, String)>,
    /// The directory of the agent's package, which it may read.
    pub package: Option<PathBuf>,
    /// What it may use up.
    pub limits: ProcessLimits,
    paths: Vec<(Access, PathBuf)>,
    hosts: Hosts,
}

impl Default for ProcessGrants {
    fn default() -> Self {
        Self {
            env: Vec::new(),
            package: None,
            limits: ProcessLimits::TOOL,
            paths: Vec::new(),
            hosts: Hosts::default(),
        }
    }
}

impl ProcessGrants {
    /// The same for a program of this package.
    #[must_use]
    pub fn of_package(mut self, dir: impl Into<PathBuf>) -> Self {
        self.package = Some(dir.into());
        self
    }

    /// The same with the limits of a description.
    #[must_use]
    pub fn with_limits(mut self, limits: &rune_spec::Limits) -> Self {
        if let Some(mib) = limits.memory_mb {
            self.limits.memory = mib.saturating_mul(1 << 20);
        }
        if let Some(processes) = limits.processes {
            self.limits.processes = processes;
        }
        self.limits.cpu = limits.cpu_ms.map(Duration::from_millis);
        self
    }

    /// The same with what capabilities grant. `lookup` knows the variables.
    /// A variable that is not set stays unset; secrets come with each call.
    ///
    /// # Errors
    /// [`ToolErrorKind::Unavailable`] names a variable in a path that is not set;
    /// [`ToolErrorKind::Denied`] a name that the runner sets itself.
    pub fn with_capabilities<'a>(
        mut self,
        capabilities: impl IntoIterator<Item = &'a Capability>,
        lookup: impl Fn(&str) -> Option<String>,
    ) -> Result<Self, ToolError> {
        for capability in capabilities {
            let (name, value) = match capability {
                Capability::Workspace => {
                    self.paths.push((Access::ReadWrite, PathBuf::new()));
                    continue;
                }
                Capability::Filesystem { access, path } => {
                    let path = rune_spec::interpolate(path, &lookup);
                    let path = path.map_err(|error| {
                        ToolError::new(ToolErrorKind::Unavailable, error.to_string())
                    })?;
                    self.paths.push((*access, PathBuf::from(path)));
                    continue;
                }
                Capability::AnyNetwork => {
                    self.hosts.grant_all();
                    continue;
                }
                Capability::Network { host, port } => {
                    self.hosts.grant(host, *port);
                    continue;
                }
                Capability::Env(name) => {
                    check_name(name, capability)?;
                    let Some(value) = lookup(name) else {
                        continue;
                    };
                    (name, value)
                }
                Capability::Secret(name) => {
                    check_name(name, capability)?;
                    continue;
                }
            };
            self.env.push((name.clone(), value));
        }
        Ok(self)
    }

    /// What a process reaches that has these grants. `gate` is asked about hosts, `egress` about their addresses.
    ///
    /// # Errors
    /// [`ToolErrorKind::Denied`] names a path that leads out of the workspace.
    pub fn reach(
        &self,
        workspace: &Path,
        gate: Option<Arc<dyn EgressGate>>,
        egress: Arc<EgressPolicy>,
    ) -> Result<Reach, ToolError> {
        let mut paths = Vec::new();
        for (access, path) in &self.paths {
            paths.push(PathGrant {
                path: if path.is_relative() {
                    below(workspace, path)?
                } else {
                    path.clone()
                },
                inside: None,
                write: *access == Access::ReadWrite,
            });
        }
        // What an agent or the process may change may hold links: none of them leads out of it.
        let changed = paths.iter().filter(|grant| grant.write);
        let mut changed: Vec<PathBuf> = changed.map(|grant| grant.path.clone()).collect();
        changed.sort();
        for grant in &mut paths {
            let mut outer = iter::once(workspace).chain(changed.iter().map(PathBuf::as_path));
            let outer = outer.find(|dir| *dir != grant.path && grant.path.starts_with(dir));
            grant.inside = outer.map(Path::to_owned);
        }
        Ok(Reach {
            paths,
            package: self.package.clone(),
            workspace: workspace.to_owned(),
            hosts: self.hosts.clone(),
            gate,
            egress,
            limits: self.limits,
        })
    }
}

// By hand: values may be secrets.
impl fmt::Debug for ProcessGrants {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<_> = self.env.iter().map(|(name, _)| name).collect();
        f.debug_struct("ProcessGrants")
            .field("env", &names)
            .field("paths", &self.paths)
            .field("hosts", &self.hosts)
            .finish_non_exhaustive()
    }
}

/// A path below a directory, as its text says.
fn below(dir: &Path, path: &Path) -> Result<PathBuf, ToolError> {
    let mut below = dir.to_owned();
    for component in path.components() {
        match component {
            Component::CurDir => {}
            Component::Normal(name) => below.push(name),
            _ => {
                let message = format!(
                    "`{}` cannot be granted: it leads out of the workspace",
                    path.display()
                );
                return Err(ToolError::denied(message));
            }
        }
    }
    Ok(below)
}

fn check_name(name: &str, capability: &Capability) -> Result<(), ToolError> {
    if name.is_empty() || name.contains(['=', '\0']) || name.starts_with(RESERVED_PREFIX) {
        return Err(ToolError::new(
            ToolErrorKind::Denied,
            format!(
                "capability `{capability}` cannot be granted: variable names are not empty, \
                 contain no `=` and do not start with {RESERVED_PREFIX}"
            ),
        ));
    }
    Ok(())
}
