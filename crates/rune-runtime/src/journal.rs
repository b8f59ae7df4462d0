//! The writing end of one request's journal.
//!
//! Entries are committed first and published to the feed after. What may be
//! committed together is written together: an entry without an outside effect
//! waits for the next one that has to be durable.

use std::sync::Arc;
use std::time::Duration;

use rune_store_runtime::limits::{MAX_ENTRY_BYTES, MAX_JSON_DEPTH, json_depth};
use rune_store_runtime::{
    AppendEntries, Appended, CheckpointPolicy, Entry, EntryBody, RequestId, Store, StoreError,
    Timestamp,
};

use serde::Serialize;
use tokio::sync::watch;

use crate::budget::Budgets;
use crate::feed::Feed;

/// How long an entry that nobody waits for may stay in memory while the request is
/// busy elsewhere, so that a reader sees a long model call start.
pub(crate) const FLUSH_DELAY: Duration = Duration::from_millis(50);

/// Bytes and levels that an entry adds to what it holds.
const ENTRY_OVERHEAD: usize = 1024;
const ENTRY_DEPTH: usize = 4;

/// Why no entry can hold this; nothing where one can.
pub(crate) fn unstorable(content: &impl Serialize) -> Option<String> {
    let text = serde_json::to_string(content).unwrap_or_default();
    if text.len() > MAX_ENTRY_BYTES - ENTRY_OVERHEAD {
        Some(format!(
            "has {} bytes, more than the journal can hold",
            text.len()
        ))
    } else if json_depth(&text) > MAX_JSON_DEPTH - ENTRY_DEPTH {
        Some(format!("nests deeper than {MAX_JSON_DEPTH} levels"))
    } else {
        None
    }
}

/// Writes one request's journal. The engine holds one per running request.
pub(crate) struct JournalWriter {
    request_id: RequestId,
    policy: CheckpointPolicy,
    store: Store,
    feed: Arc<Feed>,
    /// Entries not yet committed, with the time they were made.
    buffer: Vec<(Timestamp, EntryBody)>,
    /// The sequence number after the last entry known here; used where the engine is
    /// the journal's only writer.
    next_seq: u64,
    /// Told where an entry has settled what a model call reserved.
    budgets: Option<Arc<Budgets>>,
    /// Changes with every commit.
    commits: Option<watch::Sender<usize>>,
}

impl JournalWriter {
    /// A writer behind the entries before `next_seq`.
    pub(crate) fn new(
        request_id: RequestId,
        policy: CheckpointPolicy,
        store: Store,
        feed: Arc<Feed>,
        next_seq: u64,
    ) -> Self {
        Self {
            request_id,
            policy,
            store,
            feed,
            buffer: Vec::new(),
            next_seq,
            budgets: None,
            commits: None,
        }
    }

    /// With those that are told of every commit.
    #[must_use]
    pub(crate) fn announcing(self, commits: watch::Sender<usize>) -> Self {
        Self {
            commits: Some(commits),
            ..self
        }
    }

    /// With those that are told where an entry settles what a model call reserved.
    #[must_use]
    pub(crate) fn telling(self, budgets: Arc<Budgets>) -> Self {
        Self {
            budgets: Some(budgets),
            ..self
        }
    }

    /// Whether entries are waiting to be written that could be written now.
    pub(crate) fn has_pending(&self) -> bool {
        !self.buffer.is_empty() && self.policy == CheckpointPolicy::EachStep
    }

    /// Adds an entry that nobody has to wait for.
    pub(crate) fn note(&mut self, body: EntryBody) {
        let at = self.store.now();
        if self.policy != CheckpointPolicy::EachStep {
            self.publish_alone(at, body.clone());
        }
        if self.policy != CheckpointPolicy::Never {
            self.buffer.push((at, body));
        }
    }

    /// Adds entries at a boundary. With `each_step` it returns once they, and
    /// everything noted before, are durable.
    pub(crate) async fn commit(&mut self, entries: Vec<EntryBody>) -> Result<(), StoreError> {
        for body in entries {
            self.note(body);
        }
        if self.policy == CheckpointPolicy::EachStep {
            self.flush().await
        } else {
            Ok(())
        }
    }

    /// Adds the last entries; with `each_step` and `on_finish` it returns once the
    /// whole journal is durable.
    pub(crate) async fn finish(&mut self, entries: Vec<EntryBody>) -> Result<(), StoreError> {
        for body in entries {
            self.note(body);
        }
        match self.policy {
            CheckpointPolicy::Never => Ok(()),
            CheckpointPolicy::EachStep | CheckpointPolicy::OnFinish => self.flush().await,
        }
    }

    /// Writes what is waiting.
    pub(crate) async fn flush(&mut self) -> Result<(), StoreError> {
        let Some((noted, _)) = self.buffer.last() else {
            return Ok(());
        };
        let at = match self.policy {
            CheckpointPolicy::EachStep => self.store.now(),
            // Readers know it with this time.
            CheckpointPolicy::OnFinish | CheckpointPolicy::Never => *noted,
        };
        let buffered = std::mem::take(&mut self.buffer);
        let append = AppendEntries {
            request_id: self.request_id,
            entries: buffered.iter().map(|(_, body)| body.clone()).collect(),
        };
        let Appended { first_seq, .. } = self.store.write_as_of(at, append, Vec::new()).await?;
        if let Some(commits) = &self.commits {
            commits.send_modify(|_| {});
        }
        let settles = |(_, body): &(_, EntryBody)| body.billed().is_some() || body.is_last();
        if let Some(budgets) = self
            .budgets
            .as_ref()
            .filter(|_| buffered.iter().any(settles))
        {
            budgets.tell_settled();
        }
        if self.policy == CheckpointPolicy::EachStep {
            self.publish_up_to(first_seq).await;
            let entries = buffered
                .into_iter()
                .zip(first_seq..)
                .map(|((_, body), seq)| Entry {
                    request_id: self.request_id,
                    seq,
                    at,
                    body,
                });
            self.feed.publish(entries);
        }
        Ok(())
    }

    /// Publishes what somebody else has committed in between, such as the request to
    /// cancel: whoever wrote it may not get to it before the feed is closed, and
    /// readers get nothing that is behind a gap.
    async fn publish_up_to(&self, first_seq: u64) {
        loop {
            let next = self.feed.next_seq();
            if next >= first_seq {
                return;
            }
            let limit = u32::try_from(first_seq - next).unwrap_or(u32::MAX);
            let read = self.store.journal(self.request_id, next - 1, limit).await;
            match read {
                Ok(entries) if !entries.is_empty() => self.feed.publish(entries),
                Ok(_) => return,
                Err(error) => {
                    tracing::warn!(%error, "live readers miss an entry and have to reconnect");
                    return;
                }
            }
        }
    }

    /// Publishes an entry that is not durable yet: the engine is the only writer of
    /// such a journal, so it knows the number the entry will have.
    fn publish_alone(&mut self, at: Timestamp, body: EntryBody) {
        let entry = Entry {
            request_id: self.request_id,
            seq: self.next_seq,
            at,
            body,
        };
        self.next_seq += 1;
        self.feed.publish([entry]);
    }
}
