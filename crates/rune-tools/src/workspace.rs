//! The directory that an agent may read and write, and nothing beyond it.

use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::path::{Component, Path, PathBuf};

use cap_std::ambient_authority;
use cap_std::fs::{Dir, File, Metadata, OpenOptions, OpenOptionsExt, Permissions};
use rune_store_runtime::CommandId;
use rustix::fs::OFlags;

use crate::ToolError;

/// Bytes of the largest file that is read or written as a whole.
pub(crate) const MAX_FILE_BYTES: u64 = 64 * 1024 * 1024;

/// An agent's workspace, held by an open directory. Every access goes through that
/// directory component by component, so that neither `..`, nor an absolute path, nor
/// a symbolic link, nor one put in place meanwhile leads out of it.
pub(crate) struct Workspace {
    root: Dir,
    path: PathBuf,
}

impl Workspace {
    /// Opens a workspace.
    pub(crate) fn open(path: &Path) -> Result<Self, ToolError> {
        let root = Dir::open_ambient_dir(path, ambient_authority()).map_err(|error| {
            ToolError::unavailable(format!("the workspace cannot be opened: {error}"))
        })?;
        Ok(Self {
            root,
            path: path.to_owned(),
        })
    }

    /// The directory itself, for paths that came from [`Workspace::relative`].
    pub(crate) fn root(&self) -> &Dir {
        &self.root
    }

    /// The path relative to the workspace. An absolute path is accepted where it
    /// names something inside.
    pub(crate) fn relative(&self, path: &str) -> Result<PathBuf, ToolError> {
        if path.contains('\0') {
            return Err(ToolError::invalid("the path contains a NUL byte"));
        }
        let given = Path::new(path);
        let inside = if given.is_absolute() {
            self.strip_root(given).ok_or_else(|| outside(path))?
        } else {
            given.to_owned()
        };
        let mut depth = 0_usize;
        let mut clean = PathBuf::new();
        for component in inside.components() {
            match component {
                Component::Normal(name) => {
                    depth += 1;
                    clean.push(name);
                }
                Component::ParentDir => {
                    depth = depth.checked_sub(1).ok_or_else(|| outside(path))?;
                    clean.push("..");
                }
                Component::CurDir => {}
                Component::RootDir | Component::Prefix(_) => return Err(outside(path)),
            }
        }
        if clean.as_os_str().is_empty() {
            clean.push(".");
        }
        Ok(clean)
    }

    fn strip_root(&self, path: &Path) -> Option<PathBuf> {
        if let Ok(rest) = path.strip_prefix(&self.path) {
            return Some(rest.to_owned());
        }
        let real = std::fs::canonicalize(&self.path).ok()?;
        path.strip_prefix(real).ok().map(Path::to_owned)
    }

    /// The path that `path` leads to when symbolic links are followed, relative to
    /// the workspace. What does not exist yet keeps its name.
    pub(crate) fn target(&self, path: &str) -> Result<PathBuf, ToolError> {
        let relative = self.relative(path)?;
        match self.root.canonicalize(&relative) {
            Ok(target) => return Ok(target),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(io_error("open", path, &error)),
        }
        if self.root.symlink_metadata(&relative).is_ok() {
            return Err(ToolError::invalid(format!(
                "`{path}` is a symbolic link to something that does not exist"
            )));
        }
        let Some(name) = relative.file_name() else {
            return Err(ToolError::not_found(format!("`{path}` does not exist")));
        };
        let parent = relative.parent().unwrap_or(Path::new(""));
        match self.root.canonicalize(nonempty(parent)) {
            Ok(parent) if parent == Path::new(".") => Ok(PathBuf::from(name)),
            Ok(parent) => Ok(parent.join(name)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(relative.clone()),
            Err(error) => Err(io_error("open", path, &error)),
        }
    }

    /// Makes a directory and those above it, inside.
    pub(crate) fn make_dir(&self, path: &Path) -> Result<Dir, ToolError> {
        let made = self.root.create_dir_all(path);
        made.and_then(|()| self.root.open_dir(path))
            .map_err(|error| io_error("make", &path.to_string_lossy(), &error))
    }

    /// Removes a directory with what is in it.
    pub(crate) fn remove_dir(&self, path: &Path) -> Result<(), ToolError> {
        let removed = self.root.remove_dir_all(path);
        removed.map_err(|error| io_error("remove", &path.to_string_lossy(), &error))
    }

    /// Opens a regular file for reading. Never blocks, whatever the path names.
    pub(crate) fn open_file(&self, path: &str) -> Result<(File, Metadata), ToolError> {
        let relative = self.relative(path)?;
        let mut options = OpenOptions::new();
        options.read(true);
        let file = self
            .root
            .open_with(&relative, nonblocking(&mut options))
            .map_err(|error| self.not_opened("read", path, &relative, &error))?;
        regular(path, file)
    }

    /// Opens a regular file for appending; it is created where it does not exist.
    /// Never blocks.
    pub(crate) fn open_append(&self, path: &str) -> Result<File, ToolError> {
        let relative = self.target(path)?;
        self.create_parent(path, &relative)?;
        let mut options = OpenOptions::new();
        options.append(true).create(true);
        let file = self
            .root
            .open_with(&relative, nonblocking(&mut options))
            .map_err(|error| self.not_opened("write", path, &relative, &error))?;
        Ok(regular(path, file)?.0)
    }

    /// A whole file.
    pub(crate) fn read(&self, path: &str) -> Result<Vec<u8>, ToolError> {
        let (file, meta) = self.open_file(path)?;
        let too_large = || {
            ToolError::invalid(format!(
                "`{path}` is larger than {MAX_FILE_BYTES} bytes; use a shell command to work on it"
            ))
        };
        if meta.len() > MAX_FILE_BYTES {
            return Err(too_large());
        }
        let mut bytes = Vec::new();
        file.take(MAX_FILE_BYTES + 1)
            .read_to_end(&mut bytes)
            .map_err(|error| io_error("read", path, &error))?;
        if bytes.len() as u64 > MAX_FILE_BYTES {
            return Err(too_large());
        }
        Ok(bytes)
    }

    /// Writes a new version of a file beside it, synced to disk. Missing directories
    /// are created. Nothing is visible under the file's name before
    /// [`StagedFile::commit`].
    pub(crate) fn stage(&self, path: &str, bytes: &[u8]) -> Result<StagedFile, ToolError> {
        self.stage_at(&self.target(path)?, path, bytes)
    }

    /// As [`Workspace::stage`] for a path that came from [`Workspace::target`]; `path`
    /// is its name in errors.
    pub(crate) fn stage_at(
        &self,
        target: &Path,
        path: &str,
        bytes: &[u8],
    ) -> Result<StagedFile, ToolError> {
        let failed = |error: io::Error| io_error("write", path, &error);
        let (name, old) = self.place(target, path)?;
        self.create_parent(path, target)?;
        let parent = nonempty(target.parent().unwrap_or(Path::new("")));
        let directory = self.root.open_dir(parent).map_err(failed)?;
        let temporary = PathBuf::from(format!(".{}.tmp", CommandId::generate()));
        let mut options = OpenOptions::new();
        options.write(true).create_new(true);
        let mut file = directory.open_with(&temporary, &options).map_err(failed)?;
        let staged = StagedFile {
            directory,
            temporary,
            name,
            committed: false,
        };
        file.write_all(bytes).map_err(failed)?;
        if let Some(permissions) = old {
            file.set_permissions(permissions).map_err(failed)?;
        }
        file.sync_all().map_err(failed)?;
        Ok(staged)
    }

    /// Whether a file can be written at a path, as far as that can be known before: it is inside, and nothing else than a
    /// file is there.
    pub(crate) fn check_place(&self, path: &str) -> Result<(), ToolError> {
        self.place(&self.target(path)?, path).map(drop)
    }

    /// The name of a file at a path that came from [`Workspace::target`], and the permissions of the one that is there.
    fn place(
        &self,
        target: &Path,
        path: &str,
    ) -> Result<(PathBuf, Option<Permissions>), ToolError> {
        let Some(name) = target.file_name().map(PathBuf::from) else {
            return Err(ToolError::invalid(format!("`{path}` is a directory")));
        };
        match self.root.symlink_metadata(target) {
            Ok(meta) if meta.is_file() => Ok((name, Some(meta.permissions()))),
            Ok(meta) => Err(not_regular(path, &meta)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok((name, None)),
            Err(error) => Err(io_error("write", path, &error)),
        }
    }

    /// Why something was not opened. What is no file, such as a socket, cannot be, and the system has no clear word for it.
    fn not_opened(
        &self,
        action: &str,
        path: &str,
        relative: &Path,
        error: &io::Error,
    ) -> ToolError {
        match self.root.metadata(relative) {
            Ok(meta) if !meta.is_file() => not_regular(path, &meta),
            _ => io_error(action, path, error),
        }
    }

    fn create_parent(&self, path: &str, relative: &Path) -> Result<(), ToolError> {
        match relative.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => self
                .root
                .create_dir_all(parent)
                .map_err(|error| io_error("create the directory of", path, &error)),
            _ => Ok(()),
        }
    }
}

/// Opens a directory of a workspace, for a tool that is confined to it; `path` is relative or names something inside. One
/// that does not exist is made where `create` says so. The handle stands for the directory itself, whatever is put in its
/// place afterwards.
///
/// # Errors
/// [`ToolErrorKind::Denied`](crate::ToolErrorKind::Denied) where the path leads out, `NotFound` where there is nothing.
pub fn open_directory(workspace: &Path, path: &str, create: bool) -> Result<OwnedFd, ToolError> {
    let workspace = Workspace::open(workspace)?;
    let relative = workspace.relative(path)?;
    let mut opened = workspace.root.open_dir(&relative);
    if create && matches!(&opened, Err(error) if error.kind() == io::ErrorKind::NotFound) {
        let made = workspace.root.create_dir_all(&relative);
        made.map_err(|error| io_error("create", path, &error))?;
        opened = workspace.root.open_dir(&relative);
    }
    let directory = opened.map_err(|error| io_error("open", path, &error))?;
    Ok(directory.into_std_file().into())
}

/// A new version of a file that waits beside it under a temporary name. Dropped
/// without a commit it is removed.
pub(crate) struct StagedFile {
    directory: Dir,
    temporary: PathBuf,
    name: PathBuf,
    committed: bool,
}

impl StagedFile {
    /// Changes the permissions that the file will have.
    pub(crate) fn set_permissions(&self, permissions: Permissions) -> io::Result<()> {
        self.directory.set_permissions(&self.temporary, permissions)
    }

    /// Puts the new version in place, in one step, and syncs the directory.
    pub(crate) fn commit(mut self) -> io::Result<()> {
        self.directory
            .rename(&self.temporary, &self.directory, &self.name)?;
        self.committed = true;
        sync_directory(&self.directory)
    }
}

impl Drop for StagedFile {
    fn drop(&mut self) {
        if !self.committed
            && let Err(error) = self.directory.remove_file(&self.temporary)
        {
            tracing::warn!(file = %self.temporary.display(), %error, "a temporary file is left over");
        }
    }
}

/// Makes renames and removals in a directory durable.
pub(crate) fn sync_directory(directory: &Dir) -> io::Result<()> {
    directory.open(".")?.sync_all()
}

/// The directory a relative path is in.
pub(crate) fn nonempty(parent: &Path) -> &Path {
    if parent.as_os_str().is_empty() {
        Path::new(".")
    } else {
        parent
    }
}

/// An error of the file system, told to the model.
pub(crate) fn io_error(action: &str, path: &str, error: &io::Error) -> ToolError {
    match error.kind() {
        io::ErrorKind::NotFound => ToolError::not_found(format!("`{path}` does not exist")),
        // cap-std's own refusal carries no number of the operating system.
        io::ErrorKind::PermissionDenied if error.raw_os_error().is_none() => outside(path),
        io::ErrorKind::PermissionDenied => {
            ToolError::denied(format!("no permission to {action} `{path}`"))
        }
        io::ErrorKind::IsADirectory => ToolError::invalid(format!("`{path}` is a directory")),
        io::ErrorKind::NotADirectory => ToolError::invalid(format!(
            "`{path}` goes through something that is no directory"
        )),
        _ => ToolError::failed(format!("cannot {action} `{path}`: {error}")),
    }
}

fn outside(path: &str) -> ToolError {
    ToolError::denied(format!(
        "`{path}` is outside the workspace; use a path relative to it"
    ))
}

// Opening a FIFO would wait for its other end.
fn nonblocking(options: &mut OpenOptions) -> &OpenOptions {
    let flags = i32::try_from((OFlags::NONBLOCK | OFlags::NOCTTY).bits()).unwrap_or(0);
    options.custom_flags(flags)
}

fn regular(path: &str, file: File) -> Result<(File, Metadata), ToolError> {
    let meta = file
        .metadata()
        .map_err(|error| io_error("read", path, &error))?;
    if meta.is_file() {
        Ok((file, meta))
    } else {
        Err(not_regular(path, &meta))
    }
}

fn not_regular(path: &str, meta: &Metadata) -> ToolError {
    if meta.is_dir() {
        ToolError::invalid(format!("`{path}` is a directory; use file-list"))
    } else {
        ToolError::invalid(format!("`{path}` is not a regular file"))
    }
}
