//! How a benchmark fails.

use std::io;

/// A benchmark could not be run to its end.
#[derive(Debug, thiserror::Error)]
pub enum BenchError {
    /// A server of the benchmark did not start.
    #[error("{what} did not become ready: {reason}")]
    Start {
        /// Which server.
        what: String,
        /// What was seen.
        reason: String,
    },
    /// A request of the benchmark failed; the figures would mean nothing.
    #[error("a request to {target} failed: {reason}")]
    Request {
        /// Which server.
        target: String,
        /// Why.
        reason: String,
    },
    /// Acknowledged work was lost.
    #[error("{lost} of {acknowledged} acknowledged requests are missing after kill -9")]
    Lost {
        /// Requests that are not there.
        lost: usize,
        /// Requests that were answered.
        acknowledged: usize,
    },
    /// A file or process operation failed.
    #[error("cannot {what}")]
    Io {
        /// What was tried.
        what: String,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// SQLite failed.
    #[error("sqlite: {0}")]
    Sqlite(#[from] rusqlite::Error),
    /// Nothing of the benchmark has this name.
    #[error(
        "cannot serve `{0}`; there are: axum, axum-sqlite FILE, proxy URL, proxy-sqlite URL FILE, model MILLIS"
    )]
    Usage(String),
}

impl BenchError {
    pub(crate) fn io(what: &str) -> impl FnOnce(io::Error) -> Self {
        let what = what.to_owned();
        move |source| Self::Io { what, source }
    }

    pub(crate) fn request(target: &str, reason: &(impl ToString + ?Sized)) -> Self {
        Self::Request {
            target: target.to_owned(),
            reason: reason.to_string(),
        }
    }
}
