//! Requests that run in replicas outside this process.
//!
//! The replica writes the journal through the store; here its run is followed, so that
//! readers of the request see one order, and its place is counted. A replica that cannot be
//! reached any more is given up after a while: it may not write for the request from then
//! on, and another one takes the request up as after a crash.

use std::collections::HashMap;
use std::sync::atomic::Ordering;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use rune_store_runtime::{
    CheckpointPolicy, Entry, EntryBody, PageRequest, ReplicaFilter, ReplicaId, RequestId,
    RequestRow, RequestStatus, StoreError,
};
use tokio::time::Instant;

use super::active::ActiveRequest;
use super::run::Start;
use super::{Engine, EngineError};
use crate::feed::Feed;
use crate::remote::{ReplicaClient, ReplicaError, Resume, RunItem, RunRequest, Unstored};
use crate::router::Lease;

/// Pause before a replica is asked again; doubles with every further time.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
/// Longest of these pauses.
const MAX_PAUSE: Duration = Duration::from_secs(2);
/// How long a replica may take to end a request that it was told to stop.
const STOP_PATIENCE: Duration = Duration::from_secs(3);
/// How long a replica of an earlier process is waited for that may still run a request.
const ADOPTION_PATIENCE: Duration = Duration::from_secs(60);
/// How often it is looked whether it is there.
const ADOPTION_LOOK: Duration = Duration::from_millis(500);
/// Entries read from the store at a time.
const JOURNAL_PAGE: u32 = 256;

/// How a run elsewhere came to its end.
pub(super) enum Away {
    Ended,
    Parked,
    /// The replica does not run it any more, or cannot be reached; why, for the log.
    Lost(String),
}

/// Which replica outside this process may write for which request; none where it was lost.
#[derive(Default)]
pub(super) struct Holders {
    held: Mutex<HashMap<RequestId, Option<ReplicaId>>>,
}

impl Holders {
    fn set(&self, id: RequestId, holder: Option<ReplicaId>) {
        self.lock().insert(id, holder);
    }

    pub(super) fn get(&self, id: RequestId) -> Option<Option<ReplicaId>> {
        self.lock().get(&id).copied()
    }

    pub(super) fn forget(&self, id: RequestId) {
        self.lock().remove(&id);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<RequestId, Option<ReplicaId>>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether a replica may write for a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hold {
    /// It runs it.
    Its,
    /// It is not known yet which replica does; it is after a restart.
    Unknown,
    /// Another one does, or none.
    NotIts,
}

impl Engine {
    /// Whether a replica may write for a request of its deployment.
    ///
    /// # Errors
    /// [`EngineError::NotFound`] and [`EngineError::Store`].
    pub async fn hold(&self, id: RequestId, replica: ReplicaId) -> Result<Hold, EngineError> {
        if let Some(holder) = self.inner.holders.get(id) {
            let is_its = holder == Some(replica);
            return Ok(if is_its { Hold::Its } else { Hold::NotIts });
        }
        let row = self.request(id).await?;
        Ok(match row.replica_id {
            Some(holder) if holder == replica => Hold::Its,
            Some(_) => Hold::NotIts,
            // Nobody runs it any more.
            None if row.status.is_terminal() => Hold::NotIts,
            None => Hold::Unknown,
        })
    }

    /// A request that a replica runs and no store has, where there is such a one.
    #[must_use]
    pub fn unstored_at(
        &self,
        replica: ReplicaId,
        is_it: impl Fn(&RequestRow) -> bool,
    ) -> Option<RequestRow> {
        let rows = self.inner.active.unstored_rows().into_iter();
        let mut rows = rows.filter(|row| self.inner.holders.get(row.id) == Some(Some(replica)));
        rows.find(is_it)
    }

    /// Has the replica of a lease run a request and follows it to its end.
    ///
    /// # Errors
    /// A [`StoreError`] where the journal cannot be read here.
    pub(super) async fn run_away(
        &self,
        start: &Start,
        run: &ActiveRequest,
        lease: Lease,
        client: &ReplicaClient,
    ) -> Result<Away, StoreError> {
        let (id, replica_id) = (start.request_id, lease.replica().id());
        if run.feed.next_seq() == 1 {
            // A replica can run only what is stored.
            run.feed.reader(0).next().await;
        }
        run.is_away.store(true, Ordering::Relaxed);
        self.inner.holders.set(id, Some(replica_id));
        let stopped = async {
            run.cancel.cancelled().await;
            self.end_tools(id);
            if let Err(error) = client.cancel(id).await {
                tracing::warn!(request = %id, replica = %replica_id, %error, "replica was not told to stop a request");
            }
            tokio::time::sleep(STOP_PATIENCE).await;
        };
        let away = tokio::select! {
            biased;
            followed = self.follow_away(start, run, lease, client) => followed?,
            () = stopped => Away::Lost("it does not stop the request".to_owned()),
        };
        if matches!(away, Away::Lost(_)) {
            run.is_away.store(false, Ordering::Relaxed);
            self.inner.holders.set(id, None);
            self.end_tools(id);
        }
        Ok(away)
    }

    async fn follow_away(
        &self,
        start: &Start,
        run: &ActiveRequest,
        lease: Lease,
        client: &ReplicaClient,
    ) -> Result<Away, StoreError> {
        let replica_id = lease.replica().id();
        let mut follower = Follower {
            engine: self,
            id: start.request_id,
            run,
            replica_id,
            lease: Some(lease),
            run_id: String::new(),
        };
        let mut heard = Instant::now();
        let mut resume: Option<Resume> = None;
        let mut pause = FIRST_PAUSE;
        let lost = loop {
            let ask = RunRequest {
                request_id: start.request_id,
                after: run.feed.next_seq() - 1,
                resume: resume.clone(),
                taken_up: start.taken_up,
                unstored: unstored(start, run),
            };
            let mut error = match client.run(&ask).await {
                Ok(mut events) => loop {
                    let event = events.next().await;
                    heard = events.heard();
                    match event {
                        Ok(Some((position, item))) => {
                            let is_first = matches!(item, RunItem::Joined(_));
                            if !is_first {
                                pause = FIRST_PAUSE;
                            }
                            follower.take(item).await?;
                            let run = &follower.run_id;
                            let same = resume.as_ref().is_some_and(|known| known.run == *run);
                            // The first of an answer says nothing of how far the run is.
                            if !(is_first && same) {
                                let run = run.clone();
                                resume = Some(Resume { run, position });
                            }
                        }
                        Ok(None) => return follower.ended(true).await,
                        Err(error) => break error,
                    }
                },
                Err(error) => error,
            };
            if let ReplicaError::Refused { message, .. } = &mut error {
                self.mark_draining(replica_id, client).await;
                break std::mem::take(message);
            }
            self.inner.router.suspect();
            let is_gone = self.inner.router.replica(replica_id).is_none();
            if is_gone || heard.elapsed() >= client.silence() {
                break error.to_string();
            }
            tracing::debug!(request = %start.request_id, replica = %replica_id, %error, "asking again");
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(MAX_PAUSE);
        };
        // It may not write any more from here on; what it has committed counts, whether or not it could say so: it may have ended it.
        self.inner.holders.set(start.request_id, None);
        match follower.ended(false).await? {
            Away::Lost(_) => Ok(Away::Lost(lost)),
            ended => Ok(ended),
        }
    }

    /// Gives a replica nothing more that says that it drains, as one does that was told to end by somebody else.
    async fn mark_draining(&self, replica_id: ReplicaId, client: &ReplicaClient) {
        let drains = client.status().await.is_ok_and(|status| status.draining);
        if let Some(replica) = self.inner.router.replica(replica_id).filter(|_| drains) {
            replica.drain();
            self.inner.router.suspect();
        }
    }

    /// Publishes what is stored and readers were not told.
    pub(super) async fn publish_stored(
        &self,
        id: RequestId,
        feed: &Feed,
    ) -> Result<(), StoreError> {
        loop {
            let after = feed.next_seq() - 1;
            let entries = self.inner.store.journal(id, after, JOURNAL_PAGE).await?;
            if entries.is_empty() {
                return Ok(());
            }
            for entry in &entries {
                self.heed(entry);
            }
            feed.publish(entries);
        }
    }

    /// Tells those in this process who wait for what an entry of a run elsewhere says.
    fn heed(&self, entry: &Entry) {
        self.inner.active.announcer().send_modify(|_| {});
        if matches!(entry.body, EntryBody::ApprovalAsked(_)) {
            self.inner.asked.notify_one();
        }
        if let EntryBody::ToolResult(outcome) = &entry.body {
            let runs = &self.inner.tool_runs;
            runs.committed(entry.request_id, &outcome.call_id);
        }
        if entry.body.billed().is_some() || entry.body.is_last() {
            self.inner.budgets.tell_settled();
        }
    }

    /// A place where a request still runs that an earlier process of the daemon gave to a replica. Which one that was
    /// says its row, or where it has not said so yet, as with `on_finish`, the replicas of its deployment.
    pub(super) async fn place_kept(&self, start: &Start) -> Option<Lease> {
        let id = start.request_id;
        if let Some(replica) = start.replica_id {
            return self.held_place(id, replica).await;
        }
        if !start.taken_up || self.link().is_some() {
            return None;
        }
        let filter = ReplicaFilter {
            deployment_id: Some(start.deployment_id),
        };
        let page = PageRequest::first(PageRequest::MAX_LIMIT);
        let rows = self.inner.store.replicas(&filter, &page).await.ok()?.items;
        let outside = rows.iter().filter(|row| row.endpoint.is_some());
        let asked = outside.map(|row| self.held_place(id, row.id));
        let mut asked: FuturesUnordered<_> = asked.collect();
        while let Some(place) = asked.next().await {
            if place.is_some() {
                return place;
            }
        }
        None
    }

    /// A place on this replica, where it still runs the request.
    async fn held_place(&self, id: RequestId, replica_id: ReplicaId) -> Option<Lease> {
        let router = &self.inner.router;
        let until = Instant::now() + ADOPTION_PATIENCE;
        let replica = loop {
            if let Some(replica) = router.replica(replica_id) {
                break replica;
            }
            let row = self.inner.store.replica(replica_id).await;
            let may_come = match row {
                Ok(row) => row.is_some_and(|row| row.endpoint.is_some()),
                Err(_) => true,
            };
            if !may_come || Instant::now() >= until {
                return None;
            }
            tokio::time::sleep(ADOPTION_LOOK).await;
        };
        let client = replica.client()?;
        while router.replica(replica_id).is_some() && Instant::now() < until {
            match client.status().await {
                Ok(status) => {
                    let runs = status.running.contains(&id);
                    return runs.then(|| router.lease_on(replica));
                }
                Err(error) => {
                    tracing::debug!(request = %id, replica = %replica_id, %error, "asking again");
                    tokio::time::sleep(ADOPTION_LOOK).await;
                }
            }
        }
        None
    }
}

/// Takes in what a replica says of a run.
struct Follower<'a> {
    engine: &'a Engine,
    id: RequestId,
    run: &'a ActiveRequest,
    replica_id: ReplicaId,
    /// Nothing while the request waits for other agents.
    lease: Option<Lease>,
    run_id: String,
}

impl Follower<'_> {
    async fn take(&mut self, item: RunItem) -> Result<(), StoreError> {
        let feed = &self.run.feed;
        match item {
            RunItem::Joined(run) => self.run_id = run,
            RunItem::Text(text) => feed.text(&text),
            RunItem::Reasoning(text) => feed.reasoning(&text),
            RunItem::Progress(progress) => feed.progress(progress),
            RunItem::Placed(false) => self.lease = None,
            RunItem::Placed(true) => {
                let replica = self.engine.inner.router.replica(self.replica_id);
                self.lease = replica.map(|replica| self.engine.inner.router.lease_on(replica));
            }
            RunItem::Entry(entry) if entry.request_id == self.id => {
                if entry.seq > feed.next_seq() && self.run.is_stored_each_step() {
                    self.engine.publish_stored(self.id, feed).await?;
                }
                self.engine.heed(&entry);
                feed.publish([*entry]);
            }
            RunItem::Entry(_) => {}
        }
        Ok(())
    }

    /// What has become of the request now that the replica does not run it any more.
    async fn ended(&self, in_order: bool) -> Result<Away, StoreError> {
        let stopped = || Ok(Away::Lost("it stopped before the request ended".to_owned()));
        if self.run.unstored.is_some() {
            let last = self.run.feed.last_entry();
            let is_over = last.is_some_and(|entry| entry.body.is_last());
            return if is_over { Ok(Away::Ended) } else { stopped() };
        }
        let row = self.engine.inner.store.request(self.id).await?;
        let status = row.as_ref().map(|row| (row.status, row.attempts));
        match status {
            Some((RequestStatus::Accepted, 0) | (RequestStatus::Running, _)) => stopped(),
            Some((RequestStatus::Accepted, _)) if !in_order => stopped(),
            // Somebody may have decided since it parked.
            Some((RequestStatus::InputRequired | RequestStatus::Accepted, _)) => {
                self.engine.publish_stored(self.id, &self.run.feed).await?;
                Ok(Away::Parked)
            }
            Some(_) | None => {
                if self.run.checkpoint != CheckpointPolicy::Never {
                    self.engine.publish_stored(self.id, &self.run.feed).await?;
                }
                Ok(Away::Ended)
            }
        }
    }
}

/// The request itself, where no store has it.
fn unstored(start: &Start, run: &ActiveRequest) -> Option<Box<Unstored>> {
    let row = run.unstored.as_deref()?.clone();
    let entries = run.feed.entries();
    Some(Box::new(Unstored {
        row,
        entries,
        new_session: start.new_session,
    }))
}
