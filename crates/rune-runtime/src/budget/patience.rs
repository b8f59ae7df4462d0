//! How long a call waits for others.

use std::time::Duration;

use rune_store_runtime::{BudgetShortage, EntryBody};
use tokio::sync::watch;
use tokio::time::Instant;

use super::BUDGET_WAIT;
use crate::engine::QUEUE_DEADLINE;

/// Longest time that a call waits for others which have reserved what it needs: as long as for a place on a replica.
const LONGEST_WAIT: Duration = QUEUE_DEADLINE;
/// How often it looks by itself: not everything that is settled is settled here.
const LOOK: Duration = Duration::from_secs(1);

/// The patience of one call that may have to wait for others which have reserved what it needs.
pub(crate) struct Patience {
    settled: watch::Receiver<()>,
    until: Instant,
    told: bool,
}

impl Patience {
    pub(super) fn new(settled: watch::Receiver<()>) -> Self {
        Self {
            settled,
            until: Instant::now() + LONGEST_WAIT,
            told: false,
        }
    }

    /// Whether the call would wait. To be asked before each time that it tries, so that nothing is missed in between.
    pub(crate) fn lasts(&mut self) -> bool {
        self.settled.borrow_and_update();
        Instant::now() < self.until
    }

    /// What the journal says before the first wait.
    pub(crate) fn notice(&mut self, short: &BudgetShortage) -> Option<EntryBody> {
        let told = std::mem::replace(&mut self.told, true);
        (!told).then(|| EntryBody::Notice {
            code: BUDGET_WAIT.to_owned(),
            message: format!(
                "waiting up to {} s for model calls of other requests to end: they have reserved what is left of the \
                 budget of {}",
                LONGEST_WAIT.as_secs(),
                short.scope
            ),
        })
    }

    /// Waits until it is worth trying again.
    pub(crate) async fn wait(&mut self) {
        tokio::select! {
            // The sender lives as long as the engine.
            _ = self.settled.changed() => {}
            () = tokio::time::sleep(LOOK) => {}
        }
    }
}
