//! The fake store, watched: commands are counted, and can be held up or fail.

use std::sync::{Arc, Mutex, MutexGuard};

use async_trait::async_trait;
use rune_runtime::Tasks;
use rune_store_runtime::*;
use rune_testkit::store::FakeStore;
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;

type Job = (Command, oneshot::Sender<Result<Reply, StoreError>>);

/// A [`FakeStore`] whose commands go through a writer task, one after the other.
pub(crate) struct Spy {
    inner: Arc<FakeStore>,
    plan: Arc<Mutex<Plan>>,
    seen: Arc<watch::Sender<usize>>,
    jobs: mpsc::UnboundedSender<Job>,
}

#[derive(Default)]
struct Plan {
    commands: Vec<&'static str>,
    fail: Option<(usize, bool)>,
    hold: Option<(usize, CancellationToken)>,
    crash: Option<(usize, bool)>,
    refuse: Option<ApprovalId>,
    yields: usize,
}

impl Spy {
    pub(crate) fn new(tasks: &Tasks) -> Arc<Self> {
        Self::over(Arc::new(FakeStore::new()), tasks)
    }

    /// A writer over a store that outlives it.
    pub(crate) fn over(inner: Arc<FakeStore>, tasks: &Tasks) -> Arc<Self> {
        let (jobs, mut queue) = mpsc::unbounded_channel::<Job>();
        let spy = Self {
            inner,
            plan: Arc::default(),
            seen: Arc::new(watch::Sender::new(0)),
            jobs,
        };
        let (inner, plan, seen) = (
            Arc::clone(&spy.inner),
            Arc::clone(&spy.plan),
            Arc::clone(&spy.seen),
        );
        tasks.spawn("store", async move {
            while let Some((command, reply)) = queue.recv().await {
                let (failing, hold, crash, refused, yields) = {
                    let mut plan = plan.lock().unwrap();
                    let index = plan.commands.len();
                    plan.commands.push(command.op.name());
                    let failing = plan.fail.filter(|(at, _)| *at == index);
                    let hold = plan.hold.clone().filter(|(at, _)| *at == index);
                    let crash = plan.crash.filter(|(at, _)| *at == index);
                    let refused = matches!(&command.op, Op::DecideApproval(op) if plan.refuse == Some(op.approval_id));
                    (
                        failing.map(|(_, applied)| applied),
                        hold,
                        crash,
                        refused,
                        plan.yields,
                    )
                };
                seen.send_modify(|n| *n += 1);
                if let Some((_, applied)) = crash {
                    if applied {
                        let _ = inner.submit(command).await;
                    }
                    return std::future::pending().await;
                }
                if let Some((_, free)) = hold {
                    free.cancelled().await;
                }
                for _ in 0..yields {
                    tokio::task::yield_now().await;
                }
                let answer = match failing {
                    _ if refused => Err(Reject::invalid("the journal is full").into()),
                    Some(false) => Err(StoreError::Unavailable("test".to_owned())),
                    Some(true) => {
                        let _ = inner.submit(command).await;
                        Err(StoreError::Unavailable("test".to_owned()))
                    }
                    None => inner.submit(command).await,
                };
                let _ = reply.send(answer);
            }
        });
        Arc::new(spy)
    }

    /// The commands since the last reset.
    pub(crate) fn commands(&self) -> Vec<&'static str> {
        self.plan().commands.clone()
    }

    pub(crate) fn reset(&self) {
        *self.plan() = Plan::default();
        self.seen.send_replace(0);
    }

    /// Command `index` answers that the store is unavailable, applied or not.
    pub(crate) fn fail(&self, index: usize, applied: bool) {
        self.plan().fail = Some((index, applied));
    }

    /// No decision of this approval can be stored.
    pub(crate) fn refuse(&self, approval: ApprovalId) {
        self.plan().refuse = Some(approval);
    }

    /// Command `index` is the last that the store sees, applied or not; nobody gets an
    /// answer any more.
    pub(crate) fn crash(&self, index: usize, applied: bool) {
        self.plan().crash = Some((index, applied));
    }

    /// Command `index` waits until the token fires.
    pub(crate) fn hold(&self, index: usize) -> CancellationToken {
        let free = CancellationToken::new();
        self.plan().hold = Some((index, free.clone()));
        free
    }

    /// Every command takes this many turns of the scheduler.
    pub(crate) fn slow(&self, yields: usize) {
        self.plan().yields = yields;
    }

    pub(crate) async fn wait_for(&self, commands: usize) {
        let mut seen = self.seen.subscribe();
        super::soon("the store", seen.wait_for(|n| *n >= commands))
            .await
            .unwrap();
    }

    fn plan(&self) -> MutexGuard<'_, Plan> {
        self.plan.lock().unwrap()
    }
}

/// Writes the journal of a request into another store.
pub(crate) async fn copy(store: &Store, row: &RequestRow, journal: &[Entry]) {
    for entry in journal {
        match &entry.body {
            EntryBody::Accepted { input, .. } => {
                let accept = AcceptRequest {
                    request_id: row.id,
                    session_id: row.session_id.clone(),
                    namespace: row.namespace.clone(),
                    agent: row.agent.clone(),
                    deployment_id: row.deployment_id,
                    version_id: row.version_id,
                    input: input.clone(),
                    metadata: row.metadata.clone(),
                    caller: row.caller.clone(),
                    checkpoint: row.checkpoint,
                    idempotency: None,
                    follows: None,
                    parent: row.parent.clone(),
                    fork: None,
                    budgets: row.budgets.clone(),
                };
                store.write(accept).await.unwrap();
            }
            EntryBody::CancelRequested { reason } => {
                let cancel = RequestCancel {
                    request_id: row.id,
                    reason: reason.clone(),
                };
                store.write(cancel).await.unwrap();
            }
            body => {
                let append = AppendEntries {
                    request_id: row.id,
                    entries: vec![body.clone()],
                };
                store.write(append).await.unwrap();
            }
        }
    }
}

#[async_trait]
impl CommandLog for Spy {
    async fn submit(&self, command: Command) -> Result<Reply, StoreError> {
        let (reply, answer) = oneshot::channel();
        let gone = || StoreError::Unavailable("the writer is gone".to_owned());
        self.jobs.send((command, reply)).map_err(|_| gone())?;
        answer.await.map_err(|_| gone())?
    }
}

macro_rules! reads {
    ($($trait:ident { $(fn $name:ident($($arg:ident: $ty:ty),*) -> $ret:ty;)* })*) => { $(
        #[async_trait]
        impl $trait for Spy {
            $(async fn $name(&self, $($arg: $ty),*) -> Result<$ret, StoreError> {
                self.inner.$name($($arg),*).await
            })*
        }
    )* };
}

reads! {
    RequestReader {
        fn request(id: RequestId) -> Option<RequestRow>;
        fn requests(filter: &RequestFilter, page: &PageRequest) -> Page<RequestRow>;
        fn request_count(filter: &RequestFilter) -> u64;
        fn journal(id: RequestId, after: u64, limit: u32) -> Vec<Entry>;
        fn tool_invocations(id: RequestId) -> Vec<ToolInvocationRow>;
    }
    SessionReader {
        fn session(id: &SessionId) -> Option<SessionRow>;
        fn sessions(filter: &SessionFilter, page: &PageRequest) -> Page<SessionRow>;
        fn messages(id: &SessionId, page: &PageRequest) -> Page<MessageRow>;
        fn recent_messages(id: &SessionId, page: &PageRequest, until: Option<Timestamp>) -> Page<MessageRow>;
        fn spilled_output(id: &SessionId, handle: &str) -> Option<SpilledOutput>;
    }
    DeploymentReader {
        fn deployment(id: DeploymentId) -> Option<DeploymentRow>;
        fn deployments(filter: &DeploymentFilter, page: &PageRequest) -> Page<DeploymentRow>;
        fn replica(id: ReplicaId) -> Option<ReplicaRow>;
        fn replicas(filter: &ReplicaFilter, page: &PageRequest) -> Page<ReplicaRow>;
    }
    RegistryReader {
        fn version(id: VersionId) -> Option<VersionRow>;
        fn versions(filter: &VersionFilter, page: &PageRequest) -> Page<VersionRow>;
    }
    CacheReader { fn cached(key: &str, now: Timestamp) -> Option<CacheRow>; }
    ScheduleReader {
        fn schedule(id: ScheduleId) -> Option<ScheduleRow>;
        fn schedules(filter: &ScheduleFilter, page: &PageRequest) -> Page<ScheduleRow>;
        fn schedule_fires(filter: &FireFilter, page: &PageRequest) -> Page<ScheduleFireRow>;
    }
    ApprovalReader {
        fn approval(id: ApprovalId) -> Option<ApprovalRow>;
        fn approvals(filter: &ApprovalFilter, page: &PageRequest) -> Page<ApprovalRow>;
        fn grant(query: &GrantQuery) -> Option<GrantRow>;
    }
    AuditReader { fn audit(filter: &AuditFilter, page: &PageRequest) -> Page<AuditRow>; }
    UsageReader {
        fn usage(filter: &UsageFilter, page: &PageRequest) -> Page<UsageRow>;
        fn usage_totals(filter: &UsageFilter, by: UsageGroup) -> Vec<UsageTotal>;
    }
    BudgetReader {
        fn budgets(filter: &BudgetFilter, page: &PageRequest) -> Page<BudgetRow>;
        fn reservation(id: RequestId) -> Option<ReservationRow>;
        fn reservations(page: &PageRequest) -> Page<ReservationRow>;
    }
    MemoryReader {
        fn memory(scope: &MemoryScope, key: &str) -> Option<MemoryRow>;
        fn memories(scope: &MemoryScope, query: &MemoryQuery, page: &PageRequest) -> Page<MemoryRow>;
    }    KnowledgeReader {
        fn entity(scope: &MemoryScope, name: &str) -> Option<EntityRow>;
        fn entities(scope: &MemoryScope, kind: Option<&str>, page: &PageRequest) -> Page<EntityRow>;
        fn find_entities(scope: &MemoryScope, text: &str, kind: Option<&str>, limit: u32) -> Vec<EntityRow>;
        fn relations(scope: &MemoryScope, filter: &RelationFilter, page: &PageRequest) -> Page<RelationRow>;
    }    TaskReader {
        fn task(id: TaskId) -> Option<TaskRow>;
        fn tasks(filter: &TaskFilter, page: &PageRequest) -> Page<TaskRow>;
    }    EventReader {
        fn event(id: EventId) -> Option<EventRow>;
        fn events(filter: &EventFilter, page: &PageRequest) -> Page<EventRow>;
    }    OutboxReader {
        fn outbox(filter: &OutboxFilter, page: &PageRequest) -> Page<OutboxRow>;
    }    PushReader {
        fn push(id: RequestId, push_id: &str) -> Option<PushRow>;
        fn pushes(id: RequestId, page: &PageRequest) -> Page<PushRow>;
        fn due_pushes(now: Timestamp, limit: u32) -> Vec<PushRow>;
        fn next_push(now: Timestamp) -> Option<Timestamp>;
        fn has_open_pushes() -> bool;
    }    SecretReader {
        fn secret(namespace: &str, name: &str) -> Option<SecretRow>;
        fn secrets(filter: &SecretFilter, page: &PageRequest) -> Page<SecretRow>;
    }
}
