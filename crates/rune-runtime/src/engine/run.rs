//! Running an accepted request: in this process, or in the replica that it is given to.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use rune_store_runtime::{
    BudgetCap, CheckpointPolicy, DeploymentId, EntryBody, ErrorCode, Failure, ParentCall,
    ReplicaId, RequestId, RequestStatus, SessionId, StoreError, VersionId,
};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::active::ActiveRequest;
use super::away::Away;
use super::child::SubAgents;
use super::patience::Turn;
use super::{Engine, EngineError, Origin, QUEUE_DEADLINE};
use crate::agent::Agent;
use crate::budget::Meter;
use crate::journal::JournalWriter;
use crate::planner::{INTERRUPTED, Outcome, Planner, RunState};
use crate::router::{Lease, Place, RouteError};
use crate::workflow::WorkflowExecutor;

/// Pause before a request that lost its replica is given to another one; doubles with every further loss.
const LOSS_PAUSE: Duration = Duration::from_millis(50);
/// Longest of these pauses.
const MAX_LOSS_PAUSE: Duration = Duration::from_secs(2);

impl Engine {
    /// Starts the task that runs a request.
    pub(super) fn start(&self, start: Start, run: Arc<ActiveRequest>, turn: Turn) {
        let engine = self.clone();
        let request_id = start.request_id;
        self.spawn(request_id, &Arc::clone(&run), turn, async move {
            engine.run(start, &run).await
        });
    }

    pub(super) fn spawn(
        &self,
        request_id: RequestId,
        run: &Arc<ActiveRequest>,
        turn: Turn,
        work: impl Future<Output = Result<Outcome, EngineError>> + Send + 'static,
    ) {
        let span = tracing::info_span!(
            "request", id = %request_id, session = %run.session_id, trace_id = tracing::field::Empty
        );
        // Whatever happens in the run, the request leaves the table.
        let leave = Leave {
            engine: self.clone(),
            request_id,
            _turn: turn,
        };
        // On the heap once, instead of moved through every layer around it.
        let work = Box::pin(work);
        let (engine, run) = (self.clone(), Arc::clone(run));
        let task = async move {
            let ended = tokio::select! {
                biased;
                ended = work => ended,
                // Dropping the work ends its model stream and its tools, and nothing of it writes any more. Whoever follows
                // the request is still there: a replica may write only as long as its daemon follows it.
                () = engine.inner.interrupted.cancelled() => {
                    engine.note_interruption(request_id, &run).await;
                    Ok(Outcome::Ended)
                }
            };
            drop(leave);
            match ended {
                Ok(Outcome::Ended) => {}
                // The answer may have come before the request left the table.
                Ok(Outcome::Parked) if engine.link().is_some() => {}
                Ok(Outcome::Parked) => {
                    engine.inner.parked.send_replace(());
                    engine.go_on_if_decided(request_id).await;
                }
                // It begins anew, or is given up: as behind a crash.
                Ok(Outcome::Lost) => engine.inner.stranded.notify_one(),
                Err(error) => {
                    tracing::error!(%error, "request stopped before its end was stored");
                    if matches!(error, EngineError::Store(StoreError::Unavailable(_))) {
                        if run.feed.has_started() {
                            engine.stopped().insert(request_id);
                        }
                        engine.inner.stranded.notify_one();
                    }
                }
            }
        };
        self.inner
            .tasks
            .spawn("request", tracing::Instrument::instrument(task, span));
    }

    pub(super) async fn run(
        &self,
        mut start: Start,
        run: &ActiveRequest,
    ) -> Result<Outcome, EngineError> {
        let inner = &self.inner;
        if let Some(trace) = &start.origin.trace {
            tracing::Span::current().record("trace_id", trace.trace_id());
        }
        // Until here the deployment does not go to sleep.
        let _open = inner.router.opens(start.deployment_id);
        let started = Instant::now();
        let deadline = started + start.timeout;
        let deployment_id = start.deployment_id;
        let mut held = self.place_kept(&start).await;
        let mut begun = None;
        let mut pause = LOSS_PAUSE;
        let lease = loop {
            let lease = match held.take() {
                Some(lease) => lease,
                None => {
                    let (journal, state) = match begun.take() {
                        Some(begun) => begun,
                        None => self.begin(&mut start, run).await?,
                    };
                    match self.place(&start, run, deadline).await {
                        Ok(lease) => {
                            begun = Some((journal, state));
                            lease
                        }
                        Err(failure) => {
                            return self
                                .run_nowhere(start.request_id, journal, &state, failure)
                                .await;
                        }
                    }
                }
            };
            let Some(client) = lease.replica().client().cloned() else {
                break lease;
            };
            if let Some((mut journal, _)) = begun.take() {
                journal.flush().await?;
            }
            let version = lease.replica().version_id();
            let away = Box::pin(self.run_away(&start, run, lease, &client));
            match away.await? {
                Away::Ended => {
                    self.count_end(deployment_id, version, run);
                    return Ok(Outcome::Ended);
                }
                Away::Parked => return Ok(Outcome::Parked),
                Away::Lost(reason) => {
                    tokio::select! {
                        () = run.cancel.cancelled() => {}
                        // One that refuses is not asked again and again at once.
                        () = tokio::time::sleep(pause) => {}
                    }
                    pause = (pause * 2).min(MAX_LOSS_PAUSE);
                    match self.after_loss(start, run, &reason).await? {
                        Ok(again) => start = again,
                        Err(outcome) => {
                            self.count_end(deployment_id, version, run);
                            return Ok(outcome);
                        }
                    }
                }
            }
        };
        let (mut journal, state) = match begun {
            Some(begun) => begun,
            None => self.begin(&mut start, run).await?,
        };
        let spent = state.spent;
        let version = lease.replica().version_id();
        let agent = match forked(&lease.replica().agent().now(), &state) {
            Ok(agent) => agent,
            Err(failure) => {
                journal.finish(not_run(failure, &state)).await?;
                return Ok(Outcome::Ended);
            }
        };
        let agents = SubAgents {
            engine: self.clone(),
            request_id: start.request_id,
            session_id: start.session_id.clone(),
            namespace: start.namespace.clone(),
            agent: agent.name().to_owned(),
            networks: agent.spec().networks.clone(),
            remotes: agent.remotes().clone(),
            caller: start.caller.clone(),
            parent: start.parent,
            origin: start.origin,
            budgets: start.budgets.clone(),
        };
        let meter = Meter::new(
            &inner.budgets,
            &inner.store,
            start.request_id,
            start.budgets,
            start.checkpoint,
            agent.cost_budget().is_some(),
        );
        // What a request waits for is part of its time; a person is not, and neither is what
        // comes before it is taken up again.
        let started = if start.taken_up {
            Instant::now()
        } else {
            started
        };
        let deadline = started + agent.timeout().saturating_sub(spent);
        if let Some(workflow) = &agent.package().workflow {
            let executor = WorkflowExecutor {
                deployment_id: start.deployment_id,
                replica_id: lease.replica().id(),
                agent: Arc::clone(&agent),
                agents,
                journal,
                state,
                cancel: run.cancel.clone(),
                deadline,
                stop: run.cancel.child_token(),
            };
            // It only waits for other agents, so it keeps no place from them.
            drop(lease);
            run.feed.placed(false);
            executor.run(workflow, start.taken_up).await?;
            meter.ends().await?;
            self.count_end(deployment_id, version, run);
            return Ok(Outcome::Ended);
        }
        let planner = Planner {
            request_id: start.request_id,
            session_id: start.session_id.clone(),
            namespace: start.namespace,
            caller: start.caller,
            deployment_id: start.deployment_id,
            replica_id: lease.replica().id(),
            deadline,
            agent,
            agents,
            place: Place::new(lease, Arc::clone(&run.feed)),
            store: inner.store.clone(),
            blobs: inner.blobs.get().cloned(),
            feed: Arc::clone(&run.feed),
            journal,
            meter,
            state,
            can_park: start.checkpoint != CheckpointPolicy::Never,
            asked: Arc::clone(&inner.asked),
            cancel: run.cancel.clone(),
            stop: run.cancel.child_token(),
            recorded: None,
        };
        let outcome = planner.run(start.new_session, start.taken_up).await?;
        self.count_end(deployment_id, version, run);
        Ok(outcome)
    }

    /// Counts how a request ended for the version that ran it.
    fn count_end(&self, deployment_id: DeploymentId, version: VersionId, run: &ActiveRequest) {
        let last = run.feed.last_entry();
        let Some(EntryBody::Finished { failure, .. }) = last.as_ref().map(|it| &it.body) else {
            return;
        };
        if let Some(failed) = blames_version(failure.as_ref()) {
            self.inner.router.ended(deployment_id, version, failed);
        }
    }

    /// A place on a replica.
    async fn place(
        &self,
        start: &Start,
        run: &ActiveRequest,
        deadline: Instant,
    ) -> Result<Lease, Failure> {
        let late = || {
            let mut message = "no replica became free before the request's `timeout_ms`".to_owned();
            if let Some(trouble) = self.inner.router.trouble(start.deployment_id) {
                message.push_str(&format!(": {trouble}"));
            }
            Failure::new(ErrorCode::Timeout, message)
        };
        // One that refuses is free again and again.
        if !start.taken_up && Instant::now() >= deadline {
            return Err(late());
        }
        let place = async {
            start.turn.cancelled().await;
            let router = &self.inner.router;
            let version = Some(start.version_id);
            if start.taken_up {
                let (deployment, session) = (start.deployment_id, &start.session_id);
                let lease = router.lease_taken_up(deployment, session, version, start.timeout);
                return lease.await.map_err(|error| route_failure(&error));
            }
            // A called agent waits as long as the request that called it.
            let longest = if start.parent.is_some() {
                start.timeout
            } else {
                QUEUE_DEADLINE
            };
            let (deployment, session) = (start.deployment_id, &start.session_id);
            let lease = router.lease(deployment, session, version, longest);
            lease.await.map_err(|error| route_failure(&error))
        };
        tokio::select! {
            // A place that is free needs no timer.
            biased;
            place = place => place,
            () = run.cancel.cancelled() => {
                Err(Failure::new(ErrorCode::Cancelled, "the request was cancelled"))
            }
            () = tokio::time::sleep_until(deadline), if !start.taken_up => Err(late()),
        }
    }

    /// The writer of a request's journal, with what there is to say first.
    async fn begin(
        &self,
        start: &mut Start,
        run: &ActiveRequest,
    ) -> Result<(JournalWriter, RunState), EngineError> {
        let mut journal = JournalWriter::new(
            start.request_id,
            start.checkpoint,
            self.inner.store.clone(),
            Arc::clone(&run.feed),
            start.next_seq,
        )
        .announcing(self.inner.active.announcer());
        let mut state = std::mem::take(&mut start.state);
        if self.stopped().remove(&start.request_id) {
            let notice = EntryBody::Notice {
                code: INTERRUPTED.to_owned(),
                message: "the store did not answer; the request goes on now that it does"
                    .to_owned(),
            };
            state.apply(&notice);
            journal.note(notice);
        }
        if !start.budgets.is_empty() {
            journal = journal.telling(Arc::clone(&self.inner.budgets));
            if start.taken_up
                && let Some(unknown) = self.settle_interrupted(start.request_id).await?
            {
                journal.note(unknown);
            }
        }
        Ok((journal, state))
    }

    /// Ends a request that got no replica.
    async fn run_nowhere(
        &self,
        id: RequestId,
        mut journal: JournalWriter,
        state: &RunState,
        failure: Failure,
    ) -> Result<Outcome, EngineError> {
        if state.waits_for_others() {
            let row = self.request(id).await?;
            self.cancel_called(&row, state).await;
        }
        journal.finish(not_run(failure, state)).await?;
        Ok(Outcome::Ended)
    }

    /// Gets a request ready for another replica after the one that ran it was lost, or ends it
    /// where it cannot go on.
    async fn after_loss(
        &self,
        mut start: Start,
        run: &ActiveRequest,
        reason: &str,
    ) -> Result<Result<Start, Outcome>, EngineError> {
        let id = start.request_id;
        tracing::warn!(request = %id, reason, "a replica was lost while it ran the request");
        start.next_seq = run.feed.next_seq();
        match start.checkpoint {
            CheckpointPolicy::Never => {
                let (code, message) = if run.cancel.is_cancelled() {
                    (ErrorCode::Cancelled, "the request was cancelled".to_owned())
                } else {
                    let message = format!(
                        "the replica that ran the request was lost, and nothing of the request is kept \
                         (`checkpoint_policy: never`): {reason}"
                    );
                    (ErrorCode::Unavailable, message)
                };
                let failure = Failure::new(code, message);
                start.state = RunState::of(&run.feed.entries());
                let (journal, state) = self.begin(&mut start, run).await?;
                let ended = self.run_nowhere(id, journal, &state, failure).await?;
                return Ok(Err(ended));
            }
            // Its readers have seen what is not stored and now happens again: they begin anew.
            CheckpointPolicy::OnFinish => return Ok(Err(Outcome::Lost)),
            CheckpointPolicy::EachStep => {}
        }
        // What it has committed and could not say any more is seen now, not with the next entry of another replica.
        self.publish_stored(id, &run.feed).await?;
        start.next_seq = run.feed.next_seq();
        let row = self.request(id).await?;
        start.state = RunState::load(&self.inner.store, id).await?;
        start.taken_up |= start.state.attempts > 0;
        let most = self.recovery().config.max_attempts;
        if run.cancel.is_cancelled() {
            self.end_idle(&row).await?;
        } else if start.state.crashes >= most {
            let message = format!(
                "given up after {most} attempts, each ended by the loss of its replica \
                 (`recovery.max_attempts`): {reason}"
            );
            let failure = Failure::new(ErrorCode::Internal, message);
            self.give_up(&row, failure).await?;
        } else {
            return Ok(Ok(start));
        }
        self.publish_stored(id, &run.feed).await?;
        Ok(Err(Outcome::Ended))
    }
}

/// What the task that runs a request needs to begin.
pub(super) struct Start {
    pub(super) request_id: RequestId,
    pub(super) session_id: SessionId,
    pub(super) namespace: String,
    /// Who asked for the outermost request.
    pub(super) caller: String,
    pub(super) deployment_id: DeploymentId,
    /// The version it is pinned to, as long as that has replicas.
    pub(super) version_id: VersionId,
    /// The call that made it.
    pub(super) parent: Option<ParentCall>,
    /// What led to it.
    pub(super) origin: Origin,
    /// The shared budgets that its model calls are counted against.
    pub(super) budgets: Vec<BudgetCap>,
    pub(super) checkpoint: CheckpointPolicy,
    pub(super) state: RunState,
    pub(super) next_seq: u64,
    /// Whether it was accepted earlier, and may have run.
    pub(super) taken_up: bool,
    pub(super) new_session: bool,
    /// How long it waits for a place at the longest; where it is taken up, only as long as no
    /// replica is there.
    pub(super) timeout: Duration,
    /// Fires when it is the request's turn in its session.
    pub(super) turn: CancellationToken,
    /// The replica that took it last, where it may still run there.
    pub(super) replica_id: Option<ReplicaId>,
}

/// Takes a request off the table and then lets the next one of its session run, in this
/// order: a request that is on the table is not part of the history of the next.
struct Leave {
    engine: Engine,
    request_id: RequestId,
    _turn: Turn,
}

impl Drop for Leave {
    fn drop(&mut self) {
        self.engine.inner.active.remove(self.request_id);
        self.engine.inner.holders.forget(self.request_id);
        self.engine.forget_tools(self.request_id);
        if std::thread::panicking() {
            // It is tried again, and given up where it panics again and again.
            self.engine.inner.stranded.notify_one();
        }
    }
}

/// Whether the end of a request speaks against the version that ran it; nothing where it is its caller's doing.
pub(crate) fn blames_version(failure: Option<&Failure>) -> Option<bool> {
    match failure.map(|failure| failure.code) {
        None => Some(false),
        // An input that is wrong is not accepted: this is what a provider does not take.
        Some(
            ErrorCode::InvalidInput
            | ErrorCode::Internal
            | ErrorCode::ModelUnavailable
            | ErrorCode::Unavailable
            | ErrorCode::Timeout,
        ) => Some(true),
        Some(
            ErrorCode::Unauthenticated
            | ErrorCode::Denied
            | ErrorCode::NotFound
            | ErrorCode::Conflict
            | ErrorCode::TooLarge
            | ErrorCode::LimitExceeded
            | ErrorCode::Cancelled,
        ) => None,
    }
}

/// The end of a request that got no replica.
fn not_run(failure: Failure, state: &RunState) -> Vec<EntryBody> {
    let status = if failure.code == ErrorCode::Cancelled {
        RequestStatus::Cancelled
    } else {
        RequestStatus::Failed
    };
    let mut entries = state.close_calls(&failure.message, |name| name);
    entries.push(EntryBody::Finished {
        status,
        output: None,
        failure: Some(failure),
        usage: state.usage,
        cost: state.cost,
    });
    entries
}

/// The agent that runs a request: that of the replica, or for a fork what it makes of that.
fn forked(agent: &Arc<Agent>, state: &RunState) -> Result<Arc<Agent>, Failure> {
    match &state.origin {
        Some(origin) if !origin.changes.is_empty() => agent
            .changed(&origin.changes)
            .map(Arc::new)
            .map_err(|error| {
                let message = format!("the agent of the fork cannot run: {error}");
                Failure::new(ErrorCode::InvalidInput, message)
            }),
        _ => Ok(Arc::clone(agent)),
    }
}

fn route_failure(error: &RouteError) -> Failure {
    let code = match error {
        RouteError::NotDeployed { .. } | RouteError::Removed => ErrorCode::NotFound,
        RouteError::QueueFull(_) => ErrorCode::LimitExceeded,
        RouteError::Deadline(_)
        | RouteError::NotStarted(_)
        | RouteError::Stopped
        | RouteError::Failed(_) => ErrorCode::Unavailable,
    };
    Failure::new(code, error.to_string())
}
