//! Where work is done that waits for a disk.

use std::future::Future;
use std::io;

use openraft::{AsyncRuntime, TokioRuntime};

/// Does blocking work beside the runtime that waits for it.
pub trait Disk: Clone + Send + Sync + 'static {
    /// The runtime of the node.
    type Runtime: AsyncRuntime;

    /// Does `work` and gives what it returns. Work that was begun is done to its end, also where
    /// nobody waits for it any more.
    ///
    /// The error is that there is nobody to do it: the process is about to end.
    fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> impl Future<Output = io::Result<T>> + Send;
}

/// The threads for blocking work of a Tokio runtime.
#[derive(Debug, Clone, Copy, Default)]
pub struct Threads;

impl Disk for Threads {
    type Runtime = TokioRuntime;

    fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> impl Future<Output = io::Result<T>> + Send {
        // Not that of OpenRaft's runtime, which makes a thread for each piece of work.
        let working = tokio::task::spawn_blocking(work);
        async { working.await.map_err(io::Error::other) }
    }
}
