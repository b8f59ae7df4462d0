//! Which program runs, and in which environment.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use crate::ToolContext;

/// The program of this name in a `PATH`-like list of directories. Relative directories do
/// not count.
#[must_use]
pub fn find_program(name: &str, search_path: &str) -> Option<PathBuf> {
    search_path
        .split(':')
        .filter(|directory| directory.starts_with('/'))
        .map(|directory| Path::new(directory).join(name))
        .find(|path| is_executable(path))
}

/// Whether the path names a regular file with an execute bit.
pub(crate) fn is_executable(path: &Path) -> bool {
    std::fs::metadata(path)
        .is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}

/// What every process gets: nothing of the daemon's own environment.
pub(crate) fn base_environment(context: &ToolContext, search_path: &str) -> Vec<(String, String)> {
    [
        ("PATH", search_path.to_owned()),
        ("HOME", context.workspace.to_string_lossy().into_owned()),
        ("LANG", "C.UTF-8".to_owned()),
    ]
    .into_iter()
    .chain(context.variables())
    .map(|(name, value)| (name.to_owned(), value))
    .collect()
}
