//! Taking up again what a crash or a restart interrupted.

use std::sync::Arc;
use std::time::Duration;

use rune_store_runtime::{
    AppendEntries, CachePut, EntryBody, ErrorCode, Failure, PageRequest, RequestFilter, RequestRow,
    RequestStatus, StoreError,
};
use serde_json::Value;
use tokio_util::sync::CancellationToken;

use super::active::{ActiveRequest, Inserted};
use super::patience::{Patience, SUSPICIOUS_CRASHES, Turn};
use super::run::Start;
use super::{Engine, EngineError, Origin};
use crate::planner::{Outcome, RunState};

/// How long a store that did not answer is left alone.
const RETAKE_PAUSE: Duration = Duration::from_secs(2);
/// How long a request that is taken up waits for a replica to be there at all.
pub(super) const UNSERVED_TIMEOUT: Duration = Duration::from_secs(120);

/// An unfinished request that is on the table and does not run yet.
struct Interrupted {
    row: RequestRow,
    run: Arc<ActiveRequest>,
    /// How often it crashed.
    crashes: u32,
    patience: Patience,
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
        self.recovery().begin();
        let recovered = self.recover_all().await;
        if let Err(EngineError::Store(StoreError::Unavailable(_))) = &recovered {
            self.inner.stranded.notify_one();
        }
        recovered
    }

    async fn recover_all(&self) -> Result<usize, EngineError> {
        self.settle_lost().await?;
        let statuses = vec![RequestStatus::Accepted, RequestStatus::Running];
        let mut rows = self
            .rows(RequestFilter {
                statuses,
                ..RequestFilter::default()
            })
            .await?;
        rows.sort_by_key(|row| row.id);
        let count = rows.len();
        let mut crashed = Vec::with_capacity(count);
        for row in rows {
            let crashes = self.crashes(&row).await?;
            crashed.push((row, crashes));
        }
        // All of them are known before the first one runs: one that waits behind it in its
        // session is not part of its history.
        let mut interrupted = Vec::with_capacity(count);
        for (row, crashes) in crashed {
            // One that another request called runs in the place of its caller, which waits for it.
            let bounded = row.parent.is_none();
            match self.register(row, crashes, bounded) {
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
        for interrupted in interrupted {
            let id = interrupted.row.id;
            if let Err(error) = self.recover_one(interrupted).await {
                // One request must not keep the others from being taken up.
                tracing::error!(request = %id, %error, "request was not taken up again");
                failed.get_or_insert(error);
            }
        }
        if let Err(error) = self.end_cancelled().await {
            failed.get_or_insert(error);
        }
        failed.map_or(Ok(count), Err)
    }

    /// Ends the parked requests whose cancel was stored and whose end was not.
    async fn end_cancelled(&self) -> Result<(), EngineError> {
        let parked = RequestFilter {
            statuses: vec![RequestStatus::InputRequired],
            cancel_requested: Some(true),
            ..RequestFilter::default()
        };
        for row in self.rows(parked).await? {
            self.cancel_idle(row.id, "").await?;
        }
        Ok(())
    }

    async fn rows(&self, filter: RequestFilter) -> Result<Vec<RequestRow>, StoreError> {
        let mut page = PageRequest::first(PageRequest::MAX_LIMIT);
        let mut rows = Vec::new();
        loop {
            let found = self.inner.store.requests(&filter, &page).await?;
            rows.extend(found.items);
            page.cursor = found.next;
            if page.cursor.is_none() {
                return Ok(rows);
            }
        }
    }

    /// How many attempts of a request no orderly end of the daemon interrupted; 0 also where
    /// it makes no difference.
    async fn crashes(&self, row: &RequestRow) -> Result<u32, StoreError> {
        let max_attempts = self.recovery().config.max_attempts;
        if row.attempts < SUSPICIOUS_CRASHES.min(max_attempts) {
            return Ok(0);
        }
        match RunState::load(&self.inner.store, row.id).await {
            Ok(state) => Ok(state.crashes),
            Err(error @ StoreError::Unavailable(_)) => Err(error),
            // It is read again, and reported, when the request is taken up.
            Err(_) => Ok(0),
        }
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
        match self.register(row, 0, false)? {
            Some(interrupted) => self.recover_one(interrupted).await,
            None => Ok(()),
        }
    }

    /// Puts an unfinished request on the table and, unless it has to wait, in the line of its
    /// session; nothing where it runs already.
    fn register(
        &self,
        row: RequestRow,
        crashes: u32,
        bounded: bool,
    ) -> Result<Option<Interrupted>, EngineError> {
        let run = Arc::new(ActiveRequest::stored(&row));
        match self.inner.active.insert(row.id, Arc::clone(&run)) {
            Inserted::New => {
                self.inner.taken_up.send_replace(());
                let pause = self.recovery().pause(row.id, crashes);
                let turn = Turn::default();
                if pause.is_none() {
                    let line_up = || self.inner.sessions.line_up(&row.session_id, row.id);
                    turn.get_or_init(line_up);
                }
                let patience = Patience {
                    pause,
                    turn,
                    bounded,
                };
                Ok(Some(Interrupted {
                    row,
                    run,
                    crashes,
                    patience,
                }))
            }
            Inserted::RunsAlready => Ok(None),
            Inserted::Closed => Err(EngineError::ShuttingDown),
        }
    }

    /// Starts the task of a request, or ends the request where it cannot go on.
    async fn recover_one(&self, interrupted: Interrupted) -> Result<(), EngineError> {
        let Interrupted {
            row,
            run,
            crashes,
            patience,
        } = interrupted;
        if let Some(failure) = self.hopeless(&row, crashes) {
            let given_up = self.give_up(&row, failure).await;
            self.inner.active.remove(row.id);
            return given_up;
        }
        let engine = self.clone();
        let (id, turn) = (row.id, Arc::clone(&patience.turn));
        self.spawn(id, &Arc::clone(&run), turn, async move {
            engine.resume(&row, &run, &patience).await
        });
        Ok(())
    }

    /// Waits until a request may be taken up and goes on after the last entry of its journal.
    async fn resume(
        &self,
        row: &RequestRow,
        run: &ActiveRequest,
        patience: &Patience,
    ) -> Result<Outcome, EngineError> {
        let id = row.id;
        let _slot = tokio::select! {
            biased;
            () = self.inner.draining.cancelled() => return Ok(Outcome::Ended),
            () = run.cancel.cancelled() => {
                self.end_idle(row).await?;
                return Ok(Outcome::Ended);
            }
            slot = self.be_patient(id, run, patience) => slot?,
        };
        run.waits(None);
        // As it is now: what was read before it was on the table may be old.
        let row = self.request(id).await?;
        if row.status.is_terminal() {
            return Ok(Outcome::Ended);
        }
        let state = RunState::load(&self.inner.store, id).await?;
        let turn = CancellationToken::new();
        turn.cancel();
        let start = Start {
            request_id: id,
            session_id: row.session_id,
            namespace: row.namespace,
            caller: row.caller,
            deployment_id: row.deployment_id,
            version_id: row.version_id,
            parent: row.parent,
            origin: Origin::of(&row.metadata),
            budgets: row.budgets,
            checkpoint: row.checkpoint,
            state,
            next_seq: row.last_seq + 1,
            taken_up: true,
            new_session: false,
            timeout: UNSERVED_TIMEOUT,
            turn,
            replica_id: row.replica_id,
        };
        self.run(start, run).await
    }

    /// Why a request cannot go on, where it cannot.
    fn hopeless(&self, row: &RequestRow, crashes: u32) -> Option<Failure> {
        let max_attempts = self.recovery().config.max_attempts;
        if crashes >= max_attempts {
            let message = format!(
                "given up after {max_attempts} attempts, each ended by a crash (`recovery.max_attempts`)"
            );
            return Some(Failure::new(ErrorCode::Internal, message));
        }
        if self.inner.router.deployment(row.deployment_id).is_some() {
            return None;
        }
        let message = "the deployment of the request was removed";
        Some(Failure::new(ErrorCode::NotFound, message))
    }

    pub(super) async fn give_up(
        &self,
        row: &RequestRow,
        failure: Failure,
    ) -> Result<(), EngineError> {
        let state = RunState::load(&self.inner.store, row.id).await?;
        self.cancel_called(row, &state).await;
        let mut entries = state.close_calls(&failure.message, |name| name);
        entries.extend(self.unknown_usage(row).await?);
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
