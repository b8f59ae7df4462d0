//! Packages as tar archives.

use std::collections::BTreeSet;
use std::fs;
use std::io::Read;
use std::path::{Component, Path};

use serde::Serialize;
use sha2::{Digest, Sha256};
use tar::{Archive, Builder, EntryType, Header};

use super::{MAX_PACKAGE_BYTES, MAX_PACKAGE_FILES, PackageError, PackedPackage, RUNEFILE, walk};

/// A file of a package.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PackageEntry {
    /// Relative to the package, with `/`.
    pub path: String,
    /// Bytes.
    pub size: u64,
    /// Whether it may be executed.
    pub executable: bool,
}

/// Packs an agent directory. The same content gives the same bytes: entries are sorted, times and owners are zero,
/// modes are 0644 or 0755. Left out are `.git`, `target`, `node_modules`, `__pycache__`, `.venv`, `.DS_Store` and
/// `.env*`.
///
/// # Errors
/// [`PackageError`] when the directory has no Runefile, cannot be read, leads out of itself, or breaks a limit.
pub fn pack(dir: &Path) -> Result<PackedPackage, PackageError> {
    let io = |operation, path: &Path| {
        let path = path.to_owned();
        move |source| PackageError::Io {
            operation,
            path,
            source,
        }
    };
    let root = fs::canonicalize(dir).map_err(io("open", dir))?;
    let found = walk::files(&root)?;
    if !found.iter().any(|file| file.name == RUNEFILE) {
        return Err(PackageError::NoRunefile {
            dir: dir.to_owned(),
        });
    }
    let mut builder = Builder::new(Vec::new());
    let mut files = Vec::new();
    let mut total = 0;
    for file in found {
        let meta = fs::metadata(&file.path).map_err(io("read", &file.path))?;
        total += meta.len();
        if total > MAX_PACKAGE_BYTES {
            return Err(PackageError::TooLarge);
        }
        let content = fs::read(&file.path).map_err(io("read", &file.path))?;
        let entry = PackageEntry {
            path: file.name,
            size: content.len() as u64,
            executable: is_executable(&meta),
        };
        append(&mut builder, &entry, &content)?;
        files.push(entry);
    }
    let bytes = builder.into_inner().map_err(PackageError::Archive)?;
    if bytes.len() as u64 > MAX_PACKAGE_BYTES {
        return Err(PackageError::TooLarge);
    }
    Ok(PackedPackage {
        digest: digest(&bytes),
        bytes,
        files,
    })
}

fn append(
    builder: &mut Builder<Vec<u8>>,
    entry: &PackageEntry,
    content: &[u8],
) -> Result<(), PackageError> {
    let mut header = Header::new_gnu();
    header.set_entry_type(EntryType::Regular);
    header.set_size(entry.size);
    header.set_mode(if entry.executable { 0o755 } else { 0o644 });
    header.set_mtime(0);
    header.set_uid(0);
    header.set_gid(0);
    builder
        .append_data(&mut header, &entry.path, content)
        .map_err(PackageError::Archive)
}

/// The content address of a package: `sha256:` and hex.
pub fn digest(bytes: &[u8]) -> String {
    let hash = Sha256::digest(bytes);
    hash.iter().fold(String::from("sha256:"), |mut text, byte| {
        for nibble in [byte >> 4, byte & 15] {
            text.push(char::from_digit(u32::from(nibble), 16).unwrap_or_default());
        }
        text
    })
}

/// Lists a packed package after checking every path, type and limit.
///
/// # Errors
/// [`PackageError`] for the first entry that [`unpack`] would refuse.
pub fn inspect(bytes: &[u8]) -> Result<Vec<PackageEntry>, PackageError> {
    let mut entries = Vec::new();
    visit(bytes, |entry, _| {
        entries.push(entry.clone());
        Ok(())
    })?;
    Ok(entries)
}

/// Unpacks a package into `dest`, which is created when missing. Everything is checked before the first file is
/// written; an existing file is never overwritten.
///
/// # Errors
/// [`PackageError`] when an entry is absolute, leads upwards, is a link or another special file, is there twice, when
/// a limit is broken, or when a file cannot be written.
pub fn unpack(bytes: &[u8], dest: &Path) -> Result<Vec<PackageEntry>, PackageError> {
    let entries = inspect(bytes)?;
    let io = |operation, path: &Path| {
        let path = path.to_owned();
        move |source| PackageError::Io {
            operation,
            path,
            source,
        }
    };
    fs::create_dir_all(dest).map_err(io("create", dest))?;
    visit(bytes, |entry, content| {
        let path = dest.join(&entry.path);
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent).map_err(io("create", parent))?;
        }
        let mut file = fs::File::create_new(&path).map_err(io("create", &path))?;
        std::io::copy(content, &mut file).map_err(io("write", &path))?;
        set_mode(&file, entry.executable).map_err(io("write", &path))
    })?;
    Ok(entries)
}

fn visit(
    bytes: &[u8],
    mut each: impl FnMut(&PackageEntry, &mut dyn Read) -> Result<(), PackageError>,
) -> Result<(), PackageError> {
    if bytes.len() as u64 > MAX_PACKAGE_BYTES {
        return Err(PackageError::TooLarge);
    }
    let mut files = BTreeSet::new();
    let mut archive = Archive::new(bytes);
    for entry in archive.entries().map_err(PackageError::Archive)? {
        let mut entry = entry.map_err(PackageError::Archive)?;
        let path = safe_path(&entry.path_bytes())?;
        match entry.header().entry_type() {
            EntryType::Regular => {}
            EntryType::Directory => continue,
            _ => return Err(PackageError::UnsupportedEntry { path }),
        }
        // A file cannot also be the directory of another one.
        let above = Path::new(&path)
            .ancestors()
            .skip(1)
            .filter_map(Path::to_str);
        let below = format!("{path}/");
        let is_directory = files
            .range(below.clone()..)
            .next()
            .is_some_and(|next: &String| next.starts_with(&below));
        if is_directory
            || above.into_iter().any(|parent| files.contains(parent))
            || !files.insert(path.clone())
        {
            return Err(PackageError::Duplicate { path });
        }
        if files.len() > MAX_PACKAGE_FILES {
            return Err(PackageError::TooManyFiles);
        }
        let size = entry.size();
        // Sparse and size extensions could claim more than the archive holds.
        if size > bytes.len() as u64 {
            return Err(PackageError::TooLarge);
        }
        let mode = entry.header().mode().map_err(PackageError::Archive)?;
        each(
            &PackageEntry {
                path,
                size,
                executable: mode & 0o111 != 0,
            },
            &mut entry,
        )?;
    }
    Ok(())
}

fn safe_path(bytes: &[u8]) -> Result<String, PackageError> {
    let refused = || PackageError::UnsafePath {
        path: String::from_utf8_lossy(bytes).into_owned(),
    };
    let text = std::str::from_utf8(bytes).map_err(|_| refused())?;
    if text.contains(['\\', '\0']) {
        return Err(refused());
    }
    let mut parts = Vec::new();
    for component in Path::new(text).components() {
        match component {
            Component::Normal(part) => parts.push(part.to_str().ok_or_else(refused)?),
            Component::CurDir => {}
            _ => return Err(refused()),
        }
    }
    if parts.is_empty() && !text.trim_end_matches('/').eq(".") {
        return Err(refused());
    }
    Ok(parts.join("/"))
}

#[cfg(unix)]
fn is_executable(meta: &fs::Metadata) -> bool {
    use std::os::unix::fs::PermissionsExt as _;
    meta.permissions().mode() & 0o111 != 0
}

#[cfg(not(unix))]
fn is_executable(_: &fs::Metadata) -> bool {
    false
}

#[cfg(unix)]
fn set_mode(file: &fs::File, executable: bool) -> std::io::Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    file.set_permissions(fs::Permissions::from_mode(if executable {
        0o755
    } else {
        0o644
    }))
}

#[cfg(not(unix))]
fn set_mode(_: &fs::File, _: bool) -> std::io::Result<()> {
    Ok(())
}
