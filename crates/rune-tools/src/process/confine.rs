//! Confinement of a process on Linux.
//!
//! Three parts, each of which holds by itself:
//!
//! * **namespaces**: user, mount, process, network, IPC and host name. The process sees a tree of files in which nothing but
//!   the system's programs, its package and its grants exists, has its own `/proc` and, unless it connects as it likes, a
//!   network without a way out. Its user has no capabilities; under a daemon of root it is a user of nobody, so that the limit
//!   of processes holds. Whatever it starts ends with the first process of the namespace.
//! * **Landlock**: the same files once more, and TCP and signals where the kernel knows them.
//! * **seccomp**: no system call that changes the system, looks into other processes or opens other kinds of sockets.
//!
//! [`prepare`] is done by the launcher while it has a single thread, [`init`] is the first process of the namespace: it gives
//! up what it needed, starts the tool and looks after its memory and CPU time.

mod init;
mod namespaces;
mod rules;
mod seccomp;
mod sys;
mod tree;
mod watch;

use std::net::{Ipv4Addr, TcpListener};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::fds;
use super::launcher::{Confinement, HELP, LISTENS, LaunchSpec, Network};
pub(super) use init::init;
pub(super) use namespaces::user_namespace;

/// Where the tree is put together. What is really there stays as it is: the mount is one of the namespace.
const STAGING: &str = "/tmp";
/// The private directory for temporary files, in the namespace.
const TMP: &str = "/tmp";
/// Bytes of it.
const TMP_BYTES: u64 = 256 << 20;

/// Programs and what they need.
const SYSTEM: [&str; 8] = [
    "/usr",
    "/bin",
    "/sbin",
    "/lib",
    "/lib32",
    "/lib64",
    "/libx32",
    "/nix/store",
];

/// Configuration that programs need, and nothing that is secret.
const ETC: &[&str] = &[
    "/etc/alternatives",
    "/etc/bash.bashrc",
    "/etc/ca-certificates",
    "/etc/ca-certificates.conf",
    "/etc/debian_version",
    "/etc/gai.conf",
    "/etc/group",
    "/etc/host.conf",
    "/etc/hosts",
    "/etc/inputrc",
    "/etc/ld.so.cache",
    "/etc/ld.so.conf",
    "/etc/ld.so.conf.d",
    "/etc/locale.alias",
    "/etc/localtime",
    "/etc/magic",
    "/etc/mime.types",
    "/etc/nsswitch.conf",
    "/etc/os-release",
    "/etc/passwd",
    "/etc/pki/ca-trust",
    "/etc/pki/tls/certs",
    "/etc/profile",
    "/etc/protocols",
    "/etc/resolv.conf",
    "/etc/services",
    "/etc/ssl/cert.pem",
    "/etc/ssl/certs",
    "/etc/ssl/openssl.cnf",
    "/etc/terminfo",
    "/etc/timezone",
];

/// Devices without a state.
const DEVICES: [&str; 5] = [
    "/dev/null",
    "/dev/zero",
    "/dev/full",
    "/dev/random",
    "/dev/urandom",
];

/// The error of a part that cannot be had.
fn missing(part: &str, why: impl std::fmt::Display) -> String {
    format!("{part}: {why}{HELP}")
}

/// How far [`prepare`] has come.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Stage {
    /// Where temporary files are.
    tmp: PathBuf,
    /// The port of the filter of connections, on this host as the process sees it.
    port: Option<u16>,
}

/// What the first process of a namespace is told.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Orders {
    pub(super) launch: LaunchSpec,
    pub(super) confinement: Confinement,
    pub(super) stage: Stage,
}

/// Makes this process one whose next child is the first of its namespaces. It must have a single thread. `stdin` is what that
/// will read, `daemon` is told of the listener that stands for the way out.
pub(super) fn prepare(
    confinement: &Confinement,
    stdin: BorrowedFd<'_>,
    daemon: &UnixStream,
) -> Result<Stage, String> {
    let mut stage = Stage {
        tmp: TMP.into(),
        port: None,
    };
    if confinement.parts.namespaces {
        namespaces::enter(confinement, stdin)?;
    } else {
        stage.tmp = private_directory().map_err(|why| format!("a directory for files: {why}"))?;
    }
    if confinement.network == Network::Filtered {
        let listening = || -> std::io::Result<u16> {
            if confinement.parts.namespaces {
                namespaces::loopback_up()?;
            }
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
            fds::send(daemon.as_fd(), &[LISTENS], listener.as_fd())?;
            Ok(listener.local_addr()?.port())
        };
        let port = listening().map_err(|error| format!("the filter of connections: {error}"))?;
        stage.port = Some(port);
    }
    Ok(stage)
}

impl Stage {
    /// Removes what stays outside of namespaces.
    pub(super) fn clean_up(&self, confinement: &Confinement) {
        if !confinement.parts.namespaces {
            // What a process that was left behind still writes stays.
            let _ = std::fs::remove_dir_all(&self.tmp);
        }
    }
}

/// A new directory for the temporary files of one process.
fn private_directory() -> std::io::Result<PathBuf> {
    use std::os::unix::fs::DirBuilderExt;
    let outer = PathBuf::from("/tmp");
    let mut n = 0_u32;
    loop {
        let path = outer.join(format!("rune-tool-{}-{n}", std::process::id()));
        match std::fs::DirBuilder::new().mode(0o700).create(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists && n < 1000 => n += 1,
            made => return made.map(|()| path),
        }
    }
}
