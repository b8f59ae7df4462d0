//! The store of a replay: it reads what the real one holds and writes to the tape.

use std::sync::Arc;

use async_trait::async_trait;
use rune_store_runtime::{
    Appended, ApprovalFilter, ApprovalId, ApprovalReader, ApprovalRow, AuditFilter, AuditReader,
    AuditRow, BudgetFilter, BudgetReader, BudgetRow, CacheReader, CacheRow, Command, CommandLog,
    DeploymentFilter, DeploymentId, DeploymentReader, DeploymentRow, EntityRow, Entry, EventFilter,
    EventId, EventReader, EventRow, FireFilter, GrantQuery, GrantRow, KnowledgeReader, MemoryQuery,
    MemoryReader, MemoryRow, MemoryScope, MessageRow, Op, OutboxFilter, OutboxReader, OutboxRow,
    Page, PageRequest, PushReader, PushRow, RegistryReader, RelationFilter, RelationRow,
    ReplicaFilter, ReplicaId, ReplicaRow, Reply, RequestFilter, RequestId, RequestReader,
    RequestRow, RequestStatus, ReservationRow, ScheduleFilter, ScheduleFireRow, ScheduleId,
    ScheduleReader, ScheduleRow, SecretFilter, SecretReader, SecretRow, SessionFilter, SessionId,
    SessionReader, SessionRow, SpilledOutput, Store, StoreError, TaskFilter, TaskId, TaskReader,
    TaskRow, Timestamp, ToolInvocationRow, UsageFilter, UsageGroup, UsageReader, UsageRow,
    UsageTotal, VersionFilter, VersionId, VersionRow,
};

use super::Tape;

/// Changes nothing but its tape.
pub(super) struct ReplayStore {
    real: Store,
    tape: Arc<Tape>,
}

impl ReplayStore {
    pub(super) const fn new(real: Store, tape: Arc<Tape>) -> Self {
        Self { real, tape }
    }
}

#[async_trait]
impl CommandLog for ReplayStore {
    async fn submit(&self, command: Command) -> Result<Reply, StoreError> {
        match command.op {
            Op::AppendEntries(append) => {
                let (first_seq, last_seq) = self.tape.write(command.at, append.entries);
                Ok(Reply::Appended(Appended {
                    first_seq,
                    last_seq,
                    status: RequestStatus::Running,
                    cancel_requested: false,
                }))
            }
            // What tools that run for real keep; the store is one that is thrown away.
            op if self.tape.has_live_tools() => {
                let command = Command { op, ..command };
                self.real.submit(command).await
            }
            op => Err(StoreError::Unavailable(format!(
                "a replay changes nothing ({})",
                op.name()
            ))),
        }
    }
}

#[async_trait]
impl RequestReader for ReplayStore {
    async fn request(&self, id: RequestId) -> Result<Option<RequestRow>, StoreError> {
        self.real.request(id).await
    }
    async fn requests(
        &self,
        filter: &RequestFilter,
        page: &PageRequest,
    ) -> Result<Page<RequestRow>, StoreError> {
        self.real.requests(filter, page).await
    }
    async fn request_count(&self, filter: &RequestFilter) -> Result<u64, StoreError> {
        self.real.request_count(filter).await
    }
    async fn journal(
        &self,
        _: RequestId,
        after: u64,
        limit: u32,
    ) -> Result<Vec<Entry>, StoreError> {
        Ok(self.tape.written(after, limit))
    }
    async fn tool_invocations(&self, id: RequestId) -> Result<Vec<ToolInvocationRow>, StoreError> {
        self.real.tool_invocations(id).await
    }
}

#[async_trait]
impl SessionReader for ReplayStore {
    async fn session(&self, id: &SessionId) -> Result<Option<SessionRow>, StoreError> {
        self.real.session(id).await
    }
    async fn sessions(
        &self,
        filter: &SessionFilter,
        page: &PageRequest,
    ) -> Result<Page<SessionRow>, StoreError> {
        self.real.sessions(filter, page).await
    }
    async fn messages(
        &self,
        id: &SessionId,
        page: &PageRequest,
    ) -> Result<Page<MessageRow>, StoreError> {
        self.real.messages(id, page).await
    }
    async fn recent_messages(
        &self,
        id: &SessionId,
        page: &PageRequest,
        _: Option<Timestamp>,
    ) -> Result<Page<MessageRow>, StoreError> {
        if let Some(history) = self.tape.history() {
            return Ok(Page {
                items: history.iter().rev().cloned().collect(),
                next: None,
            });
        }
        // As it was when the run began. Within that millisecond the request itself may have ended too.
        let until = Some(self.tape.history_until());
        let mut found = self.real.recent_messages(id, page, until).await?;
        let own = self.tape.request_id();
        found.items.retain(|row| row.request_id != own);
        Ok(found)
    }

    async fn spilled_output(
        &self,
        id: &SessionId,
        handle: &str,
    ) -> Result<Option<SpilledOutput>, StoreError> {
        self.real.spilled_output(id, handle).await
    }
}

#[async_trait]
impl DeploymentReader for ReplayStore {
    async fn deployment(&self, id: DeploymentId) -> Result<Option<DeploymentRow>, StoreError> {
        self.real.deployment(id).await
    }
    async fn deployments(
        &self,
        filter: &DeploymentFilter,
        page: &PageRequest,
    ) -> Result<Page<DeploymentRow>, StoreError> {
        self.real.deployments(filter, page).await
    }
    async fn replica(&self, id: ReplicaId) -> Result<Option<ReplicaRow>, StoreError> {
        self.real.replica(id).await
    }
    async fn replicas(
        &self,
        filter: &ReplicaFilter,
        page: &PageRequest,
    ) -> Result<Page<ReplicaRow>, StoreError> {
        self.real.replicas(filter, page).await
    }
}

#[async_trait]
impl RegistryReader for ReplayStore {
    async fn version(&self, id: VersionId) -> Result<Option<VersionRow>, StoreError> {
        self.real.version(id).await
    }
    async fn versions(
        &self,
        filter: &VersionFilter,
        page: &PageRequest,
    ) -> Result<Page<VersionRow>, StoreError> {
        self.real.versions(filter, page).await
    }
}

#[async_trait]
impl CacheReader for ReplayStore {
    async fn cached(&self, key: &str, now: Timestamp) -> Result<Option<CacheRow>, StoreError> {
        self.real.cached(key, now).await
    }
}

#[async_trait]
impl ScheduleReader for ReplayStore {
    async fn schedule(&self, id: ScheduleId) -> Result<Option<ScheduleRow>, StoreError> {
        self.real.schedule(id).await
    }
    async fn schedules(
        &self,
        filter: &ScheduleFilter,
        page: &PageRequest,
    ) -> Result<Page<ScheduleRow>, StoreError> {
        self.real.schedules(filter, page).await
    }
    async fn schedule_fires(
        &self,
        filter: &FireFilter,
        page: &PageRequest,
    ) -> Result<Page<ScheduleFireRow>, StoreError> {
        self.real.schedule_fires(filter, page).await
    }
}

#[async_trait]
impl ApprovalReader for ReplayStore {
    async fn approval(&self, id: ApprovalId) -> Result<Option<ApprovalRow>, StoreError> {
        self.real.approval(id).await
    }
    async fn approvals(
        &self,
        filter: &ApprovalFilter,
        page: &PageRequest,
    ) -> Result<Page<ApprovalRow>, StoreError> {
        self.real.approvals(filter, page).await
    }
    async fn grant(&self, query: &GrantQuery) -> Result<Option<GrantRow>, StoreError> {
        Ok(self.tape.grant(&query.tool, &query.policies))
    }
}

#[async_trait]
impl AuditReader for ReplayStore {
    async fn audit(
        &self,
        filter: &AuditFilter,
        page: &PageRequest,
    ) -> Result<Page<AuditRow>, StoreError> {
        self.real.audit(filter, page).await
    }
}

#[async_trait]
impl UsageReader for ReplayStore {
    async fn usage(
        &self,
        filter: &UsageFilter,
        page: &PageRequest,
    ) -> Result<Page<UsageRow>, StoreError> {
        self.real.usage(filter, page).await
    }
    async fn usage_totals(
        &self,
        filter: &UsageFilter,
        by: UsageGroup,
    ) -> Result<Vec<UsageTotal>, StoreError> {
        self.real.usage_totals(filter, by).await
    }
}

#[async_trait]
impl BudgetReader for ReplayStore {
    async fn budgets(
        &self,
        filter: &BudgetFilter,
        page: &PageRequest,
    ) -> Result<Page<BudgetRow>, StoreError> {
        self.real.budgets(filter, page).await
    }
    async fn reservation(&self, id: RequestId) -> Result<Option<ReservationRow>, StoreError> {
        self.real.reservation(id).await
    }
    async fn reservations(&self, page: &PageRequest) -> Result<Page<ReservationRow>, StoreError> {
        self.real.reservations(page).await
    }
}

#[async_trait]
impl MemoryReader for ReplayStore {
    async fn memory(
        &self,
        scope: &MemoryScope,
        key: &str,
    ) -> Result<Option<MemoryRow>, StoreError> {
        self.real.memory(scope, key).await
    }
    async fn memories(
        &self,
        scope: &MemoryScope,
        query: &MemoryQuery,
        page: &PageRequest,
    ) -> Result<Page<MemoryRow>, StoreError> {
        self.real.memories(scope, query, page).await
    }
}

#[async_trait]
impl KnowledgeReader for ReplayStore {
    async fn entity(
        &self,
        scope: &MemoryScope,
        name: &str,
    ) -> Result<Option<EntityRow>, StoreError> {
        self.real.entity(scope, name).await
    }
    async fn entities(
        &self,
        scope: &MemoryScope,
        kind: Option<&str>,
        page: &PageRequest,
    ) -> Result<Page<EntityRow>, StoreError> {
        self.real.entities(scope, kind, page).await
    }
    async fn find_entities(
        &self,
        scope: &MemoryScope,
        text: &str,
        kind: Option<&str>,
        limit: u32,
    ) -> Result<Vec<EntityRow>, StoreError> {
        self.real.find_entities(scope, text, kind, limit).await
    }
    async fn relations(
        &self,
        scope: &MemoryScope,
        filter: &RelationFilter,
        page: &PageRequest,
    ) -> Result<Page<RelationRow>, StoreError> {
        self.real.relations(scope, filter, page).await
    }
}

#[async_trait]
impl TaskReader for ReplayStore {
    async fn task(&self, id: TaskId) -> Result<Option<TaskRow>, StoreError> {
        self.real.task(id).await
    }
    async fn tasks(
        &self,
        filter: &TaskFilter,
        page: &PageRequest,
    ) -> Result<Page<TaskRow>, StoreError> {
        self.real.tasks(filter, page).await
    }
}

#[async_trait]
impl EventReader for ReplayStore {
    async fn event(&self, id: EventId) -> Result<Option<EventRow>, StoreError> {
        self.real.event(id).await
    }
    async fn events(
        &self,
        filter: &EventFilter,
        page: &PageRequest,
    ) -> Result<Page<EventRow>, StoreError> {
        self.real.events(filter, page).await
    }
}

#[async_trait]
impl OutboxReader for ReplayStore {
    async fn outbox(
        &self,
        filter: &OutboxFilter,
        page: &PageRequest,
    ) -> Result<Page<OutboxRow>, StoreError> {
        self.real.outbox(filter, page).await
    }
}

#[async_trait]
impl PushReader for ReplayStore {
    async fn push(&self, id: RequestId, push_id: &str) -> Result<Option<PushRow>, StoreError> {
        self.real.push(id, push_id).await
    }
    async fn pushes(&self, id: RequestId, page: &PageRequest) -> Result<Page<PushRow>, StoreError> {
        self.real.pushes(id, page).await
    }
    async fn due_pushes(&self, now: Timestamp, limit: u32) -> Result<Vec<PushRow>, StoreError> {
        self.real.due_pushes(now, limit).await
    }
    async fn next_push(&self, now: Timestamp) -> Result<Option<Timestamp>, StoreError> {
        self.real.next_push(now).await
    }
    async fn has_open_pushes(&self) -> Result<bool, StoreError> {
        self.real.has_open_pushes().await
    }
}

#[async_trait]
impl SecretReader for ReplayStore {
    async fn secret(&self, namespace: &str, name: &str) -> Result<Option<SecretRow>, StoreError> {
        self.real.secret(namespace, name).await
    }
    async fn secrets(
        &self,
        filter: &SecretFilter,
        page: &PageRequest,
    ) -> Result<Page<SecretRow>, StoreError> {
        self.real.secrets(filter, page).await
    }
}
