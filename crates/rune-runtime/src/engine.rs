//! The engine: accepts requests, runs them on replicas, lets callers follow and
//! cancel them, and takes up again what a crash interrupted.

mod access;
mod active;
mod approve;
mod away;
mod budget;
mod cassette;
mod child;
mod follow;
mod fork;
mod input;
mod invoke;
mod join;
mod link;
mod origin;
mod patience;
mod publish;
mod recover;
mod remote;
mod replay;
mod run;
mod tool_runs;
mod wakeups;

use std::collections::HashSet;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use rune_env::{BudgetsConfig, RecoveryConfig};
use rune_store_runtime::{
    AppendEntries, BlobStore, Canvas, EntryBody, ErrorCode, Failure, RequestCancel, RequestId,
    RequestRow, RequestStatus, SessionId, Store, StoreError, StoredImage,
};

use rune_tools::{MediaKind, MediaType};
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

use crate::budget::Budgets;
use crate::router::{ReplicaRouter, RouteError};
use crate::task::Tasks;

pub use away::Hold;
pub use follow::{Ending, Followed, RequestEvents};
pub use fork::Forking;
pub use input::{MAX_IMAGE_BYTES, MAX_INPUT_IMAGES};
pub use invoke::{Invocation, Invoked};
pub use join::JoinedRun;
pub use link::{Asker, EngineAnswer, EngineLink, EngineOp};
pub use origin::Origin;
pub use patience::Waiting;
pub(crate) use publish::EVENT_DEPTH;
pub use publish::Publication;
pub(crate) use run::blames_version;
pub(crate) use tool_runs::LinkedTools;
pub use tool_runs::{ToolAnswer, ToolOp, ToolRun};
pub use wakeups::WAKEUP_PATH;

pub use child::AgentCall;
pub(crate) use child::SubAgents;
pub(crate) use remote::{Before, REMOTE_COST, RemoteCall, Telling};

use child::MAX_AGENT_DEPTH;

use active::{ActiveRequest, ActiveRequests, SessionLines};
use patience::Recovery;
use wakeups::Wakeups;

use crate::planner::{INTERRUPTED, RunState};

/// Longest a request may wait for a replica to become ready or free.
pub(crate) const QUEUE_DEADLINE: Duration = Duration::from_secs(60);

/// Requests that run or wait for a replica; what is parked is not among them.
const ACTIVE_METRIC: &str = "rune_requests_active";
/// Tasks of the process.
const TASKS_METRIC: &str = "rune_tasks";

/// How long the tasks of requests may take to notice that they are stopped, and to note it.
const INTERRUPT_GRACE: Duration = Duration::from_secs(2);

/// Why the engine did not do what it was asked to.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// No replica could take the request.
    #[error(transparent)]
    Route(#[from] RouteError),
    /// The input does not match the agent's schema.
    #[error("the input does not match the agent's `input_schema`: {0}")]
    Input(crate::agent::SchemaMismatch),
    /// The request has an idempotency key and the agent keeps nothing by which to know it again.
    #[error(
        "an idempotency key cannot be honoured: the agent's `checkpoint_policy` is `never`, so nothing of a request is \
         kept; leave the key out, or use `on_finish` or `each_step`"
    )]
    Unkeepable,
    /// The input is a list of parts, and one of them is wrong.
    #[error("the input is a list of parts, and one is wrong: {0}")]
    Part(crate::agent::SchemaMismatch),
    /// An image of the input is too large.
    #[error("an image of the input has more than {MAX_IMAGE_BYTES} bytes")]
    ImageTooLarge,
    /// The calling agent shares no network with the called one.
    #[error(transparent)]
    Network(#[from] rune_network::NotConnected),
    /// Too many agents call each other in a row.
    #[error(
        "the request would stand {depth} levels below the outermost one, and {MAX_AGENT_DEPTH} are allowed: agents \
         may call each other in a circle"
    )]
    TooDeep {
        /// Its level.
        depth: u32,
    },
    /// The daemon is about to end and takes nothing new.
    #[error("the daemon is shutting down")]
    ShuttingDown,
    /// The request does not exist.
    #[error("request `{0}` does not exist")]
    NotFound(RequestId),
    /// The daemon has just begun, and does not know yet what runs the request.
    #[error("it is not known yet which replica runs request `{0}`")]
    Unadopted(RequestId),
    /// The request cannot be replayed.
    #[error("request `{id}` cannot be replayed: {reason}")]
    NotReplayable {
        /// The request.
        id: RequestId,
        /// Why.
        reason: String,
    },
    /// The request cannot be forked.
    #[error("request `{id}` cannot be forked: {reason}")]
    NotForkable {
        /// The request.
        id: RequestId,
        /// Why.
        reason: String,
    },
    /// The request cannot be forked there.
    #[error("request `{id}` cannot be forked at {at}: {reason}; it can be at {}", .valid)]
    ForkPosition {
        /// The request.
        id: RequestId,
        /// Where.
        at: u64,
        /// Why not.
        reason: String,
        /// Where it can.
        valid: String,
    },
    /// The agent of a fork cannot be what it should be.
    #[error("the agent of the fork cannot run: {0}")]
    Changes(#[source] crate::agent::AgentError),
    /// The store did not do its part.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl EngineError {
    /// The code under which the error is answered.
    #[must_use]
    pub const fn code(&self) -> ErrorCode {
        match self {
            Self::Route(RouteError::NotDeployed { .. }) | Self::NotFound(_) => ErrorCode::NotFound,
            Self::Route(RouteError::QueueFull(_)) | Self::TooDeep { .. } => {
                ErrorCode::LimitExceeded
            }
            Self::Route(_) | Self::ShuttingDown | Self::Unadopted(_) => ErrorCode::Unavailable,
            Self::Input(_) | Self::Part(_) | Self::Unkeepable => ErrorCode::InvalidInput,
            Self::ForkPosition { .. } | Self::Changes(_) => ErrorCode::InvalidInput,
            Self::NotReplayable { .. } | Self::NotForkable { .. } => ErrorCode::Conflict,
            Self::ImageTooLarge => ErrorCode::TooLarge,
            Self::Network(_) => ErrorCode::Denied,
            Self::Store(error) => store_code(error),
        }
    }
}

/// The code under which a store error is answered.
#[must_use]
pub const fn store_code(error: &StoreError) -> ErrorCode {
    use rune_store_runtime::Reject;
    match error {
        StoreError::Rejected(Reject::NotFound { .. }) => ErrorCode::NotFound,
        StoreError::Rejected(
            Reject::Conflict { .. } | Reject::Superseded { .. } | Reject::RequestEnded { .. },
        ) => ErrorCode::Conflict,
        StoreError::Rejected(Reject::Invalid { .. }) | StoreError::Cursor(_) => {
            ErrorCode::InvalidInput
        }
        StoreError::Rejected(Reject::BudgetExceeded(_) | Reject::QuotaExceeded { .. }) => {
            ErrorCode::LimitExceeded
        }
        StoreError::Rejected(Reject::Fenced { .. }) | StoreError::Unavailable(_) => {
            ErrorCode::Unavailable
        }
        StoreError::Denied(_) => ErrorCode::Denied,
        StoreError::Corrupt { .. } | StoreError::Protocol { .. } => ErrorCode::Internal,
    }
}

/// Runs requests. Cheap to clone.
#[derive(Clone)]
pub struct Engine {
    inner: Arc<Inner>,
}

struct Inner {
    store: Store,
    wakeups: Arc<Wakeups>,
    blobs: OnceLock<Arc<dyn BlobStore>>,
    router: ReplicaRouter,
    tasks: Tasks,
    budgets: Arc<Budgets>,
    active: ActiveRequests,
    sessions: SessionLines,
    recovery: OnceLock<Recovery>,
    /// The replicas outside this process that requests are with.
    holders: away::Holders,
    /// The tools that run here for requests in replicas.
    tool_runs: tool_runs::ToolRuns,
    /// The daemon's engine, where this one is that of a replica outside it.
    link: OnceLock<Arc<dyn EngineLink>>,
    /// Fires when a request stopped because the store did not answer.
    stranded: Notify,
    /// The requests that stopped so after they had begun; none of them crashed.
    stopped: Mutex<HashSet<RequestId>>,
    /// Fires when nothing is taken up any more.
    draining: CancellationToken,
    /// Fires when what still runs is left to the next start.
    interrupted: CancellationToken,
    /// Changes when a request has parked.
    parked: watch::Sender<()>,
    /// Changes when a request that was parked, or interrupted, is taken up.
    taken_up: watch::Sender<()>,
    /// Fires when a question with an early deadline was put.
    asked: Arc<Notify>,
    /// Fires when schedules, or fires of them, are to be looked at.
    schedules_changed: Notify,
}

impl Engine {
    /// An engine that runs nothing yet.
    #[must_use]
    pub fn new(store: Store, router: ReplicaRouter, tasks: Tasks) -> Self {
        let inner = Inner {
            store,
            wakeups: Arc::default(),
            blobs: OnceLock::new(),
            router,
            tool_runs: tool_runs::ToolRuns::new(tasks.clone()),
            tasks,
            budgets: Arc::default(),
            active: ActiveRequests::default(),
            sessions: SessionLines::default(),
            recovery: OnceLock::new(),
            holders: away::Holders::default(),
            link: OnceLock::new(),
            stranded: Notify::new(),
            stopped: Mutex::default(),
            draining: CancellationToken::new(),
            interrupted: CancellationToken::new(),
            parked: watch::Sender::new(()),
            taken_up: watch::Sender::new(()),
            asked: Arc::default(),
            schedules_changed: Notify::new(),
        };
        Self {
            inner: Arc::new(inner),
        }
    }

    /// With a place for images that are too large for the journal; without one they are
    /// refused. The first one given counts.
    #[must_use]
    pub fn with_blobs(self, blobs: Arc<dyn BlobStore>) -> Self {
        self.inner.blobs.get_or_init(|| blobs);
        self
    }

    /// Takes interrupted requests up again in this way. The first one given counts.
    #[must_use]
    pub fn with_recovery(self, config: RecoveryConfig) -> Self {
        self.inner.recovery.get_or_init(|| Recovery::new(config));
        self
    }

    /// As the engine of a replica: what is not its own is done by the engine of the daemon.
    /// The first one given counts.
    #[must_use]
    pub fn linked(self, link: Arc<dyn EngineLink>) -> Self {
        self.inner.link.get_or_init(|| link);
        self
    }

    /// The daemon's engine, where this one is that of a replica outside it.
    pub(crate) fn link(&self) -> Option<&Arc<dyn EngineLink>> {
        self.inner.link.get()
    }

    fn recovery(&self) -> &Recovery {
        let recovery = &self.inner.recovery;
        recovery.get_or_init(|| Recovery::new(RecoveryConfig::default()))
    }

    /// With what callers may spend in a day; without it that is not limited. The first one
    /// given counts.
    #[must_use]
    pub fn with_caller_budgets(self, budgets: BudgetsConfig) -> Self {
        self.inner.budgets.set_callers(budgets);
        self
    }

    /// The store behind the engine.
    #[must_use]
    pub fn store(&self) -> &Store {
        &self.inner.store
    }

    /// The router behind the engine.
    #[must_use]
    pub fn router(&self) -> &ReplicaRouter {
        &self.inner.router
    }

    /// Fires when schedules, or fires of them, are to be looked at.
    pub(crate) fn schedules_changed(&self) -> &Notify {
        &self.inner.schedules_changed
    }

    /// Fires when the daemon is asked to end; long answers end with it.
    #[must_use]
    pub fn shutdown(&self) -> CancellationToken {
        self.inner.tasks.shutdown()
    }

    /// Changes when a request is taken or taken up, with every commit of one that runs, and when one
    /// ends, parks or stops.
    #[must_use]
    pub fn activity(&self) -> watch::Receiver<usize> {
        self.inner.active.activity()
    }

    /// Whether a replica of this process is at a request, whose row may not say so yet.
    #[must_use]
    pub fn is_at_work(&self, id: RequestId) -> bool {
        let run = self.inner.active.get(id);
        run.is_some_and(|run| run.feed.has_started())
    }

    /// Where the tasks of the process start.
    #[must_use]
    pub fn tasks(&self) -> &Tasks {
        &self.inner.tasks
    }

    /// Requests that run or wait for a replica.
    #[must_use]
    pub fn active(&self) -> usize {
        self.inner.active.len()
    }

    /// Sets the gauges of what runs now.
    pub fn observe(&self) {
        metrics::gauge!(ACTIVE_METRIC).set(self.active() as f64);
        metrics::gauge!(TASKS_METRIC).set(self.inner.tasks.len() as f64);
        self.inner.router.observe();
    }

    /// One request: as stored, or as it is in memory where its journal is never stored.
    ///
    /// # Errors
    /// [`EngineError::NotFound`] and [`EngineError::Store`].
    pub async fn request(&self, id: RequestId) -> Result<RequestRow, EngineError> {
        if let Some(row) = self.inner.active.unstored_row(id) {
            return Ok(row);
        }
        self.inner
            .store
            .request(id)
            .await?
            .ok_or(EngineError::NotFound(id))
    }

    /// Why a request that was interrupted is not taken up yet; nothing where it runs.
    #[must_use]
    pub fn waiting(&self, id: RequestId) -> Option<Waiting> {
        self.inner.active.get(id)?.waiting()
    }

    /// A spilled output of a session, or an image of one, with the media type where it is an image; nothing where it has none
    /// with this handle.
    ///
    /// # Errors
    /// [`EngineError::Store`].
    pub async fn spilled_output(
        &self,
        session: &SessionId,
        handle: &str,
    ) -> Result<Option<(Bytes, Option<&'static str>)>, EngineError> {
        let found = self.inner.store.spilled_output(session, handle).await?;
        let (Some(output), Some(blobs)) = (found, self.inner.blobs.get()) else {
            return Ok(None);
        };
        let bytes = blobs.get(&output.digest).await?;
        let media_type = MediaType::of(&bytes).filter(|it| it.kind() == MediaKind::Image);
        let media_type = media_type.filter(|_| StoredImage::is_handle(handle));
        Ok(Some((bytes, media_type.map(MediaType::mime))))
    }

    /// A canvas and its content; nothing where there is none, or none any more.
    ///
    /// # Errors
    /// [`EngineError::Store`].
    pub async fn canvas(&self, id: &str) -> Result<Option<(Canvas, Bytes)>, EngineError> {
        let store = &self.inner.store;
        let found = store.cached(&Canvas::key(id), store.now()).await?;
        let canvas = found.and_then(|row| serde_json::from_value::<Canvas>(row.value).ok());
        let (Some(canvas), Some(blobs)) = (canvas, self.inner.blobs.get()) else {
            return Ok(None);
        };
        let content = blobs.get(&canvas.digest).await?;
        Ok(Some((canvas, content)))
    }

    /// Asks for a request to be cancelled and answers its state. Its model stream and
    /// its tools end within a second. Cancelling twice, or after the end, is no error.
    /// Dropping the future does not undo it.
    ///
    /// # Errors
    /// [`EngineError::NotFound`] and [`EngineError::Store`].
    pub async fn cancel(&self, id: RequestId, reason: &str) -> Result<RequestRow, EngineError> {
        // In a task of its own: a caller that goes away must not leave a cancel behind
        // that is in the journal and that the run does not know of.
        let (engine, reason) = (self.clone(), reason.to_owned());
        let cancelling =
            self.inner.tasks.spawn(
                "cancel",
                async move { engine.cancel_now(id, &reason).await },
            );
        match cancelling.await {
            Ok(Some(row)) => row,
            Ok(None) | Err(_) => Err(EngineError::ShuttingDown),
        }
    }

    async fn cancel_now(&self, id: RequestId, reason: &str) -> Result<RequestRow, EngineError> {
        loop {
            if let Some(run) = self.inner.active.get(id) {
                let recorded = if run.is_stored_each_step() {
                    self.record_cancel(id, reason, Some(&run.feed)).await
                } else {
                    Ok(())
                };
                // It stops even where the store cannot say so.
                run.cancel.cancel();
                run.ended().await;
                if let Some(row) = run.final_row() {
                    return Ok(row);
                }
                recorded?;
                let row = self.request(id).await?;
                if row.status.is_terminal() {
                    return Ok(row);
                }
                // It was parking, or could not store its end.
            }
            if let Some(row) = self.cancel_idle(id, reason).await? {
                return Ok(row);
            }
            // Somebody was faster and has taken it up.
        }
    }

    /// Cancels a request that no task of this process runs; nothing where one does. Nobody
    /// takes it up meanwhile.
    async fn cancel_idle(
        &self,
        id: RequestId,
        reason: &str,
    ) -> Result<Option<RequestRow>, EngineError> {
        let row = self.request(id).await?;
        if row.status.is_terminal() {
            return Ok(Some(row));
        }
        let Some(claim) = self.inner.active.claim(&row) else {
            return Ok(None);
        };
        let ended = async {
            // As it is now that nobody else writes it.
            let row = self.request(id).await?;
            if !row.status.is_terminal() {
                self.record_cancel(id, reason, None).await?;
                self.end_idle(&row).await?;
            }
            self.request(id).await
        };
        let ended = ended.await;
        drop(claim);
        // Whoever follows it while it is parked looks again.
        self.inner.taken_up.send_replace(());
        if ended.is_err() {
            // Somebody may have wanted to take it up meanwhile, and found that it runs already.
            self.inner.stranded.notify_one();
        }
        ended.map(Some)
    }

    /// Ends a cancelled request that no task of this process runs.
    pub(super) async fn end_idle(&self, row: &RequestRow) -> Result<(), EngineError> {
        let id = row.id;
        let failure = Failure::new(ErrorCode::Cancelled, "the request was cancelled");
        let state = RunState::load(&self.inner.store, id).await?;
        self.cancel_called(row, &state).await;
        let mut entries = state.close_calls(&failure.message, |name| name);
        entries.extend(self.unknown_usage(row).await?);
        entries.push(EntryBody::Finished {
            status: RequestStatus::Cancelled,
            output: None,
            failure: Some(failure),
            usage: row.usage,
            cost: row.cost,
        });
        let append = AppendEntries {
            request_id: id,
            entries,
        };
        match self.inner.store.write(append).await {
            Ok(_) | Err(StoreError::Rejected(rune_store_runtime::Reject::RequestEnded { .. })) => {
                Ok(())
            }
            Err(error) => Err(error.into()),
        }
    }

    async fn record_cancel(
        &self,
        id: RequestId,
        reason: &str,
        feed: Option<&crate::feed::Feed>,
    ) -> Result<(), EngineError> {
        let at = self.inner.store.now();
        let reason = reason.to_owned();
        let cancel = RequestCancel {
            request_id: id,
            reason: reason.clone(),
        };
        let store = &self.inner.store;
        let appended = store.write_as_of(at, cancel, Vec::new()).await?;
        if let Some(feed) = feed.filter(|_| appended.first_seq <= appended.last_seq) {
            feed.publish([rune_store_runtime::Entry {
                request_id: id,
                seq: appended.first_seq,
                at,
                body: EntryBody::CancelRequested { reason },
            }]);
        }
        Ok(())
    }

    /// Stops taking requests and waits for those that run, `grace` at the longest.
    /// What has not ended by then is stopped where it is, at once, and is taken up again
    /// by the next start; its journal says that it was interrupted in good order.
    /// Answers whether everything ended.
    pub async fn drain(&self, grace: Duration) -> bool {
        self.close();
        let ended = self.rest(grace).await;
        if !ended {
            self.interrupt().await;
        }
        ended
    }

    /// Waits until no request runs or waits for a replica, `grace` at the longest. Answers whether none does.
    pub async fn rest(&self, grace: Duration) -> bool {
        let idle = self.inner.active.idle();
        tokio::time::timeout(grace, idle).await.is_ok()
    }

    /// Stops taking requests, and stops those that run where they are: whoever takes them up finds in their journals that
    /// they were interrupted in good order.
    pub async fn halt(&self) {
        self.close();
        self.interrupt().await;
    }

    fn close(&self) {
        self.inner.active.close();
        // What waits to be taken up is left to the next start as it is.
        self.inner.draining.cancel();
    }

    /// The requests that the store stopped and that did not crash.
    fn stopped(&self) -> std::sync::MutexGuard<'_, HashSet<RequestId>> {
        let stopped = self.inner.stopped.lock();
        stopped.unwrap_or_else(PoisonError::into_inner)
    }

    /// Stops what runs, and waits until each of them has noted it in its journal.
    async fn interrupt(&self) {
        self.inner.interrupted.cancel();
        let left = tokio::time::timeout(INTERRUPT_GRACE, self.inner.active.idle()).await;
        if left.is_err() {
            tracing::warn!(active = self.active(), "requests do not stop");
        }
    }

    /// Notes in the journal of a request that has begun here that it was stopped, and did not crash.
    async fn note_interruption(&self, id: RequestId, run: &ActiveRequest) {
        if !run.has_begun() {
            return;
        }
        let message = match self.link() {
            None => "the daemon ends; the request goes on with its next start",
            Some(_) => "the replica ends; the request goes on with another one",
        };
        let notice = EntryBody::Notice {
            code: INTERRUPTED.to_owned(),
            message: message.to_owned(),
        };
        let note = self.inner.store.write(AppendEntries {
            request_id: id,
            entries: vec![notice],
        });
        // It may have ended in the meantime, and without the note it goes on all the same.
        if let Err(error) = note.await {
            tracing::debug!(%error, "an interruption was not noted");
        }
    }
}
