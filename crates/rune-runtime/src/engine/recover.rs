//! Taking up again what a crash or a restart interrupted.

use std::sync::Arc;
use std::time::Duration;

use rune_store_runtime::{
    AppendEntries, CachePut, EntryBody, ErrorCode, Failure, PageRequest, RequestFilter, RequestRow,
    RequestStatus, StoreError,
};
use serde_json::Value;

use super::active::{ActiveRequest, Inserted, SessionTurn};
use super::invoke::Start;
use super::{Engine, EngineError};
use crate::planner::RunState;

/// After how many crashes in the middle of it a request is given up as poisonous. An orderly
/// end of the daemon is none. With `on_finish` the first attempt leaves no trace and is not
/// counted.
const MAX_CRASHES: u32 = 5;
/// How long a store that did not answer is left alone.
const RETAKE_PAUSE: Duration = Duration::from_secs(2);
/// How long a request whose agent is not loaded yet when it is taken up waits for its place.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(120);

/// An unfinished request that is on the table and does not run yet.
struct Interrupted {
    row: RequestRow,
    run: Arc<ActiveRequest>,
    turn: SessionTurn,
}

impl Engine {
    /// Starts every unfinished request from where its journal ends, oldest first, and
    /// answers how many there were; one that runs already goes on. Called after the
    /// deployments are known and before anything new is accepted.
    ///
    /// # Errors
    /// [`EngineError::Store`] where a journal cannot be read; the others are taken up all
    /// the same.
    pub async fn recover(&self) -> Result<usize, EngineError> {
        let recovered = self.recover_all().await;
        if let Err(EngineError::Store(StoreError::Unavailable(_))) = &recovered {
            self.inner.stranded.notify_one();
        }
        recovered
    }

    async fn recover_all(&self) -> Result<usize, EngineError> {
        let filter = RequestFilter {
            statuses: vec![RequestStatus::Accepted, RequestStatus::Running],
            ..RequestFilter::default()
        };
        let mut page = PageRequest::first(PageRequest::MAX_LIMIT);
        let mut rows = Vec::new();
        loop {
            let found = self.inner.store.requests(&filter, &page).await?;
            rows.extend(found.items);
            match found.next {
                Some(cursor) => page.cursor = Some(cursor),
                None => break,
            }
        }
        rows.sort_by_key(|row| row.id);
        let count = rows.len();
        // All of them are known before the first one runs: one that waits behind it in its
        // session is not part of its history.
        let mut interrupted = Vec::with_capacity(count);
        for row in rows {
            match self.register(row) {
                Ok(registered) => interrupted.extend(registered),
                Err(error) => {
                    for Interrupted { row, .. } in &interrupted {
                        self.inner.active.remove(row.id);
                    }
                    return Err(error);
                }
            }
        }
        let mut failed = None;
        for Interrupted { row, run, turn } in interrupted {
            let id = row.id;
            if let Err(error) = self.recover_one(row, run, turn).await {
                // One request must not keep the others from being taken up.
                tracing::error!(request = %id, %error, "request was not taken up again");
                failed.get_or_insert(error);
            }
        }
        failed.map_or(Ok(count), Err)
    }

    /// Takes up again, until the shutdown, what stopped because the store did not answer:
    /// tries at an interval whether it does by now. A store that failed for good answers
    /// only after the next start.
    pub async fn retake(self) {
        let shutdown = self.inner.tasks.shutdown();
        let stranded = async {
            loop {
                self.inner.stranded.notified().await;
                loop {
                    tokio::time::sleep(RETAKE_PAUSE).await;
                    match self.retake_now().await {
                        Ok(count) => {
                            tracing::info!(count, "requests were taken up again");
                            break;
                        }
                        Err(EngineError::Store(StoreError::Unavailable(reason))) => {
                            tracing::debug!(reason, "the store does not answer yet");
                        }
                        // Trying again would end the same way; each is in the log.
                        Err(_) => break,
                    }
                }
            }
        };
        tokio::select! {
            () = shutdown.cancelled() => {}
            () = stranded => {}
        }
    }

    async fn retake_now(&self) -> Result<usize, EngineError> {
        // A model is asked only once the store takes what it will say.
        let probe = CachePut {
            key: "engine/probe".to_owned(),
            value: Value::Null,
            expires_at: self.inner.store.now(),
        };
        self.inner.store.write(probe).await?;
        self.recover_all().await
    }

    /// Takes up one request that waits for a replica, unless it runs already.
    pub(super) async fn take_up(&self, row: RequestRow) -> Result<(), EngineError> {
        match self.register(row)? {
            Some(Interrupted { row, run, turn }) => self.recover_one(row, run, turn).await,
            None => Ok(()),
        }
    }

    /// Puts an unfinished request on the table and in the line of its session, unless it
    /// runs already.
    fn register(&self, row: RequestRow) -> Result<Option<Interrupted>, EngineError> {
        let run = Arc::new(ActiveRequest::stored(&row));
        match self.inner.active.insert(row.id, Arc::clone(&run)) {
            Inserted::New => {
                self.inner.taken_up.send_replace(());
                let turn = self.inner.sessions.line_up(&row.session_id, row.id);
                Ok(Some(Interrupted { row, run, turn }))
            }
            Inserted::RunsAlready => Ok(None),
            Inserted::Closed => Err(EngineError::ShuttingDown),
        }
    }

    async fn recover_one(
        &self,
        row: RequestRow,
        run: Arc<ActiveRequest>,
        turn: SessionTurn,
    ) -> Result<(), EngineError> {
        let state = match self.resumable(&row).await {
            Ok(Some(state)) => state,
            not_run => {
                self.inner.active.remove(row.id);
                return not_run.map(|_| ());
            }
        };
        let replicas = self.inner.router.replicas(row.deployment_id);
        // Its own limit is known once it has a replica, and counts from then on.
        let timeout = replicas.first().map_or(DEFAULT_TIMEOUT, |replica| {
            replica.agent().timeout().saturating_sub(state.spent)
        });
        let start = Start {
            request_id: row.id,
            session_id: row.session_id,
            namespace: row.namespace,
            caller: row.caller,
            deployment_id: row.deployment_id,
            parent: row.parent,
            checkpoint: row.checkpoint,
            state,
            next_seq: row.last_seq + 1,
            taken_up: true,
            new_session: false,
            timeout,
            turn: turn.token(),
        };
        self.start(start, run, turn);
        Ok(())
    }

    /// How far a request is; nothing where it was ended because it cannot go on.
    async fn resumable(&self, row: &RequestRow) -> Result<Option<RunState>, EngineError> {
        let state = RunState::load(&self.inner.store, row.id).await?;
        let failure = if state.crashes >= MAX_CRASHES {
            let message = format!("given up after {MAX_CRASHES} attempts, each ended by a crash");
            Failure::new(ErrorCode::Internal, message)
        } else if !self
            .inner
            .router
            .deployments()
            .iter()
            .any(|deployment| deployment.id == row.deployment_id)
        {
            let message = "the deployment of the request was removed";
            Failure::new(ErrorCode::NotFound, message)
        } else {
            return Ok(Some(state));
        };
        self.give_up(row, &state, failure).await?;
        Ok(None)
    }

    async fn give_up(
        &self,
        row: &RequestRow,
        state: &RunState,
        failure: Failure,
    ) -> Result<(), EngineError> {
        self.cancel_children(state).await;
        let mut entries = state.close_calls(&failure.message, |name| name);
        entries.push(EntryBody::Finished {
            status: RequestStatus::Failed,
            output: None,
            failure: Some(failure),
            usage: row.usage,
            cost: row.cost,
        });
        let append = AppendEntries {
            request_id: row.id,
            entries,
        };
        self.inner.store.write(append).await?;
        Ok(())
    }
}
