//! A process that is written to and read from while it runs.

use std::io;
use std::path::PathBuf;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::AsyncWrite;
use tokio::net::UnixStream;
use tokio::process::{ChildStderr, ChildStdin, ChildStdout};

use super::ProcessGroup;

/// What [`Launcher::start_live`](crate::Launcher::start_live) starts.
pub struct LiveJob {
    /// The program, as an absolute path.
    pub program: PathBuf,
    /// Its arguments.
    pub args: Vec<String>,
    /// Its whole environment.
    pub env: Vec<(String, String)>,
    /// The directory it runs in.
    pub cwd: PathBuf,
}

/// A process that runs.
#[derive(Debug)]
pub struct LiveProcess {
    /// The process and everything it starts.
    pub group: ProcessGroup,
    /// Its standard input. Closing it may end the whole group at once, so whoever wants the process to end politely asks
    /// [`ProcessGroup::stop`] first.
    pub input: LiveInput,
    /// Its standard output.
    pub output: ChildStdout,
    /// Its standard error.
    pub errors: ChildStderr,
}

/// The standard input of a [`LiveProcess`].
#[derive(Debug)]
pub enum LiveInput {
    /// The process's own.
    Pipe(ChildStdin),
    /// The launcher's, which hands it on.
    Socket(UnixStream),
}

impl AsyncWrite for LiveInput {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Pipe(pipe) => Pin::new(pipe).poll_write(context, bytes),
            Self::Socket(socket) => Pin::new(socket).poll_write(context, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Pipe(pipe) => Pin::new(pipe).poll_flush(context),
            Self::Socket(socket) => Pin::new(socket).poll_flush(context),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Pipe(pipe) => Pin::new(pipe).poll_shutdown(context),
            Self::Socket(socket) => Pin::new(socket).poll_shutdown(context),
        }
    }
}
