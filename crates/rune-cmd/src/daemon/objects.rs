//! Removes objects that no row refers to, now and then.

use std::sync::Arc;
use std::time::Duration;

use rune_storage::{ObjectStore, SqliteStore};
use rune_store_runtime::{Clock as _, SystemClock};
use tokio_util::sync::CancellationToken;

use crate::failure::chain;

/// The first sweep is so long after the start, when what a start has to do is done.
const FIRST: Duration = Duration::from_secs(10 * 60);
/// The pause between two sweeps.
const PAUSE: Duration = Duration::from_secs(24 * 60 * 60);

/// Removes what no row has referred to for as long as `grace`, until the daemon ends.
pub(super) async fn sweep(
    database: Arc<SqliteStore>,
    objects: ObjectStore,
    grace: Duration,
    shutdown: CancellationToken,
) {
    let mut wait = FIRST.min(grace);
    while shutdown
        .run_until_cancelled(tokio::time::sleep(wait))
        .await
        .is_some()
    {
        wait = PAUSE.min(grace).max(Duration::from_secs(1));
        let sweeping = database.sweep(&objects, SystemClock.now().minus(grace));
        match shutdown.run_until_cancelled(sweeping).await {
            Some(Ok(swept)) if swept.objects > 0 => tracing::info!(
                objects = swept.objects,
                bytes = swept.bytes,
                "removed objects that nothing refers to"
            ),
            Some(Err(error)) => {
                tracing::warn!(error = chain(&error), "objects were not looked through");
            }
            _ => {}
        }
    }
}
