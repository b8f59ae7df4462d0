//! Approvals: deciding them, going on after them, and what counts at their deadline.

use std::pin::Pin;
use std::time::Duration;

use rune_store_runtime::{
    ApprovalDecision, ApprovalFilter, ApprovalId, ApprovalRow, ApprovalState, DecideApproval,
    PageRequest, Reject, RequestId, RequestStatus, StoreError,
};

use super::{Engine, EngineError};

/// How often the deadlines are looked at, where none is known to be nearer. It bounds what
/// a clock that was set forward delays.
const DEADLINE_HORIZON: Duration = Duration::from_secs(60);
/// Who decides at the deadline.
const DEADLINE: &str = "deadline";

impl Engine {
    /// Answers a question. Returns once the answer is durable; the request goes on once no
    /// other question of it is open. Dropping the future does not undo it.
    ///
    /// # Errors
    /// [`EngineError::Store`], where it is rejected: `not_found`, or `conflict` where
    /// somebody else was faster or the request has ended.
    pub async fn decide(&self, decision: DecideApproval) -> Result<ApprovalRow, EngineError> {
        // In a task of its own: a caller that goes away must not leave an answered request
        // behind that does not go on.
        let engine = self.clone();
        let deciding = self.inner.tasks.spawn("decide", async move {
            let row = engine.inner.store.write(decision).await?;
            engine.go_on_if_decided(row.request_id).await;
            Ok(row)
        });
        match deciding.await {
            Ok(Some(row)) => row.map_err(EngineError::Store),
            Ok(None) | Err(_) => Err(EngineError::ShuttingDown),
        }
    }

    /// Takes a parked request up once nothing of it waits. Whoever answers and the run that
    /// parks both come here, each after its own commit, so that one of them sees the other.
    pub(super) fn go_on_if_decided(
        &self,
        id: RequestId,
    ) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
        Box::pin(async move {
            let gone_on = async {
                match self.inner.store.request(id).await? {
                    Some(row) if row.status == RequestStatus::Accepted => self.take_up(row).await,
                    _ => Ok(()),
                }
            };
            match gone_on.await {
                Ok(()) | Err(EngineError::ShuttingDown) => {}
                Err(error) => {
                    tracing::error!(request = %id, %error, "request does not go on yet");
                    self.inner.stranded.notify_one();
                }
            }
        })
    }

    /// Lets the default of every approval count at its deadline, until the shutdown.
    pub async fn watch_deadlines(self) {
        let shutdown = self.inner.tasks.shutdown();
        let watching = async {
            loop {
                let wait = match self.decide_due().await {
                    Ok(wait) => wait,
                    Err(error) => {
                        tracing::warn!(%error, "deadlines of approvals were not looked at");
                        DEADLINE_HORIZON
                    }
                };
                tokio::select! {
                    () = tokio::time::sleep(wait) => {}
                    () = self.inner.asked.notified() => {}
                }
            }
        };
        tokio::select! {
            () = shutdown.cancelled() => {}
            () = watching => {}
        }
    }

    /// Decides what is due and answers how long nothing else will be.
    async fn decide_due(&self) -> Result<Duration, StoreError> {
        let now = self.inner.store.now();
        let mut filter = ApprovalFilter {
            state: Some(ApprovalState::Waiting),
            due_by: Some(now),
            ..ApprovalFilter::default()
        };
        let mut page = PageRequest::first(PageRequest::MAX_LIMIT);
        loop {
            let due = self.inner.store.approvals(&filter, &page).await?;
            for row in due.items {
                let (id, decision) = (row.question.approval_id, row.question.default);
                match self.decide_at_deadline(id, decision).await {
                    // It is tried again with the next look; those behind it do not wait for it.
                    Err(StoreError::Rejected(reject)) => {
                        tracing::error!(approval = %id, request = %row.request_id, %reject, "not decided at its deadline");
                    }
                    decided => decided?,
                }
            }
            page.cursor = due.next;
            if page.cursor.is_none() {
                break;
            }
        }
        let horizon = now.plus(DEADLINE_HORIZON);
        filter.due_by = Some(horizon);
        let page = PageRequest::first(PageRequest::MAX_LIMIT);
        let soon = self.inner.store.approvals(&filter, &page).await?.items;
        let deadlines = soon.iter().filter_map(|row| row.question.deadline);
        // What was due and could not be decided is looked at again with the horizon.
        let next = deadlines.filter(|deadline| *deadline > now).min();
        Ok(next.unwrap_or(horizon).since(now))
    }

    async fn decide_at_deadline(
        &self,
        approval_id: ApprovalId,
        decision: ApprovalDecision,
    ) -> Result<(), StoreError> {
        let decision = DecideApproval {
            approval_id,
            decision,
            by: DEADLINE.to_owned(),
            remember: None,
            note: Some("nobody decided before the deadline".to_owned()),
        };
        match self.decide(decision).await {
            // A person was faster, or the request has ended.
            Ok(_) | Err(EngineError::Store(StoreError::Rejected(Reject::Conflict { .. }))) => {
                Ok(())
            }
            Err(EngineError::Store(error)) => Err(error),
            Err(error) => Err(StoreError::Unavailable(error.to_string())),
        }
    }
}
