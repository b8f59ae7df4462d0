//! Requests and their journals.

use std::collections::BTreeMap;

use rune_store_runtime::limits::{
    IDEMPOTENCY_WINDOW, MAX_CALL_COST_MICRO_USD, MAX_CALL_TOKENS, MAX_ENTRIES, MAX_ENTRY_BYTES,
};
use rune_store_runtime::{
    AcceptRequest, Accepted, AppendEntries, Appended, ApprovalQuestion, AuditRow, Billed, Block,
    BudgetScope, Command, Cost, Entry, EntryBody, Fork, OUTPUT_REPAIR, PolicyVerdict, Reject,
    RequestCancel, RequestId, RequestRow, RequestStatus, SessionId, Settlement, SpilledOutput,
    Usage, UsageRow,
};

use super::apply::check_json;
use super::{Call, Line, Request, State};

impl State {
    pub(super) fn accept(
        &mut self,
        command: &Command,
        op: &AcceptRequest,
    ) -> Result<Accepted, Reject> {
        let body = EntryBody::Accepted {
            input: op.input.clone(),
            forked_from: op.fork.as_ref().map(|fork| Box::new(fork.origin.clone())),
        };
        check_json(&body, MAX_ENTRY_BYTES)?;
        check_json(&op.metadata, MAX_ENTRY_BYTES)?;
        check_json(&op.budgets, MAX_ENTRY_BYTES)?;
        if let Some(earlier) = self.earlier(command, op)? {
            return Ok(earlier);
        }
        let accepted = Accepted {
            request_id: op.request_id,
            session_id: op.session_id.clone(),
            duplicate: false,
        };
        if let Some(request) = self.requests.get(&op.request_id) {
            return if request.command.0 == command.id {
                Ok(accepted)
            } else {
                Err(Reject::conflict("the request exists already"))
            };
        }
        if let Some(expected) = op.follows
            && self.newest(&op.session_id) != Some(expected)
        {
            let id = expected.to_string();
            return Err(Reject::Superseded { id });
        }
        if op.fork.is_some() && self.sessions.contains_key(&op.session_id) {
            return Err(Reject::conflict("the session exists already"));
        }
        let inherited = op.fork.as_ref().map(|fork| self.inherited(op, fork));
        let inherited = inherited.transpose()?;
        let metadata = BTreeMap::new();
        self.session(command, &op.session_id, &op.namespace, &op.agent, &metadata)?;
        self.created += 1;
        let request = Request {
            created: self.created,
            row: accepted_row(command, op),
            journal: Vec::new(),
            calls: BTreeMap::new(),
            command: (command.id, 1),
        };
        self.requests.insert(op.request_id, request);
        if let Some(session) = self.sessions.get_mut(&op.session_id) {
            let shown = inherited.iter().flat_map(|inherited| &inherited.shown);
            session.messages.extend(shown.cloned());
            let spilled = inherited.iter().flat_map(|inherited| &inherited.spilled);
            session.spilled.extend(spilled.cloned());
        }
        self.write(command, op.request_id, &[body], &[(1, None)]);
        if let Some(inherited) = inherited {
            self.inherit(op.request_id, inherited);
        }
        if let Some(key) = &op.idempotency {
            let name = (key.scope.clone(), key.key.clone());
            let value = (key.fingerprint.clone(), op.request_id);
            self.keys.put(name, command.at, IDEMPOTENCY_WINDOW, value);
        }
        Ok(accepted)
    }

    /// The newest request of a session.
    fn newest(&self, session: &SessionId) -> Option<RequestId> {
        let requests = self.requests.values();
        let requests = requests.filter(|request| request.row.session_id == *session);
        let newest = requests.max_by_key(|request| request.created);
        newest.map(|request| request.row.id)
    }

    /// What a fork takes over.
    fn inherited(&self, op: &AcceptRequest, fork: &Fork) -> Result<Inherited, Reject> {
        let origin = self
            .requests
            .get(&fork.origin.request_id)
            .ok_or_else(|| Reject::not_found("request", &fork.origin.request_id))?;
        if (&origin.row.namespace, &origin.row.agent) != (&op.namespace, &op.agent) {
            return Err(Reject::invalid("a fork is a request of the same agent"));
        }
        if !(1..=origin.row.last_seq).contains(&fork.origin.seq) {
            return Err(Reject::invalid("the journal has no such entry"));
        }
        let mut shown: Vec<Line> = self
            .sessions
            .get(&origin.row.session_id)
            .map_or(&[][..], |session| &session.messages)
            .iter()
            .filter(|line| line.request_id != origin.row.id)
            .filter(|line| {
                let row = self.requests.get(&line.request_id).map(|r| &r.row);
                row.is_some_and(|r| r.status.is_terminal() && r.updated_at <= fork.shown_until)
            })
            .cloned()
            .collect();
        let surplus = shown.len().saturating_sub(fork.shown as usize);
        let mut inherited = Inherited {
            shown: shown.split_off(surplus),
            spilled: self
                .sessions
                .get(&origin.row.session_id)
                .map_or_else(Vec::new, |session| session.spilled.clone()),
            entries: Vec::new(),
            messages: Vec::new(),
            calls: BTreeMap::new(),
        };
        let taken = origin.journal.iter().skip(1);
        for entry in taken.take_while(|entry| entry.seq <= fork.origin.seq) {
            inherited.take(entry)?;
        }
        Ok(inherited)
    }

    fn inherit(&mut self, id: RequestId, inherited: Inherited) {
        let Some(request) = self.requests.get_mut(&id) else {
            return;
        };
        for entry in inherited.entries {
            request.row.last_seq = entry.seq;
            request.journal.push(Entry {
                request_id: id,
                ..entry
            });
        }
        request.calls = inherited.calls;
        if let Some(session) = self.sessions.get_mut(&request.row.session_id) {
            let lines = inherited.messages.into_iter();
            let lines = lines.map(|(seq, tool)| Line {
                request_id: id,
                seq,
                tool,
            });
            session.messages.extend(lines);
        }
    }

    fn earlier(&self, command: &Command, op: &AcceptRequest) -> Result<Option<Accepted>, Reject> {
        let Some(wanted) = &op.idempotency else {
            return Ok(None);
        };
        let name = (wanted.scope.clone(), wanted.key.clone());
        let found = self.keys.get(&name, command.at, IDEMPOTENCY_WINDOW);
        let Some((fingerprint, request_id)) = found else {
            return Ok(None);
        };
        let Some(request) = self.requests.get(request_id) else {
            return Ok(None);
        };
        if *fingerprint != wanted.fingerprint {
            return Err(Reject::conflict(
                "the idempotency key was used with another body",
            ));
        }
        Ok(Some(Accepted {
            request_id: request.row.id,
            session_id: request.row.session_id.clone(),
            duplicate: request.row.id != op.request_id,
        }))
    }

    pub(super) fn append(
        &mut self,
        command: &Command,
        op: &AppendEntries,
    ) -> Result<Appended, Reject> {
        let request = self
            .requests
            .get(&op.request_id)
            .ok_or_else(|| Reject::not_found("request", &op.request_id))?;
        if request.command.0 == command.id {
            return Ok(appended(&request.row, request.command.1));
        }
        let mut plan = Plan {
            row: request.row.clone(),
            calls: request.calls.clone(),
            messages: Vec::new(),
            usage: Vec::new(),
            verdicts: Vec::new(),
            questions: Vec::new(),
            withdraws: false,
        };
        let first_seq = plan.row.last_seq + 1;
        plan.all(self, &op.entries)?;
        plan.row.updated_at = command.at;
        let reply = appended(&plan.row, first_seq);
        let has_budgets = !plan.row.budgets.is_empty();
        for (seq, body) in plan.usage {
            let Some(call) = body.billed() else { continue };
            self.usage.push(usage_row(command, &plan.row, seq, call));
            if has_budgets {
                self.close_reservation(command, op.request_id, call.settlement);
            }
        }
        if has_budgets && plan.row.status.is_terminal() {
            self.close_reservation(command, op.request_id, Settlement::Unknown);
            self.forget_budget(&BudgetScope::Request(op.request_id));
        }
        for verdict in plan.verdicts {
            self.audit.push(audit_row(command, &plan.row, verdict));
        }
        for question in plan.questions {
            self.ask(command, &plan.row, question);
        }
        if plan.withdraws {
            self.withdraw(command, op.request_id);
        }
        if let Some(request) = self.requests.get_mut(&op.request_id) {
            request.row = plan.row;
            request.calls = plan.calls;
            request.command = (command.id, first_seq);
        }
        self.write(command, op.request_id, &op.entries, &plan.messages);
        Ok(reply)
    }

    pub(super) fn cancel(
        &mut self,
        command: &Command,
        op: &RequestCancel,
    ) -> Result<Appended, Reject> {
        let body = EntryBody::CancelRequested {
            reason: op.reason.clone(),
        };
        let request = self
            .requests
            .get_mut(&op.request_id)
            .ok_or_else(|| Reject::not_found("request", &op.request_id))?;
        check_json(&body, MAX_ENTRY_BYTES)?;
        let seq = request.row.last_seq + 1;
        if request.row.status.is_terminal() || request.row.cancel_requested {
            return Ok(appended(&request.row, seq));
        }
        room_for(&request.row, 1)?;
        request.row.cancel_requested = true;
        request.row.last_seq = seq;
        request.row.updated_at = command.at;
        let reply = appended(&request.row, seq);
        self.write(command, op.request_id, &[body], &[]);
        Ok(reply)
    }

    /// Adds entries that were checked, and their messages.
    pub(super) fn write(
        &mut self,
        command: &Command,
        id: RequestId,
        bodies: &[EntryBody],
        messages: &[(u64, Option<String>)],
    ) {
        let Some(request) = self.requests.get_mut(&id) else {
            return;
        };
        for body in bodies {
            request.journal.push(Entry {
                request_id: id,
                seq: request.journal.len() as u64 + 1,
                at: command.at,
                body: body.clone(),
            });
        }
        if let Some(session) = self.sessions.get_mut(&request.row.session_id) {
            let lines = messages.iter().map(|(seq, tool)| Line {
                request_id: id,
                seq: *seq,
                tool: tool.clone(),
            });
            session.messages.extend(lines);
            for body in bodies {
                if let EntryBody::ToolResult(outcome) = body {
                    session.spilled.extend(outcome.kept());
                }
            }
        }
    }
}

/// What a fork begins with.
struct Inherited {
    shown: Vec<Line>,
    spilled: Vec<SpilledOutput>,
    entries: Vec<Entry>,
    messages: Vec<(u64, Option<String>)>,
    calls: BTreeMap<String, Call>,
}

impl Inherited {
    fn take(&mut self, entry: &Entry) -> Result<(), Reject> {
        if let Some(blocks) = entry.body.said() {
            self.said(entry.seq, blocks);
        }
        match &entry.body {
            EntryBody::Finished { .. } | EntryBody::CancelRequested { .. } => {
                return Err(Reject::invalid("the end is not taken over"));
            }
            EntryBody::ToolIntent(intent) => {
                called(&mut self.calls, &intent.call_id)?.intent = Some(entry.seq);
            }
            EntryBody::ToolResult(outcome) => {
                let call = called(&mut self.calls, &outcome.call_id)?;
                call.result = Some(entry.seq);
                self.messages.push((entry.seq, Some(call.name.clone())));
            }
            EntryBody::Compacted(_) => self.messages.push((entry.seq, None)),
            EntryBody::Notice { code, .. } if code == OUTPUT_REPAIR => {
                self.messages.push((entry.seq, None));
            }
            _ => {}
        }
        self.entries.push(entry.clone());
        Ok(())
    }

    fn said(&mut self, seq: u64, blocks: &[Block]) {
        self.messages.push((seq, None));
        for block in blocks {
            if let Block::ToolCall { id, name, .. } = block {
                let call = Call {
                    name: name.clone(),
                    intent: None,
                    result: None,
                };
                self.calls.insert(id.clone(), call);
            }
        }
    }
}

/// A request's row and calls after the entries.
struct Plan {
    row: RequestRow,
    calls: BTreeMap<String, Call>,
    messages: Vec<(u64, Option<String>)>,
    usage: Vec<(u64, EntryBody)>,
    verdicts: Vec<PolicyVerdict>,
    questions: Vec<ApprovalQuestion>,
    withdraws: bool,
}

impl Plan {
    fn all(&mut self, state: &State, entries: &[EntryBody]) -> Result<(), Reject> {
        if entries.is_empty() {
            return Err(Reject::invalid("there is no entry"));
        }
        room_for(&self.row, entries.len() as u64)?;
        entries.iter().try_for_each(|entry| self.add(state, entry))
    }

    fn add(&mut self, state: &State, entry: &EntryBody) -> Result<(), Reject> {
        let row = &mut self.row;
        if row.status.is_terminal() {
            return Err(Reject::RequestEnded {
                id: row.id.to_string(),
            });
        }
        check_json(entry, MAX_ENTRY_BYTES)?;
        row.last_seq += 1;
        let seq = row.last_seq;
        match entry {
            EntryBody::Accepted { .. }
            | EntryBody::CancelRequested { .. }
            | EntryBody::ApprovalGiven(_) => {
                return Err(Reject::invalid("such an entry cannot be appended"));
            }
            EntryBody::Started { replica_id, .. } => {
                if row.status == RequestStatus::InputRequired {
                    return Err(Reject::invalid("the request waits for an approval"));
                }
                row.status = RequestStatus::Running;
                row.attempts += 1;
                row.replica_id = Some(*replica_id);
            }
            EntryBody::ModelReply(reply) => {
                self.bill(seq, entry)?;
                self.said(seq, &reply.blocks)?;
            }
            EntryBody::ModelAsked(_) | EntryBody::ModelCalled(_) => self.bill(seq, entry)?,
            EntryBody::ComponentTurn(turn) => self.said(seq, &turn.blocks)?,
            EntryBody::Compacted(_) => {
                self.bill(seq, entry)?;
                self.messages.push((seq, None));
            }
            EntryBody::ToolIntent(intent) => {
                let call = called(&mut self.calls, &intent.call_id)?;
                if call.intent.or(call.result).is_some() {
                    return Err(Reject::invalid("the call has its intent or result"));
                }
                call.intent = Some(seq);
                row.tool_calls += 1;
            }
            EntryBody::ToolResult(outcome) => {
                let call = called(&mut self.calls, &outcome.call_id)?;
                if call.result.is_some() {
                    return Err(Reject::invalid("the call has its result"));
                }
                call.result = Some(seq);
                self.row.tool_calls += u32::from(call.intent.is_none());
                self.messages.push((seq, Some(call.name.clone())));
            }
            EntryBody::PolicyVerdict(verdict) => {
                let id = verdict.audit_id;
                if self.verdicts.iter().any(|v| v.audit_id == id)
                    || state.audit.iter().any(|row| row.id == id)
                {
                    return Err(Reject::conflict("the audit row exists already"));
                }
                self.verdicts.push(verdict.clone());
            }
            EntryBody::ApprovalAsked(question) => {
                let call = called(&mut self.calls, &question.call_id)?;
                if call.intent.or(call.result).is_some() {
                    return Err(Reject::invalid("the call has its intent or result"));
                }
                let id = question.approval_id;
                if self.questions.iter().any(|q| q.approval_id == id) || state.is_asked(id) {
                    return Err(Reject::conflict("the approval exists already"));
                }
                self.questions.push(question.clone());
                row.status = RequestStatus::InputRequired;
            }
            EntryBody::Notice { code, .. } if code == OUTPUT_REPAIR => {
                self.messages.push((seq, None));
            }
            EntryBody::AgentCalled { .. }
            | EntryBody::RemoteTask { .. }
            | EntryBody::StepStarted { .. }
            | EntryBody::StepFinished(_)
            | EntryBody::ModelFailed { .. }
            | EntryBody::ToolsListed { .. }
            | EntryBody::Notice { .. } => {}
            EntryBody::Finished {
                status,
                output,
                failure,
                ..
            } => {
                if !status.is_terminal() {
                    return Err(Reject::invalid("the status is not terminal"));
                }
                self.withdraws = row.status == RequestStatus::InputRequired;
                row.status = *status;
                row.output.clone_from(output);
                row.failure.clone_from(failure);
            }
        }
        Ok(())
    }

    fn bill(&mut self, seq: u64, entry: &EntryBody) -> Result<(), Reject> {
        let Some(call) = entry.billed() else {
            return Ok(());
        };
        let Usage {
            input_tokens,
            output_tokens,
            cached_tokens,
            cache_write_tokens,
            reasoning_tokens,
        } = *call.usage;
        let counts = [
            input_tokens,
            output_tokens,
            cached_tokens,
            cache_write_tokens,
            reasoning_tokens,
        ];
        if counts.into_iter().any(|count| count > MAX_CALL_TOKENS) {
            return Err(Reject::invalid("too many tokens"));
        }
        if call.cost_micro_usd > Some(MAX_CALL_COST_MICRO_USD) {
            return Err(Reject::invalid("too expensive"));
        }
        self.row.usage.add(call.usage);
        self.row.cost.add(call.cost_micro_usd);
        self.row.model_calls += 1;
        self.usage.push((seq, entry.clone()));
        Ok(())
    }

    fn said(&mut self, seq: u64, blocks: &[Block]) -> Result<(), Reject> {
        for block in blocks {
            if let Block::ToolCall { id, name, .. } = block {
                let call = Call {
                    name: name.clone(),
                    intent: None,
                    result: None,
                };
                if self.calls.insert(id.clone(), call).is_some() {
                    return Err(Reject::invalid("the call is there already"));
                }
            }
        }
        self.messages.push((seq, None));
        Ok(())
    }
}

fn called<'a>(calls: &'a mut BTreeMap<String, Call>, id: &str) -> Result<&'a mut Call, Reject> {
    calls
        .get_mut(id)
        .ok_or_else(|| Reject::invalid("no model reply has the call"))
}

pub(super) fn room_for(row: &RequestRow, count: u64) -> Result<(), Reject> {
    if row.last_seq + count > MAX_ENTRIES {
        return Err(Reject::invalid("the journal is full"));
    }
    Ok(())
}

fn appended(row: &RequestRow, first_seq: u64) -> Appended {
    Appended {
        first_seq,
        last_seq: row.last_seq,
        status: row.status,
        cancel_requested: row.cancel_requested,
    }
}

fn accepted_row(command: &Command, op: &AcceptRequest) -> RequestRow {
    RequestRow {
        id: op.request_id,
        session_id: op.session_id.clone(),
        namespace: op.namespace.clone(),
        agent: op.agent.clone(),
        deployment_id: op.deployment_id,
        version_id: op.version_id,
        replica_id: None,
        status: RequestStatus::Accepted,
        attempts: 0,
        cancel_requested: false,
        caller: op.caller.clone(),
        metadata: op.metadata.clone(),
        checkpoint: op.checkpoint,
        parent: op.parent.clone(),
        budgets: op.budgets.clone(),
        last_seq: 1,
        output: None,
        failure: None,
        usage: Usage::default(),
        cost: Cost::default(),
        model_calls: 0,
        tool_calls: 0,
        created_at: command.at,
        updated_at: command.at,
    }
}

fn usage_row(command: &Command, row: &RequestRow, seq: u64, call: Billed<'_>) -> UsageRow {
    UsageRow {
        request_id: row.id,
        namespace: row.namespace.clone(),
        agent: row.agent.clone(),
        seq,
        at: command.at,
        provider: call.provider.to_owned(),
        model: call.model.to_owned(),
        caller: row.caller.clone(),
        usage: *call.usage,
        cost_micro_usd: call.cost_micro_usd,
    }
}

fn audit_row(command: &Command, row: &RequestRow, verdict: PolicyVerdict) -> AuditRow {
    let reason = if verdict.policies.is_empty() {
        verdict.reason
    } else {
        format!("{} [{}]", verdict.reason, verdict.policies.join(", "))
    };
    AuditRow {
        id: verdict.audit_id,
        at: command.at,
        kind: verdict.action,
        resource: verdict.resource,
        verdict: verdict.verdict,
        reason,
        caller: row.caller.clone(),
        request_id: Some(row.id),
    }
}
