//! How a process is started: by this process itself, or by a launcher that outlives it for as long as it takes to
//! end what it started.

use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt, AsyncWriteExt, Interest};
use tokio::net::unix::pipe;
use tokio::net::{TcpListener, UnixStream};
use tokio::process::{ChildStderr, ChildStdout, Command};
use tokio::time::timeout;

use super::exec::Job;
use super::fds;
use super::group::ProcessGroup;
use super::reach::{PathGrant, ProcessLimits, Reach};
use super::sandbox::{Parts, Sandbox};

/// How long the report of a launcher that has ended is waited for; it is there already.
const REPORT_GRACE: Duration = Duration::from_millis(200);

/// How the processes of tools are started.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Launcher {
    /// By this process. What runs when this process is killed by `SIGKILL` goes on without it.
    #[default]
    Direct,
    /// By a program that calls [`serve_launch`](crate::serve_launch). It leads the tool's process group, reads what to
    /// start from a socket, and ends the whole group once the other end of the socket is gone, which the kernel sees
    /// to however this process ends.
    Program {
        /// The program.
        program: PathBuf,
        /// The arguments that make it a launcher.
        args: Vec<OsString>,
        /// How it confines what it starts.
        sandbox: Sandbox,
    },
}

/// What a launcher starts: what is sent to it as JSON, with the process's standard input.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct LaunchSpec {
    pub(super) program: OsString,
    pub(super) args: Vec<OsString>,
    pub(super) env: Vec<(String, String)>,
    pub(super) cwd: OsString,
    pub(super) account: Option<u32>,
    /// Absent where the process is not confined.
    pub(super) confinement: Option<Confinement>,
}

/// What a confined process may reach.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Confinement {
    pub(super) parts: Parts,
    pub(super) paths: Vec<PathGrant>,
    pub(super) package: Option<PathBuf>,
    pub(super) hidden: Vec<PathBuf>,
    pub(super) network: Network,
    pub(super) limits: ProcessLimits,
}

/// How a process connects.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Network {
    /// Not at all.
    None,
    /// Through a filter of connections, of which the launcher sends the listener.
    Filtered,
    /// As it likes.
    Open,
}

/// What a launcher sends with the listener of the filter, before anything else. No report begins like that.
pub(super) const LISTENS: u8 = b'L';

/// The end of the refusal of a machine that lacks a part.
pub(super) const HELP: &str = "; `rune doctor` shows what this machine lacks, and `tools.sandbox = \"best-effort\"` in config.toml \
                               (RUNE_SANDBOX) runs tools with what it has";

/// The temporary directory of a confined process, and its home where it has no other.
const TMP: &str = "/tmp";

/// What a launcher answers, as JSON, before it ends.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum LaunchReport {
    /// The process was not started.
    NotStarted { errno: Option<i32>, message: String },
    /// It was not started because it cannot be confined; the missing part.
    Refused(String),
    /// It was stopped because it used up what is limited; what and how much.
    Stopped(String),
    /// The process has ended, with this status of `wait`.
    Ended(i32),
}

impl LaunchReport {
    pub(super) fn not_started(error: &io::Error) -> Self {
        Self::NotStarted {
            errno: error.raw_os_error(),
            message: error.to_string(),
        }
    }
}

/// What a launcher says of the end of a process.
pub(super) enum Said {
    Status(ExitStatus),
    Refused(String),
    Stopped(String),
}

/// A process that runs.
pub(super) struct Launched {
    pub(super) group: ProcessGroup,
    /// Its standard input.
    pub(super) input: pipe::Sender,
    pub(super) reports: Option<Reports>,
    pub(super) stdout: Option<ChildStdout>,
    pub(super) stderr: Option<ChildStderr>,
}

/// What the launcher says. It ends what it started where this is dropped.
#[derive(Debug)]
pub(super) struct Reports {
    socket: UnixStream,
    /// What was read of it already.
    begun: Vec<u8>,
}

impl Launcher {
    /// How what it starts is confined.
    pub(super) const fn sandbox(&self) -> Option<&Sandbox> {
        match self {
            Self::Program { sandbox, .. } if sandbox.parts.any() => Some(sandbox),
            Self::Program { .. } | Self::Direct => None,
        }
    }

    /// The same without confinement, for a program that confines itself.
    pub(crate) fn unconfined(&self) -> Self {
        match self {
            Self::Direct => Self::Direct,
            Self::Program { program, args, .. } => Self::Program {
                program: program.clone(),
                args: args.clone(),
                sandbox: Sandbox::default(),
            },
        }
    }

    /// Starts the process of a job, or what will start it.
    pub(super) async fn start(&self, job: &Job) -> io::Result<Launched> {
        let args = job.args.iter().map(OsString::from).collect();
        let mut spec = LaunchSpec {
            program: job.program.clone().into_os_string(),
            args,
            env: job.env.clone(),
            cwd: job.cwd.clone().into_os_string(),
            account: job.account,
            confinement: None,
        };
        if let Some(sandbox) = self.sandbox() {
            spec.confine(&job.reach, sandbox);
        }
        self.launch(&spec).await
    }

    /// Starts what is described, or what will start it.
    pub(super) async fn launch(&self, spec: &LaunchSpec) -> io::Result<Launched> {
        let (input, stdin) = pipe::pipe()?;
        let (mut group, ours) = self.spawn(spec, stdin.into_blocking_fd()?)?;
        let (_, stdout, stderr) = group.pipes();
        let reports = match ours {
            None => None,
            Some((ours, stdin)) => {
                let spec = serde_json::to_vec(spec)?;
                fds::begin(ours.as_fd(), spec.len(), stdin.as_fd())?;
                drop(stdin);
                let mut socket = UnixStream::from_std(ours)?;
                socket.write_all(&spec).await?;
                Some(Reports {
                    socket,
                    begun: Vec::new(),
                })
            }
        };
        Ok(Launched {
            group,
            input,
            reports,
            stdout,
            stderr,
        })
    }

    /// A new process that runs what is described, or a launcher, with what that has to be sent.
    fn spawn(&self, spec: &LaunchSpec, stdin: OwnedFd) -> io::Result<(ProcessGroup, Handover)> {
        let (mut command, handover) = match self {
            Self::Direct => {
                let mut command = Command::new(&spec.program);
                command
                    .args(&spec.args)
                    .env_clear()
                    .envs(spec.env.iter().map(|(name, value)| (name, value)))
                    .current_dir(&spec.cwd)
                    .stdin(Stdio::from(stdin));
                if let Some(account) = spec.account {
                    command.gid(account).uid(account);
                }
                (command, None)
            }
            Self::Program { program, args, .. } => {
                let (ours, theirs) = std::os::unix::net::UnixStream::pair()?;
                ours.set_nonblocking(true)?;
                let mut command = Command::new(program);
                command
                    .args(args)
                    .env_clear()
                    .stdin(Stdio::from(OwnedFd::from(theirs)));
                (command, Some((ours, stdin)))
            }
        };
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        Ok((ProcessGroup::spawn(&mut command)?, handover))
    }
}

/// The socket of a launcher, and the standard input of the process that it is to start.
type Handover = Option<(std::os::unix::net::UnixStream, OwnedFd)>;

impl Reports {
    /// The listener of the filter of connections; `None` where the launcher says something else, which is its report.
    pub(super) async fn listener(&mut self) -> io::Result<Option<TcpListener>> {
        if !self.begun.is_empty() {
            return Ok(None);
        }
        let socket = &self.socket;
        let mut first = [0];
        let (count, listener) = socket
            .async_io(Interest::READABLE, || {
                fds::receive(socket.as_fd(), &mut first)
            })
            .await?;
        let (Some(listener), [LISTENS]) = (listener, first) else {
            self.begun.extend(first.get(..count).unwrap_or_default());
            return Ok(None);
        };
        let listener = std::net::TcpListener::from(listener);
        listener.set_nonblocking(true)?;
        TcpListener::from_std(listener).map(Some)
    }

    /// How the process ended, where what ended with `status` is what led its group.
    pub(super) async fn end(&mut self, status: ExitStatus) -> io::Result<Said> {
        let report = &mut self.begun;
        let read = timeout(REPORT_GRACE, self.socket.read_to_end(report)).await;
        if let Ok(Err(error)) = read {
            tracing::debug!(%error, "the report of a launcher cannot be read");
        }
        match serde_json::from_slice(report) {
            Ok(LaunchReport::Ended(status)) => Ok(Said::Status(ExitStatus::from_raw(status))),
            Ok(LaunchReport::Refused(why)) => Ok(Said::Refused(why)),
            Ok(LaunchReport::Stopped(why)) => Ok(Said::Stopped(why)),
            Ok(LaunchReport::NotStarted {
                errno: Some(errno), ..
            }) => Err(io::Error::from_raw_os_error(errno)),
            Ok(LaunchReport::NotStarted { message, .. }) => Err(io::Error::other(message)),
            // It was killed, as its process would have been.
            Err(_) if status.signal().is_some() => Ok(Said::Status(status)),
            Err(_) => Err(io::Error::other(format!(
                "its launcher ended without a word ({status})"
            ))),
        }
    }
}

impl LaunchSpec {
    /// Has the process confined to what it may reach. Without a workspace it is at home in its temporary directory.
    pub(super) fn confine(&mut self, reach: &Reach, sandbox: &Sandbox) {
        self.confinement = Some(confinement(reach, sandbox));
        if reach.has_workspace() {
            return;
        }
        self.cwd = TMP.into();
        let home = self.env.iter_mut().find(|(name, _)| name == "HOME");
        if let Some((_, home)) = home {
            TMP.clone_into(home);
        }
    }
}

fn confinement(reach: &Reach, sandbox: &Sandbox) -> Confinement {
    Confinement {
        parts: sandbox.parts,
        paths: reach.paths.clone(),
        package: reach.package.as_deref().map(Path::to_owned),
        hidden: sandbox.hidden.clone(),
        network: if reach.hosts.is_empty() {
            Network::None
        } else if reach.is_unfiltered() {
            Network::Open
        } else {
            Network::Filtered
        },
        limits: reach.limits,
    }
}
