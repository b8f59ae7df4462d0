//! A deployment with a row of every kind, and every call that can be made about it.

use std::collections::BTreeMap;

use rune_remote_store::{DeploymentScope, Read};
use rune_store_runtime::{
    AcceptRequest, AppendEntries, ApplyDeployment, ApprovalDecision, ApprovalFilter, ApprovalId,
    ApprovalQuestion, AuditFilter, AuditId, AuditVerdict, AutoscaleDeployment, Block, BudgetCap,
    BudgetClaim, BudgetFilter, BudgetScope, CachePut, CacheRemove, CacheSweep, CheckpointPolicy,
    ClaimTask, CompleteRollout, CompleteTask, ComponentTurn, CreateSession, DecideApproval,
    DeleteDeployment, DeleteSchedule, DeleteSession, DeploymentFilter, DeploymentId,
    DeploymentState, EntryBody, EventFilter, EventId, FireFilter, FireSchedule, FireState,
    GrantQuery, MemoryForget, MemoryPut, MemoryQuery, MemoryScope, MessageId, Op, OutboxFilter,
    Overlap, PageRequest, PauseSchedule, PostTask, PromoteRollout, PublishEvent, PublishVersion,
    PutEntity, PutPush, PutRelation, PutReplica, PutSchedule, PutSecret, QueueMessage, RecordAudit,
    RelationFilter, RemovePush, RemoveReplica, RemoveSecret, ReplicaFilter, ReplicaId,
    ReplicaState, RequestCancel, RequestFilter, RequestId, ReserveBudget, RollBack,
    RolloutStrategy, ScaleBounds, ScaleDeployment, ScheduleFilter, ScheduleId, ScheduleKind,
    ScheduleSpec, SealedSecret, SecretFilter, SessionFilter, SessionId, SetDeploymentState,
    SettleBudget, SettleFire, SettlePush, Settlement, StartRollout, Store, TaskFilter, TaskHolder,
    TaskId, TaskState, Timestamp, UsageFilter, UsageGroup, VersionFilter, VersionId,
};
use serde_json::json;

pub(crate) struct Tenant {
    pub(crate) namespace: &'static str,
    pub(crate) agent: &'static str,
    pub(crate) version: VersionId,
    pub(crate) deployment: DeploymentId,
    pub(crate) replica: ReplicaId,
    pub(crate) session: SessionId,
    pub(crate) request: RequestId,
    pub(crate) approval: ApprovalId,
    pub(crate) schedule: ScheduleId,
    pub(crate) task: TaskId,
    pub(crate) event: EventId,
    pub(crate) budget: BudgetCap,
}

impl Tenant {
    pub(crate) async fn create(
        store: &Store,
        namespace: &'static str,
        agent: &'static str,
    ) -> Self {
        let session: SessionId = format!("session-of-{namespace}-{agent}").parse().unwrap();
        let tenant = Self {
            namespace,
            agent,
            version: VersionId::generate(),
            deployment: DeploymentId::generate(),
            replica: ReplicaId::generate(),
            budget: BudgetCap {
                scope: BudgetScope::Session(session.clone()),
                tokens: Some(1_000_000),
                micro_usd: None,
            },
            session,
            request: RequestId::generate(),
            approval: ApprovalId::generate(),
            schedule: ScheduleId::generate(),
            task: TaskId::generate(),
            event: EventId::generate(),
        };
        let write = async |op: Op| {
            let command = rune_store_runtime::Command::new(store.now(), op);
            store.submit(command).await.unwrap();
        };
        write(tenant.publish().into()).await;
        write(tenant.apply().into()).await;
        write(tenant.put_replica().into()).await;
        write(tenant.accept().into()).await;
        write(tenant.started().into()).await;
        let asked = AppendEntries {
            request_id: tenant.request,
            entries: vec![
                EntryBody::ComponentTurn(ComponentTurn {
                    turn: 1,
                    blocks: vec![Block::ToolCall {
                        id: "call".to_owned(),
                        name: "tool".to_owned(),
                        input: json!({}),
                        native: None,
                    }],
                }),
                EntryBody::ApprovalAsked(ApprovalQuestion {
                    approval_id: tenant.approval,
                    step: 1,
                    call_id: "call".to_owned(),
                    tool: "tool".to_owned(),
                    input: json!({}),
                    reason: "because".to_owned(),
                    policies: vec!["p".to_owned()],
                    deadline: None,
                    default: ApprovalDecision::Deny,
                }),
            ],
        };
        write(asked.into()).await;
        write(tenant.put_schedule().into()).await;
        write(tenant.post_task().into()).await;
        write(tenant.publish_event().into()).await;
        write(tenant.memory_put().into()).await;
        tenant
    }

    /// What its replica may touch.
    pub(crate) fn scope(&self) -> DeploymentScope {
        DeploymentScope {
            replica_id: self.replica,
            deployment_id: self.deployment,
            version_id: self.version,
            namespace: self.namespace.to_owned(),
            agent: self.agent.to_owned(),
        }
    }

    fn memory(&self) -> MemoryScope {
        MemoryScope {
            namespace: self.namespace.to_owned(),
            agent: self.agent.to_owned(),
        }
    }

    fn publish(&self) -> PublishVersion {
        PublishVersion {
            version_id: self.version,
            agent: self.agent.to_owned(),
            version: "1.0.0".to_owned(),
            description: String::new(),
            digest: format!(
                "sha256:{}",
                self.version
                    .to_string()
                    .trim_start_matches("ver_")
                    .repeat(2)
            ),
            size: 1,
            image: None,
            scaling: ScaleBounds::default(),
            signature: None,
        }
    }

    fn apply(&self) -> ApplyDeployment {
        ApplyDeployment {
            deployment_id: self.deployment,
            namespace: self.namespace.to_owned(),
            agent: self.agent.to_owned(),
            alias: "stable".to_owned(),
            version_id: self.version,
            replicas: Some(1),
            env: BTreeMap::new(),
            project: None,
        }
    }

    fn put_replica(&self) -> PutReplica {
        PutReplica {
            replica_id: self.replica,
            deployment_id: self.deployment,
            version_id: self.version,
            state: ReplicaState::Ready,
            reason: String::new(),
            backend: "docker".to_owned(),
            endpoint: None,
        }
    }

    fn accept(&self) -> AcceptRequest {
        AcceptRequest {
            request_id: self.request,
            session_id: self.session.clone(),
            namespace: self.namespace.to_owned(),
            agent: self.agent.to_owned(),
            deployment_id: self.deployment,
            version_id: self.version,
            input: json!("hi"),
            metadata: BTreeMap::new(),
            caller: "alice".to_owned(),
            checkpoint: CheckpointPolicy::EachStep,
            idempotency: None,
            follows: None,
            parent: None,
            fork: None,
            budgets: vec![self.budget.clone()],
        }
    }

    pub(crate) fn started(&self) -> AppendEntries {
        AppendEntries {
            request_id: self.request,
            entries: vec![EntryBody::Started {
                replica_id: self.replica,
                deployment_id: self.deployment,
                attempt: 1,
            }],
        }
    }

    pub(crate) fn reserve(&self) -> ReserveBudget {
        ReserveBudget {
            request_id: self.request,
            stored: true,
            claims: vec![BudgetClaim {
                cap: self.budget.clone(),
                prompt_tokens: 1,
            }],
            prompt_tokens: 1,
            output_tokens: 1,
            enough_output_tokens: 1,
            min_output_tokens: 1,
            price: None,
        }
    }

    fn put_schedule(&self) -> PutSchedule {
        PutSchedule {
            schedule_id: self.schedule,
            spec: ScheduleSpec {
                namespace: self.namespace.to_owned(),
                name: format!("of-{}", self.agent),
                agent: self.agent.to_owned(),
                alias: "stable".to_owned(),
                input: json!("hi"),
                session_id: None,
                kind: ScheduleKind::Event {
                    topic: "*".to_owned(),
                },
                catch_up: Default::default(),
                overlap: Overlap::Allow,
                jitter_ms: 0,
                created_by: Some(format!("{}/{}", self.namespace, self.agent)),
            },
            paused: false,
            next_fire_at: None,
        }
    }

    pub(crate) fn post_task(&self) -> PostTask {
        PostTask {
            task_id: self.task,
            namespace: self.namespace.to_owned(),
            queue: "queue".to_owned(),
            title: "title".to_owned(),
            payload: json!({}),
            priority: 0,
            max_attempts: 3,
            posted_by: self.agent.to_owned(),
        }
    }

    pub(crate) fn holder(&self) -> TaskHolder {
        TaskHolder {
            agent: self.agent.to_owned(),
            session_id: self.session.clone(),
        }
    }

    pub(crate) fn claim(&self) -> ClaimTask {
        ClaimTask {
            namespace: self.namespace.to_owned(),
            queue: "queue".to_owned(),
            task_id: Some(self.task),
            holder: self.holder(),
            lease_ms: 1000,
        }
    }

    pub(crate) fn complete(&self) -> CompleteTask {
        CompleteTask {
            task_id: self.task,
            namespace: self.namespace.to_owned(),
            holder: self.holder(),
            state: TaskState::Done,
            result: json!(1),
        }
    }

    fn publish_event(&self) -> PublishEvent {
        PublishEvent {
            event_id: self.event,
            namespace: self.namespace.to_owned(),
            topic: "topic".to_owned(),
            payload: json!({}),
            publisher: self.agent.to_owned(),
            request_id: Some(self.request),
            depth: 0,
            fires: Vec::new(),
        }
    }

    fn memory_put(&self) -> MemoryPut {
        MemoryPut {
            scope: self.memory(),
            key: "key".to_owned(),
            value: json!(1),
            tags: Vec::new(),
        }
    }

    pub(crate) fn message(&self) -> QueueMessage {
        QueueMessage {
            message_id: MessageId::generate(),
            namespace: self.namespace.to_owned(),
            agent: self.agent.to_owned(),
            channel: "irc".to_owned(),
            recipient: "#team".to_owned(),
            text: "hello".to_owned(),
            request_id: self.request,
        }
    }

    pub(crate) fn process_key(&self) -> String {
        format!("process:{}:prc_1", self.session)
    }

    pub(crate) fn grant(&self) -> GrantQuery {
        GrantQuery {
            namespace: self.namespace.to_owned(),
            agent: self.agent.to_owned(),
            session_id: self.session.clone(),
            tool: "tool".to_owned(),
            policies: vec!["p".to_owned()],
        }
    }

    /// Every change there is, about this deployment.
    pub(crate) fn ops(&self) -> Vec<Op> {
        let sealed = SealedSecret {
            key_id: "key".to_owned(),
            bytes: vec![1],
        };
        let namespace = self.namespace.to_owned();
        vec![
            // A request that is there already, so that whoever may make it makes nothing new.
            self.accept().into(),
            self.started().into(),
            RequestCancel {
                request_id: self.request,
                reason: "stop".to_owned(),
            }
            .into(),
            DecideApproval {
                approval_id: self.approval,
                decision: ApprovalDecision::Approve,
                by: "me".to_owned(),
                remember: None,
                note: None,
            }
            .into(),
            CreateSession {
                session_id: self.session.clone(),
                namespace: namespace.clone(),
                agent: self.agent.to_owned(),
                metadata: BTreeMap::new(),
            }
            .into(),
            DeleteSession {
                session_id: self.session.clone(),
            }
            .into(),
            self.publish().into(),
            self.apply().into(),
            ScaleDeployment {
                deployment_id: self.deployment,
                replicas: 9,
            }
            .into(),
            AutoscaleDeployment {
                deployment_id: self.deployment,
                generation: 1,
                from: 1,
                to: 2,
                reason: "x".to_owned(),
            }
            .into(),
            StartRollout {
                deployment_id: self.deployment,
                version_id: self.version,
                strategy: RolloutStrategy::Canary,
                weight: 10,
            }
            .into(),
            PromoteRollout {
                deployment_id: self.deployment,
                generation: 1,
            }
            .into(),
            CompleteRollout {
                deployment_id: self.deployment,
                generation: 1,
            }
            .into(),
            RollBack {
                deployment_id: self.deployment,
                generation: 1,
                reason: "x".to_owned(),
            }
            .into(),
            SetDeploymentState {
                deployment_id: self.deployment,
                generation: 1,
                state: DeploymentState::Failed,
                reason: "x".to_owned(),
            }
            .into(),
            DeleteDeployment {
                deployment_id: self.deployment,
            }
            .into(),
            self.put_replica().into(),
            RemoveReplica {
                replica_id: self.replica,
            }
            .into(),
            CachePut {
                key: self.process_key(),
                value: json!(1),
                expires_at: Timestamp::from_millis(i64::MAX),
            }
            .into(),
            CacheRemove {
                key: self.process_key(),
            }
            .into(),
            CacheSweep { limit: 10 }.into(),
            self.put_schedule().into(),
            PauseSchedule {
                schedule_id: self.schedule,
                paused: true,
                next_fire_at: None,
            }
            .into(),
            FireSchedule {
                schedule_id: self.schedule,
                advance: None,
                fires: Vec::new(),
            }
            .into(),
            SettleFire {
                schedule_id: self.schedule,
                planned_at: Timestamp::from_millis(1),
                manual: true,
                state: FireState::Failed,
                reason: "x".to_owned(),
            }
            .into(),
            DeleteSchedule {
                schedule_id: self.schedule,
            }
            .into(),
            RecordAudit {
                audit_id: AuditId::generate(),
                kind: "tool".to_owned(),
                resource: "x".to_owned(),
                verdict: AuditVerdict::Allowed,
                reason: "x".to_owned(),
                caller: "alice".to_owned(),
                request_id: Some(self.request),
            }
            .into(),
            self.memory_put().into(),
            MemoryForget {
                scope: self.memory(),
                key: "key".to_owned(),
            }
            .into(),
            PutEntity {
                scope: self.memory(),
                name: "a".to_owned(),
                kind: "k".to_owned(),
                properties: Default::default(),
            }
            .into(),
            PutRelation {
                scope: self.memory(),
                from: "a".to_owned(),
                kind: "k".to_owned(),
                to: "a".to_owned(),
                properties: Default::default(),
            }
            .into(),
            self.post_task().into(),
            self.claim().into(),
            self.complete().into(),
            self.publish_event().into(),
            self.message().into(),
            self.reserve().into(),
            SettleBudget {
                request_id: self.request,
                used: Settlement::Nothing,
                ends: false,
            }
            .into(),
            PutSecret {
                namespace: namespace.clone(),
                name: "TOKEN".to_owned(),
                sealed: sealed.clone(),
                by: "me".to_owned(),
            }
            .into(),
            RemoveSecret {
                namespace,
                name: "TOKEN".to_owned(),
            }
            .into(),
            PutPush {
                request_id: self.request,
                push_id: "p".to_owned(),
                sealed,
            }
            .into(),
            RemovePush {
                request_id: self.request,
                push_id: "p".to_owned(),
            }
            .into(),
            SettlePush {
                request_id: self.request,
                push_id: "p".to_owned(),
                created_at: Timestamp::from_millis(1),
                seq: 1,
                again_at: None,
            }
            .into(),
        ]
    }

    /// Every read there is, about this deployment.
    pub(crate) fn reads(&self) -> Vec<Read> {
        let (namespace, agent) = (Some(self.namespace.to_owned()), Some(self.agent.to_owned()));
        let page = PageRequest::default();
        let requests = RequestFilter {
            deployment_id: Some(self.deployment),
            ..RequestFilter::default()
        };
        let usage = UsageFilter {
            request_id: Some(self.request),
            ..UsageFilter::default()
        };
        vec![
            Read::Request { id: self.request },
            Read::Requests {
                filter: requests.clone(),
                page: page.clone(),
            },
            Read::RequestCount { filter: requests },
            Read::Journal {
                id: self.request,
                after: 0,
                limit: 10,
            },
            Read::ToolInvocations { id: self.request },
            Read::Session {
                id: self.session.clone(),
            },
            Read::Sessions {
                filter: SessionFilter {
                    namespace: namespace.clone(),
                    agent: agent.clone(),
                },
                page: page.clone(),
            },
            Read::Messages {
                id: self.session.clone(),
                page: page.clone(),
            },
            Read::RecentMessages {
                id: self.session.clone(),
                page: page.clone(),
                until: None,
            },
            Read::SpilledOutput {
                id: self.session.clone(),
                handle: "out-0".to_owned(),
            },
            Read::Deployment {
                id: self.deployment,
            },
            Read::Deployments {
                filter: DeploymentFilter {
                    namespace: namespace.clone(),
                    agent: agent.clone(),
                    ..DeploymentFilter::default()
                },
                page: page.clone(),
            },
            Read::Replica { id: self.replica },
            Read::Replicas {
                filter: ReplicaFilter {
                    deployment_id: Some(self.deployment),
                },
                page: page.clone(),
            },
            Read::Version { id: self.version },
            Read::Versions {
                filter: VersionFilter {
                    agent: agent.clone(),
                    digest: None,
                },
                page: page.clone(),
            },
            Read::Cached {
                key: self.process_key(),
                now: Timestamp::from_millis(1),
            },
            Read::Schedule { id: self.schedule },
            Read::Schedules {
                filter: ScheduleFilter {
                    created_by: Some(format!("{}/{}", self.namespace, self.agent)),
                    ..ScheduleFilter::default()
                },
                page: page.clone(),
            },
            Read::ScheduleFires {
                filter: FireFilter {
                    schedule_id: Some(self.schedule),
                    state: None,
                },
                page: page.clone(),
            },
            Read::Approval { id: self.approval },
            Read::Approvals {
                filter: ApprovalFilter {
                    request_id: Some(self.request),
                    ..ApprovalFilter::default()
                },
                page: page.clone(),
            },
            Read::Grant {
                query: self.grant(),
            },
            Read::Audit {
                filter: AuditFilter {
                    request_id: Some(self.request),
                    ..AuditFilter::default()
                },
                page: page.clone(),
            },
            Read::Usage {
                filter: usage.clone(),
                page: page.clone(),
            },
            Read::UsageTotals {
                filter: usage,
                by: UsageGroup::Agent,
            },
            Read::Budgets {
                filter: BudgetFilter::default(),
                page: page.clone(),
            },
            Read::Reservation { id: self.request },
            Read::Reservations { page: page.clone() },
            Read::Memory {
                scope: self.memory(),
                key: "key".to_owned(),
            },
            Read::Memories {
                scope: self.memory(),
                query: MemoryQuery::default(),
                page: page.clone(),
            },
            Read::Entity {
                scope: self.memory(),
                name: "a".to_owned(),
            },
            Read::Entities {
                scope: self.memory(),
                kind: None,
                page: page.clone(),
            },
            Read::FindEntities {
                scope: self.memory(),
                text: "a".to_owned(),
                kind: None,
                limit: 10,
            },
            Read::Relations {
                scope: self.memory(),
                filter: RelationFilter::default(),
                page: page.clone(),
            },
            Read::Task { id: self.task },
            Read::Tasks {
                filter: TaskFilter {
                    namespace: namespace.clone(),
                    ..TaskFilter::default()
                },
                page: page.clone(),
            },
            Read::Event { id: self.event },
            Read::Events {
                filter: EventFilter {
                    namespace: namespace.clone(),
                    topic: None,
                },
                page: page.clone(),
            },
            Read::Outbox {
                filter: OutboxFilter {
                    namespace: namespace.clone(),
                    channel: None,
                },
                page: page.clone(),
            },
            Read::Push {
                id: self.request,
                push_id: "p".to_owned(),
            },
            Read::Pushes {
                id: self.request,
                page: page.clone(),
            },
            Read::DuePushes {
                now: Timestamp::from_millis(1),
                limit: 10,
            },
            Read::NextPush {
                now: Timestamp::from_millis(1),
            },
            Read::HasOpenPushes {},
            Read::Secret {
                namespace: self.namespace.to_owned(),
                name: "TOKEN".to_owned(),
            },
            Read::Secrets {
                filter: SecretFilter { namespace },
                page,
            },
        ]
    }
}
