//! Removes what nobody needs any more, now and then: cached values that have expired, and objects that no row refers to.

use std::time::Duration;

use rune_storage::{StorageError, Swept};
use rune_store_runtime::{CacheSweep, Clock as _, Store, StoreError, SystemClock, Timestamp};
use tokio_util::sync::CancellationToken;

use crate::failure::chain;

/// The first sweep is so long after the start, when what a start has to do is done.
const FIRST: Duration = Duration::from_secs(10 * 60);
/// The pause between two sweeps.
const PAUSE: Duration = Duration::from_secs(24 * 60 * 60);
/// The pause after one that met a backup, which keeps every object.
const KEPT: Duration = Duration::from_secs(5 * 60);
/// Cached values that are removed at once.
const EXPIRED: u32 = 500;

/// Until the daemon ends: removes cached values that have expired, of a store where there is one, and has objects that no row
/// has referred to for as long as `grace`, where there is one, be removed by `remove`, which removes what was written before a
/// moment.
pub(super) async fn sweep<F>(
    expire: Option<Store>,
    remove: impl Fn(Timestamp) -> F,
    grace: Option<Duration>,
    shutdown: CancellationToken,
) where
    F: Future<Output = Result<Option<Swept>, StorageError>>,
{
    let mut wait = grace.map_or(FIRST, |grace| FIRST.min(grace));
    while shutdown
        .run_until_cancelled(tokio::time::sleep(wait))
        .await
        .is_some()
    {
        wait = PAUSE;
        if let Some(store) = &expire
            && let Some(Err(error)) = shutdown.run_until_cancelled(remove_expired(store)).await
        {
            tracing::warn!(error = chain(&error), "cached values were not removed");
        }
        let Some(grace) = grace else {
            continue;
        };
        wait = PAUSE.min(grace).max(Duration::from_secs(1));
        let removing = remove(SystemClock.now().minus(grace));
        match shutdown.run_until_cancelled(removing).await {
            Some(Ok(Some(swept))) => tracing::info!(
                objects = swept.objects,
                bytes = swept.bytes,
                "looked for objects that nothing refers to, and removed them"
            ),
            Some(Ok(None)) => {
                wait = wait.min(KEPT);
                tracing::info!(
                    again_secs = wait.as_secs(),
                    "objects are kept while a backup is made"
                );
            }
            Some(Err(error)) => {
                tracing::warn!(error = chain(&error), "objects were not looked through");
            }
            None => {}
        }
    }
}

/// Removes cached values that have expired, a few at a time. What they name is an object that nothing refers to then.
async fn remove_expired(store: &Store) -> Result<(), StoreError> {
    while store.write(CacheSweep { limit: EXPIRED }).await? == u64::from(EXPIRED) {}
    Ok(())
}
