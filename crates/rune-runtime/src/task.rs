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
    /// Nothing where tasks begin at once, and end by themselves.
    held: Option<Held>,
}

/// What tasks wait for.
#[derive(Debug, Clone, Default)]
struct Held {
    /// Fires when they may begin.
    released: CancellationToken,
    /// Fires when every one of them is dropped where it is.
    killed: CancellationToken,
}

impl Tasks {
    /// A group without tasks.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// A group without tasks that do not begin before they are [released](Tasks::release), and can be
    /// [killed](Tasks::kill).
    #[must_use]
    pub fn held() -> Self {
        Self {
            held: Some(Held::default()),
            ..Self::default()
        }
    }

    /// Has the tasks begin, those that were started and those that will be.
    pub fn release(&self) {
        if let Some(held) = &self.held {
            held.released.cancel();
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
        match self.held.clone() {
            None => self.tracker.spawn(guarded),
            Some(Held { released, killed }) => self.tracker.spawn(async move {
                let guarded = async {
                    released.cancelled().await;
                    guarded.await
                };
                let ended = killed.run_until_cancelled(guarded).await;
                ended.flatten()
            }),
        }
    }

    /// Drops every task where it is, now and from now on, and waits until all are gone, `grace` at the longest: one that does
    /// not wait for anything is not gone before it does. Answers whether all are. Tasks that were not [held](Tasks::held)
    /// are only asked to end.
    pub async fn kill(&self, grace: Duration) -> bool {
        if let Some(held) = &self.held {
            held.killed.cancel();
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
    async fn what_is_held_begins_when_it_is_released_and_is_killed_where_it_is() {
        let tasks = Tasks::held();
        let begun = CancellationToken::new();
        let waits = tasks.spawn("test", {
            let begun = begun.clone();
            async move {
                begun.cancel();
                std::future::pending::<()>().await;
            }
        });
        tokio::task::yield_now().await;
        assert!(!begun.is_cancelled(), "it began before it was released");
        tasks.release();
        begun.cancelled().await;
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
