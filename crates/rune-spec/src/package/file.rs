//! Single files of an agent directory: read and written without leaving it.

use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use super::AgentPackage;
use super::walk::is_ignored;
use crate::document::read_text;
use crate::error::InvalidValue;

/// What a new file may be read and written by, before the process's mask.
const NEW_FILE_MODE: u32 = 0o666;

impl AgentPackage {
    /// The text of a file of the package, at the most [`MAX_FILE_BYTES`](crate::MAX_FILE_BYTES).
    ///
    /// # Errors
    /// It does not exist, is none of the package, is reached through a link that leaves it, is too large, or is no text.
    pub fn text(&self, relative: &Path) -> Result<String, InvalidValue> {
        text(&self.dir, relative)
    }

    /// Writes a file of the package, whole or not at all, and makes the directories that it lies in. A link at its place is
    /// replaced, not followed.
    ///
    /// # Errors
    /// Its directory is reached through a link that leaves the package, the file would be none of the package, or the file
    /// system fails.
    pub fn write(&self, relative: &Path, text: &str) -> Result<(), InvalidValue> {
        let shown = relative.display();
        if is_ignored(relative) {
            return Err(left_out(relative));
        }
        let broken =
            |error: io::Error| InvalidValue::new(format!("cannot write `{shown}`: {error}"));
        let path = self.dir.join(relative);
        let parent = path.parent().unwrap_or(&self.dir);
        let there = parent.ancestors().find(|dir| dir.exists());
        let there = fs::canonicalize(there.unwrap_or(&self.dir)).map_err(broken)?;
        if !there.starts_with(&self.dir) {
            return Err(leads_out(relative));
        }
        fs::create_dir_all(parent).map_err(broken)?;
        replace_file(&path, text).map_err(broken)
    }
}

/// The text of a file of the package in `root`, which is absolute and without links.
pub(super) fn text(root: &Path, relative: &Path) -> Result<String, InvalidValue> {
    let path = inside(root, relative)?;
    read_text(&path)
        .map_err(|error| InvalidValue::new(format!("{}: {}", relative.display(), error.message())))
}

/// A file that exists, is part of the package, and is not reached through a link that leaves it.
pub(super) fn inside(root: &Path, relative: &Path) -> Result<PathBuf, InvalidValue> {
    let shown = relative.display();
    let path = fs::canonicalize(root.join(relative)).map_err(|_| {
        InvalidValue::new(format!(
            "the file `{shown}` does not exist in the agent directory"
        ))
    })?;
    let inner = path.strip_prefix(root).map_err(|_| leads_out(relative))?;
    if is_ignored(relative) || is_ignored(inner) {
        return Err(left_out(relative));
    }
    if !path.is_file() {
        return Err(InvalidValue::new(format!("`{shown}` is not a file")));
    }
    Ok(path)
}

fn leads_out(relative: &Path) -> InvalidValue {
    let shown = relative.display();
    InvalidValue::new(format!("`{shown}` leads out of the agent directory"))
}

fn left_out(relative: &Path) -> InvalidValue {
    let shown = relative.display();
    InvalidValue::new(format!(
        "`{shown}` is left out of packages, so it cannot be used"
    ))
}

/// Puts `content` in the place of a file, whole or not at all: what was there stays until all is written, and so does its
/// mode. A link at its place is replaced, not followed.
///
/// # Errors
/// The file system's; nothing is changed then.
pub fn replace_file(path: &Path, content: impl AsRef<[u8]>) -> io::Result<()> {
    let parent = path.parent().filter(|dir| !dir.as_os_str().is_empty());
    let mut draft = tempfile::Builder::new();
    draft
        .prefix(".rune-")
        .permissions(fs::Permissions::from_mode(NEW_FILE_MODE));
    let mut draft = draft.tempfile_in(parent.unwrap_or(Path::new(".")))?;
    draft.write_all(content.as_ref())?;
    if let Ok(before) = fs::symlink_metadata(path)
        && before.is_file()
    {
        draft.as_file().set_permissions(before.permissions())?;
    }
    draft.as_file().sync_all()?;
    draft.persist(path)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;
    use crate::document::MAX_FILE_BYTES;

    const RUNEFILE: &str = "name: a\nversion: 0.1.0\ninstructions: Hi.\ndefault_model: m\n";

    fn package() -> (tempfile::TempDir, AgentPackage) {
        let dir = tempfile::tempdir().unwrap();
        let agent = dir.path().join("agent");
        fs::create_dir(&agent).unwrap();
        fs::write(agent.join("Runefile"), RUNEFILE).unwrap();
        let package = AgentPackage::load(&agent).unwrap();
        (dir, package)
    }

    #[test]
    fn a_file_is_written_whole_and_keeps_its_mode() {
        let (_dir, package) = package();
        let path = Path::new("evals/golden/deep/a.txt");
        package.write(path, "one").unwrap();
        assert_eq!(package.text(path).unwrap(), "one");
        let full = package.dir.join(path);
        fs::set_permissions(&full, fs::Permissions::from_mode(0o640)).unwrap();
        package.write(path, "two").unwrap();
        assert_eq!(package.text(path).unwrap(), "two");
        let mode = fs::metadata(&full).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o640);
        let left = fs::read_dir(full.parent().unwrap()).unwrap().count();
        assert_eq!(left, 1, "a draft was left behind");
    }

    #[test]
    fn links_do_not_lead_out() {
        let (dir, package) = package();
        let outside = dir.path().join("outside");
        fs::create_dir(&outside).unwrap();
        fs::write(outside.join("a.txt"), "theirs").unwrap();
        fs::create_dir(package.dir.join("evals")).unwrap();
        symlink(&outside, package.dir.join("evals/golden")).unwrap();
        symlink(outside.join("a.txt"), package.dir.join("evals/link.txt")).unwrap();
        for path in ["evals/golden/a.txt", "evals/link.txt"] {
            let error = package.text(Path::new(path)).unwrap_err();
            assert!(error.message().contains("leads out"), "{error}");
        }
        for path in ["evals/golden/a.txt", "evals/golden/new/b.txt"] {
            let error = package.write(Path::new(path), "mine").unwrap_err();
            assert!(error.message().contains("leads out"), "{error}");
        }
        // The link itself is in the package, and is what is replaced.
        package.write(Path::new("evals/link.txt"), "mine").unwrap();
        assert_eq!(package.text(Path::new("evals/link.txt")).unwrap(), "mine");
        let theirs = fs::read_to_string(outside.join("a.txt")).unwrap();
        assert_eq!(theirs, "theirs");
        assert_eq!(fs::read_dir(&outside).unwrap().count(), 1);
    }

    #[test]
    fn a_file_has_a_size_and_is_one_of_the_package() {
        let (_dir, package) = package();
        let long = "x".repeat(usize::try_from(MAX_FILE_BYTES).unwrap() + 1);
        fs::write(package.dir.join("long.txt"), long).unwrap();
        let error = package.text(Path::new("long.txt")).unwrap_err();
        assert!(error.message().contains("larger than"), "{error}");
        let error = package.write(Path::new(".env"), "A=1").unwrap_err();
        assert!(error.message().contains("left out"), "{error}");
    }
}
