//! Applying commands, all but those of the journal.

use std::collections::BTreeMap;

use rune_store_runtime::limits::{
    MAX_COMMAND_MILLIS, MAX_ENTRY_BYTES, MAX_JSON_DEPTH, MAX_MEMORY_KEY_BYTES,
    MAX_MEMORY_VALUE_BYTES, MAX_SCHEDULE_FIRES, RECEIPT_WINDOW, json_depth,
};
use rune_store_runtime::{
    ApplyDeployment, AuditRow, BudgetScope, CacheRow, CacheSweep, Command, DeleteSession,
    DeploymentId, DeploymentRow, DeploymentState, EntryBody, FirePlan, FireSchedule, FireState,
    MemoryPut, MemoryRow, Op, PauseSchedule, PublishVersion, PutReplica, PutSchedule, QuotaUse,
    RecordAudit, Reject, ReplicaRow, ReplicaState, Reply, RequestId, ScheduleFireRow, ScheduleId,
    ScheduleRow, SessionId, SessionRow, SetDeploymentState, SettleFire, StartRollout, VersionId,
    VersionRow,
};
use serde::Serialize;
use serde_json::Value;

use super::{Request, Schedule, Session, State};

/// Rejects a value whose JSON is too long or too deep.
pub(super) fn check_json<T: Serialize>(value: &T, limit: usize) -> Result<(), Reject> {
    let text = serde_json::to_string(value).map_err(|error| Reject::invalid(error.to_string()))?;
    if text.len() > limit || json_depth(&text) > MAX_JSON_DEPTH {
        return Err(Reject::invalid("the value is too large"));
    }
    Ok(())
}

impl State {
    pub(super) fn apply(&mut self, command: &Command) -> Result<Reply, Reject> {
        if !command.is_known() {
            return Err(Reject::invalid("the command's version is not known"));
        }
        command.check_fence(None)?;
        if !(0..=MAX_COMMAND_MILLIS).contains(&command.at.as_millis()) {
            return Err(Reject::invalid("the command's time is out of range"));
        }
        let reply = self.apply_once(command)?;
        for row in &command.audit {
            if !self.is_recorded(row) {
                self.audit.push(audit_row(command, row));
            }
        }
        Ok(reply)
    }

    fn apply_once(&mut self, command: &Command) -> Result<Reply, Reject> {
        match &command.op {
            Op::AcceptRequest(op) => self.accept(command, op).map(Reply::Accepted),
            Op::AppendEntries(op) => self.append(command, op).map(Reply::Appended),
            op => {
                let (id, now) = (command.id, command.at);
                if let Some(reply) = self.receipts.get(&id, now, RECEIPT_WINDOW) {
                    return Ok(reply.clone());
                }
                let reply = self.change_within(command, op)?;
                self.receipts.put(id, now, RECEIPT_WINDOW, reply.clone());
                Ok(reply)
            }
        }
    }

    /// A change that keeps within the quota of the command; another one is taken back.
    fn change_within(&mut self, command: &Command, op: &Op) -> Result<Reply, Reject> {
        let Some(quota) = command.quota else {
            return self.change(command, op);
        };
        let before = self.deployments.clone();
        let reply = self.change(command, op)?;
        let Reply::Deployment(after) = &reply else {
            return Ok(reply);
        };
        let is_other =
            |row: &&DeploymentRow| row.namespace == after.namespace && row.id != after.id;
        let others = QuotaUse::of(self.deployments.values().filter(is_other));
        let was = before.values().find(|row| row.id == after.id);
        if let Err(reject) = quota.check(others, was, after) {
            self.deployments = before;
            return Err(reject);
        }
        Ok(reply)
    }

    fn change(&mut self, command: &Command, op: &Op) -> Result<Reply, Reject> {
        let unit = |()| Reply::Unit(());
        match op {
            Op::AcceptRequest(op) => self.accept(command, op).map(Reply::Accepted),
            Op::AppendEntries(op) => self.append(command, op).map(Reply::Appended),
            Op::RequestCancel(op) => self.cancel(command, op).map(Reply::Appended),
            Op::DecideApproval(op) => self.decide(command, op).map(Reply::Approval),
            Op::CreateSession(op) => {
                check_json(&op.metadata, MAX_ENTRY_BYTES)?;
                self.session(
                    command,
                    &op.session_id,
                    &op.namespace,
                    &op.agent,
                    &op.metadata,
                )
                .map(unit)
            }
            Op::DeleteSession(op) => self.delete_session(op).map(unit),
            Op::PublishVersion(op) => self.publish(command, op).map(Reply::Version),
            Op::ApplyDeployment(op) => self.deploy(command, op),
            Op::ScaleDeployment(op) => {
                let row = self.deployment(op.deployment_id)?;
                row.scale(op.replicas, command.at);
                self.within_bounds(command, op.deployment_id)
            }
            Op::AutoscaleDeployment(op) => {
                check_json(&op.reason, MAX_ENTRY_BYTES)?;
                let row = self.deployment(op.deployment_id)?;
                row.autoscale(op, command.at)?;
                self.within_bounds(command, op.deployment_id)
            }
            Op::StartRollout(op) => self.start_rollout(command, op),
            Op::PromoteRollout(op) => {
                let row = self.deployment(op.deployment_id)?;
                row.promote(op, command.at)?;
                self.within_bounds(command, op.deployment_id)
            }
            Op::CompleteRollout(op) => {
                let row = self.deployment(op.deployment_id)?;
                row.complete_rollout(op, command.at)?;
                self.within_bounds(command, op.deployment_id)
            }
            Op::RollBack(op) => {
                check_json(&op.reason, MAX_ENTRY_BYTES)?;
                let row = self.deployment(op.deployment_id)?;
                row.roll_back(op, command.at)?;
                self.within_bounds(command, op.deployment_id)
            }
            Op::SetDeploymentState(op) => self.observe(command, op).map(unit),
            Op::DeleteDeployment(op) => {
                self.deployment(op.deployment_id)?;
                self.deployments.retain(|_, row| row.id != op.deployment_id);
                let rows = self.replicas.iter_mut().map(|(_, row)| row);
                for row in rows.filter(|row| row.deployment_id == op.deployment_id) {
                    row.state = ReplicaState::Draining;
                    row.reason.clear();
                    row.updated_at = command.at;
                }
                Ok(unit(()))
            }
            Op::PutReplica(op) => self.put_replica(command, op).map(unit),
            Op::RemoveReplica(op) => {
                self.replicas.retain(|(_, row)| row.id != op.replica_id);
                Ok(unit(()))
            }
            Op::CachePut(op) => {
                check_json(&op.value, MAX_ENTRY_BYTES)?;
                let row = CacheRow {
                    key: op.key.clone(),
                    value: op.value.clone(),
                    expires_at: op.expires_at,
                };
                self.created += 1;
                let created = self.cache.get(&op.key).map_or(self.created, |(n, _)| *n);
                self.cache.insert(op.key.clone(), (created, row));
                Ok(unit(()))
            }
            Op::CacheRemove(op) => {
                self.cache.remove(&op.key);
                Ok(unit(()))
            }
            Op::CacheSweep(op) => Ok(Reply::Count(self.sweep(command, op))),
            Op::PutSchedule(op) => self.put_schedule(command, op).map(unit),
            Op::PauseSchedule(op) => self.pause_schedule(command, op).map(unit),
            Op::FireSchedule(op) => self.fire(command, op).map(Reply::First),
            Op::SettleFire(op) => self.settle(op).map(Reply::First),
            Op::DeleteSchedule(op) => match self.schedules.remove(&op.schedule_id) {
                Some(_) => Ok(unit(())),
                None => Err(Reject::not_found("schedule", &op.schedule_id)),
            },
            Op::RecordAudit(op) => self.record(command, op).map(unit),
            Op::MemoryPut(op) => self.remember(command, op).map(unit),
            Op::MemoryForget(op) => {
                self.memories.remove(&(op.scope.clone(), op.key.clone()));
                Ok(unit(()))
            }
            Op::PutEntity(op) => self.put_entity(command, op).map(Reply::First),
            Op::PutRelation(op) => self.put_relation(command, op).map(Reply::First),
            Op::PostTask(op) => self.post_task(command, op).map(unit),
            Op::ClaimTask(op) => self.claim_task(command, op).map(Reply::Task),
            Op::CompleteTask(op) => self.complete_task(command, op).map(unit),
            Op::PublishEvent(op) => self.publish_event(command, op).map(Reply::Count),
            Op::QueueMessage(op) => self.queue_message(command, op).map(unit),
            Op::PutSecret(op) => self.put_secret(command, op).map(unit),
            Op::RemoveSecret(op) => self.remove_secret(op).map(unit),
            Op::PutPush(op) => self.put_push(command, op).map(unit),
            Op::RemovePush(op) => {
                self.remove_push(op);
                Ok(unit(()))
            }
            Op::SettlePush(op) => {
                self.settle_push(op);
                Ok(unit(()))
            }
            Op::ReserveBudget(op) => self.reserve(command, op).map(Reply::Count),
            Op::SettleBudget(op) => Ok(Reply::First(self.settle_budget(command, op))),
        }
    }

    /// Finds or creates a session.
    pub(super) fn session(
        &mut self,
        command: &Command,
        id: &SessionId,
        namespace: &str,
        agent: &str,
        metadata: &BTreeMap<String, Value>,
    ) -> Result<(), Reject> {
        if let Some(session) = self.sessions.get(id) {
            let same = session.row.namespace == namespace && session.row.agent == agent;
            return if same {
                Ok(())
            } else {
                Err(Reject::conflict("the session belongs to another agent"))
            };
        }
        self.created += 1;
        let session = Session {
            created: self.created,
            row: SessionRow {
                id: id.clone(),
                namespace: namespace.to_owned(),
                agent: agent.to_owned(),
                metadata: metadata.clone(),
                messages: 0,
                requests: 0,
                created_at: command.at,
                updated_at: command.at,
            },
            messages: Vec::new(),
            spilled: Vec::new(),
        };
        self.sessions.insert(id.clone(), session);
        Ok(())
    }

    fn delete_session(&mut self, op: &DeleteSession) -> Result<(), Reject> {
        if !self.sessions.contains_key(&op.session_id) {
            return Err(Reject::not_found("session", &op.session_id));
        }
        let of = |row: &rune_store_runtime::RequestRow| row.session_id == op.session_id;
        if self
            .requests
            .values()
            .any(|r| of(&r.row) && !r.row.status.is_terminal())
        {
            return Err(Reject::conflict(
                "the session has a request that has not ended",
            ));
        }
        let forked = |id: &RequestId| self.requests.get(id).is_some_and(|r| of(&r.row));
        if self
            .requests
            .values()
            .filter_map(origin)
            .any(|id| forked(&id))
        {
            return Err(Reject::conflict("the session was forked"));
        }
        if !self.forget_budget(&BudgetScope::Session(op.session_id.clone())) {
            return Err(Reject::conflict("the session's budget is in use"));
        }
        self.requests.retain(|_, request| !of(&request.row));
        let requests = &self.requests;
        self.pushes
            .retain(|(_, row)| requests.contains_key(&row.request_id));
        self.approvals.retain(|row| row.session_id != op.session_id);
        let session = Some(&op.session_id);
        self.grants.retain(|row| row.session_id.as_ref() != session);
        self.sessions.remove(&op.session_id);
        Ok(())
    }

    fn publish(&mut self, command: &Command, op: &PublishVersion) -> Result<VersionRow, Reject> {
        let same = |row: &&VersionRow| row.agent == op.agent && row.digest == op.digest;
        if let Some(at) = self.versions.iter().position(|row| same(&row)) {
            let row = &mut self.versions[at];
            if op.signature.is_some() {
                row.signature.clone_from(&op.signature);
            }
            return Ok(row.clone());
        }
        if self.has_version(op.version_id) {
            return Err(Reject::conflict("the version exists already"));
        }
        if i64::try_from(op.size).is_err() {
            return Err(Reject::invalid("the package is too large"));
        }
        let row = VersionRow {
            id: op.version_id,
            agent: op.agent.clone(),
            version: op.version.clone(),
            description: op.description.clone(),
            digest: op.digest.clone(),
            size: op.size,
            image: op.image.clone(),
            scaling: op.scaling,
            signature: op.signature.clone(),
            created_at: command.at,
        };
        self.versions.push(row.clone());
        Ok(row)
    }

    fn has_version(&self, id: VersionId) -> bool {
        self.versions.iter().any(|row| row.id == id)
    }

    fn deployment(&mut self, id: DeploymentId) -> Result<&mut DeploymentRow, Reject> {
        let mut rows = self.deployments.values_mut();
        rows.find(|row| row.id == id)
            .ok_or_else(|| Reject::not_found("deployment", &id))
    }

    fn deploy(&mut self, command: &Command, op: &ApplyDeployment) -> Result<Reply, Reject> {
        let version = self.versions.iter().find(|row| row.id == op.version_id);
        let Some(bounds) = version.map(|row| row.scaling) else {
            return Err(Reject::not_found("version", &op.version_id));
        };
        check_json(&op.env, MAX_ENTRY_BYTES)?;
        let key = (op.namespace.clone(), op.agent.clone(), op.alias.clone());
        if let Some(row) = self.deployments.get_mut(&key) {
            if let Some(project) = &op.project {
                if let Some(reason) = row.refuses(project) {
                    return Err(Reject::conflict(reason));
                }
                if row.project.as_ref() != Some(project) {
                    row.project = Some(project.clone());
                    row.updated_at = command.at;
                }
            }
            row.deploy(op, bounds, command.at);
            let id = row.id;
            return self.within_bounds(command, id);
        }
        if self.deployment(op.deployment_id).is_ok() {
            return Err(Reject::conflict("the deployment has another name"));
        }
        let row = DeploymentRow {
            id: op.deployment_id,
            namespace: op.namespace.clone(),
            agent: op.agent.clone(),
            alias: op.alias.clone(),
            version_id: op.version_id,
            replicas: op.replicas.unwrap_or_else(|| bounds.first()),
            scaling: None,
            env: op.env.clone(),
            rollout: None,
            releases: Vec::new(),
            project: op.project.clone(),
            generation: 1,
            state: DeploymentState::Pending,
            reason: String::new(),
            created_at: command.at,
            updated_at: command.at,
        };
        self.deployments.insert(key, row);
        self.within_bounds(command, op.deployment_id)
    }

    fn start_rollout(&mut self, command: &Command, op: &StartRollout) -> Result<Reply, Reject> {
        let version = self.versions.iter().find(|row| row.id == op.version_id);
        let version = version.cloned();
        let row = self.deployment(op.deployment_id)?;
        let version = version.ok_or_else(|| Reject::not_found("version", &op.version_id))?;
        row.start_rollout(op, &version, command.at)?;
        self.within_bounds(command, op.deployment_id)
    }

    /// The reply of a command that may have changed what a deployment comes to, or with how many replicas.
    fn within_bounds(&mut self, command: &Command, id: DeploymentId) -> Result<Reply, Reject> {
        let target = self.deployment(id)?.target().0;
        let version = self.versions.iter().find(|row| row.id == target);
        let bounds = version.map(|row| row.scaling).unwrap_or_default();
        let row = self.deployment(id)?;
        row.keep_within(bounds, command.at);
        Ok(Reply::Deployment(row.clone()))
    }

    fn observe(&mut self, command: &Command, op: &SetDeploymentState) -> Result<(), Reject> {
        let row = self.deployment(op.deployment_id)?;
        let same = row.state == op.state && row.reason == op.reason;
        if op.generation >= row.generation && !same {
            row.state = op.state;
            row.reason.clone_from(&op.reason);
            row.updated_at = command.at;
        }
        Ok(())
    }

    fn put_replica(&mut self, command: &Command, op: &PutReplica) -> Result<(), Reject> {
        self.deployment(op.deployment_id)?;
        let mut row = ReplicaRow {
            id: op.replica_id,
            deployment_id: op.deployment_id,
            version_id: op.version_id,
            state: op.state,
            reason: op.reason.clone(),
            backend: op.backend.clone(),
            endpoint: op.endpoint.clone(),
            created_at: command.at,
            updated_at: command.at,
        };
        match self
            .replicas
            .iter_mut()
            .find(|(_, row)| row.id == op.replica_id)
        {
            Some((_, old)) => {
                row.created_at = old.created_at;
                *old = row;
            }
            None => {
                self.created += 1;
                self.replicas.push((self.created, row));
            }
        }
        Ok(())
    }

    fn sweep(&mut self, command: &Command, op: &CacheSweep) -> u64 {
        let expired = self
            .cache
            .values()
            .filter(|(_, row)| row.expires_at <= command.at);
        let mut expired: Vec<_> = expired
            .map(|(created, row)| (row.expires_at, *created, row.key.clone()))
            .collect();
        expired.sort();
        expired.truncate(op.limit as usize);
        for (_, _, key) in &expired {
            self.cache.remove(key);
        }
        expired.len() as u64
    }

    fn put_schedule(&mut self, command: &Command, op: &PutSchedule) -> Result<(), Reject> {
        check_json(&op.spec, MAX_ENTRY_BYTES)?;
        let taken = self.schedules.values().any(|schedule| {
            let (row, spec) = (&schedule.row, &schedule.row.spec);
            spec.namespace == op.spec.namespace
                && spec.name == op.spec.name
                && row.id != op.schedule_id
        });
        if taken {
            return Err(Reject::conflict("another schedule has the name"));
        }
        let old = self.schedules.remove(&op.schedule_id);
        let created_at = old.as_ref().map_or(command.at, |old| old.row.created_at);
        let row = ScheduleRow {
            id: op.schedule_id,
            spec: op.spec.clone(),
            paused: op.paused,
            next_fire_at: op.next_fire_at,
            last_fire: None,
            created_at,
            updated_at: command.at,
        };
        let fires = old.map(|old| old.fires).unwrap_or_default();
        self.schedules
            .insert(op.schedule_id, Schedule { row, fires });
        Ok(())
    }

    fn find_schedule(&mut self, id: ScheduleId) -> Result<&mut Schedule, Reject> {
        self.schedules
            .get_mut(&id)
            .ok_or_else(|| Reject::not_found("schedule", &id))
    }

    fn pause_schedule(&mut self, command: &Command, op: &PauseSchedule) -> Result<(), Reject> {
        let row = &mut self.find_schedule(op.schedule_id)?.row;
        row.paused = op.paused;
        row.next_fire_at = op.next_fire_at;
        row.updated_at = command.at;
        Ok(())
    }

    fn fire(&mut self, command: &Command, op: &FireSchedule) -> Result<bool, Reject> {
        if op.fires.len() > MAX_SCHEDULE_FIRES as usize {
            return Err(Reject::invalid("too many fires"));
        }
        let mut recorded = self.created;
        let schedule = self.find_schedule(op.schedule_id)?;
        let from = op.advance.map(|advance| advance.from);
        if from.is_some() && schedule.row.next_fire_at != from {
            return Ok(false);
        }
        let manual = op.advance.is_none();
        let before = schedule.fires.len();
        for fire in &op.fires {
            let (state, reason, request_id) = match &fire.plan {
                FirePlan::Invoke { request_id } => {
                    (FireState::Pending, String::new(), Some(*request_id))
                }
                FirePlan::Skip { reason } => (FireState::Skipped, reason.clone(), None),
            };
            recorded += 1;
            let row = ScheduleFireRow {
                schedule_id: op.schedule_id,
                planned_at: fire.planned_at,
                manual,
                event_id: None,
                state,
                reason,
                request_id,
                fired_at: command.at,
            };
            let key = (fire.planned_at, manual);
            schedule.fires.entry(key).or_insert((recorded, row));
        }
        if manual && schedule.fires.len() == before {
            return Ok(false);
        }
        if let Some(advance) = op.advance {
            schedule.row.next_fire_at = advance.to;
        }
        schedule.row.updated_at = command.at;
        schedule.forget_oldest();
        self.created = recorded;
        Ok(true)
    }

    fn settle(&mut self, op: &SettleFire) -> Result<bool, Reject> {
        if op.state == FireState::Pending {
            return Err(Reject::invalid("a fire is settled for good"));
        }
        let schedule = self.find_schedule(op.schedule_id)?;
        let (_, fire) = schedule
            .fires
            .get_mut(&(op.planned_at, op.manual))
            .ok_or_else(|| Reject::not_found("fire", &op.planned_at))?;
        if fire.state != FireState::Pending {
            return Ok(false);
        }
        fire.state = op.state;
        fire.reason.clone_from(&op.reason);
        Ok(true)
    }

    fn record(&mut self, command: &Command, op: &RecordAudit) -> Result<(), Reject> {
        if self.is_recorded(op) {
            return Err(Reject::conflict("the audit row exists already"));
        }
        self.audit.push(audit_row(command, op));
        Ok(())
    }

    fn is_recorded(&self, op: &RecordAudit) -> bool {
        self.audit.iter().any(|row| row.id == op.audit_id)
    }

    fn remember(&mut self, command: &Command, op: &MemoryPut) -> Result<(), Reject> {
        if op.key.is_empty() || op.key.len() > MAX_MEMORY_KEY_BYTES {
            return Err(Reject::invalid("the key is empty or too long"));
        }
        check_json(&op.value, MAX_MEMORY_VALUE_BYTES)?;
        check_json(&op.tags, MAX_MEMORY_VALUE_BYTES)?;
        let key = (op.scope.clone(), op.key.clone());
        let created_at = self
            .memories
            .get(&key)
            .map_or(command.at, |row| row.created_at);
        let row = MemoryRow {
            key: op.key.clone(),
            value: op.value.clone(),
            tags: op.tags.clone(),
            created_at,
            updated_at: command.at,
        };
        self.memories.insert(key, row);
        Ok(())
    }
}

fn audit_row(command: &Command, op: &RecordAudit) -> AuditRow {
    AuditRow {
        id: op.audit_id,
        at: command.at,
        kind: op.kind.clone(),
        resource: op.resource.clone(),
        verdict: op.verdict,
        reason: op.reason.clone(),
        caller: op.caller.clone(),
        request_id: op.request_id,
    }
}

/// The request that one is a fork of.
fn origin(request: &Request) -> Option<RequestId> {
    match &request.journal.first()?.body {
        EntryBody::Accepted { forked_from, .. } => Some(forked_from.as_ref()?.request_id),
        _ => None,
    }
}
