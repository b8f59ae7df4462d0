//! Which changes a replica may make.

use rune_store_runtime::{
    CachePut, Canvas, CheckpointPolicy, Command, EntryBody, Op, RequestId, SessionId, TaskHolder,
};

use super::{Checked, DeploymentScope, Rows, denied};

/// How the key of a canvas begins.
const CANVAS: &str = "canvas:";
/// How the key begins under which it is kept that a conversation has had a process.
const PROCESS: &str = "process:";

/// The request that a replica makes a change for, where the change names it. Only the replica that runs it may make it.
///
/// Memory, knowledge, tasks, the cache and schedules are the agent's, and their changes name no request: there a replica that was
/// given up can still do what it has begun, as its token lets it, until its row is gone.
pub(crate) const fn request_of(op: &Op) -> Option<RequestId> {
    match op {
        Op::AppendEntries(op) => Some(op.request_id),
        Op::RequestCancel(op) => Some(op.request_id),
        Op::ReserveBudget(op) => Some(op.request_id),
        Op::SettleBudget(op) => Some(op.request_id),
        Op::QueueMessage(op) => Some(op.request_id),
        _ => None,
    }
}

impl DeploymentScope {
    /// Whether a replica may make this change.
    pub(crate) async fn check_command(&self, rows: Rows<'_>, command: &Command) -> Checked {
        if !command.audit.is_empty() {
            return denied("a replica writes no audit rows but those of its verdicts");
        }
        match &command.op {
            Op::AppendEntries(op) => {
                self.request(rows, op.request_id).await?;
                op.entries.iter().try_for_each(|entry| self.entry(entry))
            }
            Op::RequestCancel(op) => self.own(rows, op.request_id).await,
            Op::SettleBudget(op) => self.own(rows, op.request_id).await,
            Op::ReserveBudget(op) => {
                let row = self.request(rows, op.request_id).await?;
                if op.stored == (row.checkpoint == CheckpointPolicy::Never) {
                    return denied(
                        "whether the request is stored is not as its `checkpoint_policy` says",
                    );
                }
                let stray = op
                    .claims
                    .iter()
                    .find(|claim| !row.budgets.contains(&claim.cap));
                stray.map_or(Ok(()), |claim| {
                    denied(format!(
                        "the request is not counted against the budget of {}, or not against this one",
                        claim.cap.scope
                    ))
                })
            }
            Op::MemoryPut(op) => self.memory(&op.scope),
            Op::MemoryForget(op) => self.memory(&op.scope),
            Op::PutEntity(op) => self.memory(&op.scope),
            Op::PutRelation(op) => self.memory(&op.scope),
            Op::PostTask(op) => {
                self.namespace(&op.namespace)?;
                if op.posted_by == self.agent {
                    return Ok(());
                }
                denied("a task is posted in the name of another agent")
            }
            Op::ClaimTask(op) => {
                self.namespace(&op.namespace)?;
                self.holder(rows, &op.holder).await
            }
            Op::CompleteTask(op) => {
                self.namespace(&op.namespace)?;
                self.holder(rows, &op.holder).await
            }
            Op::QueueMessage(op) => {
                if !self.is_agent(&op.namespace, &op.agent) {
                    return denied("a message is sent in the name of another agent");
                }
                self.own(rows, op.request_id).await
            }
            Op::CachePut(op) => self.cache_put(rows, op).await,
            Op::DeleteSchedule(op) => match rows.schedule(op.schedule_id).await? {
                Some(row) if row.spec.created_by != Some(self.maker()) => {
                    denied("the schedule was not made by this agent")
                }
                // One that is gone may be what this command has deleted, whose answer was lost.
                _ => Ok(()),
            },
            // The daemon does these, for whoever may ask it.
            Op::AcceptRequest(_) => denied("requests are accepted by the daemon"),
            Op::DecideApproval(_) => denied("approvals are decided by people"),
            Op::CreateSession(_) | Op::DeleteSession(_) => {
                denied("sessions are made and deleted by the daemon")
            }
            Op::PublishVersion(_) => denied("the registry is not a replica's"),
            Op::ApplyDeployment(_)
            | Op::ScaleDeployment(_)
            | Op::AutoscaleDeployment(_)
            | Op::StartRollout(_)
            | Op::PromoteRollout(_)
            | Op::CompleteRollout(_)
            | Op::RollBack(_)
            | Op::SetDeploymentState(_)
            | Op::DeleteDeployment(_) => denied("deployments are not a replica's"),
            Op::PutReplica(_) | Op::RemoveReplica(_) => {
                denied("replicas are observed by the daemon")
            }
            Op::CacheRemove(_) | Op::CacheSweep(_) => denied("a replica removes nothing cached"),
            Op::PutSchedule(_) | Op::PauseSchedule(_) | Op::FireSchedule(_) | Op::SettleFire(_) => {
                denied("schedules are made and fired by the daemon")
            }
            Op::RecordAudit(_) => {
                denied("a replica writes no audit rows but those of its verdicts")
            }
            Op::PublishEvent(_) => denied("events are published by the daemon"),
            Op::PutSecret(_) | Op::RemoveSecret(_) => denied("secrets are not a replica's"),
            Op::PutPush(_) | Op::RemovePush(_) | Op::SettlePush(_) => {
                denied("webhooks are not a replica's")
            }
        }
    }

    async fn own(&self, rows: Rows<'_>, id: RequestId) -> Checked {
        self.request(rows, id).await.map(drop)
    }

    /// Whether an entry says of this replica what it says of one.
    fn entry(&self, entry: &EntryBody) -> Checked {
        match entry {
            EntryBody::Started {
                replica_id,
                deployment_id,
                ..
            } if *replica_id != self.replica_id || *deployment_id != self.deployment_id => {
                denied("an entry says that another replica has started")
            }
            _ => Ok(()),
        }
    }

    /// Whether a task is held by a conversation of this agent.
    async fn holder(&self, rows: Rows<'_>, holder: &TaskHolder) -> Checked {
        if holder.agent != self.agent {
            return denied("a task is held in the name of another agent");
        }
        self.session(rows, &holder.session_id).await
    }

    /// Whether it is a new canvas, or a note of a process of this agent.
    async fn cache_put(&self, rows: Rows<'_>, op: &CachePut) -> Checked {
        if let Some(id) = op.key.strip_prefix(CANVAS) {
            let is_id = id.len() >= 32 && id.bytes().all(|byte| byte.is_ascii_alphanumeric());
            // The time is before any at which it can have expired.
            let known = rows.cached(&Canvas::key(id), Default::default()).await?;
            // The same again may be this very command, whose answer was lost.
            let is_new =
                known.is_none_or(|row| row.value == op.value && row.expires_at == op.expires_at);
            return match is_id && is_new {
                true => Ok(()),
                false => denied("the canvas is not a new one"),
            };
        }
        self.process_key(rows, &op.key).await
    }

    /// Whether a key is that of a process of this agent.
    pub(super) async fn process_key(&self, rows: Rows<'_>, key: &str) -> Checked {
        let session = key.strip_prefix(PROCESS).and_then(|rest| {
            let (session, _) = rest.rsplit_once(':')?;
            session.parse::<SessionId>().ok()
        });
        match session {
            Some(session) => self.session(rows, &session).await,
            None => denied("the key is none that a replica uses"),
        }
    }
}
