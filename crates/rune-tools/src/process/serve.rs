//! The other side of [`Launcher`](super::Launcher): a process that starts one process and ends with it.

use std::ffi::{OsStr, OsString};
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::process::ExitStatusExt;
use std::process::{ExitCode, Stdio};
use std::time::Duration;

use rustix::process::{Signal, getpgrp, getpid, kill_process_group};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::process::{Child, Command};
use tokio::signal::unix::{SignalKind, signal};

#[cfg(target_os = "linux")]
use super::confine;
use super::launcher::{LaunchReport, LaunchSpec};

/// How often it is looked whether the other end is gone while the process does not read its input.
const LOOK_EVERY: Duration = Duration::from_millis(100);

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
    let (mut spec, input) = read(&mut socket)?;
    let report = match spec.confinement.take() {
        None => runtime()?.block_on(launch(&spec, &input, socket.try_clone()?))?,
        Some(confinement) => confined(spec, confinement, &input, &socket)?,
    };
    socket.set_nonblocking(false)?;
    socket.write_all(&serde_json::to_vec(&report)?)
}

fn runtime() -> io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
}

/// What to start, and its input: whole, so that afterwards nothing but the end is read from the socket, unless the
/// input is open.
fn read(socket: &mut Socket) -> io::Result<(LaunchSpec, Vec<u8>)> {
    let mut length = [0; 4];
    socket.read_exact(&mut length)?;
    let mut head = Vec::new();
    let mut limited = socket.take(u32::from_le_bytes(length).into());
    limited.read_to_end(&mut head)?;
    let spec: LaunchSpec = serde_json::from_slice(&head)?;
    let mut input = Vec::new();
    let length = spec.stdin_bytes.unwrap_or(0);
    socket.take(length).read_to_end(&mut input)?;
    if input.len() as u64 == length {
        Ok((spec, input))
    } else {
        Err(io::ErrorKind::UnexpectedEof.into())
    }
}

async fn launch(spec: &LaunchSpec, input: &[u8], socket: Socket) -> io::Result<LaunchReport> {
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
        .stdin(Stdio::piped())
        .spawn();
    match started {
        Err(error) => Ok(LaunchReport::not_started(&error)),
        Ok(child) if spec.stdin_bytes.is_none() => {
            Ok(LaunchReport::Ended(relay(child, socket).await?))
        }
        Ok(mut child) => {
            let mut pipe = child.stdin.take();
            let feed = async {
                if let Some(mut pipe) = pipe.take() {
                    // A process need not read its input.
                    let _ = pipe.write_all(input).await;
                }
            };
            let never = std::future::pending();
            Ok(LaunchReport::Ended(
                attend(child, feed, never, socket).await?,
            ))
        }
    }
}

/// Stays with a process whose input is open, and hands on what comes.
async fn relay(mut child: Child, socket: Socket) -> io::Result<i32> {
    socket.set_nonblocking(true)?;
    let socket = UnixStream::from_std(socket)?;
    let mut pipe = child.stdin.take();
    let mut buffer = vec![0; 16 * 1024];
    // What was read and is not written yet.
    let mut pending = 0..0;
    loop {
        let write = async {
            match &mut pipe {
                Some(pipe) => pipe.write(&buffer[pending.clone()]).await,
                // It does not read any more; what comes is dropped.
                None => Ok(pending.len()),
            }
        };
        tokio::select! {
            status = child.wait() => return Ok(status?.into_raw()),
            // While the process does not read, only the end of the socket is looked for.
            written = write, if !pending.is_empty() => match written {
                Ok(0) | Err(_) => pipe = None,
                Ok(count) => pending.start += count,
            },
            ready = socket.readable(), if pending.is_empty() => {
                ready?;
                match socket.try_read(&mut buffer) {
                    Ok(count @ 1..) => pending = 0..count,
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    // Nobody is left to answer to. This ends the launcher as well.
                    Ok(0) | Err(_) => kill_process_group(getpid(), Signal::KILL)?,
                }
            }
            () = closed(&socket), if !pending.is_empty() => kill_process_group(getpid(), Signal::KILL)?,
        }
    }
}

/// Returns once the other end of a socket is gone, whatever is still to be read from it.
async fn closed(socket: &UnixStream) {
    use tokio::io::Interest;
    loop {
        match socket.ready(Interest::READABLE | Interest::ERROR).await {
            Ok(ready) if !ready.is_read_closed() && !ready.is_error() => {
                // More input waits, which is no news until there is room for it.
                tokio::time::sleep(LOOK_EVERY).await;
            }
            _ => return,
        }
    }
}

/// Stays with the process to its end.
async fn attend(
    mut child: Child,
    feed: impl Future<Output = ()>,
    forward: impl Future<Output = ()>,
    socket: Socket,
) -> io::Result<i32> {
    socket.set_nonblocking(true)?;
    let mut socket = UnixStream::from_std(socket)?;
    tokio::pin!(feed, forward);
    let mut is_fed = false;
    let mut byte = [0];
    loop {
        tokio::select! {
            status = child.wait() => return Ok(status?.into_raw()),
            () = &mut feed, if !is_fed => is_fed = true,
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
    _: &[u8],
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
    input: &[u8],
    socket: &Socket,
) -> io::Result<LaunchReport> {
    let stage = match confine::prepare(&confinement, socket) {
        Ok(stage) => stage,
        Err(why) => return Ok(LaunchReport::Refused(why)),
    };
    let orders = confine::Orders {
        launch: spec,
        confinement,
        stage,
    };
    let ran = runtime()?.block_on(run_confined(&orders, input, socket.try_clone()?));
    orders.stage.clean_up(&orders.confinement);
    ran
}

#[cfg(target_os = "linux")]
async fn run_confined(
    orders: &confine::Orders,
    input: &[u8],
    socket: Socket,
) -> io::Result<LaunchReport> {
    let (mut control, theirs) = Socket::pair()?;
    let (read_end, write_end) = io::pipe()?;
    let mut terminate = signal(SignalKind::terminate())?;
    let child = Command::from(own_command(Role::Init)?)
        .stdin(Stdio::from(std::os::fd::OwnedFd::from(theirs)))
        .kill_on_drop(true)
        .spawn()?;
    let json = serde_json::to_vec(orders)?;
    let length = u32::try_from(json.len()).map_err(io::Error::other)?;
    super::fds::send(control.as_fd(), &length.to_le_bytes(), read_end.as_fd())?;
    drop(read_end);
    control.write_all(&json)?;
    let pipe = tokio::net::unix::pipe::Sender::from_owned_fd(write_end.into())?;
    let mut pipe = Some(pipe);
    let feed = async {
        if let Some(mut pipe) = pipe.take() {
            // A process need not read its input.
            let _ = pipe.write_all(input).await;
        }
    };
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
    let status = attend(child, feed, forward, socket).await?;
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
