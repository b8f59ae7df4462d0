//! What a tool's capabilities let a container reach.

use std::path::{Component, Path};

use rune_spec::{Access, Capability};
use rune_tools::{ToolError, ToolErrorKind};

use crate::DockerError;

/// Where a container sees the workspace.
pub(crate) const WORKSPACE: &str = "/workspace";
/// Where it sees a program of the package.
pub(crate) const PROGRAM_DIR: &str = "/rune";
/// What a container has there is the kernel's, or Rune's.
const TAKEN: [&str; 5] = ["/proc", "/sys", "/dev", PROGRAM_DIR, WORKSPACE];
/// This, but not what is below it, is the container's own.
const SCRATCH_DIR: &str = "/tmp";
/// Names that a grant cannot set.
const RESERVED_PREFIX: &str = "RUNE_";

/// Knows the values of variables.
pub(crate) type Lookup<'a> = &'a dyn Fn(&str) -> Option<String>;

/// What a tool is granted.
#[derive(Default)]
pub(crate) struct Grants {
    pub(crate) directories: Vec<Directory>,
    /// Whether it has a network.
    pub(crate) network: bool,
    /// Variables, without those that hold secrets: these come with each call.
    pub(crate) env: Vec<(String, String)>,
}

/// A directory that a container sees.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Directory {
    pub(crate) access: Access,
    /// Below the workspace where it is relative.
    pub(crate) path: String,
    /// Where the container sees it.
    pub(crate) target: String,
    /// As it is written.
    pub(crate) capability: String,
}

impl Grants {
    /// What these capabilities grant.
    pub(crate) fn new(
        capabilities: &[Capability],
        lookup: Lookup<'_>,
    ) -> Result<Self, DockerError> {
        let mut grants = Self::default();
        for capability in capabilities {
            match capability {
                Capability::Workspace => {
                    grants.directory(Access::ReadWrite, ".", capability)?;
                }
                Capability::Filesystem { access, path } => {
                    let path = rune_spec::interpolate(path, lookup);
                    let path = path.map_err(|error| {
                        ToolError::new(ToolErrorKind::Unavailable, error.to_string())
                    })?;
                    grants.directory(*access, &path, capability)?;
                }
                Capability::AnyNetwork => grants.network = true,
                Capability::Network { .. } => {
                    return Err(DockerError::Network(capability.to_string()));
                }
                Capability::Env(name) => {
                    check_variable(name, capability)?;
                    let value = lookup(name);
                    grants.env.extend(value.map(|value| (name.clone(), value)));
                }
                Capability::Secret(name) => check_variable(name, capability)?,
            }
        }
        Ok(grants)
    }

    fn directory(
        &mut self,
        access: Access,
        path: &str,
        capability: &Capability,
    ) -> Result<(), DockerError> {
        let capability = capability.to_string();
        let target = target(path).map_err(|reason| DockerError::Directory {
            capability: capability.clone(),
            reason,
        })?;
        // The same directory twice is the same, with what both allow.
        let twice = self.directories.iter_mut().find(|one| one.target == target);
        match twice {
            Some(one) if access == Access::ReadWrite => one.access = access,
            Some(_) => {}
            None => self.directories.push(Directory {
                access,
                path: path.to_owned(),
                target,
                capability,
            }),
        }
        Ok(())
    }
}

/// Where a container sees a path: as in the workspace, below `/workspace`, or under its own name.
fn target(path: &str) -> Result<String, String> {
    let mut parts = Vec::new();
    for component in Path::new(path).components() {
        match component {
            Component::Normal(part) => parts.push(part.to_string_lossy()),
            Component::CurDir | Component::RootDir => {}
            Component::ParentDir | Component::Prefix(_) => {
                return Err("a path without `..` says where it leads".to_owned());
            }
        }
    }
    let inner = parts.join("/");
    if !path.starts_with('/') {
        let dir = format!("{WORKSPACE}/{inner}");
        return Ok(dir.trim_end_matches('/').to_owned());
    }
    let outer = format!("/{inner}");
    if inner.is_empty()
        || outer == SCRATCH_DIR
        || TAKEN
            .iter()
            .any(|taken| Path::new(&outer).starts_with(taken))
    {
        return Err(format!("a container has its own `{outer}`"));
    }
    Ok(outer)
}

/// Checks that a capability does not set a variable that tells a tool for whom it runs.
fn check_variable(name: &str, capability: &Capability) -> Result<(), ToolError> {
    if !name.starts_with(RESERVED_PREFIX) {
        return Ok(());
    }
    let message = format!(
        "capability `{capability}` cannot be granted: the names from {RESERVED_PREFIX} on are Rune's"
    );
    Err(ToolError::new(ToolErrorKind::Denied, message))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grants(capabilities: &[&str]) -> Result<Grants, String> {
        let parsed: Vec<Capability> = capabilities.iter().map(|c| c.parse().unwrap()).collect();
        Grants::new(&parsed, &|_| None).map_err(|error| error.to_string())
    }

    #[test]
    fn a_directory_has_its_name_in_the_container() {
        for (capability, target) in [
            ("filesystem", "/workspace"),
            ("filesystem:ro:.", "/workspace"),
            ("filesystem:rw:data/in/", "/workspace/data/in"),
            ("filesystem:ro:/srv//models", "/srv/models"),
            ("filesystem:ro:/tmp/models", "/tmp/models"),
        ] {
            let granted = grants(&[capability]).unwrap();
            assert_eq!(granted.directories[0].target, target, "{capability}");
        }
    }

    #[test]
    fn the_wider_of_two_grants_counts() {
        let granted = grants(&["filesystem:ro:.", "filesystem"]).unwrap();
        assert_eq!(granted.directories.len(), 1);
        assert_eq!(granted.directories[0].access, Access::ReadWrite);
    }

    #[test]
    fn refuses_what_it_cannot_keep() {
        for (capability, part) in [
            ("network:example.org", "grant `network` for every host"),
            ("filesystem:ro:/", "a container has its own `/`"),
            ("filesystem:ro:/proc/1", "a container has its own `/proc/1`"),
            ("filesystem:rw:/tmp/", "a container has its own `/tmp`"),
            ("filesystem:ro:/dev", "a container has its own `/dev`"),
            ("filesystem:rw:../other", "without `..`"),
            ("env:RUNE_REQUEST_ID", "are Rune's"),
            ("secret:RUNE_REQUEST_ID", "are Rune's"),
        ] {
            let refused = grants(&[capability]).err().unwrap_or_default();
            assert!(refused.contains(part), "{capability}: {refused}");
        }
    }
}
