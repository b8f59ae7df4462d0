//! The Unix sockets between the daemon and its replicas, as directories of the machine that containers have mounted.
//!
//! One directory holds the daemon's socket and is mounted for reading into every container: a replica can connect, and can
//! neither remove the socket nor put another one in its place. Every replica has a directory of its own for the socket that
//! it makes, which belongs to its user and which no other container has. All of them are in a directory that nobody but
//! the daemon's user may enter. What a replica puts into its directory it controls; the daemon follows no link there and
//! takes nothing but a socket (`FoundSocket` of rune-runtime).

use std::fs::Permissions;
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _, lchown};
use std::path::{Path, PathBuf};

use bollard::models::Mount;
use rune_store_runtime::ReplicaId;

use crate::DockerError;
use crate::mounts::bind;

/// Where a container has both directories.
pub(crate) const INSIDE: &str = "/run/rune";
/// Where a replica finds the daemon, in its container.
pub(crate) const DAEMON_INSIDE: &str = "unix:/run/rune/daemon/daemon.sock";
/// Where a replica listens, in its container.
pub(crate) const REPLICA_INSIDE: &str = "unix:/run/rune/replica/replica.sock";
const DAEMON: &str = "daemon";
const DAEMON_SOCKET: &str = "daemon.sock";
const REPLICA_SOCKET: &str = "replica.sock";

/// The directories of a daemon's sockets.
#[derive(Debug, Clone)]
pub(crate) struct Sockets(PathBuf);

impl Sockets {
    /// Below this data directory.
    pub(crate) fn new(data_dir: &Path) -> Self {
        let dir = data_dir.join("sockets");
        Self(std::path::absolute(&dir).unwrap_or(dir))
    }

    /// Makes the directory of the daemon's socket, removes those of replicas that are not there any more, and answers where
    /// the daemon is to listen.
    pub(crate) fn prepare(&self, there: &[ReplicaId]) -> io::Result<PathBuf> {
        // The first is the gate; whoever is let in to the second may look at it.
        make(&self.0, 0o700)?;
        let daemon = self.0.join(DAEMON);
        make(&daemon, 0o755)?;
        for entry in std::fs::read_dir(&self.0)? {
            let name = entry?.file_name();
            let id: Option<ReplicaId> = name.to_str().and_then(|name| name.parse().ok());
            if let Some(id) = id.filter(|id| !there.contains(id)) {
                self.remove(id)?;
            }
        }
        Ok(daemon.join(DAEMON_SOCKET))
    }

    /// Makes the directory of a replica's socket, for the user that it runs as.
    pub(crate) fn make(&self, id: ReplicaId, owner: Option<u32>) -> io::Result<()> {
        let dir = self.0.join(id.to_string());
        make(&dir, 0o700)?;
        owner.map_or(Ok(()), |user| lchown(&dir, Some(user), None))
    }

    /// Removes it with all that the replica has put there.
    pub(crate) fn remove(&self, id: ReplicaId) -> io::Result<()> {
        match std::fs::remove_dir_all(self.0.join(id.to_string())) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            removed => removed,
        }
    }

    /// What the container of a replica has of them.
    pub(crate) fn mounts(&self, id: ReplicaId) -> Result<[Mount; 2], DockerError> {
        let root = self.0.canonicalize().map_err(|error| refused(&error))?;
        Ok([
            bind(&root.join(DAEMON), &format!("{INSIDE}/daemon"), true),
            bind(
                &root.join(id.to_string()),
                &format!("{INSIDE}/replica"),
                false,
            ),
        ])
    }

    /// Where the daemon reaches a replica.
    pub(crate) fn endpoint(&self, id: ReplicaId) -> Result<String, DockerError> {
        let path = self.0.join(id.to_string()).join(REPLICA_SOCKET);
        let path = path.to_str().ok_or_else(|| {
            refused(&io::Error::other(
                "the path of the data directory is no text",
            ))
        })?;
        Ok(format!("unix:{path}"))
    }
}

/// A directory with this mode, whatever the process lets its files have.
fn make(dir: &Path, mode: u32) -> io::Result<()> {
    match std::fs::DirBuilder::new().mode(mode & 0o700).create(dir) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    std::fs::set_permissions(dir, Permissions::from_mode(mode))
}

/// What is wrong with the directories.
pub(crate) fn refused(error: &io::Error) -> DockerError {
    DockerError::Refused {
        action: "be given the sockets between it and the daemon",
        reason: error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_the_directories_of_replicas_that_are_there() {
        let dir = tempfile::tempdir().unwrap();
        let sockets = Sockets::new(dir.path());
        let [first, second] = [ReplicaId::generate(), ReplicaId::generate()];
        sockets.prepare(&[]).unwrap();
        for id in [first, second] {
            sockets.make(id, None).unwrap();
            sockets.make(id, None).unwrap();
        }
        let daemon = sockets.prepare(&[second]).unwrap();
        assert!(daemon.ends_with("sockets/daemon/daemon.sock"));
        let root = dir.path().join("sockets");
        assert!(!root.join(first.to_string()).exists());
        assert!(root.join(second.to_string()).exists());
        let mode = std::fs::metadata(&root).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o700);
        sockets.remove(second).unwrap();
        sockets.remove(second).unwrap();
    }
}
