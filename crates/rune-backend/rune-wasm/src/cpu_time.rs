//! CPU time of a guest.

use std::future::poll_fn;
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// Runs a future that may take so much CPU time; `None` where it was stopped because it took more.
///
/// What counts is the time of the thread while it works on the future. A guest gives its thread back at every epoch, so it
/// is stopped that much later at the most.
pub(crate) async fn within<F: Future>(limit: Option<Duration>, future: F) -> Option<F::Output> {
    let Some(limit) = limit else {
        return Some(future.await);
    };
    let mut future = pin!(future);
    let mut used = Duration::ZERO;
    poll_fn(move |context| {
        let begun = thread_time();
        let polled = future.as_mut().poll(context);
        used += thread_time().saturating_sub(begun);
        match polled {
            Poll::Ready(value) => Poll::Ready(Some(value)),
            Poll::Pending if used > limit => Poll::Ready(None),
            Poll::Pending => Poll::Pending,
        }
    })
    .await
}

/// CPU time of this thread.
fn thread_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    // It is never negative.
    Duration::try_from(time).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Works for so long, in parts.
    async fn work(time: Duration) {
        let end = thread_time() + time;
        while thread_time() < end {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn work_counts_and_waiting_does_not() {
        let limit = Some(Duration::from_millis(20));
        assert_eq!(within(limit, work(Duration::from_secs(60))).await, None);
        assert_eq!(
            within(limit, work(Duration::from_millis(1))).await,
            Some(())
        );
        let waits = tokio::time::sleep(Duration::from_millis(60));
        assert_eq!(within(limit, waits).await, Some(()));
        assert_eq!(
            within(None, work(Duration::from_millis(40))).await,
            Some(())
        );
    }
}
