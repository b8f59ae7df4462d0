//! Following a request: its journal from any point on, then what happens live.

use std::collections::VecDeque;
use std::sync::Arc;

use rune_store_runtime::{RequestId, SessionId, Store, StoreError};

use super::{Engine, EngineError};
use crate::event::{EventMapper, RequestEvent, SequencedEvent};
use crate::feed::{Feed, FeedItem, FeedReader};

/// Entries read from the store at a time.
const JOURNAL_PAGE: u32 = 256;

/// The events of one request, in order, each journal entry exactly once. Ends after
/// the event of the last entry.
pub struct RequestEvents {
    request_id: RequestId,
    store: Store,
    mapper: EventMapper,
    ready: VecDeque<SequencedEvent>,
    /// Sequence number of the last entry read.
    after: u64,
    source: Source,
}

enum Source {
    /// Entries up to and including this number come from the store, then the feed.
    Stored {
        until: u64,
        then: Option<FeedReader>,
    },
    Live(FeedReader),
    Ended,
}

impl RequestEvents {
    /// The events of a request that runs in this process, from the beginning.
    pub(super) fn live(
        request_id: RequestId,
        session_id: &SessionId,
        store: Store,
        feed: &Arc<Feed>,
    ) -> Self {
        Self {
            request_id,
            store,
            mapper: EventMapper::new(session_id.clone()),
            ready: VecDeque::new(),
            after: 0,
            source: Source::Live(feed.reader(0)),
        }
    }

    /// The next event; `None` after the last one, or once the request stopped in this
    /// process without an end (it is taken up again by the next start).
    ///
    /// # Errors
    /// A [`StoreError`] where the journal cannot be read.
    pub async fn next(&mut self) -> Result<Option<SequencedEvent>, StoreError> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                if event.event.is_last() {
                    self.source = Source::Ended;
                    self.ready.clear();
                }
                return Ok(Some(event));
            }
            match &mut self.source {
                Source::Ended => return Ok(None),
                Source::Live(reader) => match reader.next().await {
                    Some(item) => self.ready.extend(self.mapper.map(&item)),
                    None => self.source = Source::Ended,
                },
                Source::Stored { until, then } => {
                    let entries = if self.after < *until {
                        self.store
                            .journal(self.request_id, self.after, JOURNAL_PAGE)
                            .await?
                    } else {
                        Vec::new()
                    };
                    let entries = entries.into_iter().take_while(|entry| entry.seq <= *until);
                    let mut read = 0_usize;
                    for entry in entries {
                        self.after = entry.seq;
                        let item = FeedItem::Entry(Arc::new(entry));
                        self.ready.extend(self.mapper.map(&item));
                        read += 1;
                    }
                    if read == 0 {
                        self.source = then.take().map_or(Source::Ended, Source::Live);
                    }
                }
            }
        }
    }

    /// Reads on until the request has ended and answers its last event.
    ///
    /// # Errors
    /// As [`RequestEvents::next`].
    pub async fn last(mut self) -> Result<Option<RequestEvent>, StoreError> {
        loop {
            // What only a reader of every event wants is not even made.
            if let (Source::Live(reader), true) = (&mut self.source, self.ready.is_empty()) {
                let last = loop {
                    match reader.next().await {
                        Some(FeedItem::Entry(entry)) if entry.body.is_last() => break Some(entry),
                        Some(_) => {}
                        None => break None,
                    }
                };
                let Some(entry) = last else { return Ok(None) };
                let events = self.mapper.map(&FeedItem::Entry(entry));
                return Ok(events
                    .into_iter()
                    .map(|event| event.event)
                    .find(RequestEvent::is_last));
            }
            match self.next().await? {
                Some(event) if event.event.is_last() => return Ok(Some(event.event)),
                Some(_) => {}
                None => return Ok(None),
            }
        }
    }
}

impl Engine {
    /// The events of a request behind the entry `after` (0 for all).
    ///
    /// # Errors
    /// [`EngineError::NotFound`] and [`EngineError::Store`].
    pub async fn events(&self, id: RequestId, after: u64) -> Result<RequestEvents, EngineError> {
        let store = self.inner.store.clone();
        // The feed is looked up before the store is read: whatever is published after
        // the look-up is in the feed, whatever came before its first entry is stored.
        let (session_id, source) = match self.inner.active.get(id) {
            Some(run) => {
                let reader = run.feed.reader(after);
                let first = run.feed.first_seq();
                let source = if after + 1 >= first {
                    Source::Live(reader)
                } else {
                    Source::Stored {
                        until: first - 1,
                        then: Some(reader),
                    }
                };
                (run.session_id.clone(), source)
            }
            None => {
                let row = store.request(id).await?.ok_or(EngineError::NotFound(id))?;
                (
                    row.session_id,
                    Source::Stored {
                        until: u64::MAX,
                        then: None,
                    },
                )
            }
        };
        let mapper = EventMapper::new(session_id);
        Ok(RequestEvents {
            request_id: id,
            store,
            mapper,
            ready: VecDeque::new(),
            after,
            source,
        })
    }
}
