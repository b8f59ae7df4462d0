//! Webhooks of calls that wait: an agent elsewhere says that there is something to see.
//!
//! What it says is not believed: whoever is woken looks at the task itself. A token belongs to one call, and only its hash is
//! kept, so that looking it up tells nobody how much of it was right.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use aws_lc_rs::rand;
use rune_a2a::PushConfig;
use rune_a2a::client::Wakeup;
use sha2::{Digest as _, Sha256};

use super::Engine;

/// Where the gateway takes webhooks, below its URL; the token follows.
pub const WAKEUP_PATH: &str = "/v1/wakeups/";

/// The calls that can be woken.
#[derive(Default)]
pub(super) struct Wakeups {
    /// The public URL of the gateway.
    base: OnceLock<String>,
    waiting: Mutex<HashMap<[u8; 32], Wakeup>>,
}

impl Wakeups {
    fn lock(&self) -> MutexGuard<'_, HashMap<[u8; 32], Wakeup>> {
        // Each entry is whole at any time.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A webhook of one call, as long as that waits.
pub(super) struct Webhook {
    wakeups: Arc<Wakeups>,
    hash: [u8; 32],
    /// What the agent is told of it.
    pub(super) config: PushConfig,
}

impl Drop for Webhook {
    fn drop(&mut self) {
        self.wakeups.lock().remove(&self.hash);
    }
}

impl Engine {
    /// With a gateway whose public URL is this: agents of other installations may wake calls there. The first one given
    /// counts.
    #[must_use]
    pub fn with_wakeups_at(self, base: &str) -> Self {
        let base = base.trim_end_matches('/').to_owned();
        self.inner.wakeups.base.get_or_init(|| base);
        self
    }

    /// Wakes the call of a webhook, where it still waits; false where there is none with this token.
    #[must_use]
    pub fn wake(&self, token: &str) -> bool {
        let hash: [u8; 32] = Sha256::digest(token).into();
        let wakeup = self.inner.wakeups.lock().get(&hash).cloned();
        wakeup.is_some_and(|wakeup| {
            wakeup.notify_one();
            true
        })
    }

    /// A webhook for a call; nothing where agents do not reach the gateway.
    pub(super) fn webhook(&self, wakeup: &Wakeup) -> Option<Webhook> {
        let base = self.inner.wakeups.base.get()?;
        let mut token = [0; 32];
        rand::fill(&mut token).ok()?;
        let token: String = token.iter().map(|byte| format!("{byte:02x}")).collect();
        let hash: [u8; 32] = Sha256::digest(&token).into();
        self.inner.wakeups.lock().insert(hash, Arc::clone(wakeup));
        Some(Webhook {
            wakeups: Arc::clone(&self.inner.wakeups),
            hash,
            config: PushConfig {
                id: String::new(),
                task_id: String::new(),
                url: format!("{base}{WAKEUP_PATH}{token}"),
                token: None,
                authentication: None,
            },
        })
    }
}
