//! The traits a store implements and the handle the rest of Rune holds.

use std::future::Future;
use std::ops::Deref;
use std::sync::Arc;

use async_trait::async_trait;

use crate::{
    ApprovalFilter, ApprovalId, ApprovalRow, AuditFilter, AuditRow, BudgetFilter, BudgetRow,
    CacheRow, Clock, Command, DeploymentFilter, DeploymentId, DeploymentRow, EntityRow, Entry,
    EventFilter, EventId, EventRow, FireFilter, GrantQuery, GrantRow, MemoryQuery, MemoryRow,
    MemoryScope, MessageRow, Operation, OutboxFilter, OutboxRow, Page, PageRequest, PushRow, Quota,
    RecordAudit, RelationFilter, RelationRow, ReplicaFilter, ReplicaId, ReplicaRow, Reply,
    RequestFilter, RequestId, RequestRow, ReservationRow, ScheduleFilter, ScheduleFireRow,
    ScheduleId, ScheduleRow, SecretFilter, SecretRow, SessionFilter, SessionId, SessionRow,
    SpilledOutput, StoreError, TaskFilter, TaskId, TaskRow, Timestamp, ToolInvocationRow,
    UsageFilter, UsageGroup, UsageRow, UsageTotal, VersionFilter, VersionId, VersionRow,
};

/// The write side. Implementations keep four promises:
///
/// * the reply comes only after the change is durable;
/// * commands submitted one after another by one caller are applied in that order;
///   a command counts as submitted when the returned future is first polled;
/// * the same command id is applied once, a retry gets the first reply
///   (within the window the implementation documents);
/// * a caller that drops the future has not undone the change.
#[async_trait]
pub trait CommandLog: Send + Sync {
    /// Applies a command.
    ///
    /// # Errors
    /// [`StoreError::Rejected`] where the present state forbids it; any other
    /// error leaves open whether the change was made, and the same command may be
    /// submitted again.
    async fn submit(&self, command: Command) -> Result<Reply, StoreError>;
}

/// Requests, their journals and what is projected from them.
#[async_trait]
pub trait RequestReader: Send + Sync {
    /// One request.
    async fn request(&self, id: RequestId) -> Result<Option<RequestRow>, StoreError>;
    /// Requests, in the order of the filter.
    async fn requests(
        &self,
        filter: &RequestFilter,
        page: &PageRequest,
    ) -> Result<Page<RequestRow>, StoreError>;
    /// How many requests there are.
    async fn request_count(&self, filter: &RequestFilter) -> Result<u64, StoreError>;
    /// Journal entries with `seq > after`, in order, at the most `limit` and [`PageRequest::MAX_LIMIT`];
    /// fewer where they are large ([`MAX_PAGE_BYTES`](crate::limits::MAX_PAGE_BYTES)). None where there is none.
    async fn journal(
        &self,
        id: RequestId,
        after: u64,
        limit: u32,
    ) -> Result<Vec<Entry>, StoreError>;
    /// Tool invocations of a request, in the order of their intents.
    async fn tool_invocations(&self, id: RequestId) -> Result<Vec<ToolInvocationRow>, StoreError>;
}

/// Sessions and their messages.
#[async_trait]
pub trait SessionReader: Send + Sync {
    /// One session.
    async fn session(&self, id: &SessionId) -> Result<Option<SessionRow>, StoreError>;
    /// Sessions, newest first.
    async fn sessions(
        &self,
        filter: &SessionFilter,
        page: &PageRequest,
    ) -> Result<Page<SessionRow>, StoreError>;
    /// Messages of a session in the order they were committed, oldest first.
    async fn messages(
        &self,
        id: &SessionId,
        page: &PageRequest,
    ) -> Result<Page<MessageRow>, StoreError>;
    /// Messages of those requests of a session that have ended, `until` a time where there is
    /// one, newest first: its history as a model is, or was, shown it.
    async fn recent_messages(
        &self,
        id: &SessionId,
        page: &PageRequest,
        until: Option<Timestamp>,
    ) -> Result<Page<MessageRow>, StoreError>;
    /// A spilled output of a session, by its handle.
    async fn spilled_output(
        &self,
        id: &SessionId,
        handle: &str,
    ) -> Result<Option<SpilledOutput>, StoreError>;
}

/// Deployments and replicas.
#[async_trait]
pub trait DeploymentReader: Send + Sync {
    /// One deployment.
    async fn deployment(&self, id: DeploymentId) -> Result<Option<DeploymentRow>, StoreError>;
    /// Deployments by namespace, agent, alias.
    async fn deployments(
        &self,
        filter: &DeploymentFilter,
        page: &PageRequest,
    ) -> Result<Page<DeploymentRow>, StoreError>;
    /// One replica.
    async fn replica(&self, id: ReplicaId) -> Result<Option<ReplicaRow>, StoreError>;
    /// Replicas, oldest first.
    async fn replicas(
        &self,
        filter: &ReplicaFilter,
        page: &PageRequest,
    ) -> Result<Page<ReplicaRow>, StoreError>;
}

/// The registry of agent versions.
#[async_trait]
pub trait RegistryReader: Send + Sync {
    /// One version.
    async fn version(&self, id: VersionId) -> Result<Option<VersionRow>, StoreError>;
    /// Versions, newest first.
    async fn versions(
        &self,
        filter: &VersionFilter,
        page: &PageRequest,
    ) -> Result<Page<VersionRow>, StoreError>;
}

/// The cache.
#[async_trait]
pub trait CacheReader: Send + Sync {
    /// The value of a key, unless it has expired at `now`.
    async fn cached(&self, key: &str, now: Timestamp) -> Result<Option<CacheRow>, StoreError>;
}

/// Schedules and their fires.
#[async_trait]
pub trait ScheduleReader: Send + Sync {
    /// One schedule.
    async fn schedule(&self, id: ScheduleId) -> Result<Option<ScheduleRow>, StoreError>;
    /// Schedules by namespace and name.
    async fn schedules(
        &self,
        filter: &ScheduleFilter,
        page: &PageRequest,
    ) -> Result<Page<ScheduleRow>, StoreError>;
    /// Fires, newest planned time first, of those the one recorded last first.
    async fn schedule_fires(
        &self,
        filter: &FireFilter,
        page: &PageRequest,
    ) -> Result<Page<ScheduleFireRow>, StoreError>;
}

/// Approvals and what was remembered of them.
#[async_trait]
pub trait ApprovalReader: Send + Sync {
    /// One approval.
    async fn approval(&self, id: ApprovalId) -> Result<Option<ApprovalRow>, StoreError>;
    /// Approvals, oldest first.
    async fn approvals(
        &self,
        filter: &ApprovalFilter,
        page: &PageRequest,
    ) -> Result<Page<ApprovalRow>, StoreError>;
    /// The newest remembered decision about calls of a tool that exactly these
    /// policies ask about: one of the session, else one of the agent.
    async fn grant(&self, query: &GrantQuery) -> Result<Option<GrantRow>, StoreError>;
}

/// The audit trail.
#[async_trait]
pub trait AuditReader: Send + Sync {
    /// Audit rows, newest first.
    async fn audit(
        &self,
        filter: &AuditFilter,
        page: &PageRequest,
    ) -> Result<Page<AuditRow>, StoreError>;
}

/// The usage ledger.
#[async_trait]
pub trait UsageReader: Send + Sync {
    /// Rows of the ledger, newest first.
    async fn usage(
        &self,
        filter: &UsageFilter,
        page: &PageRequest,
    ) -> Result<Page<UsageRow>, StoreError>;
    /// The sums of every row that matches, in the order of the fields of the group. At the
    /// most [`crate::limits::MAX_USAGE_TOTALS`]; of more, the first.
    async fn usage_totals(
        &self,
        filter: &UsageFilter,
        by: UsageGroup,
    ) -> Result<Vec<UsageTotal>, StoreError>;
}

/// Shared budgets.
#[async_trait]
pub trait BudgetReader: Send + Sync {
    /// Budgets by kind, key and day.
    async fn budgets(
        &self,
        filter: &BudgetFilter,
        page: &PageRequest,
    ) -> Result<Page<BudgetRow>, StoreError>;
    /// The reservation of a request that is not settled.
    async fn reservation(&self, id: RequestId) -> Result<Option<ReservationRow>, StoreError>;
    /// Every reservation that is not settled, oldest first.
    async fn reservations(&self, page: &PageRequest) -> Result<Page<ReservationRow>, StoreError>;
}

/// What agents remember.
#[async_trait]
pub trait MemoryReader: Send + Sync {
    /// One memory.
    async fn memory(&self, scope: &MemoryScope, key: &str)
    -> Result<Option<MemoryRow>, StoreError>;
    /// Memories by key.
    async fn memories(
        &self,
        scope: &MemoryScope,
        query: &MemoryQuery,
        page: &PageRequest,
    ) -> Result<Page<MemoryRow>, StoreError>;
}

/// What agents know.
#[async_trait]
pub trait KnowledgeReader: Send + Sync {
    /// One entity.
    async fn entity(
        &self,
        scope: &MemoryScope,
        name: &str,
    ) -> Result<Option<EntityRow>, StoreError>;
    /// Entities by name, of a type where one is given.
    async fn entities(
        &self,
        scope: &MemoryScope,
        kind: Option<&str>,
        page: &PageRequest,
    ) -> Result<Page<EntityRow>, StoreError>;
    /// At the most `limit` entities, of a type where one is given, in whose text every word of `text` begins a word,
    /// without regard to case: best first. A text without a word finds nothing.
    async fn find_entities(
        &self,
        scope: &MemoryScope,
        text: &str,
        kind: Option<&str>,
        limit: u32,
    ) -> Result<Vec<EntityRow>, StoreError>;
    /// Relations by where they begin, their type, and where they lead.
    async fn relations(
        &self,
        scope: &MemoryScope,
        filter: &RelationFilter,
        page: &PageRequest,
    ) -> Result<Page<RelationRow>, StoreError>;
}

/// Tasks that agents leave for each other.
#[async_trait]
pub trait TaskReader: Send + Sync {
    /// One task.
    async fn task(&self, id: TaskId) -> Result<Option<TaskRow>, StoreError>;
    /// Tasks, newest first.
    async fn tasks(
        &self,
        filter: &TaskFilter,
        page: &PageRequest,
    ) -> Result<Page<TaskRow>, StoreError>;
}

/// Events.
#[async_trait]
pub trait EventReader: Send + Sync {
    /// One event.
    async fn event(&self, id: EventId) -> Result<Option<EventRow>, StoreError>;
    /// Events, newest first.
    async fn events(
        &self,
        filter: &EventFilter,
        page: &PageRequest,
    ) -> Result<Page<EventRow>, StoreError>;
}

/// Messages that wait for a channel.
#[async_trait]
pub trait OutboxReader: Send + Sync {
    /// Messages, oldest first.
    async fn outbox(
        &self,
        filter: &OutboxFilter,
        page: &PageRequest,
    ) -> Result<Page<OutboxRow>, StoreError>;
}

/// Secrets, encrypted.
#[async_trait]
pub trait SecretReader: Send + Sync {
    /// One secret.
    async fn secret(&self, namespace: &str, name: &str) -> Result<Option<SecretRow>, StoreError>;
    /// Secrets by namespace and name.
    async fn secrets(
        &self,
        filter: &SecretFilter,
        page: &PageRequest,
    ) -> Result<Page<SecretRow>, StoreError>;
}

/// Webhooks of requests.
#[async_trait]
pub trait PushReader: Send + Sync {
    /// One webhook.
    async fn push(&self, id: RequestId, push_id: &str) -> Result<Option<PushRow>, StoreError>;
    /// The webhooks of a request, oldest first.
    async fn pushes(&self, id: RequestId, page: &PageRequest) -> Result<Page<PushRow>, StoreError>;
    /// Webhooks that may be told now, at the most `limit`: their request has an entry that they were
    /// not told of.
    async fn due_pushes(&self, now: Timestamp, limit: u32) -> Result<Vec<PushRow>, StoreError>;
    /// When the next one may be told that may not be at `now`, of those with such an entry.
    async fn next_push(&self, now: Timestamp) -> Result<Option<Timestamp>, StoreError>;
    /// Whether there is one that was not told of the end of its request.
    async fn has_open_pushes(&self) -> Result<bool, StoreError>;
}

/// A whole store.
pub trait RuntimeStore:
    CommandLog
    + RequestReader
    + SessionReader
    + DeploymentReader
    + RegistryReader
    + CacheReader
    + ScheduleReader
    + ApprovalReader
    + AuditReader
    + UsageReader
    + BudgetReader
    + MemoryReader
    + KnowledgeReader
    + TaskReader
    + EventReader
    + OutboxReader
    + PushReader
    + SecretReader
{
}

impl<T> RuntimeStore for T where
    T: CommandLog
        + RequestReader
        + SessionReader
        + DeploymentReader
        + RegistryReader
        + CacheReader
        + ScheduleReader
        + ApprovalReader
        + AuditReader
        + UsageReader
        + BudgetReader
        + MemoryReader
        + KnowledgeReader
        + TaskReader
        + EventReader
        + OutboxReader
        + PushReader
        + SecretReader
{
}

/// A store and the clock that stamps what is written to it. Cheap to clone; reads
/// go straight to the [`RuntimeStore`] behind it.
#[derive(Clone)]
pub struct Store {
    inner: Arc<dyn RuntimeStore>,
    clock: Arc<dyn Clock>,
}

impl Store {
    /// A handle on a store.
    pub fn new(inner: Arc<dyn RuntimeStore>, clock: Arc<dyn Clock>) -> Self {
        Self { inner, clock }
    }

    /// The time that the next write is stamped with.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        self.clock.now()
    }

    /// Stamps a change, submits it and waits until it is durable. The change is
    /// submitted when the future is first polled.
    ///
    /// # Errors
    /// As [`CommandLog::submit`].
    pub fn write<O: Operation>(
        &self,
        operation: O,
    ) -> impl Future<Output = Result<O::Reply, StoreError>> + Send + use<O> {
        self.write_audited(operation, Vec::new())
    }

    /// [`Store::write`], with rows for the audit trail: they are in the trail exactly where the
    /// change was made.
    ///
    /// # Errors
    /// As [`CommandLog::submit`].
    pub fn write_audited<O: Operation>(
        &self,
        operation: O,
        audit: Vec<RecordAudit>,
    ) -> impl Future<Output = Result<O::Reply, StoreError>> + Send + use<O> {
        self.write_as_of(self.now(), operation, audit)
    }

    /// [`Store::write_audited`] of a change of a deployment that keeps within a quota.
    ///
    /// # Errors
    /// As [`CommandLog::submit`].
    pub fn write_within<O: Operation>(
        &self,
        quota: Quota,
        operation: O,
        audit: Vec<RecordAudit>,
    ) -> impl Future<Output = Result<O::Reply, StoreError>> + Send + use<O> {
        let command = Command::new(self.now(), operation).audited(audit);
        self.submit_typed::<O>(command.within(quota))
    }

    /// [`Store::write_audited`], stamped with a time that the caller has told others of.
    ///
    /// # Errors
    /// As [`CommandLog::submit`].
    pub fn write_as_of<O: Operation>(
        &self,
        at: Timestamp,
        operation: O,
        audit: Vec<RecordAudit>,
    ) -> impl Future<Output = Result<O::Reply, StoreError>> + Send + use<O> {
        self.submit_typed::<O>(Command::new(at, operation).audited(audit))
    }

    fn submit_typed<O: Operation>(
        &self,
        command: Command,
    ) -> impl Future<Output = Result<O::Reply, StoreError>> + Send + use<O> {
        let inner = Arc::clone(&self.inner);
        async move { O::reply(inner.submit(command).await?) }
    }
}

impl Deref for Store {
    type Target = dyn RuntimeStore;

    fn deref(&self) -> &Self::Target {
        &*self.inner
    }
}

#[async_trait]
impl SecretReader for Store {
    async fn secret(&self, namespace: &str, name: &str) -> Result<Option<SecretRow>, StoreError> {
        self.inner.secret(namespace, name).await
    }

    async fn secrets(
        &self,
        filter: &SecretFilter,
        page: &PageRequest,
    ) -> Result<Page<SecretRow>, StoreError> {
        self.inner.secrets(filter, page).await
    }
}
