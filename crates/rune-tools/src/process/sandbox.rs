//! How far processes are confined, and what this machine can do.

use std::ffi::OsString;
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::fds;
use super::launcher::{Confinement, HELP, LaunchReport, LaunchSpec, Network};
use super::reach::ProcessLimits;

/// The longest that a machine may take to say what it can do.
const PROBE_PATIENCE: Duration = Duration::from_secs(10);

/// The parts of a confinement.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Parts {
    /// A tree of files, processes and a network of its own.
    pub namespaces: bool,
    /// Rules of the kernel for files and connections.
    pub landlock: bool,
    /// A filter of system calls.
    pub seccomp: bool,
}

impl Parts {
    /// All of them.
    pub const ALL: Self = Self {
        namespaces: true,
        landlock: true,
        seccomp: true,
    };

    /// Whether there is one.
    #[must_use]
    pub const fn any(self) -> bool {
        self.namespaces || self.landlock || self.seccomp
    }
}

/// How a launcher confines what it starts.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Sandbox {
    /// What is done. A process is not started where one of these cannot be; none means that processes are not confined.
    pub parts: Parts,
    /// Rune's own files and directories, which no process sees.
    pub hidden: Vec<PathBuf>,
}

/// What a machine can do, by part.
#[derive(Debug, Clone)]
pub struct SandboxSupport {
    /// The name of a part, and why there is none.
    pub parts: [(&'static str, Result<(), String>); 3],
}

impl SandboxSupport {
    /// Tries each part with a launcher, which `program` and `args` name. Blocks for some milliseconds.
    #[must_use]
    pub fn probe(program: &Path, args: &[OsString]) -> Self {
        let none = Parts::default();
        let try_part = |parts| answer(probe(program, args, parts));
        Self {
            parts: [
                (
                    "namespaces",
                    try_part(Parts {
                        namespaces: true,
                        ..none
                    }),
                ),
                (
                    "Landlock",
                    try_part(Parts {
                        landlock: true,
                        ..none
                    }),
                ),
                (
                    "seccomp",
                    try_part(Parts {
                        seccomp: true,
                        ..none
                    }),
                ),
            ],
        }
    }

    /// Tries all parts together, as a process needs them; why that cannot be is an error. Blocks for some milliseconds.
    ///
    /// # Errors
    /// What this machine lacks, for a person.
    pub fn require(program: &Path, args: &[OsString]) -> Result<(), String> {
        answer(probe(program, args, Parts::ALL))
    }

    /// The parts that there are.
    #[must_use]
    pub fn available(&self) -> Parts {
        let [namespaces, landlock, seccomp] = &self.parts;
        Parts {
            namespaces: namespaces.1.is_ok(),
            landlock: landlock.1.is_ok(),
            seccomp: seccomp.1.is_ok(),
        }
    }
}

fn answer(tried: io::Result<LaunchReport>) -> Result<(), String> {
    match tried.map_err(|error| error.to_string())? {
        LaunchReport::Ended(0) => Ok(()),
        LaunchReport::Refused(why) => Err(why.trim_end_matches(HELP).to_owned()),
        other => Err(format!("`sh` did not end well in it: {other:?}")),
    }
}

/// Starts a shell that does nothing under these parts.
fn probe(program: &Path, args: &[OsString], parts: Parts) -> io::Result<LaunchReport> {
    let (mut ours, theirs) = UnixStream::pair()?;
    ours.set_read_timeout(Some(PROBE_PATIENCE))?;
    let mut launcher = Command::new(program)
        .args(args)
        .env_clear()
        .stdin(Stdio::from(OwnedFd::from(theirs)))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .process_group(0)
        .spawn()?;
    let spec = LaunchSpec {
        program: "/bin/sh".into(),
        args: vec!["-c".into(), ":".into()],
        env: Vec::new(),
        cwd: "/".into(),
        account: None,
        confinement: Some(Confinement {
            parts,
            paths: Vec::new(),
            package: None,
            hidden: Vec::new(),
            network: Network::None,
            limits: ProcessLimits::TOOL,
        }),
    };
    let nothing = std::fs::File::open("/dev/null")?;
    fds::send_message(&mut ours, &serde_json::to_vec(&spec)?, nothing.as_fd())?;
    let mut report = Vec::new();
    let read = ours.read_to_end(&mut report);
    // It ends the process group, and itself with it.
    drop(ours);
    launcher.wait()?;
    read?;
    Ok(serde_json::from_slice(&report)?)
}
