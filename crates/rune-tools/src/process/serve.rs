//! The other side of [`Launcher`](super::Launcher): a process that starts one process and ends with it.

use std::ffi::{OsStr, OsString};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::ExitStatusExt;
use std::process::{ExitCode, Stdio};

use rustix::process::{Signal, getpgrp, getpid, kill_process_group};
use tokio::io::AsyncReadExt;
use tokio::net::UnixStream;
use tokio::process::{Child, Command};
use tokio::signal::unix::{SignalKind, signal};

#[cfg(target_os = "linux")]
use super::confine;
use super::fds;
use super::launcher::{LaunchReport, LaunchSpec};

type Socket = std::os::unix::net::UnixStream;

/// What a process of this program is, behind the verb that makes it a launcher.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg(target_os = "linux")]
pub(super) enum Role {
    /// The first process of the namespaces of a tool.
    Init,
    /// Makes a user namespace.
    UserNamespace,
}

#[cfg(target_os = "linux")]
impl Role {
    const fn word(self) -> &'static str {
        match self {
            Self::Init => "init",
            Self::UserNamespace => "user-namespace",
        }
    }
}

/// This program in another role.
#[cfg(target_os = "linux")]
pub(super) fn own_command(role: Role) -> io::Result<std::process::Command> {
    let verb = std::env::args_os()
        .nth(1)
        .ok_or(io::ErrorKind::InvalidInput)?;
    let mut command = std::process::Command::new("/proc/self/exe");
    command.arg(verb).arg(role.word()).env_clear();
    Ok(command)
}

/// Is a launcher: the whole of a program that [`Launcher::Program`](super::Launcher::Program) names by itself and one
/// argument.
///
/// Standard input is the socket to whoever wants the process started; standard output and error become the process's.
/// Ends when the process has ended, or takes it and its whole group along when the other end of the socket is gone.
/// A signal to end politely is for the process, which gets it as well; the launcher waits.
#[must_use]
pub fn serve_launch() -> ExitCode {
    #[cfg(target_os = "linux")]
    {
        let role: Option<OsString> = std::env::args_os().nth(2);
        for (known, run) in [
            (Role::Init, confine::init as fn() -> ExitCode),
            (Role::UserNamespace, confine::user_namespace),
        ] {
            if role.as_deref() == Some(OsStr::new(known.word())) {
                return run();
            }
        }
    }
    // Its parent made it the leader of a group. One that is not would end its parent, too.
    if getpgrp() != getpid() {
        return ExitCode::FAILURE;
    }
    match serve() {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

fn serve() -> io::Result<()> {
    let mut socket = Socket::from(io::stdin().as_fd().try_clone_to_owned()?);
    let (head, stdin) = fds::receive_message(&mut socket)?;
    let mut spec: LaunchSpec = serde_json::from_slice(&head)?;
    let report = match spec.confinement.take() {
        None => runtime()?.block_on(launch(&spec, stdin, socket.try_clone()?))?,
        Some(confinement) => confined(spec, confinement, stdin, &socket)?,
    };
    socket.set_nonblocking(false)?;
    socket.write_all(&serde_json::to_vec(&report)?)
}

fn runtime() -> io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
}

async fn launch(spec: &LaunchSpec, stdin: OwnedFd, socket: Socket) -> io::Result<LaunchReport> {
    // The default answer, to end, is off; a process that is started has it again.
    let _terminate = signal(SignalKind::terminate())?;
    let mut command = Command::new(&spec.program);
    if let Some(account) = spec.account {
        command.gid(account).uid(account);
    }
    let started = command
        .args(&spec.args)
        .env_clear()
        .envs(spec.env.iter().map(|(name, value)| (name, value)))
        .current_dir(&spec.cwd)
        .stdin(Stdio::from(stdin))
        .spawn();
    // The input is the process's alone.
    drop(command);
    match started {
        Err(error) => Ok(LaunchReport::not_started(&error)),
        Ok(child) => {
            let never = std::future::pending();
            Ok(LaunchReport::Ended(attend(child, never, socket).await?))
        }
    }
}

/// Stays with the process to its end.
async fn attend(
    mut child: Child,
    forward: impl Future<Output = ()>,
    socket: Socket,
) -> io::Result<i32> {
    socket.set_nonblocking(true)?;
    let mut socket = UnixStream::from_std(socket)?;
    tokio::pin!(forward);
    let mut byte = [0];
    loop {
        tokio::select! {
            status = child.wait() => return Ok(status?.into_raw()),
            () = &mut forward => {}
            read = socket.read(&mut byte) => {
                if !matches!(read, Ok(1..)) {
                    // Nobody is left to answer to. This ends the launcher as well.
                    kill_process_group(getpid(), Signal::KILL)?;
                }
            }
        }
    }
}

#[cfg(not(target_os = "linux"))]
fn confined(
    _: LaunchSpec,
    _: super::launcher::Confinement,
    _: OwnedFd,
    _: &Socket,
) -> io::Result<LaunchReport> {
    let why = "processes are confined on Linux only; `tools.sandbox = \"off\"` in config.toml runs them without";
    Ok(LaunchReport::Refused(why.to_owned()))
}

/// Starts the process under its first one, in namespaces that this process has made.
#[cfg(target_os = "linux")]
fn confined(
    spec: LaunchSpec,
    confinement: super::launcher::Confinement,
    stdin: OwnedFd,
    socket: &Socket,
) -> io::Result<LaunchReport> {
    let stage = match confine::prepare(&confinement, stdin.as_fd(), socket) {
        Ok(stage) => stage,
        Err(why) => return Ok(LaunchReport::Refused(why)),
    };
    let orders = confine::Orders {
        launch: spec,
        confinement,
        stage,
    };
    let ran = runtime()?.block_on(run_confined(&orders, stdin, socket.try_clone()?));
    orders.stage.clean_up(&orders.confinement);
    ran
}

#[cfg(target_os = "linux")]
async fn run_confined(
    orders: &confine::Orders,
    stdin: OwnedFd,
    socket: Socket,
) -> io::Result<LaunchReport> {
    let (mut control, theirs) = Socket::pair()?;
    let mut terminate = signal(SignalKind::terminate())?;
    let child = Command::from(own_command(Role::Init)?)
        .stdin(Stdio::from(OwnedFd::from(theirs)))
        .kill_on_drop(true)
        .spawn()?;
    fds::send_message(&mut control, &serde_json::to_vec(orders)?, stdin.as_fd())?;
    drop(stdin);
    let group = child.id().and_then(|id| i32::try_from(id).ok());
    let group = group.and_then(rustix::process::Pid::from_raw);
    let is_apart = orders.confinement.parts.namespaces;
    // It leads a session of its own, so that a signal to this group does not reach the process.
    let forward = async {
        while terminate.recv().await.is_some() {
            if let Some(group) = group.filter(|_| is_apart) {
                // It may have ended.
                let _ = kill_process_group(group, Signal::TERM);
            }
        }
        std::future::pending::<()>().await;
    };
    let status = attend(child, forward, socket).await?;
    // What comes from there comes from a process that may be the tool's.
    let mut report = Vec::new();
    control.take(MAX_REPORT_BYTES).read_to_end(&mut report)?;
    let was_killed = std::process::ExitStatus::from_raw(status)
        .signal()
        .is_some();
    Ok(match serde_json::from_slice(&report) {
        Ok(report) => report,
        // As its process would have been.
        Err(_) if was_killed => LaunchReport::Ended(status),
        Err(_) => LaunchReport::Refused("the first process of the sandbox failed".to_owned()),
    })
}

/// Bytes of the longest report.
#[cfg(target_os = "linux")]
const MAX_REPORT_BYTES: u64 = 64 * 1024;
