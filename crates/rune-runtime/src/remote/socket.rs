//! The socket of a replica on this machine, in a directory that the replica may write to.

use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, FileType, Mode, OFlags, fstat, openat};

/// A socket that was found. Whatever gets its name afterwards, connections go to this one, and no link is followed to it: a
/// replica is not trusted to say what the daemon connects to.
#[derive(Debug)]
pub(super) struct FoundSocket(OwnedFd);

impl FoundSocket {
    /// The socket at this path, which may be longer than an address of the kernel.
    pub(super) fn find(path: &Path) -> io::Result<Self> {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let found = openat(CWD, path, flags, Mode::empty())?;
        let mode = fstat(&found)?.st_mode;
        match FileType::from_raw_mode(mode) {
            FileType::Socket => Ok(Self(found)),
            _ => Err(io::Error::other("what is there is no socket")),
        }
    }

    /// Where it can be connected to while this is there.
    pub(super) fn path(&self) -> PathBuf {
        format!("/proc/self/fd/{}", self.0.as_raw_fd()).into()
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;
    use std::os::unix::net::{UnixListener, UnixStream};

    use super::*;

    #[test]
    fn connects_to_what_was_found_and_not_to_what_took_its_name() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        let own = UnixListener::bind(at("own")).unwrap();
        let other = UnixListener::bind(at("other")).unwrap();
        let found = FoundSocket::find(&at("own")).unwrap();
        std::fs::rename(at("other"), at("own")).unwrap();
        let _client = UnixStream::connect(found.path()).unwrap();
        own.accept().unwrap();
        other.set_nonblocking(true).unwrap();
        assert!(other.accept().is_err());
    }

    #[test]
    fn follows_no_link_and_takes_no_file() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        let _other = UnixListener::bind(at("other")).unwrap();
        symlink(at("other"), at("link")).unwrap();
        std::fs::write(at("file"), "").unwrap();
        for name in ["link", "file", "nothing"] {
            FoundSocket::find(&at(name)).unwrap_err();
        }
    }
}
