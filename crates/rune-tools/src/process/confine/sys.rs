//! The two system calls that no crate has a safe function for.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use rustix::thread::UnshareFlags;

/// `MOUNT_ATTR_*` of `linux/mount.h`.
pub(super) const RDONLY: u64 = 0x1;
pub(super) const NOSUID: u64 = 0x2;
pub(super) const NODEV: u64 = 0x4;
pub(super) const NOEXEC: u64 = 0x8;
const IDMAP: u64 = 0x0010_0000;

/// `struct mount_attr` of `linux/mount.h`.
#[repr(C)]
struct MountAttributes {
    set: u64,
    clear: u64,
    propagation: u64,
    user_namespace: u64,
}

/// Moves this process into new namespaces.
pub(super) fn unshare(flags: UnshareFlags) -> io::Result<()> {
    #[expect(
        unsafe_code,
        reason = "unsafe for UnshareFlags::FILES alone, which nobody here asks for"
    )]
    // SAFETY: the table of open files stays shared.
    unsafe {
        rustix::thread::unshare_unsafe(flags)?;
    }
    Ok(())
}

/// Sets attributes of a mount and, where `recursive`, of those below it; `owners` is the user namespace in which the owners
/// of its files are looked up.
pub(super) fn set_mount_attributes(
    mount: BorrowedFd<'_>,
    attributes: u64,
    owners: Option<BorrowedFd<'_>>,
    recursive: bool,
) -> io::Result<()> {
    let user_namespace = owners.map_or(0, |file| file.as_raw_fd());
    let given = MountAttributes {
        set: attributes | if owners.is_some() { IDMAP } else { 0 },
        clear: 0,
        propagation: 0,
        user_namespace: u64::try_from(user_namespace).unwrap_or_default(),
    };
    let recursive = if recursive { libc::AT_RECURSIVE } else { 0 };
    #[expect(unsafe_code, reason = "no crate has a function for this system call")]
    // SAFETY: the path is a NUL-terminated string and the structure has the layout and the size that are passed; the kernel
    // reads both and keeps neither.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH | recursive,
            &raw const given,
            size_of::<MountAttributes>(),
        )
    };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}
