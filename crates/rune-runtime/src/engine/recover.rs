//! Taking up again what a crash or a restart interrupted.

use std::sync::Arc;
use std::time::Duration;

use rune_store_runtime::{
    AppendEntries, EntryBody, ErrorCode, Failure, PageRequest, RequestFilter, RequestRow,
    RequestStatus,
};
use tokio_util::sync::CancellationToken;

use super::active::{ActiveRequest, Inserted};
use super::invoke::Start;
use super::{Engine, EngineError};
use crate::feed::Feed;
use crate::planner::RunState;

/// How often a request is taken up before it is given up as poisonous.
const MAX_ATTEMPTS: u32 = 5;
/// Time limit of a request whose agent is not loaded yet when it is taken up.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(120);

impl Engine {
    /// Starts every unfinished request from where its journal ends, oldest first, and
    /// answers how many there were; one that runs already goes on. Called after the
    /// deployments are known and before anything new is accepted.
    ///
    /// # Errors
    /// [`EngineError::Store`] where a journal cannot be read; the others are taken up all
    /// the same.
    pub async fn recover(&self) -> Result<usize, EngineError> {
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
        let mut failed = None;
        for row in rows {
            let id = row.id;
            if let Err(error) = self.recover_one(row).await {
                // One request must not keep the others from being taken up.
                tracing::error!(request = %id, %error, "request was not taken up again");
                failed.get_or_insert(error);
            }
        }
        failed.map_or(Ok(count), Err)
    }

    async fn recover_one(&self, row: RequestRow) -> Result<(), EngineError> {
        if self.inner.active.contains(row.id) {
            return Ok(());
        }
        let state = RunState::load(&self.inner.store, row.id).await?;
        if state.attempts >= MAX_ATTEMPTS {
            let message = format!(
                "given up after {MAX_ATTEMPTS} attempts, each ended by a crash or a restart"
            );
            return self
                .give_up(&row, &state, Failure::new(ErrorCode::Internal, message))
                .await;
        }
        let known = self.inner.router.deployments();
        if !known
            .iter()
            .any(|deployment| deployment.id == row.deployment_id)
        {
            let message = "the deployment of the request was removed";
            return self
                .give_up(&row, &state, Failure::new(ErrorCode::NotFound, message))
                .await;
        }
        let replicas = self.inner.router.replicas(row.deployment_id);
        let timeout = replicas
            .first()
            .map_or(DEFAULT_TIMEOUT, |r| r.agent().timeout());
        let run = Arc::new(ActiveRequest {
            session_id: row.session_id.clone(),
            checkpoint: row.checkpoint,
            feed: Feed::new(row.last_seq + 1),
            cancel: CancellationToken::new(),
            done: CancellationToken::new(),
            unstored: None,
        });
        match self.inner.active.insert(row.id, Arc::clone(&run)) {
            Inserted::New => {}
            Inserted::RunsAlready => return Ok(()),
            Inserted::Closed => return Err(EngineError::ShuttingDown),
        }
        let turn = self.inner.sessions.line_up(&row.session_id, row.id);
        let start = Start {
            request_id: row.id,
            session_id: row.session_id,
            namespace: row.namespace,
            deployment_id: row.deployment_id,
            checkpoint: row.checkpoint,
            state,
            next_seq: row.last_seq + 1,
            new_session: false,
            timeout,
            turn: turn.token(),
        };
        self.start(start, run, turn);
        Ok(())
    }

    async fn give_up(
        &self,
        row: &RequestRow,
        state: &RunState,
        failure: Failure,
    ) -> Result<(), EngineError> {
        let mut entries = state.close_calls(&failure.message, |name| name);
        entries.push(EntryBody::Finished {
            status: RequestStatus::Failed,
            output: None,
            failure: Some(failure),
            usage: row.usage,
        });
        let append = AppendEntries {
            request_id: row.id,
            entries,
        };
        self.inner.store.write(append).await?;
        Ok(())
    }
}
