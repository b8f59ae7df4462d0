//! The file tree of a confined process: what it is granted at its own paths, and nothing else.

use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Component, Path, PathBuf};

use rustix::fs::{CWD, FileType, Mode, OFlags, ResolveFlags, mkdirat, openat, openat2, symlinkat};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, OpenTreeFlags, fsconfig_create,
    fsconfig_set_string, fsmount, fsopen, move_mount, open_tree,
};

use super::super::launcher::Confinement;
use super::super::reach::PathGrant;
use super::sys::{NODEV, NOEXEC, NOSUID, RDONLY, set_mount_attributes};
use super::{DEVICES, ETC, STAGING, SYSTEM, TMP_BYTES};

/// Never changed by a tool, where they are directly in a directory that it may change.
const KEPT: [&str; 2] = [".git", "Runefile"];
/// Bytes of the directories and links of the tree itself.
const ROOT_BYTES: u64 = 1 << 20;

/// What stands where.
pub(super) struct Attachment {
    at: PathBuf,
    what: What,
}

enum What {
    /// A copy of a mount, not attached yet.
    Mount { mount: OwnedFd, is_dir: bool },
    /// A directory with nothing in it.
    Nothing,
    /// A symbolic link.
    Link(PathBuf),
}

/// Opens what a process is granted. `owners` is the namespace of the process, where its user is not who owns the files.
pub(super) fn gather(
    confinement: &Confinement,
    owners: Option<BorrowedFd<'_>>,
) -> Result<Vec<Attachment>, String> {
    let mut all = system()?;
    for path in DEVICES {
        all.push(copy(path.as_ref(), &open(path)?, NOSUID | NOEXEC, None)?);
    }
    all.extend(granted(confinement, owners)?);
    Ok(all)
}

fn system() -> Result<Vec<Attachment>, String> {
    let mut all = Vec::new();
    for path in SYSTEM {
        let Ok(meta) = fs::symlink_metadata(path) else {
            continue;
        };
        if meta.is_symlink() {
            let target = fs::read_link(path).map_err(|error| failed(path, &error))?;
            all.push(Attachment {
                at: path.into(),
                what: What::Link(target),
            });
        } else {
            all.push(copy(path.as_ref(), &open(path)?, READ_ONLY, None)?);
        }
    }
    for path in ETC.iter().filter(|path| Path::new(path).exists()) {
        all.push(copy(path.as_ref(), &open(path)?, READ_ONLY, None)?);
    }
    Ok(all)
}

const READ_ONLY: u64 = RDONLY | NOSUID | NODEV;

/// What is granted, and what stays out of reach in it: whatever is deeper stands on what is above it.
fn granted(
    confinement: &Confinement,
    owners: Option<BorrowedFd<'_>>,
) -> Result<Vec<Attachment>, String> {
    let hidden: Vec<PathBuf> = real_paths(&confinement.hidden);
    let package = confinement.package.as_ref();
    let real_package = package.and_then(|path| fs::canonicalize(path).ok());
    let (mut granted, mut kept) = (Vec::new(), Vec::new());
    for grant in &confinement.paths {
        let opened = open_grant(grant)?;
        let real = real_path(&opened)?;
        for path in &hidden {
            if let Ok(rest) = path.strip_prefix(&real) {
                let at = grant.path.join(rest);
                kept.push(if path.is_dir() {
                    Attachment {
                        at,
                        what: What::Nothing,
                    }
                } else {
                    copy(&at, &open("/dev/null")?, READ_ONLY, None)?
                });
            }
        }
        if grant.write {
            for name in KEPT {
                if let Ok(file) = beneath(&opened, Path::new(name), ResolveFlags::NO_SYMLINKS) {
                    kept.push(copy(&grant.path.join(name), &file, READ_ONLY, owners)?);
                }
            }
            if let Some(path) = &real_package
                && let Ok(rest) = path.strip_prefix(&real)
            {
                let at = grant.path.join(rest);
                kept.push(copy(&at, &open(path)?, READ_ONLY, owners)?);
            }
        }
        let attributes = if grant.write {
            NOSUID | NODEV
        } else {
            READ_ONLY
        };
        granted.push(copy(&grant.path, &opened, attributes, owners)?);
    }
    if let Some(path) = package {
        kept.push(copy(path, &open(path)?, READ_ONLY, owners)?);
    }
    granted.extend(kept);
    granted.sort_by_key(|attachment| attachment.at.components().count());
    Ok(granted)
}

pub(super) fn real_paths(paths: &[PathBuf]) -> Vec<PathBuf> {
    let paths = paths.iter();
    paths
        .filter_map(|path| fs::canonicalize(path).ok())
        .collect()
}

/// Opens a grant; one in the workspace does not lead out of it.
pub(super) fn open_grant(grant: &PathGrant) -> Result<OwnedFd, String> {
    let Some(inside) = &grant.inside else {
        return open(&grant.path);
    };
    let outer = open(inside)?;
    let rest = grant.path.strip_prefix(inside).unwrap_or(&grant.path);
    let flags = ResolveFlags::NO_MAGICLINKS;
    beneath(&outer, rest, flags).map_err(|error| failed(&grant.path, &error))
}

/// Where an open file is.
pub(super) fn real_path(file: &OwnedFd) -> Result<PathBuf, String> {
    use std::os::fd::AsRawFd;
    let link = format!("/proc/self/fd/{}", file.as_raw_fd());
    fs::read_link(&link).map_err(|error| failed(&link, &error))
}

fn beneath(dir: &OwnedFd, path: &Path, flags: ResolveFlags) -> io::Result<OwnedFd> {
    if path.as_os_str().is_empty() {
        return dir.try_clone();
    }
    let resolve = ResolveFlags::BENEATH | flags;
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    Ok(openat2(dir, path, flags, Mode::empty(), resolve)?)
}

pub(super) fn open(path: impl AsRef<Path>) -> Result<OwnedFd, String> {
    let path = path.as_ref();
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    openat(CWD, path, flags, Mode::empty()).map_err(|error| failed(path, &error.into()))
}

pub(super) fn is_dir(file: &OwnedFd) -> rustix::io::Result<bool> {
    let mode = rustix::fs::fstat(file)?.st_mode;
    Ok(FileType::from_raw_mode(mode) == FileType::Directory)
}

fn copy(
    at: &Path,
    file: &OwnedFd,
    attributes: u64,
    owners: Option<BorrowedFd<'_>>,
) -> Result<Attachment, String> {
    let failed = |error: Errno| failed(at, &error.into());
    let is_dir = is_dir(file).map_err(failed)?;
    let flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_EMPTY_PATH
        | OpenTreeFlags::AT_RECURSIVE;
    let mount = open_tree(file, "", flags).map_err(failed)?;
    set_mount_attributes(mount.as_fd(), attributes, owners, true).map_err(|error| {
        let hint = match (owners, error.raw_os_error()) {
            (Some(_), Some(libc::EINVAL)) => {
                "; its file system does not let the daemon's root give it to another user"
            }
            _ => "",
        };
        format!("{}: {error}{hint}", at.display())
    })?;
    Ok(Attachment {
        at: at.to_owned(),
        what: What::Mount { mount, is_dir },
    })
}

/// Puts everything in its place, below [`STAGING`].
pub(super) fn attach(attachments: Vec<Attachment>, memory: u64) -> Result<(), String> {
    let mount = tmpfs(ROOT_BYTES, "0755")?;
    let place = open(STAGING)?;
    join(&mount, &place).map_err(|error| failed(STAGING, &error))?;
    let root = open(STAGING)?;
    let tmp = TMP_BYTES.min(memory);
    for (path, mode) in [("/tmp", "1777"), ("/dev/shm", "1777")] {
        attach_at(&root, Path::new(path), &tmpfs(tmp, mode)?, true)?;
    }
    make(&root, Path::new("/proc"), true).map_err(|error| failed("/proc", &error))?;
    let mut empty = Vec::new();
    for Attachment { at, what } in attachments {
        match what {
            What::Mount { mount, is_dir } => attach_at(&root, &at, &mount, is_dir)?,
            What::Nothing => {
                let mount = tmpfs(ROOT_BYTES, "0755")?;
                attach_at(&root, &at, &mount, true)?;
                empty.push(mount);
            }
            What::Link(target) => link(&root, &at, &target)?,
        }
    }
    for (name, target) in [
        ("/dev/fd", "/proc/self/fd"),
        ("/dev/stdin", "/proc/self/fd/0"),
        ("/dev/stdout", "/proc/self/fd/1"),
        ("/dev/stderr", "/proc/self/fd/2"),
    ] {
        link(&root, name.as_ref(), target.as_ref())?;
    }
    empty.push(mount);
    for mount in empty {
        set_mount_attributes(mount.as_fd(), RDONLY, None, false)
            .map_err(|error| failed("/", &error))?;
    }
    Ok(())
}

fn tmpfs(bytes: u64, mode: &str) -> Result<OwnedFd, String> {
    let made = || -> io::Result<OwnedFd> {
        let context = fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
        fsconfig_set_string(&context, "size", bytes.to_string())?;
        fsconfig_set_string(&context, "mode", mode)?;
        fsconfig_set_string(&context, "nr_inodes", "65536")?;
        fsconfig_create(&context)?;
        let attributes = MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NODEV;
        Ok(fsmount(
            &context,
            FsMountFlags::FSMOUNT_CLOEXEC,
            attributes,
        )?)
    };
    made().map_err(|error| format!("a file system in memory: {error}"))
}

fn attach_at(root: &OwnedFd, at: &Path, mount: &OwnedFd, is_dir: bool) -> Result<(), String> {
    let joined = || join(mount, &make(root, at, is_dir)?);
    joined().map_err(|error| failed(at, &error))
}

fn join(mount: &OwnedFd, place: &OwnedFd) -> io::Result<()> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    Ok(move_mount(mount, "", place, "", flags)?)
}

fn link(root: &OwnedFd, at: &Path, target: &Path) -> Result<(), String> {
    let made = || -> io::Result<()> {
        let parent = make(root, at.parent().unwrap_or(Path::new("/")), true)?;
        let name = at.file_name().unwrap_or_default();
        Ok(symlinkat(target, &parent, name)?)
    };
    made().map_err(|error| failed(at, &error))
}

/// A place for a mount; what is missing on the way to it is made, and no symbolic link is followed.
fn make(root: &OwnedFd, path: &Path, is_dir: bool) -> io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let names = path.components().filter_map(|component| match component {
        Component::Normal(name) => Some(name),
        _ => None,
    });
    let names: Vec<_> = names.collect();
    let mut here = root.try_clone()?;
    for (n, name) in names.iter().enumerate() {
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
        let open = || openat2(&here, *name, flags, Mode::empty(), resolve);
        let next = match open() {
            Err(Errno::NOENT) if is_dir || n + 1 < names.len() => {
                // What leads to a grant is not one.
                mkdirat(&here, *name, Mode::from_raw_mode(0o555))?;
                open()?
            }
            Err(Errno::NOENT) => {
                let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
                openat(&here, *name, flags, Mode::from_raw_mode(0o644))?;
                open()?
            }
            opened => opened?,
        };
        here = next;
    }
    Ok(here)
}

fn failed(path: impl AsRef<Path>, error: &io::Error) -> String {
    format!("{}: {error}", path.as_ref().display())
}
