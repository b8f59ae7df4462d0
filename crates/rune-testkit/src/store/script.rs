//! Random command sequences from a seed. Ids and names come from small pools, so
//! that commands meet and collide.

use rune_store_runtime::limits::{MAX_CALL_TOKENS, MAX_JSON_DEPTH};
use rune_store_runtime::{
    AcceptRequest, Advance, AppendEntries, ApplyDeployment, ApprovalDecision, ApprovalId,
    ApprovalQuestion, AuditId, AuditVerdict, AutoscaleDeployment, Block, BudgetCap, BudgetClaim,
    BudgetScope, CachePut, CacheRemove, CacheSweep, CallPrice, CatchUp, CheckpointPolicy,
    ClaimTask, Command, CommandId, Compaction, CompleteRollout, CompleteTask, ComponentTurn, Cost,
    CreateSession, DecideApproval, DeleteDeployment, DeleteSchedule, DeleteSession, DeploymentId,
    DeploymentState, EntryBody, ErrorCode, EventFire, EventId, Failure, FirePlan, FireSchedule,
    FireState, Fork, ForkChanges, ForkOrigin, IdempotencyKey, Identity, ListedTool, MemoryForget,
    MemoryPut, MemoryScope, MessageId, ModelAsk, ModelCall, ModelReply, NewFire, Op, Overlap,
    ParentCall, PauseSchedule, PolicyVerdict, PostTask, ProjectRef, PromoteRollout, PromptParts,
    PublishEvent, PublishVersion, PutEntity, PutRelation, PutReplica, PutSchedule, QueueMessage,
    Quota, RecordAudit, Remember, RemoveReplica, Replaced, ReplicaId, ReplicaState, RequestCancel,
    RequestId, RequestSpan, RequestStatus, ReserveBudget, RollBack, RolloutStrategy, ScaleBounds,
    ScaleDeployment, ScheduleId, ScheduleKind, ScheduleSpec, SessionId, SetDeploymentState,
    SettleBudget, SettleFire, Settlement, SpilledOutput, StartRollout, StepOutcome, StepStatus,
    StopReason, StoredImage, TaskHolder, TaskId, TaskState, Timestamp, ToolIntent, ToolModelCall,
    ToolOutcome, Usage, VersionId,
};
use serde_json::{Value, json};

/// Ids of one kind in the pool.
const IDS: u64 = 5;

/// `count` commands; the same for the same seed.
#[must_use]
pub fn random_commands(seed: u64, count: usize) -> Vec<Command> {
    let mut random = Random(seed | 1);
    let mut commands: Vec<Command> = Vec::with_capacity(count);
    for number in 0..count {
        let retried = random.below(commands.len() as u64 * 12);
        let retry = usize::try_from(retried)
            .ok()
            .and_then(|at| commands.get(at));
        let command = match retry {
            Some(command) => command.clone(),
            None => Command {
                v: Command::VERSION,
                id: CommandId::from_bytes(bytes(number as u64, 0xff)),
                at: random.time(),
                op: random.op(),
                audit: random.audit(),
                fence: None,
                quota: random.quota(),
            },
        };
        commands.push(command);
    }
    commands
}

fn bytes(id: u64, kind: u8) -> [u8; 16] {
    let mut bytes = [kind; 16];
    bytes[8..].copy_from_slice(&id.to_be_bytes());
    bytes
}

/// xorshift64*: good enough, and the same everywhere.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let next = self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 16;
        if limit == 0 { u64::MAX } else { next % limit }
    }

    fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }

    fn pick<T: Clone>(&mut self, from: &[T], default: T) -> T {
        let at = self.below(from.len() as u64);
        let found = usize::try_from(at).ok().and_then(|at| from.get(at));
        found.cloned().unwrap_or(default)
    }

    fn id(&mut self, kind: u8) -> [u8; 16] {
        bytes(self.below(IDS), kind)
    }

    fn time(&mut self) -> Timestamp {
        if self.one_in(60) {
            return self.pick(&[Timestamp::from_millis(-1)], Timestamp::default());
        }
        // Jumps of hours now and then, so that windows pass.
        let hours = if self.one_in(4) { self.below(40) } else { 0 };
        let millis = 1_795_000_000_000 + hours * 3_600_000 + self.below(5000);
        Timestamp::from_millis(i64::try_from(millis).unwrap_or(0))
    }

    fn word(&mut self) -> String {
        let words = ["a", "b", "echo", "x y", "Größe", "nul\0l", "'\"\\", ""];
        self.pick(&words, "a").to_owned()
    }

    fn value(&mut self) -> Value {
        match self.below(7) {
            0 => Value::Null,
            1 => json!(self.below(1000)),
            2 => json!({"k": self.word(), "list": [1, true, null]}),
            3 if self.one_in(4) => {
                (0..MAX_JSON_DEPTH + 2).fold(Value::Null, |inner, _| json!([inner]))
            }
            _ => json!(self.word()),
        }
    }

    fn session(&mut self) -> SessionId {
        let id = format!("session-{}", self.below(IDS));
        id.parse().unwrap_or_else(|_| SessionId::generate())
    }

    fn request(&mut self) -> RequestId {
        RequestId::from_bytes(self.id(1))
    }

    fn agent(&mut self) -> String {
        self.pick(&["echo", "echo", "echo", "other"], "echo")
            .to_owned()
    }

    fn deployment(&mut self) -> DeploymentId {
        DeploymentId::from_bytes(self.id(2))
    }

    fn version(&mut self) -> VersionId {
        VersionId::from_bytes(self.id(3))
    }

    fn failure(&mut self) -> Option<Failure> {
        self.one_in(2)
            .then(|| Failure::new(ErrorCode::Internal, self.word()))
    }

    fn call_id(&mut self) -> String {
        format!("call-{}", self.below(4))
    }

    fn op(&mut self) -> Op {
        match self.below(49) {
            0..=5 => self.accept(),
            6..=14 => self.append(),
            15 => RequestCancel {
                request_id: self.request(),
                reason: self.word(),
            }
            .into(),
            16 => CreateSession {
                session_id: self.session(),
                namespace: "dev".to_owned(),
                agent: self.agent(),
                metadata: [(self.word(), self.value())].into(),
            }
            .into(),
            17 => DeleteSession {
                session_id: self.session(),
            }
            .into(),
            18 | 19 => self.control_plane(),
            30..=32 => self.decide(),
            33..=37 => self.budget(),
            38..=41 => self.knowledge(),
            42..=45 => self.task(),
            46 | 47 => self.event(),
            48 => self.message(),
            20..=22 => self.replica(),
            23 | 24 => self.cache(),
            25 | 26 => self.schedule(),
            27 => self.audit_row().into(),
            _ => self.memory(),
        }
    }

    fn audit_row(&mut self) -> RecordAudit {
        RecordAudit {
            audit_id: AuditId::from_bytes(self.id(4)),
            kind: self.word(),
            resource: self.word(),
            verdict: self.pick(&AuditVerdict::ALL, AuditVerdict::Asked),
            reason: self.word(),
            caller: self.word(),
            request_id: self.one_in(2).then(|| self.request()),
        }
    }

    /// Mostly none; of the others one that a few deployments exceed.
    fn quota(&mut self) -> Option<Quota> {
        let mut most = || self.one_in(2).then(|| self.below(5) as u32);
        let quota = Quota {
            deployments: most(),
            replicas: most(),
        };
        self.one_in(3).then_some(quota)
    }

    fn audit(&mut self) -> Vec<RecordAudit> {
        let count = self.below(10).saturating_sub(7);
        (0..count).map(|_| self.audit_row()).collect()
    }

    fn accept(&mut self) -> Op {
        let idempotency = self.one_in(3).then(|| IdempotencyKey {
            scope: "caller".to_owned(),
            key: self.word(),
            fingerprint: self.pick(&["f", "f", "g"], "f").to_owned(),
        });
        AcceptRequest {
            request_id: self.request(),
            session_id: self.session(),
            namespace: "dev".to_owned(),
            agent: self.agent(),
            deployment_id: self.deployment(),
            version_id: self.version(),
            input: self.value(),
            metadata: [(self.word(), self.value())].into(),
            caller: self.word(),
            checkpoint: CheckpointPolicy::EachStep,
            idempotency,
            follows: self.one_in(8).then(|| self.request()),
            parent: self.one_in(4).then(|| ParentCall {
                request_id: self.request(),
                call_id: self.call_id(),
                root_id: self.request(),
                depth: 1,
            }),
            fork: self.one_in(4).then(|| Box::new(self.fork())),
            budgets: (0..self.below(3)).map(|_| self.budget_cap()).collect(),
        }
        .into()
    }

    fn budget_cap(&mut self) -> BudgetCap {
        let scope = match self.below(4) {
            0 => BudgetScope::Request(self.request()),
            1 => BudgetScope::Session(self.session()),
            2 => BudgetScope::Deployment(self.agent()),
            _ => BudgetScope::Caller(self.word()),
        };
        BudgetCap {
            scope,
            tokens: self.one_in(2).then(|| self.below(4000)),
            micro_usd: self.one_in(2).then(|| self.below(4000)),
        }
    }

    fn budget(&mut self) -> Op {
        let request_id = self.request();
        if self.one_in(4) {
            let used = match self.below(3) {
                0 => Settlement::Nothing,
                1 => Settlement::Unknown,
                _ => Settlement::Used {
                    tokens: self.below(100),
                    micro_usd: self.below(100),
                },
            };
            let ends = self.one_in(3);
            return SettleBudget {
                request_id,
                used,
                ends,
            }
            .into();
        }
        let claims = (0..=self.below(2)).map(|_| BudgetClaim {
            cap: self.budget_cap(),
            prompt_tokens: self.below(300),
        });
        let claims = claims.collect();
        ReserveBudget {
            request_id,
            stored: !self.one_in(4),
            claims,
            prompt_tokens: self.below(300),
            output_tokens: 200 + self.below(400),
            enough_output_tokens: 200,
            min_output_tokens: 16,
            price: (!self.one_in(6)).then(|| CallPrice {
                prompt: self.below(3_000_000),
                output: self.below(3_000_000),
            }),
        }
        .into()
    }

    fn fork(&mut self) -> Fork {
        Fork {
            origin: ForkOrigin {
                request_id: self.request(),
                seq: self.below(5),
                identity: Identity {
                    request_id: self.request(),
                    session_id: self.session(),
                },
                usage: Usage::default(),
                cost: Cost::default(),
                model_calls: 0,
                tool_calls: 0,
                changes: ForkChanges::default(),
            },
            shown: 3,
            shown_until: self.time(),
        }
    }

    fn append(&mut self) -> Op {
        let count = self.below(4);
        AppendEntries {
            request_id: self.request(),
            entries: (0..count).map(|_| self.entry()).collect(),
        }
        .into()
    }

    fn entry(&mut self) -> EntryBody {
        match self.below(27) {
            0 => EntryBody::Accepted {
                input: self.value(),
                forked_from: None,
            },
            1 => EntryBody::CancelRequested {
                reason: self.word(),
            },
            2 => EntryBody::Notice {
                code: self.word(),
                message: self.word(),
            },
            3 => EntryBody::ModelFailed {
                step: 1,
                provider: self.word(),
                model: self.word(),
                failure: Failure::new(ErrorCode::Timeout, self.word()),
                next_provider: None,
            },
            4 | 5 => EntryBody::Started {
                replica_id: ReplicaId::from_bytes(self.id(5)),
                deployment_id: self.deployment(),
                attempt: 1,
            },
            6..=8 => EntryBody::ModelReply(self.reply()),
            9 => self.compacted(),
            10 | 11 => EntryBody::ToolIntent(ToolIntent {
                step: 1,
                call_id: self.call_id(),
                tool: self.word(),
                input: self.value(),
                idempotent: self.one_in(2),
                idempotency_key: self.word(),
            }),
            12..=14 => EntryBody::ToolResult(ToolOutcome {
                step: 1,
                call_id: self.call_id(),
                tool: self.word(),
                output: None,
                failure: self.failure(),
                content: self.word(),
                spilled: self.spilled(),
                images: self.images(),
                duration_ms: u64::MAX,
                attempts: 1,
            }),
            15 => EntryBody::PolicyVerdict(PolicyVerdict {
                audit_id: AuditId::from_bytes(self.id(4)),
                step: 1,
                call_id: None,
                action: self.word(),
                resource: self.word(),
                attributes: self.value(),
                verdict: self.pick(&AuditVerdict::ALL, AuditVerdict::Asked),
                by_policy: None,
                reason: self.word(),
                policies: self.policies(),
            }),
            16..=18 => EntryBody::ApprovalAsked(ApprovalQuestion {
                approval_id: self.approval(),
                step: 1,
                call_id: self.call_id(),
                tool: self.word(),
                input: self.value(),
                reason: self.word(),
                policies: self.policies(),
                deadline: self.one_in(2).then(|| self.time()),
                default: ApprovalDecision::Deny,
            }),
            19 => EntryBody::AgentCalled {
                call_id: self.call_id(),
                agent: self.word(),
                request_id: self.one_in(2).then(|| self.request()),
                depth: 1,
            },
            20 if self.one_in(2) => EntryBody::RemoteTask {
                call_id: self.call_id(),
                agent: self.word(),
                task_id: self.word(),
                context_id: self.word(),
            },
            20 => EntryBody::StepStarted {
                step: self.word(),
                attempt: 1,
                request_id: self.request(),
            },
            21 => EntryBody::StepFinished(StepOutcome {
                step: self.word(),
                status: StepStatus::Failed,
                output: self.one_in(2).then(|| json!(self.word())),
                failure: self.failure(),
                duration_ms: 1,
            }),
            22 => EntryBody::ComponentTurn(ComponentTurn {
                turn: 1,
                blocks: self.blocks(),
            }),
            23 => EntryBody::ModelAsked(Box::new(ModelAsk {
                step: 1,
                request: self.word(),
                failure: self.failure(),
                reply: self.one_in(2).then(|| self.reply()),
            })),
            24 => EntryBody::ToolsListed {
                tools: vec![ListedTool {
                    name: self.word(),
                    description: self.word(),
                    input_schema: self.value(),
                }],
            },
            25 => self.model_called(),
            _ => EntryBody::Finished {
                status: self.pick(&RequestStatus::ALL, RequestStatus::Completed),
                output: self.one_in(2).then(|| json!(self.word())),
                failure: self.failure(),
                usage: Usage::default(),
                cost: Cost::default(),
            },
        }
    }

    fn approval(&mut self) -> ApprovalId {
        ApprovalId::from_bytes(self.id(6))
    }

    fn policies(&mut self) -> Vec<String> {
        (0..self.below(2)).map(|_| self.word()).collect()
    }

    fn decide(&mut self) -> Op {
        DecideApproval {
            approval_id: self.approval(),
            decision: self.pick(&ApprovalDecision::ALL, ApprovalDecision::Deny),
            by: self.word(),
            remember: self
                .one_in(2)
                .then(|| self.pick(&Remember::ALL, Remember::Agent)),
            note: self.one_in(2).then(|| self.word()),
        }
        .into()
    }

    fn compacted(&mut self) -> EntryBody {
        let id = RequestId::from_bytes(self.id(4));
        EntryBody::Compacted(Box::new(Compaction {
            step: 1,
            replaces: Replaced {
                requests: self.one_in(2).then_some(RequestSpan {
                    first: id,
                    last: id,
                    count: 1,
                }),
                steps: 0,
            },
            summary: self.word(),
            effects: vec![self.word()],
            more_effects: 0,
            tokens_before: 2,
            tokens_after: 1,
            call: self.one_in(2).then(|| ModelCall {
                provider: self.word(),
                model: self.word(),
                usage: Usage {
                    input_tokens: 3,
                    ..Usage::default()
                },
                cost_micro_usd: Some(1),
                duration_ms: 1,
            }),
        }))
    }

    fn model_called(&mut self) -> EntryBody {
        let output_tokens = self.below(50);
        EntryBody::ModelCalled(Box::new(ToolModelCall {
            step: 1,
            call_id: self.call_id(),
            call: ModelCall {
                provider: "offline".to_owned(),
                model: self.word(),
                usage: Usage {
                    output_tokens,
                    ..Usage::default()
                },
                cost_micro_usd: (!output_tokens.is_multiple_of(3)).then_some(output_tokens),
                duration_ms: 1,
            },
            counted: !self.one_in(3),
        }))
    }

    fn images(&mut self) -> Vec<StoredImage> {
        let image = || StoredImage {
            media_type: "image/png".to_owned(),
            digest: format!("sha256:{}", "1".repeat(64)),
            bytes: 1,
        };
        self.one_in(4).then(image).into_iter().collect()
    }

    fn spilled(&mut self) -> Option<SpilledOutput> {
        let handle = self.word();
        self.one_in(3).then(|| SpilledOutput {
            digest: format!("sha256:{handle}"),
            bytes: handle.len() as u64,
            handle,
        })
    }

    fn reply(&mut self) -> ModelReply {
        let tokens = if self.one_in(20) {
            MAX_CALL_TOKENS + 1
        } else {
            self.below(100)
        };
        ModelReply {
            step: 1,
            provider: self.word(),
            model: self.word(),
            blocks: self.blocks(),
            stop: StopReason::ToolUse,
            usage: Usage {
                input_tokens: tokens,
                ..Usage::default()
            },
            prompt: PromptParts::default(),
            cost_micro_usd: Some(tokens / 2).filter(|cost| cost % 3 > 0),
            duration_ms: 1,
        }
    }

    fn blocks(&mut self) -> Vec<Block> {
        let call = Block::ToolCall {
            id: self.call_id(),
            name: self.word(),
            input: self.value(),
            native: None,
        };
        vec![Block::text(self.word()), call]
    }

    fn control_plane(&mut self) -> Op {
        match self.below(12) {
            0..=2 => PublishVersion {
                version_id: self.version(),
                agent: self.agent(),
                version: "1.0.0".to_owned(),
                description: self.word(),
                digest: self.word(),
                size: if self.one_in(9) { u64::MAX } else { 1 },
                image: None,
                scaling: self.pick(
                    &[
                        ScaleBounds { min: 0, max: 3 },
                        ScaleBounds { min: 2, max: 4 },
                    ],
                    ScaleBounds::default(),
                ),
                signature: None,
            }
            .into(),
            3 => ScaleDeployment {
                deployment_id: self.deployment(),
                replicas: self.pick(&[0, 1, 2], 5),
            }
            .into(),
            10 | 11 => AutoscaleDeployment {
                deployment_id: self.deployment(),
                generation: self.pick(&[1, 2, 3], 1),
                from: self.pick(&[0, 1, 2], 1),
                to: self.pick(&[0, 1, 2, 3], 9),
                reason: self.word(),
            }
            .into(),
            4 => StartRollout {
                deployment_id: self.deployment(),
                version_id: self.version(),
                strategy: self.pick(
                    &[RolloutStrategy::Canary, RolloutStrategy::Rolling],
                    RolloutStrategy::Canary,
                ),
                weight: self.pick(&[0, 20, 100, 101], 20),
            }
            .into(),
            5 => PromoteRollout {
                deployment_id: self.deployment(),
                generation: self.pick(&[1, 2, 3, 4], 2),
            }
            .into(),
            6 => CompleteRollout {
                deployment_id: self.deployment(),
                generation: self.pick(&[1, 2, 3, 4], 2),
            }
            .into(),
            7 => RollBack {
                deployment_id: self.deployment(),
                generation: self.pick(&[1, 2, 3, 4], 2),
                reason: self.word(),
            }
            .into(),
            8 => DeleteDeployment {
                deployment_id: self.deployment(),
            }
            .into(),
            _ => SetDeploymentState {
                deployment_id: self.deployment(),
                generation: self.pick(&[0, 1, 2, u64::MAX], 1),
                state: self.pick(&DeploymentState::ALL, DeploymentState::Ready),
                reason: self.word(),
            }
            .into(),
        }
    }

    fn replica(&mut self) -> Op {
        match self.below(4) {
            0 => RemoveReplica {
                replica_id: ReplicaId::from_bytes(self.id(5)),
            }
            .into(),
            1 => PutReplica {
                replica_id: ReplicaId::from_bytes(self.id(5)),
                deployment_id: self.deployment(),
                version_id: self.version(),
                state: self.pick(&ReplicaState::ALL, ReplicaState::Ready),
                reason: self.word(),
                backend: "wasm".to_owned(),
                endpoint: None,
            }
            .into(),
            _ => ApplyDeployment {
                deployment_id: self.deployment(),
                namespace: "dev".to_owned(),
                agent: self.agent(),
                alias: self.pick(&["stable", "canary"], "stable").to_owned(),
                version_id: self.version(),
                replicas: self.pick(&[None, Some(0), Some(2)], Some(1)),
                env: [("KEY".to_owned(), self.word())].into(),
                project: (self.below(3) == 0).then(|| ProjectRef {
                    name: self.word(),
                    agent: self.agent(),
                }),
            }
            .into(),
        }
    }

    fn cache(&mut self) -> Op {
        match self.below(5) {
            0 => CacheRemove { key: self.word() }.into(),
            1 => CacheSweep { limit: 2 }.into(),
            _ => CachePut {
                key: self.word(),
                value: self.value(),
                expires_at: self.time(),
            }
            .into(),
        }
    }

    fn schedule(&mut self) -> Op {
        let schedule_id = ScheduleId::from_bytes(self.id(6));
        let soon = |random: &mut Self| Timestamp::from_millis(random.below(3).cast_signed());
        match self.below(9) {
            0 => DeleteSchedule { schedule_id }.into(),
            1 => PauseSchedule {
                schedule_id,
                paused: self.one_in(2),
                next_fire_at: Some(soon(self)),
            }
            .into(),
            2..=4 => FireSchedule {
                schedule_id,
                advance: self.one_in(2).then(|| Advance {
                    from: soon(self),
                    to: self.one_in(2).then(|| soon(self)),
                }),
                fires: (0..self.below(3)).map(|_| self.fire()).collect(),
            }
            .into(),
            5 => SettleFire {
                schedule_id,
                planned_at: soon(self),
                manual: self.one_in(2),
                state: self.pick(&FireState::ALL, FireState::Fired),
                reason: self.word(),
            }
            .into(),
            _ => PutSchedule {
                schedule_id,
                spec: ScheduleSpec {
                    namespace: "dev".to_owned(),
                    name: self.word(),
                    agent: self.agent(),
                    alias: "stable".to_owned(),
                    input: self.value(),
                    session_id: self.one_in(2).then(|| self.session()),
                    kind: if self.one_in(2) {
                        ScheduleKind::Event { topic: self.word() }
                    } else {
                        ScheduleKind::Interval {
                            every_ms: 1000,
                            anchor: self.time(),
                        }
                    },
                    catch_up: self.pick(&CatchUp::ALL, CatchUp::One),
                    overlap: self.pick(&Overlap::ALL, Overlap::Skip),
                    jitter_ms: self.below(9),
                    created_by: self.one_in(2).then(|| self.agent()),
                },
                paused: self.one_in(2),
                next_fire_at: Some(soon(self)),
            }
            .into(),
        }
    }

    fn fire(&mut self) -> NewFire {
        let plan = if self.one_in(3) {
            FirePlan::Skip {
                reason: self.word(),
            }
        } else {
            FirePlan::Invoke {
                request_id: self.request(),
            }
        };
        NewFire {
            planned_at: Timestamp::from_millis(self.below(3).cast_signed()),
            plan,
        }
    }

    fn knowledge(&mut self) -> Op {
        let scope = MemoryScope {
            namespace: "dev".to_owned(),
            agent: self.agent(),
        };
        let properties = [(self.word(), self.value())].into_iter().collect();
        if self.one_in(2) {
            return PutRelation {
                scope,
                from: self.word(),
                kind: self.word(),
                to: self.word(),
                properties,
            }
            .into();
        }
        PutEntity {
            scope,
            name: self.word(),
            kind: self.word(),
            properties,
        }
        .into()
    }

    fn task(&mut self) -> Op {
        let task_id = TaskId::from_bytes(self.id(7));
        let holder = TaskHolder {
            agent: self.agent(),
            session_id: self.session(),
        };
        match self.below(6) {
            0 | 1 => CompleteTask {
                task_id,
                namespace: "dev".to_owned(),
                holder,
                state: self.pick(&TaskState::ALL, TaskState::Done),
                result: self.value(),
            }
            .into(),
            2 | 3 => ClaimTask {
                namespace: "dev".to_owned(),
                queue: self.agent(),
                task_id: self.one_in(3).then_some(task_id),
                holder,
                lease_ms: self.pick(&[0, 1000, 3_600_000, u64::MAX], 1000),
            }
            .into(),
            _ => PostTask {
                task_id,
                namespace: "dev".to_owned(),
                queue: self.pick(&["echo", "echo", "other", ""], "echo").to_owned(),
                title: self.word(),
                payload: self.value(),
                priority: i32::try_from(self.below(3)).unwrap_or(0) - 1,
                max_attempts: u32::try_from(self.below(3)).unwrap_or(0),
                posted_by: self.agent(),
            }
            .into(),
        }
    }

    fn event(&mut self) -> Op {
        let fires = (0..self.below(3)).map(|_| EventFire {
            schedule_id: ScheduleId::from_bytes(self.id(6)),
            request_id: self.request(),
        });
        let fires = fires.collect();
        PublishEvent {
            event_id: EventId::from_bytes(self.id(8)),
            namespace: "dev".to_owned(),
            topic: self.word(),
            payload: self.value(),
            publisher: self.agent(),
            request_id: self.one_in(2).then(|| self.request()),
            depth: self.pick(&[0, 1, 2, u32::MAX], 0),
            fires,
        }
        .into()
    }

    fn message(&mut self) -> Op {
        QueueMessage {
            message_id: MessageId::from_bytes(self.id(9)),
            namespace: "dev".to_owned(),
            agent: self.agent(),
            channel: self.word(),
            recipient: self.word(),
            text: self.word(),
            request_id: self.request(),
        }
        .into()
    }

    fn memory(&mut self) -> Op {
        let scope = MemoryScope {
            namespace: "dev".to_owned(),
            agent: self.agent(),
        };
        if self.one_in(4) {
            return MemoryForget {
                scope,
                key: self.word(),
            }
            .into();
        }
        let (key, value) = (self.word(), self.value());
        MemoryPut {
            scope,
            key,
            value,
            tags: vec![self.word()],
        }
        .into()
    }
}
