//! What a request that is taken up again waits for: the pause after crashes, its turn in its
//! session, a place among those that are taken up.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use rune_env::RecoveryConfig;
use rune_store_runtime::{EntryBody, RequestId, StoreError, Timestamp};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

use super::Engine;
use super::active::{ActiveRequest, SessionTurn};
use crate::journal::JournalWriter;
use crate::planner::BACKED_OFF;

/// Fewer crashes than this are no reason to wait: every request that ran when the daemon was
/// killed has one.
pub(super) const SUSPICIOUS_CRASHES: u32 = 2;

/// How requests are taken up again.
pub(super) struct Recovery {
    pub(super) config: RecoveryConfig,
    slots: Arc<Semaphore>,
    /// When the engine began to take them up, which may be long after it was made; pauses count from then on.
    began: OnceLock<Instant>,
}

impl Recovery {
    pub(super) fn new(config: RecoveryConfig) -> Self {
        Self {
            config,
            slots: Arc::new(Semaphore::new(config.parallelism)),
            began: OnceLock::new(),
        }
    }

    /// Begins to take requests up; pauses that count already do not begin again.
    pub(super) fn begin(&self) -> Instant {
        *self.began.get_or_init(Instant::now)
    }

    /// When a request may be taken up that crashed so often; none: at once.
    pub(super) fn pause(&self, id: RequestId, crashes: u32) -> Option<Pause> {
        let pause = pause(&self.config, id, crashes)?;
        let until = self.begin() + pause;
        (until > Instant::now()).then_some(Pause { crashes, until })
    }
}

/// Doubles with each crash. Requests that crashed together are not taken up together: with
/// those that are not to blame out of the way, the one that is crashes alone.
fn pause(config: &RecoveryConfig, id: RequestId, crashes: u32) -> Option<Duration> {
    let doublings = crashes.checked_sub(SUSPICIOUS_CRASHES)?;
    let factor = 1_u32.checked_shl(doublings).unwrap_or(u32::MAX);
    let whole = config
        .backoff
        .saturating_mul(factor)
        .min(config.max_backoff);
    let [.., last] = *id.as_bytes();
    Some(whole + whole * u32::from(last) / 512)
}

/// The pause of a request that crashed again and again.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pause {
    crashes: u32,
    until: Instant,
}

/// Why a request is not taken up yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Waiting {
    /// For a person.
    pub reason: String,
    /// When it will be, where that is known.
    pub until: Option<Timestamp>,
}

/// A place in the line of a session, taken at once or after the pause.
pub(super) type Turn = Arc<OnceLock<SessionTurn>>;

/// What a request waits for before it is taken up.
pub(super) struct Patience {
    pub(super) pause: Option<Pause>,
    pub(super) turn: Turn,
    /// Whether only so many are taken up at a time.
    pub(super) bounded: bool,
}

impl Engine {
    /// Waits until a request may be taken up. What it answers is kept as long as it runs.
    pub(super) async fn be_patient(
        &self,
        id: RequestId,
        run: &ActiveRequest,
        patience: &Patience,
    ) -> Result<Option<OwnedSemaphorePermit>, StoreError> {
        if let Some(pause) = patience.pause {
            self.back_off(id, run, pause).await?;
        }
        let line_up = || self.inner.sessions.line_up(&run.session_id, id);
        patience.turn.get_or_init(line_up).token().cancelled().await;
        if !patience.bounded {
            return Ok(None);
        }
        let slots = &self.recovery().slots;
        if let Ok(slot) = Arc::clone(slots).try_acquire_owned() {
            return Ok(Some(slot));
        }
        let limit = self.recovery().config.parallelism;
        run.waits(Some(Waiting {
            reason: format!("{limit} requests are taken up again already (`recovery.parallelism`)"),
            until: None,
        }));
        // The semaphore is never closed.
        Ok(Arc::clone(slots).acquire_owned().await.ok())
    }

    /// Waits out the pause of a request that crashed again and again. It is in no line
    /// meanwhile: the other requests of its session go on.
    async fn back_off(
        &self,
        id: RequestId,
        run: &ActiveRequest,
        pause: Pause,
    ) -> Result<(), StoreError> {
        let left = pause.until.saturating_duration_since(Instant::now());
        let until = self.inner.store.now().plus(left);
        let reason = format!(
            "the daemon ended {} times while the request ran, and not in good order; it is taken up again at {until}",
            pause.crashes
        );
        let mut journal = JournalWriter::new(
            id,
            run.checkpoint,
            self.inner.store.clone(),
            Arc::clone(&run.feed),
            run.feed.next_seq(),
        );
        journal.note(EntryBody::Notice {
            code: BACKED_OFF.to_owned(),
            message: reason.clone(),
        });
        run.waits(Some(Waiting {
            reason,
            until: Some(until),
        }));
        journal.flush().await?;
        tokio::time::sleep_until(pause.until).await;
        run.waits(None);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pause_doubles_up_to_its_limit() {
        let config = RecoveryConfig {
            backoff: Duration::from_secs(1),
            max_backoff: Duration::from_secs(60),
            ..RecoveryConfig::default()
        };
        let seconds = |id: [u8; 16], crashes| {
            let pause = pause(&config, RequestId::from_bytes(id), crashes);
            pause.map(|pause| pause.as_millis())
        };
        let first = |crashes| seconds([0; 16], crashes);
        assert_eq!((first(0), first(1)), (None, None));
        assert_eq!(
            (first(2), first(3), first(4)),
            (Some(1000), Some(2000), Some(4000))
        );
        assert_eq!((first(8), first(1000)), (Some(60_000), Some(60_000)));
        // Another request waits longer, half as long again at the most.
        assert_eq!(seconds([255; 16], 2), Some(1498));
    }
}
