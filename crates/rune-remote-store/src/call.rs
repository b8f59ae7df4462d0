//! The calls: one definition, from which the client, the server and what is sent between them
//! come.

use async_trait::async_trait;
use rune_store_runtime::{
    ApprovalFilter, ApprovalId, ApprovalReader, ApprovalRow, AuditFilter, AuditReader, AuditRow,
    BudgetFilter, BudgetReader, BudgetRow, CacheReader, CacheRow, DeploymentFilter, DeploymentId,
    DeploymentReader, DeploymentRow, EntityRow, Entry, EventFilter, EventId, EventReader, EventRow,
    FireFilter, GrantQuery, GrantRow, KnowledgeReader, MemoryQuery, MemoryReader, MemoryRow,
    MemoryScope, MessageRow, OutboxFilter, OutboxReader, OutboxRow, Page, PageRequest, PushReader,
    PushRow, RegistryReader, RelationFilter, RelationRow, ReplicaFilter, ReplicaId, ReplicaRow,
    RequestFilter, RequestId, RequestReader, RequestRow, ReservationRow, RuntimeStore,
    ScheduleFilter, ScheduleFireRow, ScheduleId, ScheduleReader, ScheduleRow, SecretFilter,
    SecretReader, SecretRow, SessionFilter, SessionId, SessionReader, SessionRow, SpilledOutput,
    StoreError, TaskFilter, TaskId, TaskReader, TaskRow, Timestamp, ToolInvocationRow, UsageFilter,
    UsageGroup, UsageReader, UsageRow, UsageTotal, VersionFilter, VersionId, VersionRow,
};
use serde::{Deserialize, Serialize};

use crate::client::RemoteStore;

/// Where batches of commands go: an array of them, answered by an array of results in their order.
pub(crate) const COMMANDS: &str = "/internal/v1/store/commands";
/// Where a [`Read`] goes.
pub(crate) const READ: &str = "/internal/v1/store/read";
/// Where bytes go.
pub(crate) const BLOBS: &str = "/internal/v1/store/blobs";
/// Where the bytes of a digest are.
pub(crate) const BLOB: &str = "/internal/v1/store/blobs/{digest}";

/// Where a replica's token is renewed.
pub(crate) const TOKEN: &str = "/internal/v1/token";

/// Commands of one call at the most.
pub(crate) const MAX_BATCH: usize = 256;
/// Bytes of commands of one call at the most; one command may exceed it.
pub(crate) const MAX_BATCH_BYTES: usize = 4 << 20;
/// The largest command in bytes. What surrounds the part that a store limits is small, but for
/// rows of the audit trail.
pub(crate) const MAX_COMMAND_BYTES: usize =
    rune_store_runtime::limits::MAX_COMMAND_BYTES + (1 << 20);
/// The largest read in bytes: filters, names and a cursor.
pub(crate) const MAX_READ_BYTES: usize = 1 << 20;

/// What an argument becomes to be sent.
macro_rules! own {
    (value $arg:ident) => {
        $arg
    };
    (reference $arg:ident) => {
        $arg.clone()
    };
    (text $arg:ident) => {
        $arg.to_owned()
    };
    (optional_text $arg:ident) => {
        $arg.map(str::to_owned)
    };
}

/// What was sent becomes an argument again.
macro_rules! lend {
    (value $arg:ident) => {
        $arg
    };
    (reference $arg:ident) => {
        &$arg
    };
    (text $arg:ident) => {
        &$arg
    };
    (optional_text $arg:ident) => {
        $arg.as_deref()
    };
}

macro_rules! reads {
    ($(
        $reader:ident {
            $($variant:ident $method:ident($($arg:ident: $ty:ty as $mode:ident $owned:ty),*) -> $answer:ty;)*
        }
    )*) => {
        /// A read, as it is sent. Its answer is the result of the method of the same name.
        #[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
        #[expect(missing_docs, reason = "a variant and its fields are a method and its arguments")]
        #[serde(tag = "read", content = "args", rename_all = "snake_case", deny_unknown_fields)]
        pub enum Read {
            $(
                $($variant { $($arg: $owned),* },)*
            )*
        }

        impl Read {
            /// Its name, for metrics and logs.
            #[must_use]
            pub const fn name(&self) -> &'static str {
                match self { $($(Self::$variant { .. } => stringify!($variant),)*)* }
            }

            /// The JSON of what the store answers.
            pub(crate) async fn answer(self, store: &dyn RuntimeStore) -> serde_json::Result<Vec<u8>> {
                match self {
                    $(
                        $(Self::$variant { $($arg),* } => {
                            serde_json::to_vec(&store.$method($(lend!($mode $arg)),*).await)
                        })*
                    )*
                }
            }
        }

        $(
            #[async_trait]
            impl $reader for RemoteStore {
                $(async fn $method(&self, $($arg: $ty),*) -> Result<$answer, StoreError> {
                    self.read(&Read::$variant { $($arg: own!($mode $arg)),* }).await
                })*
            }
        )*
    };
}

reads! {
    RequestReader {
        Request request(id: RequestId as value RequestId) -> Option<RequestRow>;
        Requests requests(filter: &RequestFilter as reference RequestFilter, page: &PageRequest as reference PageRequest) -> Page<RequestRow>;
        RequestCount request_count(filter: &RequestFilter as reference RequestFilter) -> u64;
        Journal journal(id: RequestId as value RequestId, after: u64 as value u64, limit: u32 as value u32) -> Vec<Entry>;
        ToolInvocations tool_invocations(id: RequestId as value RequestId) -> Vec<ToolInvocationRow>;
    }
    SessionReader {
        Session session(id: &SessionId as reference SessionId) -> Option<SessionRow>;
        Sessions sessions(filter: &SessionFilter as reference SessionFilter, page: &PageRequest as reference PageRequest) -> Page<SessionRow>;
        Messages messages(id: &SessionId as reference SessionId, page: &PageRequest as reference PageRequest) -> Page<MessageRow>;
        RecentMessages recent_messages(id: &SessionId as reference SessionId, page: &PageRequest as reference PageRequest, until: Option<Timestamp> as value Option<Timestamp>) -> Page<MessageRow>;
        SpilledOutput spilled_output(id: &SessionId as reference SessionId, handle: &str as text String) -> Option<SpilledOutput>;
    }
    DeploymentReader {
        Deployment deployment(id: DeploymentId as value DeploymentId) -> Option<DeploymentRow>;
        Deployments deployments(filter: &DeploymentFilter as reference DeploymentFilter, page: &PageRequest as reference PageRequest) -> Page<DeploymentRow>;
        Replica replica(id: ReplicaId as value ReplicaId) -> Option<ReplicaRow>;
        Replicas replicas(filter: &ReplicaFilter as reference ReplicaFilter, page: &PageRequest as reference PageRequest) -> Page<ReplicaRow>;
    }
    RegistryReader {
        Version version(id: VersionId as value VersionId) -> Option<VersionRow>;
        Versions versions(filter: &VersionFilter as reference VersionFilter, page: &PageRequest as reference PageRequest) -> Page<VersionRow>;
    }
    CacheReader {
        Cached cached(key: &str as text String, now: Timestamp as value Timestamp) -> Option<CacheRow>;
    }
    ScheduleReader {
        Schedule schedule(id: ScheduleId as value ScheduleId) -> Option<ScheduleRow>;
        Schedules schedules(filter: &ScheduleFilter as reference ScheduleFilter, page: &PageRequest as reference PageRequest) -> Page<ScheduleRow>;
        ScheduleFires schedule_fires(filter: &FireFilter as reference FireFilter, page: &PageRequest as reference PageRequest) -> Page<ScheduleFireRow>;
    }
    ApprovalReader {
        Approval approval(id: ApprovalId as value ApprovalId) -> Option<ApprovalRow>;
        Approvals approvals(filter: &ApprovalFilter as reference ApprovalFilter, page: &PageRequest as reference PageRequest) -> Page<ApprovalRow>;
        Grant grant(query: &GrantQuery as reference GrantQuery) -> Option<GrantRow>;
    }
    AuditReader {
        Audit audit(filter: &AuditFilter as reference AuditFilter, page: &PageRequest as reference PageRequest) -> Page<AuditRow>;
    }
    UsageReader {
        Usage usage(filter: &UsageFilter as reference UsageFilter, page: &PageRequest as reference PageRequest) -> Page<UsageRow>;
        UsageTotals usage_totals(filter: &UsageFilter as reference UsageFilter, by: UsageGroup as value UsageGroup) -> Vec<UsageTotal>;
    }
    BudgetReader {
        Budgets budgets(filter: &BudgetFilter as reference BudgetFilter, page: &PageRequest as reference PageRequest) -> Page<BudgetRow>;
        Reservation reservation(id: RequestId as value RequestId) -> Option<ReservationRow>;
        Reservations reservations(page: &PageRequest as reference PageRequest) -> Page<ReservationRow>;
    }
    MemoryReader {
        Memory memory(scope: &MemoryScope as reference MemoryScope, key: &str as text String) -> Option<MemoryRow>;
        Memories memories(scope: &MemoryScope as reference MemoryScope, query: &MemoryQuery as reference MemoryQuery, page: &PageRequest as reference PageRequest) -> Page<MemoryRow>;
    }
    KnowledgeReader {
        Entity entity(scope: &MemoryScope as reference MemoryScope, name: &str as text String) -> Option<EntityRow>;
        Entities entities(scope: &MemoryScope as reference MemoryScope, kind: Option<&str> as optional_text Option<String>, page: &PageRequest as reference PageRequest) -> Page<EntityRow>;
        FindEntities find_entities(scope: &MemoryScope as reference MemoryScope, text: &str as text String, kind: Option<&str> as optional_text Option<String>, limit: u32 as value u32) -> Vec<EntityRow>;
        Relations relations(scope: &MemoryScope as reference MemoryScope, filter: &RelationFilter as reference RelationFilter, page: &PageRequest as reference PageRequest) -> Page<RelationRow>;
    }
    TaskReader {
        Task task(id: TaskId as value TaskId) -> Option<TaskRow>;
        Tasks tasks(filter: &TaskFilter as reference TaskFilter, page: &PageRequest as reference PageRequest) -> Page<TaskRow>;
    }
    EventReader {
        Event event(id: EventId as value EventId) -> Option<EventRow>;
        Events events(filter: &EventFilter as reference EventFilter, page: &PageRequest as reference PageRequest) -> Page<EventRow>;
    }
    OutboxReader {
        Outbox outbox(filter: &OutboxFilter as reference OutboxFilter, page: &PageRequest as reference PageRequest) -> Page<OutboxRow>;
    }
    PushReader {
        Push push(id: RequestId as value RequestId, push_id: &str as text String) -> Option<PushRow>;
        Pushes pushes(id: RequestId as value RequestId, page: &PageRequest as reference PageRequest) -> Page<PushRow>;
        DuePushes due_pushes(now: Timestamp as value Timestamp, limit: u32 as value u32) -> Vec<PushRow>;
        NextPush next_push(now: Timestamp as value Timestamp) -> Option<Timestamp>;
        HasOpenPushes has_open_pushes() -> bool;
    }
    SecretReader {
        Secret secret(namespace: &str as text String, name: &str as text String) -> Option<SecretRow>;
        Secrets secrets(filter: &SecretFilter as reference SecretFilter, page: &PageRequest as reference PageRequest) -> Page<SecretRow>;
    }
}
