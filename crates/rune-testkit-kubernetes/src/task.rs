use std::future::Future;

use tokio_util::sync::CancellationToken;

/// Runs `future` until it ends or `stop` is cancelled.
pub(crate) fn spawn_until(
    stop: CancellationToken,
    future: impl Future<Output = ()> + Send + 'static,
) {
    #[expect(
        clippy::disallowed_methods,
        reason = "the one place: every task of the kit ends with its token"
    )]
    tokio::spawn(async move {
        stop.run_until_cancelled_owned(future).await;
    });
}
