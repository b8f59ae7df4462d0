//! Supervised tasks. Every task of the process is started here: it has a name, a
//! span, a place in the count that shutdown waits for, and a panic in it is logged
//! and not lost.

use std::future::Future;
use std::time::Duration;

use futures_util::FutureExt;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::Instrument;

/// Starts tasks and waits for them at shutdown. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Tasks {
    tracker: TaskTracker,
    shutdown: CancellationToken,
    /// Fires when every task is dropped where it is; nothing where none ever is.
    killed: Option<CancellationToken>,
}

impl Tasks {
    /// A group without tasks.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// A group without tasks that can be [killed](Tasks::kill).
    #[must_use]
    pub fn mortal() -> Self {
        Self {
            killed: Some(CancellationToken::new()),
            ..Self::default()
        }
    }

    /// Fires when the process is asked to end. A loop returns soon after; work that
    /// others wait for is finished first.
    #[must_use]
    pub fn shutdown(&self) -> CancellationToken {
        self.shutdown.clone()
    }

    /// Starts a task. Its result, or `None` after a panic and where it was killed, is what the handle gives.
    pub fn spawn<F>(&self, name: &'static str, future: F) -> JoinHandle<Option<F::Output>>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        let guarded = async move {
            match std::panic::AssertUnwindSafe(future).catch_unwind().await {
                Ok(output) => Some(output),
                Err(panic) => {
                    tracing::error!(task = name, panic = panic_message(&*panic), "task panicked");
                    None
                }
            }
        };
        let guarded = guarded.instrument(tracing::debug_span!("task", name));
        match self.killed.clone() {
            None => self.tracker.spawn(guarded),
            Some(killed) => self.tracker.spawn(async move {
                let ended = killed.run_until_cancelled(guarded).await;
                ended.flatten()
            }),
        }
    }

    /// Drops every task where it is, now and from now on, and waits until all are gone, `grace` at the longest: one that does
    /// not wait for anything is not gone before it does. Answers whether all are. Nothing happens to tasks that are not
    /// [mortal](Tasks::mortal).
    pub async fn kill(&self, grace: Duration) -> bool {
        if let Some(killed) = &self.killed {
            killed.cancel();
        }
        self.stop(grace).await
    }

    /// Asks every task to end and waits for them, `grace` at the longest. Answers
    /// whether all have ended.
    pub async fn stop(&self, grace: Duration) -> bool {
        self.shutdown.cancel();
        self.tracker.close();
        tokio::time::timeout(grace, self.tracker.wait())
            .await
            .is_ok()
    }

    /// How many tasks run.
    #[must_use]
    pub fn len(&self) -> usize {
        self.tracker.len()
    }

    /// Whether none runs.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.tracker.is_empty()
    }
}

/// The text of a panic, as far as it has one.
fn panic_message(panic: &(dyn std::any::Any + Send)) -> &str {
    panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("no message")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn waits_for_tasks_that_answer_the_shutdown() {
        let tasks = Tasks::new();
        let shutdown = tasks.shutdown();
        let task = tasks.spawn("test", async move {
            shutdown.cancelled().await;
            7
        });
        assert!(tasks.stop(Duration::from_secs(5)).await);
        assert_eq!(task.await.unwrap(), Some(7));
    }

    #[tokio::test]
    async fn what_is_killed_ends_where_it_is() {
        let tasks = Tasks::mortal();
        let waits = tasks.spawn("test", std::future::pending::<()>());
        tokio::task::yield_now().await;
        assert!(tasks.kill(Duration::from_secs(5)).await);
        assert_eq!(waits.await.unwrap(), None);
        let late = tasks.spawn("test", async { std::future::pending::<()>().await });
        assert_eq!(late.await.unwrap(), None);
    }

    #[tokio::test]
    async fn a_panic_ends_one_task_only() {
        let tasks = Tasks::new();
        let task = tasks.spawn("test", async { panic!("boom") });
        assert_eq!(task.await.unwrap(), None::<()>);
        assert!(tasks.stop(Duration::from_secs(5)).await);
    }
}
