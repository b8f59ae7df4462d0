//! What a tool's capabilities let a guest reach.

use std::iter;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rune_spec::{Access, Capability};
use rune_tools::{Hosts, ToolError, ToolErrorKind, open_directory};
use rustix::fs::{Mode, OFlags};
use wasmtime_wasi::{FsPerms, WasiCtxBuilder};

/// Names that a grant cannot set.
const RESERVED_PREFIX: &str = "RUNE_";

/// Knows the values of variables.
pub(crate) type Lookup<'a> = &'a dyn Fn(&str) -> Option<String>;

/// What a tool is granted.
pub(crate) struct Grants {
    directories: Vec<Directory>,
    pub(crate) hosts: Arc<Hosts>,
    /// Variables, without those that hold secrets.
    pub(crate) env: Vec<(String, String)>,
}

struct Directory {
    access: Access,
    /// Below the workspace where it is relative.
    path: String,
    /// What the guest calls it.
    guest: String,
}

impl Grants {
    /// What these capabilities grant; `lookup` knows the values of variables. Secrets come with each call.
    pub(crate) fn new(capabilities: &[Capability], lookup: Lookup<'_>) -> Result<Self, ToolError> {
        let mut directories = Vec::new();
        let mut hosts = Hosts::default();
        let mut env = Vec::new();
        for capability in capabilities {
            match capability {
                Capability::Workspace => directories.push(Directory {
                    access: Access::ReadWrite,
                    path: ".".to_owned(),
                    guest: "/".to_owned(),
                }),
                Capability::Filesystem { access, path } => {
                    let path = rune_spec::interpolate(path, lookup).map_err(|error| {
                        ToolError::new(ToolErrorKind::Unavailable, error.to_string())
                    })?;
                    directories.push(Directory {
                        access: *access,
                        guest: guest_path(&path),
                        path,
                    });
                }
                Capability::AnyNetwork => hosts.grant_all(),
                Capability::Network { host, port } => hosts.grant(host, *port),
                Capability::Env(name) => {
                    check_variable(name, capability)?;
                    env.extend(lookup(name).map(|value| (name.clone(), value)));
                }
                Capability::Secret(name) => check_variable(name, capability)?,
            }
        }
        Ok(Self {
            directories,
            hosts: Arc::new(hosts),
            env,
        })
    }

    /// The granted directories, opened. Blocks as the file system does.
    pub(crate) fn open(&self, workspace: &Path) -> Result<Vec<Opened>, ToolError> {
        let changed = self.directories.iter().filter(|it| it.is_changed());
        let changed: Vec<&Path> = iter::once(workspace)
            .chain(changed.map(|it| Path::new(&it.path)))
            .collect();
        let directories = self.directories.iter();
        directories.map(|it| it.open(workspace, &changed)).collect()
    }

    pub(crate) const fn has_directories(&self) -> bool {
        !self.directories.is_empty()
    }
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

/// The name of a directory in the guest: as in the workspace, from `/`.
fn guest_path(path: &str) -> String {
    let parts = path.split('/').filter(|part| !matches!(*part, "" | "."));
    format!("/{}", parts.collect::<Vec<_>>().join("/"))
}

impl Directory {
    /// Whether guests may change what is in it, and it is none of the workspace.
    fn is_changed(&self) -> bool {
        self.access == Access::ReadWrite && Path::new(&self.path).is_absolute()
    }

    /// Opens it. Those in `changed` may hold links that tools have made: none of them leads out of the directory.
    fn open(&self, workspace: &Path, changed: &[&Path]) -> Result<Opened, ToolError> {
        let path = Path::new(&self.path);
        let mut outer = changed.iter();
        let outer = outer.find(|dir| **dir != path && path.starts_with(dir));
        let handle = if let Some(outer) = outer {
            open_directory(outer, &self.path, false)?
        } else if path.is_absolute() {
            // Named by the tool's description, so it is what it is.
            let failed = |error| {
                let message = format!("the directory `{}` cannot be opened: {error}", self.path);
                ToolError::new(ToolErrorKind::Unavailable, message)
            };
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
            rustix::fs::open(path, flags, Mode::empty()).map_err(failed)?
        } else {
            open_directory(workspace, &self.path, self.access == Access::ReadWrite)?
        };
        Ok(Opened {
            handle,
            guest: self.guest.clone(),
            access: self.access,
        })
    }
}

/// A granted directory that is open.
pub(crate) struct Opened {
    handle: OwnedFd,
    guest: String,
    access: Access,
}

impl Opened {
    /// Gives the guest this very directory, whatever has its name now.
    pub(crate) fn give(&self, wasi: &mut WasiCtxBuilder) -> Result<(), ToolError> {
        let path = PathBuf::from(format!("/proc/self/fd/{}", self.handle.as_raw_fd()));
        let permissions = match self.access {
            Access::ReadOnly => FsPerms::ReadOnly,
            Access::ReadWrite => FsPerms::ReadWrite,
        };
        let given = wasi.preopened_dir(&path, &self.guest, permissions);
        given.map(|_| ()).map_err(|error| {
            let message = format!(
                "`{}` cannot be granted as a directory: {error:#}",
                self.guest
            );
            ToolError::new(ToolErrorKind::Unavailable, message)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hosts(capabilities: &[&str]) -> Hosts {
        let parsed: Vec<Capability> = capabilities.iter().map(|c| c.parse().unwrap()).collect();
        Arc::into_inner(Grants::new(&parsed, &|_| None).unwrap().hosts).unwrap()
    }

    #[test]
    fn a_host_is_what_was_granted_and_nothing_like_it() {
        for (granted, host, port, expected) in [
            ("network", "example.org", 80, true),
            ("network:example.org", "example.org", 8080, true),
            ("network:example.org", "www.example.org", 80, false),
            ("network:example.org", "example.org.evil.test", 80, false),
            ("network:example.org:443", "example.org", 443, true),
            ("network:example.org:443", "example.org", 80, false),
            ("network:*.example.org", "a.example.org", 80, true),
            ("network:*.example.org", "example.org", 80, false),
            ("network:*.example.org", "evilexample.org", 80, false),
            ("network:127.0.0.1:80", "127.0.0.1", 80, true),
            ("network:[::ffff:127.0.0.1]", "127.0.0.1", 80, true),
            ("network:[::1]", "::1", 80, true),
            ("env:HOME", "example.org", 80, false),
        ] {
            assert_eq!(
                hosts(&[granted]).allow(host, port),
                expected,
                "{granted} {host}:{port}"
            );
        }
    }

    #[test]
    fn a_secret_does_not_take_the_name_of_a_variable_of_the_request() {
        let capabilities = ["secret:RUNE_SESSION_ID".parse().unwrap()];
        let error = Grants::new(&capabilities, &|_| None).err().unwrap();
        assert_eq!(error.kind, ToolErrorKind::Denied);
    }
}
