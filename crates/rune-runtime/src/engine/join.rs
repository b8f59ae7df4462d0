//! Running a request that the daemon has accepted: the engine of a replica.

use std::sync::Arc;

use rune_store_runtime::{RequestId, RequestRow, RequestStatus};
use tokio_util::sync::CancellationToken;

use super::active::{ActiveRequest, Inserted};
use super::patience::Turn;
use super::recover::UNSERVED_TIMEOUT;
use super::run::Start;
use super::{Engine, EngineError, Origin};
use crate::feed::FeedReader;
use crate::planner::{Outcome, RunState};
use crate::remote::{RunItem, RunRequest};

/// A run that somebody follows from outside.
pub struct JoinedRun {
    id: String,
    /// Nothing where there is no run any more.
    reader: Option<FeedReader>,
}

impl JoinedRun {
    /// Which run it is; another one of the same request has another id.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The next item with its position; `None` once the run has come to its end. Dropping the
    /// future loses nothing.
    pub async fn next(&mut self) -> Option<(u64, RunItem)> {
        let reader = self.reader.as_mut()?;
        let item = reader.next().await?;
        Some((reader.position() as u64, item.into()))
    }
}

impl Engine {
    /// Runs a request of a deployment that this engine serves, or joins its run. A request that
    /// has ended, or waits for a person, is not run; it has nothing to tell.
    ///
    /// # Errors
    /// [`EngineError::NotFound`] where no store has it and it does not run here any more, or the
    /// deployment is another one; [`EngineError::ShuttingDown`]; [`EngineError::Store`].
    pub async fn join(&self, ask: RunRequest) -> Result<JoinedRun, EngineError> {
        let id = ask.request_id;
        loop {
            if let Some(run) = self.inner.active.get(id) {
                return Ok(joined(&run, &ask));
            }
            let row = match &ask.unstored {
                // It was begun and is gone: nothing of it is kept, so it is not begun again.
                Some(_) if ask.resume.is_some() => return Err(EngineError::NotFound(id)),
                Some(unstored) => unstored.row.clone(),
                None => self.request(id).await?,
            };
            if self.inner.router.deployment(row.deployment_id).is_none() {
                return Err(EngineError::NotFound(id));
            }
            if row.status.is_terminal() || row.status == RequestStatus::InputRequired {
                return Ok(JoinedRun {
                    id: String::new(),
                    reader: None,
                });
            }
            let run = Arc::new(ActiveRequest::placed(&row, ask.unstored.is_none()));
            match self.inner.active.insert(id, Arc::clone(&run)) {
                Inserted::New => {}
                Inserted::RunsAlready => continue,
                Inserted::Closed => return Err(EngineError::ShuttingDown),
            }
            let answer = joined(&run, &ask);
            let engine = self.clone();
            // Whoever accepted it keeps the order of its session.
            self.spawn(id, &Arc::clone(&run), Turn::default(), async move {
                engine.run_placed(row, ask, &run).await
            });
            return Ok(answer);
        }
    }

    async fn run_placed(
        &self,
        row: RequestRow,
        ask: RunRequest,
        run: &ActiveRequest,
    ) -> Result<Outcome, EngineError> {
        let state = match &ask.unstored {
            None => RunState::load(&self.inner.store, row.id).await?,
            Some(unstored) => RunState::of(&unstored.entries),
        };
        let turn = CancellationToken::new();
        turn.cancel();
        let start = Start {
            origin: Origin::of(&row.metadata),
            request_id: row.id,
            session_id: row.session_id,
            namespace: row.namespace,
            caller: row.caller,
            deployment_id: row.deployment_id,
            version_id: row.version_id,
            parent: row.parent,
            budgets: row.budgets,
            checkpoint: row.checkpoint,
            taken_up: ask.taken_up || state.attempts > 0,
            state,
            next_seq: row.last_seq + 1,
            new_session: ask.unstored.is_some_and(|it| it.new_session),
            timeout: UNSERVED_TIMEOUT,
            turn,
            replica_id: None,
        };
        self.run(start, run).await
    }

    /// Stops a request that runs here, as somebody asked for who has recorded it. Answers whether
    /// there is one.
    #[must_use]
    pub fn stop_run(&self, id: RequestId) -> bool {
        let run = self.inner.active.get(id);
        if let Some(run) = &run {
            run.cancel.cancel();
        }
        run.is_some()
    }

    /// The requests that run here or wait for a place.
    #[must_use]
    pub fn running(&self) -> Vec<RequestId> {
        self.inner.active.ids()
    }
}

fn joined(run: &ActiveRequest, ask: &RunRequest) -> JoinedRun {
    let id = run.feed.id();
    let resume = ask.resume.as_ref().filter(|resume| resume.run == id);
    let position = resume.and_then(|resume| usize::try_from(resume.position).ok());
    let reader = match position {
        Some(position) => run.feed.reader_at(position),
        None => run.feed.reader(ask.after),
    };
    JoinedRun {
        id,
        reader: Some(reader),
    }
}
