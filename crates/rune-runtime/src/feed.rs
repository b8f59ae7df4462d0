//! The live feed of a running request: what was committed and what is being said,
//! in one order, for any number of readers.
//!
//! The feed keeps everything it was given for as long as the request runs, so a
//! slow reader loses nothing and a late one starts where it likes. Its size is
//! bounded by the request's own limits: tokens, steps and tool output.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use rune_store_runtime::{Entry, EntryBody};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

/// One thing that happened.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum FeedItem {
    /// A committed journal entry.
    Entry(Arc<Entry>),
    /// More of the model's answer. It becomes part of a `model_reply` entry later.
    Text(Arc<str>),
    /// More of the model's reasoning.
    Reasoning(Arc<str>),
    /// How far a tool call is. Nothing of it is kept.
    Progress(Arc<CallProgress>),
    /// Whether the request has a place on its replica from now on. It has none while it
    /// waits for other agents. For the router, not for readers.
    Placed(bool),
}

/// How far a tool call is, as the tool says.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CallProgress {
    /// The call.
    pub call_id: String,
    /// The tool's name in the package.
    pub tool: String,
    /// Rises with every report.
    pub progress: f64,
    /// What it rises to.
    pub total: Option<f64>,
    /// For a person.
    pub message: Option<String>,
}

/// The feed of one request.
#[derive(Debug)]
pub(crate) struct Feed {
    state: Mutex<State>,
    changed: watch::Sender<()>,
    first_seq: u64,
    id: uuid::Uuid,
}

#[derive(Debug)]
struct State {
    items: Vec<FeedItem>,
    /// The entry that comes next; one that is ahead of it waits in `held`.
    next_seq: u64,
    held: BTreeMap<u64, Arc<Entry>>,
    /// What was said before the first entry was there: nothing precedes it.
    early: Vec<FeedItem>,
    closed: bool,
}

impl Feed {
    /// A feed whose first entry will have the sequence number `first_seq`: 1 for a
    /// new request, more for one that is taken up again.
    #[must_use]
    pub(crate) fn new(first_seq: u64) -> Arc<Self> {
        Arc::new(Self {
            state: Mutex::new(State {
                items: Vec::new(),
                next_seq: first_seq,
                held: BTreeMap::new(),
                early: Vec::new(),
                closed: false,
            }),
            changed: watch::Sender::new(()),
            first_seq,
            id: uuid::Uuid::now_v7(),
        })
    }

    /// Tells this feed from another one of the same request.
    #[must_use]
    pub(crate) fn id(&self) -> String {
        self.id.to_string()
    }

    /// The entries that readers can see.
    #[must_use]
    pub(crate) fn entries(&self) -> Vec<Entry> {
        let state = self.lock();
        let items = state.items.iter();
        let entries = items.filter_map(|item| match item {
            FeedItem::Entry(entry) => Some((**entry).clone()),
            FeedItem::Text(_)
            | FeedItem::Reasoning(_)
            | FeedItem::Progress(_)
            | FeedItem::Placed(_) => None,
        });
        entries.collect()
    }

    /// Sequence number of the first entry that the feed can hold.
    #[must_use]
    pub(crate) const fn first_seq(&self) -> u64 {
        self.first_seq
    }

    /// Sequence number of the entry that readers get next.
    #[must_use]
    pub(crate) fn next_seq(&self) -> u64 {
        self.lock().next_seq
    }

    /// The last entry that readers can see.
    #[must_use]
    pub(crate) fn last_entry(&self) -> Option<Arc<Entry>> {
        let state = self.lock();
        state.items.iter().rev().find_map(|item| match item {
            FeedItem::Entry(entry) => Some(Arc::clone(entry)),
            FeedItem::Text(_)
            | FeedItem::Reasoning(_)
            | FeedItem::Progress(_)
            | FeedItem::Placed(_) => None,
        })
    }

    /// Whether the feed has seen a replica take the request.
    #[must_use]
    pub(crate) fn has_started(&self) -> bool {
        let state = self.lock();
        state.items.iter().any(
            |item| matches!(item, FeedItem::Entry(entry) if matches!(entry.body, EntryBody::Started { .. })),
        )
    }

    /// Publishes committed entries. Two writers of one journal may report their
    /// commits out of order; readers see the order of the journal all the same.
    pub(crate) fn publish(&self, entries: impl IntoIterator<Item = Entry>) {
        let mut state = self.lock();
        for entry in entries {
            if entry.seq >= state.next_seq {
                state.held.insert(entry.seq, Arc::new(entry));
            }
        }
        loop {
            let next = state.next_seq;
            let Some(entry) = state.held.remove(&next) else {
                break;
            };
            state.items.push(FeedItem::Entry(entry));
            state.next_seq += 1;
            let mut early = std::mem::take(&mut state.early);
            state.items.append(&mut early);
        }
        drop(state);
        self.changed.send_replace(());
    }

    /// Publishes more of the model's answer.
    pub(crate) fn text(&self, text: &str) {
        self.push(FeedItem::Text(text.into()));
    }

    /// Publishes more of the model's reasoning.
    pub(crate) fn reasoning(&self, text: &str) {
        self.push(FeedItem::Reasoning(text.into()));
    }

    /// Publishes how far a tool call is.
    pub(crate) fn progress(&self, progress: CallProgress) {
        self.push(FeedItem::Progress(Arc::new(progress)));
    }

    /// Publishes whether the request has a place.
    pub(crate) fn placed(&self, placed: bool) {
        self.push(FeedItem::Placed(placed));
    }

    /// Ends the feed: readers get what is there and then the end.
    pub(crate) fn close(&self) {
        self.lock().closed = true;
        self.changed.send_replace(());
    }

    /// A reader that starts behind the entry `after` (0 for the beginning).
    #[must_use]
    pub(crate) fn reader(self: &Arc<Self>, after: u64) -> FeedReader {
        let state = self.lock();
        let position = if after < self.first_seq {
            0
        } else {
            let found = state
                .items
                .iter()
                .position(|item| matches!(item, FeedItem::Entry(entry) if entry.seq == after));
            found.map_or(state.items.len(), |index| index + 1)
        };
        drop(state);
        FeedReader {
            feed: Arc::clone(self),
            position,
            after,
            changed: self.changed.subscribe(),
        }
    }

    /// A reader that goes on behind the first `position` items.
    #[must_use]
    pub(crate) fn reader_at(self: &Arc<Self>, position: usize) -> FeedReader {
        FeedReader {
            feed: Arc::clone(self),
            position,
            after: 0,
            changed: self.changed.subscribe(),
        }
    }

    fn push(&self, item: FeedItem) {
        let mut state = self.lock();
        // A request that is taken up is stored: what it says stands for nothing that is not.
        if state.next_seq == 1 {
            state.early.push(item);
        } else {
            state.items.push(item);
        }
        drop(state);
        self.changed.send_replace(());
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Reads a feed at its own pace.
#[derive(Debug)]
pub(crate) struct FeedReader {
    feed: Arc<Feed>,
    position: usize,
    after: u64,
    changed: watch::Receiver<()>,
}

impl FeedReader {
    /// How many items of the feed are behind it.
    pub(crate) const fn position(&self) -> usize {
        self.position
    }

    /// The next item; `None` once the feed has ended. Dropping the future loses
    /// nothing.
    pub(crate) async fn next(&mut self) -> Option<FeedItem> {
        loop {
            self.changed.mark_unchanged();
            {
                let state = self.feed.lock();
                if let Some(item) = state.items.get(self.position) {
                    self.position += 1;
                    match item {
                        FeedItem::Entry(entry) if entry.seq <= self.after => continue,
                        item => return Some(item.clone()),
                    }
                }
                if state.closed {
                    return None;
                }
            }
            // The sender lives as long as `self.feed`, so this cannot fail.
            let _ = self.changed.changed().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use rune_store_runtime::{RequestId, Timestamp};

    use super::*;

    fn entry(seq: u64) -> Entry {
        Entry {
            request_id: RequestId::from_bytes([7; 16]),
            seq,
            at: Timestamp::from_millis(0),
            body: EntryBody::Notice {
                code: "test".to_owned(),
                message: seq.to_string(),
            },
        }
    }

    async fn drain(reader: &mut FeedReader) -> Vec<String> {
        let mut seen = Vec::new();
        while let Some(item) = reader.next().await {
            seen.push(match item {
                FeedItem::Entry(entry) => format!("#{}", entry.seq),
                FeedItem::Text(text) | FeedItem::Reasoning(text) => text.to_string(),
                FeedItem::Progress(progress) => progress.progress.to_string(),
                FeedItem::Placed(placed) => placed.to_string(),
            });
        }
        seen
    }

    #[tokio::test]
    async fn a_late_reader_sees_what_an_early_one_saw() {
        let feed = Feed::new(1);
        let mut early = feed.reader(0);
        feed.publish([entry(1)]);
        feed.text("he");
        feed.text("llo");
        feed.publish([entry(2)]);
        feed.close();
        let expected = ["#1", "he", "llo", "#2"];
        assert_eq!(drain(&mut early).await, expected);
        assert_eq!(drain(&mut feed.reader(0)).await, expected);
        assert_eq!(drain(&mut feed.reader(1)).await, expected[1..]);
        assert!(drain(&mut feed.reader(2)).await.is_empty());
    }

    #[tokio::test]
    async fn entries_reported_out_of_order_are_read_in_order() {
        let feed = Feed::new(5);
        feed.publish([entry(7)]);
        feed.publish([entry(5), entry(6)]);
        feed.publish([entry(6)]);
        feed.close();
        assert_eq!(drain(&mut feed.reader(0)).await, ["#5", "#6", "#7"]);
        assert_eq!(drain(&mut feed.reader(5)).await, ["#6", "#7"]);
    }

    #[tokio::test]
    async fn nothing_is_said_before_the_first_entry() {
        let feed = Feed::new(1);
        feed.text("he");
        feed.publish([entry(2)]);
        feed.text("llo");
        feed.publish([entry(1)]);
        feed.close();
        assert_eq!(drain(&mut feed.reader(0)).await, ["#1", "he", "llo", "#2"]);
    }

    #[tokio::test]
    async fn a_waiting_reader_is_woken() {
        let feed = Feed::new(1);
        feed.publish([entry(1)]);
        let mut reader = feed.reader(1);
        let (item, ()) = tokio::join!(reader.next(), async { feed.text("x") });
        assert_eq!(item, Some(FeedItem::Text("x".into())));
    }

    #[tokio::test]
    async fn nothing_is_seen_before_the_first_entry_is_committed() {
        let feed = Feed::new(1);
        feed.text("he");
        feed.publish([entry(1)]);
        feed.text("llo");
        feed.close();
        assert_eq!(drain(&mut feed.reader(0)).await, ["#1", "he", "llo"]);
        let refused = Feed::new(1);
        refused.text("he");
        refused.close();
        assert!(drain(&mut refused.reader(0)).await.is_empty());
    }
}
