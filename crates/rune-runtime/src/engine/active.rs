//! The requests this process runs, and who may use a session now.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rune_store_runtime::{CheckpointPolicy, RequestId, RequestRow, RequestStatus, SessionId};
use tokio::sync::{OwnedMutexGuard, watch};
use tokio_util::sync::CancellationToken;

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
}

impl ActiveRequest {
    pub(super) fn is_stored_each_step(&self) -> bool {
        self.checkpoint == CheckpointPolicy::EachStep
    }

    pub(super) async fn ended(&self) {
        self.done.cancelled().await;
    }
}

/// All of them.
pub(super) struct ActiveRequests {
    state: Mutex<State>,
    count: watch::Sender<usize>,
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
    /// Registers a request; `false` once [`ActiveRequests::close`] was called.
    pub(super) fn insert(&self, id: RequestId, request: Arc<ActiveRequest>) -> bool {
        let mut state = self.lock();
        if state.closed {
            return false;
        }
        state.requests.insert(id, request);
        self.count.send_replace(state.requests.len());
        true
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

    pub(super) fn contains(&self, id: RequestId) -> bool {
        self.lock().requests.contains_key(&id)
    }

    pub(super) fn unstored_row(&self, id: RequestId) -> Option<RequestRow> {
        let state = self.lock();
        let row = state.requests.get(&id)?.unstored.as_deref()?;
        Some(RequestRow {
            status: RequestStatus::Running,
            ..row.clone()
        })
    }

    pub(super) fn len(&self) -> usize {
        self.lock().requests.len()
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
#[derive(Default)]
pub(super) struct SessionLocks {
    locks: Mutex<HashMap<SessionId, Arc<tokio::sync::Mutex<()>>>>,
}

/// The right to run in a session.
pub(super) struct SessionGuard<'a> {
    locks: &'a SessionLocks,
    session_id: SessionId,
    guard: Option<OwnedMutexGuard<()>>,
}

impl SessionLocks {
    pub(super) async fn acquire(&self, session_id: &SessionId) -> SessionGuard<'_> {
        let lock = Arc::clone(self.lock().entry(session_id.clone()).or_default());
        let mut turn = SessionGuard {
            locks: self,
            session_id: session_id.clone(),
            guard: None,
        };
        turn.guard = Some(lock.lock_owned().await);
        turn
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<SessionId, Arc<tokio::sync::Mutex<()>>>> {
        self.locks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for SessionGuard<'_> {
    fn drop(&mut self) {
        self.guard = None;
        let mut locks = self.locks.lock();
        // Held by the map alone: nobody waits, an idle session costs nothing.
        if locks
            .get(&self.session_id)
            .is_some_and(|lock| Arc::strong_count(lock) == 1)
        {
            locks.remove(&self.session_id);
        }
    }
}
