//! The requests this process runs, and who may use a session now.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rune_store_runtime::{
    CheckpointPolicy, EntryBody, RequestId, RequestRow, RequestStatus, SessionId,
};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::patience::Waiting;
use crate::feed::Feed;

/// A request that runs or waits for a replica.
pub(super) struct ActiveRequest {
    pub(super) session_id: SessionId,
    pub(super) checkpoint: CheckpointPolicy,
    pub(super) feed: Arc<Feed>,
    pub(super) cancel: CancellationToken,
    /// Fires when its task has ended, whatever the outcome.
    pub(super) done: CancellationToken,
    /// The row, where the store has none.
    pub(super) unstored: Option<Box<RequestRow>>,
    /// Why it does not run yet, where it was not taken up at once.
    pub(super) waiting: Mutex<Option<Waiting>>,
    /// Whether a replica outside this process runs it.
    pub(super) is_away: AtomicBool,
}

impl ActiveRequest {
    /// One that the store has and that does not run.
    pub(super) fn stored(row: &RequestRow) -> Self {
        Self {
            session_id: row.session_id.clone(),
            checkpoint: row.checkpoint,
            feed: Feed::new(row.last_seq + 1),
            cancel: CancellationToken::new(),
            done: CancellationToken::new(),
            unstored: None,
            waiting: Mutex::default(),
            is_away: AtomicBool::new(false),
        }
    }

    /// One that this replica is asked to run.
    pub(super) fn placed(row: &RequestRow, is_stored: bool) -> Self {
        Self {
            unstored: (!is_stored).then(|| Box::new(row.clone())),
            ..Self::stored(row)
        }
    }

    /// Says why it does not run yet.
    pub(super) fn waits(&self, waiting: Option<Waiting>) {
        *self.lock_waiting() = waiting;
    }

    pub(super) fn waiting(&self) -> Option<Waiting> {
        self.lock_waiting().clone()
    }

    fn lock_waiting(&self) -> MutexGuard<'_, Option<Waiting>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn is_stored_each_step(&self) -> bool {
        self.checkpoint == CheckpointPolicy::EachStep
    }

    /// Whether the store knows of it and it has begun here.
    pub(super) fn has_begun(&self) -> bool {
        let is_away = self.is_away.load(Ordering::Relaxed);
        self.unstored.is_none() && !is_away && self.feed.has_started()
    }

    pub(super) async fn ended(&self) {
        self.done.cancelled().await;
    }

    /// The row at the end, where the store has none.
    pub(super) fn final_row(&self) -> Option<RequestRow> {
        let mut row = self.unstored.as_deref()?.clone();
        let last = self.feed.last_entry()?;
        row.last_seq = last.seq;
        row.updated_at = last.at;
        if let EntryBody::Finished {
            status,
            output,
            failure,
            usage,
            cost,
        } = last.body.clone()
        {
            (row.status, row.output, row.failure) = (status, output, failure);
            (row.usage, row.cost) = (usage, cost);
        }
        Some(row)
    }
}

/// A request that is kept from being taken up.
pub(super) struct Claim<'a> {
    held: Option<&'a ActiveRequests>,
    id: RequestId,
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        if let Some(requests) = self.held {
            requests.remove(self.id);
        }
    }
}

/// All of them.
pub(super) struct ActiveRequests {
    state: Mutex<State>,
    count: watch::Sender<usize>,
}

/// What became of a registration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Inserted {
    New,
    RunsAlready,
    Closed,
}

#[derive(Default)]
struct State {
    requests: HashMap<RequestId, Arc<ActiveRequest>>,
    closed: bool,
}

impl Default for ActiveRequests {
    fn default() -> Self {
        Self {
            state: Mutex::default(),
            count: watch::Sender::new(0),
        }
    }
}

impl ActiveRequests {
    /// Registers a request; not once [`ActiveRequests::close`] was called.
    pub(super) fn insert(&self, id: RequestId, request: Arc<ActiveRequest>) -> Inserted {
        let mut state = self.lock();
        if state.closed {
            return Inserted::Closed;
        }
        if state.requests.contains_key(&id) {
            return Inserted::RunsAlready;
        }
        state.requests.insert(id, request);
        self.count.send_replace(state.requests.len());
        Inserted::New
    }

    /// Keeps a stored request that does not run from being taken up, until the claim is
    /// dropped; nothing where it runs. Once closed nothing is taken up any more anyway.
    pub(super) fn claim(&self, row: &RequestRow) -> Option<Claim<'_>> {
        let request = Arc::new(ActiveRequest::stored(row));
        let (held, id) = match self.insert(row.id, request) {
            Inserted::New => (Some(self), row.id),
            Inserted::Closed if self.get(row.id).is_none() => (None, row.id),
            Inserted::Closed | Inserted::RunsAlready => return None,
        };
        Some(Claim { held, id })
    }

    /// Ends the request's feed and forgets it.
    pub(super) fn remove(&self, id: RequestId) {
        let mut state = self.lock();
        let removed = state.requests.remove(&id);
        self.count.send_replace(state.requests.len());
        drop(state);
        if let Some(request) = removed {
            request.feed.close();
            request.done.cancel();
        }
    }

    pub(super) fn get(&self, id: RequestId) -> Option<Arc<ActiveRequest>> {
        self.lock().requests.get(&id).cloned()
    }

    /// All of them.
    pub(super) fn ids(&self) -> Vec<RequestId> {
        self.lock().requests.keys().copied().collect()
    }

    pub(super) fn unstored_row(&self, id: RequestId) -> Option<RequestRow> {
        let state = self.lock();
        let row = state.requests.get(&id)?.unstored.as_deref()?;
        Some(RequestRow {
            status: RequestStatus::Running,
            ..row.clone()
        })
    }

    /// The rows of those that no store has.
    pub(super) fn unstored_rows(&self) -> Vec<RequestRow> {
        let state = self.lock();
        let rows = state.requests.values();
        let rows = rows.filter_map(|run| run.unstored.as_deref().cloned());
        rows.collect()
    }

    pub(super) fn len(&self) -> usize {
        self.lock().requests.len()
    }

    /// Changes with every registration, every removal, and whatever else is announced.
    pub(super) fn activity(&self) -> watch::Receiver<usize> {
        self.count.subscribe()
    }

    /// Whoever changes a request announces it here.
    pub(super) fn announcer(&self) -> watch::Sender<usize> {
        self.count.clone()
    }

    /// Takes nothing new from now on.
    pub(super) fn close(&self) {
        self.lock().closed = true;
    }

    /// Returns once none is left.
    pub(super) async fn idle(&self) {
        let mut count = self.count.subscribe();
        // The sender lives as long as `self`, so this cannot fail.
        let _ = count.wait_for(|count| *count == 0).await;
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One request of a session runs at a time, in the order they came, so that each sees
/// what the ones before it said.
#[derive(Clone, Default)]
pub(super) struct SessionLines {
    lines: Arc<Mutex<HashMap<SessionId, VecDeque<Place>>>>,
}

/// A request in the line of its session.
struct Place {
    request_id: RequestId,
    /// Fires when it is its turn.
    turn: CancellationToken,
}

/// A place in the line of a session; whoever is behind it goes on when it is dropped.
pub(super) struct SessionTurn {
    lines: SessionLines,
    session_id: SessionId,
    request_id: RequestId,
    turn: CancellationToken,
}

impl SessionLines {
    /// Takes the last place in the line, at once.
    pub(super) fn line_up(&self, session_id: &SessionId, request_id: RequestId) -> SessionTurn {
        let turn = CancellationToken::new();
        let mut lines = self.lock();
        let line = lines.entry(session_id.clone()).or_default();
        if line.is_empty() {
            turn.cancel();
        }
        line.push_back(Place {
            request_id,
            turn: turn.clone(),
        });
        drop(lines);
        SessionTurn {
            lines: self.clone(),
            session_id: session_id.clone(),
            request_id,
            turn,
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<SessionId, VecDeque<Place>>> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl SessionTurn {
    /// Fires when it is this request's turn.
    pub(super) fn token(&self) -> CancellationToken {
        self.turn.clone()
    }
}

impl Drop for SessionTurn {
    fn drop(&mut self) {
        let mut lines = self.lines.lock();
        let Some(line) = lines.get_mut(&self.session_id) else {
            return;
        };
        line.retain(|place| place.request_id != self.request_id);
        match line.front() {
            Some(next) => next.turn.cancel(),
            // An idle session costs nothing.
            None => {
                lines.remove(&self.session_id);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_is_used_in_the_order_of_the_line() {
        let lines = SessionLines::default();
        let session = SessionId::generate();
        let mut turns: Vec<_> = (0..4)
            .map(|_| lines.line_up(&session, RequestId::generate()))
            .collect();
        let may_run = |turns: &[SessionTurn]| -> Vec<bool> {
            turns
                .iter()
                .map(|turn| turn.token().is_cancelled())
                .collect()
        };
        assert_eq!(may_run(&turns), [true, false, false, false]);
        // One that waits gives up, then the first has ended.
        turns.remove(1);
        assert_eq!(may_run(&turns), [true, false, false]);
        turns.remove(0);
        assert_eq!(may_run(&turns), [true, false]);
        turns.clear();
        assert!(lines.lock().is_empty());
    }
}
