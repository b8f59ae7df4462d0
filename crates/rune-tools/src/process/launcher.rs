//! How a process is started: by this process itself, or by a launcher that outlives it for as long as it takes to
//! end what it started.

use std::ffi::OsString;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::process::{ChildStderr, ChildStdin, ChildStdout, Command};
use tokio::time::timeout;

use super::exec::Job;
use super::group::ProcessGroup;
use super::live::{LiveInput, LiveJob, LiveProcess};
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

/// What a launcher starts: the head of what is sent to it. The length of its JSON comes before it as a little-endian
/// `u32`, the bytes for the process's standard input after it: so many, or whatever comes until the socket is closed.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct LaunchSpec {
    pub(super) program: OsString,
    pub(super) args: Vec<OsString>,
    pub(super) env: Vec<(String, String)>,
    pub(super) cwd: OsString,
    pub(super) account: Option<u32>,
    /// Absent where the input is open until the process is to end.
    pub(super) stdin_bytes: Option<u64>,
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
    pub(super) input: Input,
    pub(super) reports: Option<Reports>,
    pub(super) stdout: Option<ChildStdout>,
    pub(super) stderr: Option<ChildStderr>,
}

/// Where the standard input of the process goes.
pub(super) enum Input {
    Pipe(Option<ChildStdin>),
    Launcher { socket: UnixStream, head: Vec<u8> },
}

/// What the launcher says.
pub(super) struct Reports {
    pub(super) socket: UnixStream,
    /// What was read of it already.
    pub(super) begun: Vec<u8>,
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
    pub(super) fn start(&self, job: &Job) -> io::Result<Launched> {
        self.launch(&spec_of(job, self.sandbox()))
    }

    /// Starts a process that is written to while it runs, or what will start it. It is not confined.
    ///
    /// # Errors
    /// Where it cannot be started. With a launcher a program that is not there shows as a process that ends at once.
    pub async fn start_live(&self, job: &LiveJob) -> io::Result<LiveProcess> {
        let Launched {
            group,
            input,
            stdout,
            stderr,
            ..
        } = self.launch(&LaunchSpec {
            program: job.program.clone().into_os_string(),
            args: job.args.iter().map(OsString::from).collect(),
            env: job.env.clone(),
            cwd: job.cwd.clone().into_os_string(),
            account: None,
            stdin_bytes: None,
            confinement: None,
        })?;
        let no_pipe = || io::Error::other("the new process has no pipes");
        let input = match input {
            Input::Pipe(pipe) => LiveInput::Pipe(pipe.ok_or_else(no_pipe)?),
            Input::Launcher { mut socket, head } => {
                socket.write_all(&head).await?;
                LiveInput::Socket(socket)
            }
        };
        Ok(LiveProcess {
            group,
            input,
            output: stdout.ok_or_else(no_pipe)?,
            errors: stderr.ok_or_else(no_pipe)?,
        })
    }

    fn launch(&self, spec: &LaunchSpec) -> io::Result<Launched> {
        let (mut command, stdin, sockets) = match self {
            Self::Direct => {
                let mut command = Command::new(&spec.program);
                command
                    .args(&spec.args)
                    .env_clear()
                    .envs(spec.env.iter().map(|(name, value)| (name, value)))
                    .current_dir(&spec.cwd);
                if let Some(account) = spec.account {
                    command.gid(account).uid(account);
                }
                (command, Stdio::piped(), None)
            }
            Self::Program { program, args, .. } => {
                let (ours, theirs) = std::os::unix::net::UnixStream::pair()?;
                ours.set_nonblocking(true)?;
                let reports = Reports {
                    socket: UnixStream::from_std(ours.try_clone()?)?,
                    begun: Vec::new(),
                };
                let mut command = Command::new(program);
                command.args(args).env_clear();
                let head = head(spec)?;
                let sockets = (UnixStream::from_std(ours)?, head, reports);
                (command, Stdio::from(OwnedFd::from(theirs)), Some(sockets))
            }
        };
        let mut group = ProcessGroup::spawn(
            command
                .stdin(stdin)
                .stdout(Stdio::piped())
                .stderr(Stdio::piped()),
        )?;
        let (pipe, stdout, stderr) = group.pipes();
        let (input, reports) = match sockets {
            None => (Input::Pipe(pipe), None),
            Some((socket, head, reports)) => (Input::Launcher { socket, head }, Some(reports)),
        };
        Ok(Launched {
            group,
            input,
            reports,
            stdout,
            stderr,
        })
    }
}

impl Input {
    /// Writes the input, and closes it where nothing else depends on it being open.
    pub(super) async fn feed(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Self::Pipe(pipe) => match pipe.take() {
                Some(mut pipe) => pipe.write_all(bytes).await,
                None => Ok(()),
            },
            Self::Launcher { socket, head } => {
                socket.write_all(head).await?;
                socket.write_all(bytes).await
            }
        }
    }
}

impl Reports {
    /// How the process ended, where what ended with `status` is what led its group.
    pub(super) async fn end(mut self, status: ExitStatus) -> io::Result<Said> {
        let mut report = self.begun;
        let read = timeout(REPORT_GRACE, self.socket.read_to_end(&mut report)).await;
        if let Ok(Err(error)) = read {
            tracing::debug!(%error, "the report of a launcher cannot be read");
        }
        match serde_json::from_slice(&report) {
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

fn spec_of(job: &Job, sandbox: Option<&Sandbox>) -> LaunchSpec {
    let mut spec = LaunchSpec {
        program: job.program.clone().into_os_string(),
        args: job
            .args
            .iter()
            .map(|arg| arg.clone().into_os_string())
            .collect(),
        env: job.env.clone(),
        cwd: job.cwd.clone().into_os_string(),
        account: job.account,
        stdin_bytes: Some(job.stdin.len() as u64),
        confinement: sandbox.map(|sandbox| confinement(&job.reach, sandbox)),
    };
    if sandbox.is_some() && !job.reach.has_workspace() {
        spec.cwd = TMP.into();
        let home = spec.env.iter_mut().find(|(name, _)| name == "HOME");
        if let Some((_, home)) = home {
            TMP.clone_into(home);
        }
    }
    spec
}

fn head(spec: &LaunchSpec) -> io::Result<Vec<u8>> {
    let json = serde_json::to_vec(spec)?;
    let length = u32::try_from(json.len()).map_err(|_| io::ErrorKind::ArgumentListTooLong)?;
    Ok([length.to_le_bytes().as_slice(), &json].concat())
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
