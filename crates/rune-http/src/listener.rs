//! Where a server is reached: an address, or a Unix socket.

use std::io;
use std::os::fd::AsRawFd as _;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, chmodat, openat, statat, unlinkat};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio_util::either::Either;

/// What a server accepts connections from.
#[derive(Debug)]
pub enum Listener {
    /// An address.
    Tcp(TcpListener),
    /// A Unix socket.
    Unix(UnixListener),
}

impl From<TcpListener> for Listener {
    fn from(listener: TcpListener) -> Self {
        Self::Tcp(listener)
    }
}

impl Listener {
    /// Listens on a Unix socket, however long its path is, in the place of one that an earlier process has left. Who may
    /// connect is what `mode` says, of those who may go where it is.
    ///
    /// # Errors
    /// Where the socket cannot be made; also where something is there that is none.
    pub fn unix(path: &Path, mode: u32) -> io::Result<Self> {
        let (Some(dir), Some(name)) = (path.parent(), path.file_name()) else {
            return Err(io::Error::from(io::ErrorKind::InvalidInput));
        };
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let dir = openat(CWD, dir, flags, Mode::empty())?;
        let found = statat(&dir, name, AtFlags::SYMLINK_NOFOLLOW);
        if found.is_ok_and(|it| FileType::from_raw_mode(it.st_mode) == FileType::Socket) {
            unlinkat(&dir, name, AtFlags::empty())?;
        }
        // The kernel takes no address of more than 107 bytes.
        let short = PathBuf::from(format!("/proc/self/fd/{}", dir.as_raw_fd())).join(name);
        let listener = UnixListener::bind(short)?;
        chmodat(&dir, name, Mode::from_raw_mode(mode), AtFlags::empty())?;
        Ok(Self::Unix(listener))
    }

    pub(crate) async fn accept(&self) -> io::Result<Either<TcpStream, UnixStream>> {
        match self {
            Self::Tcp(listener) => {
                let (stream, _) = listener.accept().await?;
                // Without it the end of every streamed answer waits 40 ms for an acknowledgement.
                stream.set_nodelay(true)?;
                Ok(Either::Left(stream))
            }
            Self::Unix(listener) => {
                let (stream, _) = listener.accept().await?;
                Ok(Either::Right(stream))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};

    use super::*;

    #[tokio::test]
    async fn an_accepted_connection_sends_at_once() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let listener = Listener::from(listener);
        let (client, accepted) = tokio::join!(TcpStream::connect(addr), listener.accept());
        assert!(!client.unwrap().nodelay().unwrap(), "the system's default");
        let Either::Left(accepted) = accepted.unwrap() else {
            panic!("another kind of connection");
        };
        assert!(accepted.nodelay().unwrap());
    }

    #[tokio::test]
    async fn a_socket_with_a_long_path_takes_the_place_of_what_an_earlier_process_left() {
        let dir = tempfile::tempdir().unwrap();
        let deep = dir.path().join("a".repeat(100)).join("b".repeat(100));
        std::fs::create_dir_all(&deep).unwrap();
        let path = deep.join("s");
        drop(Listener::unix(&path, 0o600).unwrap());
        let listener = Listener::unix(&path, 0o600).unwrap();
        let found = std::fs::symlink_metadata(&path).unwrap();
        assert!(found.file_type().is_socket());
        assert_eq!(found.permissions().mode() & 0o777, 0o600);
        let handle = std::fs::File::open(&deep).unwrap();
        let short = format!("/proc/self/fd/{}/s", handle.as_raw_fd());
        let (client, accepted) = tokio::join!(UnixStream::connect(short), listener.accept());
        client.unwrap();
        accepted.unwrap();
    }

    #[tokio::test]
    async fn a_file_in_the_place_of_a_socket_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        std::fs::write(&path, "kept").unwrap();
        assert!(Listener::unix(&path, 0o600).is_err());
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "kept");
    }
}
