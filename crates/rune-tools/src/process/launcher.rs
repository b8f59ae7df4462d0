//! How a process is started: by this process itself, or by a launcher that outlives it for as long as it takes to
//! end what it started.

use std::ffi::OsString;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::process::{ChildStderr, ChildStdin, ChildStdout, Command};
use tokio::time::timeout;

use super::exec::Job;
use super::group::ProcessGroup;

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
    },
}

/// What a launcher starts: the head of what is sent to it. The length of its JSON comes before it as a little-endian
/// `u32`, the bytes for the process's standard input after it. Confinement of the process (file system, system calls)
/// belongs here, too: the launcher is where it can be applied without unsafe code.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct LaunchSpec {
    pub(super) program: OsString,
    pub(super) args: Vec<OsString>,
    pub(super) env: Vec<(String, String)>,
    pub(super) cwd: OsString,
    pub(super) stdin_bytes: u64,
}

/// What a launcher answers, as JSON, before it ends.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum LaunchReport {
    /// The process was not started.
    NotStarted { errno: Option<i32>, message: String },
    /// The process has ended, with this status of `wait`.
    Ended(i32),
}

/// A process that runs.
pub(super) struct Launched {
    pub(super) group: ProcessGroup,
    pub(super) input: Input,
    pub(super) stdout: Option<ChildStdout>,
    pub(super) stderr: Option<ChildStderr>,
}

/// Where the standard input of the process goes.
pub(super) enum Input {
    Pipe(Option<ChildStdin>),
    Launcher { socket: UnixStream, head: Vec<u8> },
}

impl Launcher {
    /// Starts the process of a job, or what will start it.
    pub(super) fn start(&self, job: &Job) -> io::Result<Launched> {
        let (mut command, stdin, socket) = match self {
            Self::Direct => {
                let mut command = Command::new(&job.program);
                command
                    .args(&job.args)
                    .env_clear()
                    .envs(job.env.iter().map(|(name, value)| (name, value)))
                    .current_dir(&job.cwd);
                (command, Stdio::piped(), None)
            }
            Self::Program { program, args } => {
                let (ours, theirs) = std::os::unix::net::UnixStream::pair()?;
                ours.set_nonblocking(true)?;
                let mut command = Command::new(program);
                command.args(args).env_clear();
                let socket = (UnixStream::from_std(ours)?, head(job)?);
                (command, Stdio::from(OwnedFd::from(theirs)), Some(socket))
            }
        };
        let mut group = ProcessGroup::spawn(
            command
                .stdin(stdin)
                .stdout(Stdio::piped())
                .stderr(Stdio::piped()),
        )?;
        let (pipe, stdout, stderr) = group.pipes();
        let input = match socket {
            None => Input::Pipe(pipe),
            Some((socket, head)) => Input::Launcher { socket, head },
        };
        Ok(Launched {
            group,
            input,
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

    /// How the process ended, where what ended with `status` is what led its group.
    pub(super) async fn status(&mut self, status: ExitStatus) -> io::Result<ExitStatus> {
        let Self::Launcher { socket, .. } = self else {
            return Ok(status);
        };
        let mut report = Vec::new();
        let read = timeout(REPORT_GRACE, socket.read_to_end(&mut report)).await;
        if let Ok(Err(error)) = read {
            tracing::debug!(%error, "the report of a launcher cannot be read");
        }
        match serde_json::from_slice(&report) {
            Ok(LaunchReport::Ended(status)) => Ok(ExitStatus::from_raw(status)),
            Ok(LaunchReport::NotStarted {
                errno: Some(errno), ..
            }) => Err(io::Error::from_raw_os_error(errno)),
            Ok(LaunchReport::NotStarted { message, .. }) => Err(io::Error::other(message)),
            // It was killed, as its process would have been.
            Err(_) if status.signal().is_some() => Ok(status),
            Err(_) => Err(io::Error::other(format!(
                "its launcher ended without a word ({status})"
            ))),
        }
    }
}

fn head(job: &Job) -> io::Result<Vec<u8>> {
    let spec = LaunchSpec {
        program: job.program.clone().into_os_string(),
        args: job
            .args
            .iter()
            .map(|arg| arg.clone().into_os_string())
            .collect(),
        env: job.env.clone(),
        cwd: job.cwd.clone().into_os_string(),
        stdin_bytes: job.stdin.len() as u64,
    };
    let json = serde_json::to_vec(&spec)?;
    let length = u32::try_from(json.len()).map_err(|_| io::ErrorKind::ArgumentListTooLong)?;
    Ok([length.to_le_bytes().as_slice(), &json].concat())
}
