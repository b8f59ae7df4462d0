//! The directories that a container sees.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use bollard::models::{Mount, MountBindOptions, MountType};
use rune_spec::Access;
use rune_tools::{ToolError, ToolErrorKind, open_directory};
use rustix::fs::{AtFlags, CWD, Gid, Mode, OFlags, Stat, Uid, chownat, fstat, openat};
use rustix::process::geteuid;

use crate::DockerError;
use crate::engine::DockerEngine;
use crate::grants::{Directory, WORKSPACE};

/// A directory that is open and where the engine finds it.
pub(crate) struct Opened {
    handle: OwnedFd,
    source: PathBuf,
    target: String,
    access: Access,
    /// Whether what has its name can be changed by others who write to the workspace.
    movable: bool,
}

/// What no container may see.
pub(crate) struct Hidden {
    paths: Vec<PathBuf>,
    /// But this may be seen.
    workspace: PathBuf,
}

impl Hidden {
    /// What no container of an agent with this workspace may see.
    pub(crate) fn new(engine: &DockerEngine, workspace: &Path) -> Self {
        let config = engine.config();
        let own = [&config.data_dir, &config.workspaces];
        let paths = own.into_iter().chain(&config.hidden).cloned();
        let paths = paths.chain(engine.socket());
        Self {
            paths: paths.map(|path| canonical(&path)).collect(),
            workspace: canonical(workspace),
        }
    }

    fn check(&self, source: &Path) -> Result<(), String> {
        if source.starts_with(&self.workspace) {
            return Ok(());
        }
        let hidden = self
            .paths
            .iter()
            .find(|hidden| source.starts_with(hidden) || hidden.starts_with(source));
        hidden.map_or(Ok(()), |hidden| {
            let hidden = hidden.display();
            Err(format!("no container may see {hidden}"))
        })
    }
}

fn canonical(path: &Path) -> PathBuf {
    path.canonicalize().unwrap_or_else(|_| path.to_owned())
}

impl Opened {
    /// Opens a granted directory; one of the workspace that is granted for writing is made, and given to `owner`. Blocks
    /// as the file system does.
    pub(crate) fn new(
        directory: &Directory,
        workspace: &Path,
        hidden: &Hidden,
        owner: Option<(u32, u32)>,
    ) -> Result<Self, ToolError> {
        let path = Path::new(&directory.path);
        let writes = directory.access == Access::ReadWrite;
        let handle = if path.is_absolute() {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
            openat(CWD, path, flags, Mode::empty()).map_err(|error| {
                let path = path.display();
                let message = format!("the directory {path} cannot be opened: {error}");
                ToolError::new(ToolErrorKind::Unavailable, message)
            })?
        } else {
            open_directory(workspace, &directory.path, writes)?
        };
        let source = std::fs::read_link(format!("/proc/self/fd/{}", handle.as_raw_fd()));
        let source = source.map_err(|error| failed(directory, &error))?;
        hidden
            .check(&source)
            .map_err(|reason| DockerError::Directory {
                capability: directory.capability.clone(),
                reason,
            })?;
        let inside = source.starts_with(&hidden.workspace);
        if let (true, true, Some((user, group))) = (writes && inside, geteuid().is_root(), owner) {
            let (user, group) = (Uid::from_raw(user), Gid::from_raw(group));
            let flags = AtFlags::EMPTY_PATH;
            let given = chownat(&handle, "", Some(user), Some(group), flags);
            given.map_err(|error| failed(directory, &error.into()))?;
        }
        Ok(Self {
            movable: inside && source != hidden.workspace,
            handle,
            source,
            target: directory.target.clone(),
            access: directory.access,
        })
    }

    /// As the engine takes it.
    pub(crate) fn mount(&self) -> Mount {
        bind(&self.source, &self.target, self.access == Access::ReadOnly)
    }

    /// Whether the container sees the workspace, or a part of it.
    pub(crate) fn is_in_workspace(&self) -> bool {
        self.target.starts_with(WORKSPACE)
    }

    /// Whether the container has to be looked at before it may work.
    pub(crate) const fn is_movable(&self) -> bool {
        self.movable
    }

    /// Checks that the container whose first process is `pid` sees this very directory. The engine looked for it by its
    /// name, which may have led elsewhere by then. A container that has ended already was told nothing; then the name is
    /// asked.
    pub(crate) fn check(&self, pid: Option<i64>) -> Result<(), ToolError> {
        let own = fstat(&self.handle).map_err(|error| self.unchecked(&error.into()))?;
        let inside = pid.map(|pid| PathBuf::from(format!("/proc/{pid}/root{}", self.target)));
        let seen = match inside.as_deref().map(identity) {
            Some(Err(error)) if error.kind() != io::ErrorKind::NotFound => {
                return Err(self.unchecked(&error));
            }
            Some(Ok(seen)) => Ok(seen),
            Some(Err(_)) | None => identity(&self.source),
        };
        match seen {
            Ok(seen) if (seen.st_dev, seen.st_ino) == (own.st_dev, own.st_ino) => Ok(()),
            _ => Err(ToolError::new(
                ToolErrorKind::Denied,
                format!(
                    "something else took the place of {} while the container was started",
                    self.source.display()
                ),
            )),
        }
    }

    fn unchecked(&self, error: &io::Error) -> ToolError {
        let message = format!(
            "it cannot be checked that the container sees {} and nothing else ({error}); grant `filesystem`, the whole \
             workspace, or run the image as the user of the daemon",
            self.source.display()
        );
        ToolError::new(ToolErrorKind::Denied, message)
    }
}

/// What is at a path, without going through a link at its end.
fn identity(path: &Path) -> io::Result<Stat> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let handle = openat(CWD, path, flags, Mode::empty())?;
    Ok(fstat(handle.as_fd())?)
}

/// A file or a directory of the machine in a container, without what is mounted below it.
pub(crate) fn bind(source: &Path, target: &str, read_only: bool) -> Mount {
    Mount {
        source: Some(source.display().to_string()),
        target: Some(target.to_owned()),
        typ: Some(MountType::BIND),
        read_only: Some(read_only),
        bind_options: Some(MountBindOptions {
            non_recursive: Some(true),
            ..MountBindOptions::default()
        }),
        ..Mount::default()
    }
}

fn failed(directory: &Directory, error: &io::Error) -> ToolError {
    let message = format!("`{}` cannot be granted: {error}", directory.capability);
    ToolError::new(ToolErrorKind::Unavailable, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_hidden_is_hidden_from_above_and_below() {
        let hidden = Hidden {
            paths: vec!["/home/me/.rune".into(), "/run/docker.sock".into()],
            workspace: "/home/me/.rune/workspaces/dev/bot".into(),
        };
        for (path, allowed) in [
            ("/home/me/.rune/workspaces/dev/bot", true),
            ("/home/me/.rune/workspaces/dev/bot/data", true),
            ("/home/me/.rune/workspaces/dev/other", false),
            ("/home/me/.rune", false),
            ("/home/me", false),
            ("/", false),
            ("/run", false),
            ("/run/docker.sock", false),
            ("/home/you", true),
            ("/home/me/.runes", true),
        ] {
            assert_eq!(hidden.check(Path::new(path)).is_ok(), allowed, "{path}");
        }
    }

    #[test]
    fn sees_that_a_directory_was_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().canonicalize().unwrap();
        std::fs::create_dir(root.join("data")).unwrap();
        let hidden = Hidden {
            paths: Vec::new(),
            workspace: root.clone(),
        };
        let directory = Directory {
            access: Access::ReadOnly,
            path: "data".to_owned(),
            target: "/workspace/data".to_owned(),
            capability: "filesystem:ro:data".to_owned(),
        };
        let opened = Opened::new(&directory, &root, &hidden, None).unwrap();
        assert!(opened.is_movable());
        opened.check(None).unwrap();
        std::fs::rename(root.join("data"), root.join("aside")).unwrap();
        assert!(opened.check(None).is_err());
        std::os::unix::fs::symlink(root.join("aside"), root.join("data")).unwrap();
        assert!(opened.check(None).is_err());
    }
}
