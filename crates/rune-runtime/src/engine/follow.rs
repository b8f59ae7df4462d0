//! Following a request: its journal from any point on, then what happens live.

use std::collections::VecDeque;
use std::sync::Arc;

use rune_store_runtime::{
    CheckpointPolicy, Entry, EntryBody, RequestId, RequestRow, RequestStatus, SessionId, StoreError,
};

use super::{Engine, EngineError};
use crate::event::{EventMapper, RequestEvent, SequencedEvent};
use crate::feed::{Feed, FeedItem, FeedReader};

/// Entries read from the store at a time.
const JOURNAL_PAGE: u32 = 256;

/// The events of one request, in order, each journal entry exactly once. Ends after
/// the event of the last entry.
pub struct RequestEvents {
    request_id: RequestId,
    engine: Engine,
    mapper: EventMapper,
    ready: VecDeque<SequencedEvent>,
    /// Sequence number of the last entry read.
    after: u64,
    /// The last entry of those a fork took over, which are not told of as if they happened.
    hidden: u64,
    source: Source,
}

/// How following a request came to its end.
#[derive(Debug)]
pub enum Ending {
    /// The request has ended; this is its last event.
    Ended(RequestEvent),
    /// It waits for a person.
    Parked,
    /// It stopped in this process and is taken up again by the next start.
    Interrupted,
}

/// What [`RequestEvents::step`] finds.
#[derive(Debug)]
#[expect(
    clippy::large_enum_variant,
    reason = "it is taken apart where it is made, and nearly always an event"
)]
pub enum Followed {
    /// The next event.
    Event(SequencedEvent),
    /// There is none until a person has decided.
    Parked,
    /// There is none any more in this process: the last one was told, or the request is taken
    /// up again by the next start.
    End,
}

enum Source {
    /// Entries up to and including this number come from the store, then the feed.
    Stored {
        until: u64,
        then: Option<FeedReader>,
    },
    Live(FeedReader),
    /// There is no more for now.
    Paused,
    Ended,
}

impl RequestEvents {
    /// The events of a request that runs in this process, from the beginning.
    pub(super) fn live(
        request_id: RequestId,
        session_id: &SessionId,
        engine: Engine,
        feed: &Arc<Feed>,
    ) -> Self {
        Self {
            request_id,
            engine,
            mapper: EventMapper::new(session_id.clone()),
            ready: VecDeque::new(),
            after: 0,
            hidden: 1,
            source: Source::Live(feed.reader(0)),
        }
    }

    /// The same without the entries behind the first up to this one.
    pub(super) fn hiding(self, hidden: u64) -> Self {
        Self { hidden, ..self }
    }

    /// The next event; `None` after the last one, or once the request stopped in this
    /// process without an end (it is taken up again by the next start). While the request
    /// is parked it waits with it.
    ///
    /// # Errors
    /// A [`StoreError`] where the journal cannot be read.
    pub async fn next(&mut self) -> Result<Option<SequencedEvent>, StoreError> {
        loop {
            if let Some(event) = self.known().await? {
                return Ok(Some(event));
            }
            if !self.goes_on().await? {
                return Ok(None);
            }
        }
    }

    /// The next event, for a reader that does not wait for a person.
    ///
    /// # Errors
    /// As [`RequestEvents::next`].
    pub async fn step(&mut self) -> Result<Followed, StoreError> {
        loop {
            if let Some(event) = self.known().await? {
                return Ok(Followed::Event(event));
            }
            if self.engine.is_parked(self.request_id).await? {
                return Ok(Followed::Parked);
            }
            if !self.goes_on().await? {
                return Ok(Followed::End);
            }
        }
    }

    /// The next event that is there or on its way; `None` where none is for now.
    async fn known(&mut self) -> Result<Option<SequencedEvent>, StoreError> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                if event.event.is_last() {
                    self.source = Source::Ended;
                    self.ready.clear();
                }
                return Ok(Some(event));
            }
            match &mut self.source {
                Source::Ended | Source::Paused => return Ok(None),
                Source::Live(reader) => match reader.next().await {
                    Some(item) => {
                        if let FeedItem::Entry(entry) = &item {
                            self.after = entry.seq;
                            if (2..=self.hidden).contains(&entry.seq) {
                                continue;
                            }
                        }
                        self.ready.extend(self.mapper.map(&item));
                    }
                    None => self.source = Source::Paused,
                },
                Source::Stored { until, then } => {
                    let entries = if self.after < *until {
                        self.engine
                            .inner
                            .store
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
                        self.source = then.take().map_or(Source::Paused, Source::Live);
                    }
                }
            }
        }
    }

    /// Waits until a request that is parked, or was just answered, is taken up; false where
    /// it will not be in this process.
    async fn goes_on(&mut self) -> Result<bool, StoreError> {
        if matches!(self.source, Source::Ended) {
            return Ok(false);
        }
        let engine = self.engine.clone();
        let mut taken_up = engine.inner.taken_up.subscribe();
        let shutdown = engine.shutdown();
        loop {
            taken_up.mark_unchanged();
            if let Some(source) = engine.source(self.request_id, self.after).await? {
                self.source = source;
                return Ok(true);
            }
            if !engine.will_go_on(self.request_id).await? {
                return self.finds_end().await;
            }
            tokio::select! {
                changed = taken_up.changed() => if changed.is_err() { return Ok(false) },
                () = shutdown.cancelled() => return Ok(false),
            }
        }
    }

    /// Whether there is an end to tell that no entry behind `after` holds: a reader may have been told more of a run that was
    /// lost before it was stored than the one has that then ended the request.
    async fn finds_end(&mut self) -> Result<bool, StoreError> {
        let store = &self.engine.inner.store;
        let Some(row) = store.request(self.request_id).await? else {
            return Ok(false);
        };
        let before = row.last_seq.saturating_sub(1);
        let entries = store.journal(self.request_id, before, 1).await?;
        let Some(last) = entries.into_iter().find(|entry| entry.body.is_last()) else {
            return Ok(false);
        };
        self.after = last.seq;
        let item = FeedItem::Entry(Arc::new(last));
        self.ready.extend(self.mapper.map(&item));
        Ok(true)
    }

    /// Reads on until the request has ended or is parked.
    ///
    /// # Errors
    /// As [`RequestEvents::next`].
    pub async fn ending(mut self) -> Result<Ending, StoreError> {
        loop {
            // What only a reader of every event wants is not even made.
            if let (Source::Live(reader), true) = (&mut self.source, self.ready.is_empty()) {
                let last = loop {
                    match reader.next().await {
                        Some(FeedItem::Entry(entry)) if entry.body.is_last() => break Some(entry),
                        Some(FeedItem::Entry(entry)) => self.after = entry.seq,
                        Some(_) => {}
                        None => break None,
                    }
                };
                match last {
                    Some(entry) => self.ready.extend(self.mapper.map(&FeedItem::Entry(entry))),
                    None => self.source = Source::Paused,
                }
            }
            match self.known().await? {
                Some(event) if event.event.is_last() => return Ok(Ending::Ended(event.event)),
                Some(_) => {}
                None if self.engine.is_parked(self.request_id).await? => return Ok(Ending::Parked),
                None if self.goes_on().await? => {}
                None => return Ok(Ending::Interrupted),
            }
        }
    }
}

impl Engine {
    /// The events of a request behind the entry `after` (0 for all). Its last event is always among them.
    ///
    /// # Errors
    /// [`EngineError::NotFound`] and [`EngineError::Store`].
    pub async fn events(&self, id: RequestId, after: u64) -> Result<RequestEvents, EngineError> {
        // The feed is looked up before the store is read: whatever is published after
        // the look-up is in the feed, whatever came before its first entry is stored.
        let (session_id, source) = match self.inner.active.get(id) {
            Some(run) => (run.session_id.clone(), live(&run.feed, after)),
            None => {
                let row = self.inner.store.request(id).await?;
                let row = row.ok_or(EngineError::NotFound(id))?;
                (row.session_id, stored())
            }
        };
        Ok(RequestEvents {
            request_id: id,
            engine: self.clone(),
            mapper: EventMapper::new(session_id),
            ready: VecDeque::new(),
            after,
            hidden: 1,
            source,
        })
    }

    /// What is stored of a request, from the beginning, and then as [`Engine::events`]: what is committed is there whether or
    /// not the replica that runs it has said so. Nothing where nothing of it is stored.
    #[must_use]
    pub fn stored_events(&self, row: &RequestRow) -> Option<RequestEvents> {
        let is_stored = row.checkpoint != CheckpointPolicy::Never;
        is_stored.then(|| RequestEvents {
            request_id: row.id,
            engine: self.clone(),
            mapper: EventMapper::new(row.session_id.clone()),
            ready: VecDeque::new(),
            after: 0,
            hidden: 1,
            source: stored(),
        })
    }

    /// Where a reader that has got to `after` finds more of a request; nothing where there
    /// is no more for now.
    async fn source(&self, id: RequestId, after: u64) -> Result<Option<Source>, StoreError> {
        if let Some(run) = self.inner.active.get(id) {
            return Ok(Some(live(&run.feed, after)));
        }
        let more = !self.inner.store.journal(id, after, 1).await?.is_empty();
        Ok(more.then(stored))
    }

    async fn is_parked(&self, id: RequestId) -> Result<bool, StoreError> {
        let row = self.inner.store.request(id).await?;
        Ok(row.is_some_and(|row| row.status == RequestStatus::InputRequired))
    }

    /// Whether a request that does not run waits for a person, or to be taken up because
    /// one has just decided.
    async fn will_go_on(&self, id: RequestId) -> Result<bool, StoreError> {
        let Some(row) = self.inner.store.request(id).await? else {
            return Ok(false);
        };
        match row.status {
            RequestStatus::InputRequired => Ok(true),
            RequestStatus::Accepted => {
                let last = self.inner.store.journal(id, row.last_seq - 1, 1).await?;
                let given = |entry: &Entry| matches!(entry.body, EntryBody::ApprovalGiven(_));
                Ok(last.first().is_some_and(given))
            }
            _ => Ok(false),
        }
    }
}

fn live(feed: &Arc<Feed>, after: u64) -> Source {
    let reader = feed.reader(after);
    let first = feed.first_seq();
    // A client may name any number.
    if after.saturating_add(1) >= first {
        Source::Live(reader)
    } else {
        Source::Stored {
            until: first - 1,
            then: Some(reader),
        }
    }
}

const fn stored() -> Source {
    Source::Stored {
        until: u64::MAX,
        then: None,
    }
}
