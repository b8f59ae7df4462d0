//! Taking over what the rows of this node name and it lacks.
//!
//! What is applied is looked through as it comes, and all rows after a start and where a snapshot replaced them. So it costs
//! next to nothing where nothing is missing. What no node holds is no object, but some text: every digest in
//! a text is asked for, once. What a node may hold that does not answer is asked for again, for ever.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rune_raft::ApplyObserver;
use rune_storage::Digest;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::pull::ASKED_AT_ONCE;
use super::{ClusterObjects, Inner, lock};

/// How long after it was named an object is looked for: it may be on its way.
const LAG: Duration = Duration::from_secs(1);
/// The pause before what could not be had is asked for again: the first, and the longest.
const RETRY: Duration = Duration::from_secs(2);
const LONGEST_RETRY: Duration = Duration::from_secs(60);
/// Bytes that are taken over in a second at the most.
const BYTES_PER_SECOND: u64 = 64 << 20;
/// Digests that are remembered at the most; where there are more, all rows are looked through.
const MAX_WANTED: usize = 100_000;

/// What the rows of this node name, as they are applied.
pub(crate) struct Wanted {
    known: Mutex<Known>,
    changed: Notify,
}

struct Known {
    /// Named, and not looked for yet.
    named: BTreeSet<Digest>,
    /// Whether anything in the rows may be named that is not in `named`.
    is_all: bool,
    /// How many were looked for and not had; nothing before the first look.
    missing: Option<usize>,
}

impl Default for Wanted {
    /// Everything in the rows of a node that starts.
    fn default() -> Self {
        Self {
            known: Mutex::new(Known {
                named: BTreeSet::new(),
                is_all: true,
                missing: None,
            }),
            changed: Notify::new(),
        }
    }
}

impl Wanted {
    /// How many objects this node lacks, as far as it knows; nothing where it has not looked yet.
    pub(super) fn missing(&self) -> Option<usize> {
        let known = lock(&self.known);
        known.missing.filter(|_| !known.is_all)
    }

    /// Whether anything is to be looked for.
    fn is_idle(&self) -> bool {
        let known = lock(&self.known);
        !known.is_all && known.named.is_empty()
    }

    /// What is to be looked for: these, and everything where it says so.
    fn take(&self) -> (BTreeSet<Digest>, bool) {
        let mut known = lock(&self.known);
        (std::mem::take(&mut known.named), known.is_all)
    }
}

impl ApplyObserver for Wanted {
    fn applied(&self, command: &str) {
        let mut digests = Digest::all_in(command).peekable();
        if digests.peek().is_none() {
            return;
        }
        let mut known = lock(&self.known);
        known.named.extend(digests);
        if known.named.len() > MAX_WANTED {
            known.named.clear();
            known.is_all = true;
        }
        drop(known);
        self.changed.notify_one();
    }

    fn replaced(&self) {
        lock(&self.known).is_all = true;
        self.changed.notify_one();
    }
}

impl ClusterObjects {
    /// Takes over what is missing, until the node ends.
    pub(crate) async fn catch_up(self) {
        let inner = &self.inner;
        if inner.is_shared() {
            return;
        }
        let shutdown = inner.tasks.shutdown();
        shutdown.run_until_cancelled(inner.run()).await;
    }
}

impl Inner {
    async fn run(self: &Arc<Self>) {
        let (mut left, mut retry) = (BTreeSet::new(), RETRY);
        loop {
            if self.wanted.is_idle() {
                let changed = self.wanted.changed.notified();
                if left.is_empty() {
                    changed.await;
                } else if tokio::time::timeout(retry, changed).await.is_err() {
                    retry = (retry * 2).min(LONGEST_RETRY);
                }
            }
            tokio::time::sleep(LAG).await;
            let (mut wanted, is_all) = self.wanted.take();
            if !wanted.is_empty() {
                retry = RETRY;
            }
            wanted.append(&mut left);
            if is_all {
                {
                    let mut known = lock(&self.wanted.known);
                    (known.is_all, known.missing) = (false, None);
                }
                match self.store.objects_named().await {
                    Ok(mut named) => wanted.append(&mut named),
                    Err(error) => {
                        tracing::error!(%error, "it is not known which objects are missing");
                        self.wanted.replaced();
                    }
                }
            }
            left = self.take_over(wanted).await;
            let mut known = lock(&self.wanted.known);
            // Not before all rows were looked through.
            if !known.is_all {
                known.missing = Some(left.len());
            }
        }
    }

    /// Takes over those of these objects that are not here. Answers those that a node may have and did not give.
    async fn take_over(self: &Arc<Self>, wanted: BTreeSet<Digest>) -> BTreeSet<Digest> {
        let mut missing = BTreeSet::new();
        for digest in wanted {
            // What cannot be looked at is taken over again.
            if !matches!(self.local.head(digest).await, Ok(Some(_))) {
                missing.insert(digest);
            }
        }
        let mut left = BTreeSet::new();
        let missing: Vec<Digest> = missing.into_iter().collect();
        for some in missing.chunks(ASKED_AT_ONCE) {
            left.append(&mut self.take_over_some(some).await);
        }
        if !left.is_empty() {
            tracing::warn!(objects = left.len(), "objects are missing here");
        }
        left
    }

    async fn take_over_some(self: &Arc<Self>, missing: &[Digest]) -> BTreeSet<Digest> {
        let Ok(peers) = self.peers() else {
            return missing.iter().copied().collect();
        };
        let asked = peers.iter().map(|peer| self.held(peer, missing));
        let (mut held, mut is_certain) = (BTreeSet::new(), true);
        for answer in futures_util::future::join_all(asked).await {
            match answer {
                Ok(digests) => held.extend(digests),
                Err(_) => is_certain = false,
            }
        }
        let mut left = BTreeSet::new();
        for digest in missing {
            if !held.contains(digest) {
                if !is_certain {
                    left.insert(*digest);
                }
                continue;
            }
            let begun = Instant::now();
            match self.pull(*digest).await {
                Ok(size) => {
                    let pace = Duration::from_millis(size * 1000 / BYTES_PER_SECOND);
                    tokio::time::sleep_until(begun + pace).await;
                }
                Err(error) => {
                    tracing::debug!(%digest, %error, "an object stays missing");
                    left.insert(*digest);
                }
            }
        }
        left
    }
}
