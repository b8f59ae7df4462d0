//! The other side of [`Launcher`](super::Launcher): a process that starts one process and ends with it.

use std::io;
use std::os::fd::AsFd;
use std::os::unix::process::ExitStatusExt;
use std::process::{ExitCode, Stdio};

use rustix::process::{Signal, getpgrp, getpid, kill_process_group};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::process::{Child, Command};
use tokio::signal::unix::{SignalKind, signal};

use super::launcher::{LaunchReport, LaunchSpec};

/// Is a launcher: the whole of a program that [`Launcher::Program`](super::Launcher::Program) names.
///
/// Standard input is the socket to whoever wants the process started; standard output and error become the process's.
/// Ends when the process has ended, or takes it and its whole group along when the other end of the socket is gone.
/// A signal to end politely is for the process, which gets it as well; the launcher waits.
#[must_use]
pub fn serve_launch() -> ExitCode {
    // Its parent made it the leader of a group. One that is not would end its parent, too.
    if getpgrp() != getpid() {
        return ExitCode::FAILURE;
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    match runtime.and_then(|runtime| runtime.block_on(serve())) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

async fn serve() -> io::Result<()> {
    let socket = io::stdin().as_fd().try_clone_to_owned()?;
    let socket = std::os::unix::net::UnixStream::from(socket);
    socket.set_nonblocking(true)?;
    let mut socket = UnixStream::from_std(socket)?;
    // From here on the default answer, to end, is off; a process that is started has it again.
    let _terminate = signal(SignalKind::terminate())?;
    let (spec, input) = read(&mut socket).await?;
    let report = match start(&spec) {
        Ok(child) => LaunchReport::Ended(attend(child, &input, &mut socket).await?),
        Err(error) => LaunchReport::NotStarted {
            errno: error.raw_os_error(),
            message: error.to_string(),
        },
    };
    socket.write_all(&serde_json::to_vec(&report)?).await
}

/// What to start, and its input: whole, so that afterwards nothing but the end is read from the socket.
async fn read(socket: &mut UnixStream) -> io::Result<(LaunchSpec, Vec<u8>)> {
    let length = socket.read_u32_le().await?;
    let mut head = Vec::new();
    socket.take(length.into()).read_to_end(&mut head).await?;
    let spec: LaunchSpec = serde_json::from_slice(&head)?;
    let mut input = Vec::new();
    socket
        .take(spec.stdin_bytes)
        .read_to_end(&mut input)
        .await?;
    if input.len() as u64 == spec.stdin_bytes {
        Ok((spec, input))
    } else {
        Err(io::ErrorKind::UnexpectedEof.into())
    }
}

fn start(spec: &LaunchSpec) -> io::Result<Child> {
    Command::new(&spec.program)
        .args(&spec.args)
        .env_clear()
        .envs(spec.env.iter().map(|(name, value)| (name, value)))
        .current_dir(&spec.cwd)
        .stdin(Stdio::piped())
        .spawn()
}

/// Stays with the process to its end.
async fn attend(mut child: Child, input: &[u8], socket: &mut UnixStream) -> io::Result<i32> {
    let mut pipe = child.stdin.take();
    let feed = async {
        if let Some(mut pipe) = pipe.take() {
            // A process need not read its input.
            let _ = pipe.write_all(input).await;
        }
    };
    tokio::pin!(feed);
    let mut is_fed = false;
    let mut byte = [0];
    loop {
        tokio::select! {
            status = child.wait() => return Ok(status?.into_raw()),
            () = &mut feed, if !is_fed => is_fed = true,
            read = socket.read(&mut byte) => {
                if !matches!(read, Ok(1..)) {
                    // Nobody is left to answer to. This ends the launcher as well.
                    kill_process_group(getpid(), Signal::KILL)?;
                }
            }
        }
    }
}
