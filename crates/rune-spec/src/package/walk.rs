//! Which files of a directory belong to the package.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use super::{MAX_PACKAGE_FILES, PackageError};

/// Names that never belong to a package, at any depth.
const IGNORED: [&str; 6] = [
    ".git",
    "target",
    "node_modules",
    "__pycache__",
    ".venv",
    ".DS_Store",
];
/// Deepest directory.
const MAX_DIRECTORY_DEPTH: usize = 64;

/// A file of the package.
#[derive(Debug)]
pub(super) struct FoundFile {
    /// Relative to the package, with `/`.
    pub(super) name: String,
    /// Where its content is.
    pub(super) path: PathBuf,
}

/// Whether a path inside the package is left out when packing.
#[must_use]
pub fn is_ignored(path: &Path) -> bool {
    path.components()
        .any(|part| is_ignored_name(part.as_os_str()))
}

fn is_ignored_name(name: &OsStr) -> bool {
    // Files with secrets stay at home.
    IGNORED.iter().any(|ignored| name == *ignored) || name.to_string_lossy().starts_with(".env")
}

/// Every file below `root` (canonical), sorted by name.
pub(super) fn files(root: &Path) -> Result<Vec<FoundFile>, PackageError> {
    let mut files = Vec::new();
    let mut open = vec![(root.to_owned(), String::new(), 0)];
    while let Some((dir, prefix, depth)) = open.pop() {
        let failed = |source| PackageError::Io {
            operation: "read",
            path: dir.clone(),
            source,
        };
        for entry in fs::read_dir(&dir).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            if is_ignored_name(&entry.file_name()) {
                continue;
            }
            let path = entry.path();
            let name =
                entry
                    .file_name()
                    .into_string()
                    .map_err(|name| PackageError::UnsafePath {
                        path: name.to_string_lossy().into_owned(),
                    })?;
            let name = format!("{prefix}{name}");
            let kind = entry.file_type().map_err(failed)?;
            if kind.is_dir() && depth < MAX_DIRECTORY_DEPTH {
                open.push((path, format!("{name}/"), depth + 1));
            } else if kind.is_file() {
                files.push(FoundFile { name, path });
            } else if kind.is_symlink() {
                let path = follow(root, &path)?;
                files.push(FoundFile { name, path });
            } else {
                return Err(PackageError::UnsupportedEntry { path: name });
            }
            if files.len() > MAX_PACKAGE_FILES {
                return Err(PackageError::TooManyFiles);
            }
        }
    }
    files.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(files)
}

/// What tells whether a file has changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileStamp {
    name: String,
    size: u64,
    modified: Option<SystemTime>,
}

/// The stamps of the files that a package of this directory would have, sorted by name.
///
/// # Errors
/// What packing would refuse as well, and files that disappear meanwhile.
pub fn stamps(dir: &Path) -> Result<Vec<FileStamp>, PackageError> {
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |source| PackageError::Io {
            operation: "read",
            path,
            source,
        }
    };
    let root = fs::canonicalize(dir).map_err(failed(dir))?;
    let stamp = |file: FoundFile| {
        let meta = fs::metadata(&file.path).map_err(failed(&file.path))?;
        Ok(FileStamp {
            name: file.name,
            size: meta.len(),
            modified: meta.modified().ok(),
        })
    };
    files(&root)?.into_iter().map(stamp).collect()
}

/// A link counts as the file it leads to, if that file is part of the package.
fn follow(root: &Path, link: &Path) -> Result<PathBuf, PackageError> {
    let outside = || PackageError::Link {
        path: link.to_owned(),
    };
    let target = fs::canonicalize(link).map_err(|_| outside())?;
    let inner = target.strip_prefix(root).map_err(|_| outside())?;
    if is_ignored(inner) || !target.is_file() {
        return Err(outside());
    }
    Ok(target)
}
