use std::{net::SocketAddr, path::PathBuf, process::ExitStatus, time::Duration};

/// What can go wrong in the test support itself.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TestkitError {
    /// The model server cannot listen on the address.
    #[error("model server cannot listen on {addr}")]
    Bind {
        /// The address asked for.
        addr: SocketAddr,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A file or directory cannot be used.
    #[error("cannot use {}", path.display())]
    File {
        /// The file or directory.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The script file is not a valid [`crate::ModelScript`].
    #[error("{} is not a model script: {message}", path.display())]
    Script {
        /// The script file.
        path: PathBuf,
        /// What the parser found, with its place.
        message: String,
    },
    /// What was waited for did not happen in time.
    #[error("waited {waited:?} for {what}, saw {saw}")]
    Timeout {
        /// How long was waited.
        waited: Duration,
        /// What was waited for.
        what: String,
        /// What was there instead.
        saw: String,
    },
    /// The daemon ended before it was ready.
    #[error("the daemon ended with {status} before it was ready; its log:\n{log}")]
    DaemonEnded {
        /// How it ended.
        status: ExitStatus,
        /// The end of its log.
        log: String,
    },
    /// The daemon did not become ready, or did not end, in time.
    #[error("the daemon did not {what} within {waited:?}; its log:\n{log}")]
    DaemonStuck {
        /// What it should have done.
        what: &'static str,
        /// How long was waited.
        waited: Duration,
        /// The end of its log.
        log: String,
    },
    /// A command of Docker failed.
    #[error("`docker {command}` failed: {said}")]
    Docker {
        /// Its arguments.
        command: String,
        /// What it said.
        said: String,
    },
    /// The operation needs a running daemon.
    #[error("the daemon is not running")]
    DaemonDown,
    /// A signal cannot be sent or the state of the child cannot be read.
    #[error("cannot control the daemon process")]
    Process(#[source] std::io::Error),
}
