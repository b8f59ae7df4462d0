//! A store in memory: a plain model of what the traits promise, written without
//! regard to speed.

mod apply;
mod approval;
mod budget;
mod event;
mod journal;
mod knowledge;
mod oldest;
mod outbox;
mod page;
mod push;
mod secret;
mod task;

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use rune_store_runtime::limits::MAX_SCHEDULE_FIRES;
use rune_store_runtime::{
    ApprovalRow, AuditFilter, AuditReader, AuditRow, BudgetRow, CacheReader, CacheRow, Command,
    CommandId, CommandLog, DeploymentFilter, DeploymentId, DeploymentReader, DeploymentRow,
    EntityRow, Entry, EntryBody, EventRow, FireFilter, FireState, GrantRow, MemoryQuery,
    MemoryReader, MemoryRow, MemoryScope, MessageRow, OutboxRow, Page, PageRequest, PushRow,
    RegistryReader, RelationRow, ReplicaFilter, ReplicaId, ReplicaRow, Reply, RequestFilter,
    RequestId, RequestOrder, RequestReader, RequestRow, ReservationRow, ScheduleFilter,
    ScheduleFireRow, ScheduleId, ScheduleReader, ScheduleRow, SecretRow, SessionFilter, SessionId,
    SessionReader, SessionRow, SpilledOutput, StoreError, TaskRow, Timestamp, ToolInvocationRow,
    ToolInvocationState, UsageFilter, UsageGroup, UsageReader, UsageRow, UsageTotal, VersionFilter,
    VersionId, VersionRow,
};

use self::oldest::Oldest;
use self::page::page;

/// The store. Nothing of it is durable.
#[derive(Debug, Default)]
pub struct FakeStore {
    state: Mutex<State>,
}

/// Rows carry the number of their creation, so that lists can be newest first.
#[derive(Debug, Default)]
struct State {
    created: i64,
    sessions: BTreeMap<SessionId, Session>,
    requests: BTreeMap<RequestId, Request>,
    usage: Vec<UsageRow>,
    keys: Oldest<(String, String), (String, RequestId)>,
    receipts: Oldest<CommandId, Reply>,
    versions: Vec<VersionRow>,
    deployments: BTreeMap<(String, String, String), DeploymentRow>,
    replicas: Vec<(i64, ReplicaRow)>,
    cache: BTreeMap<String, (i64, CacheRow)>,
    schedules: BTreeMap<ScheduleId, Schedule>,
    approvals: Vec<ApprovalRow>,
    grants: Vec<GrantRow>,
    audit: Vec<AuditRow>,
    /// With the number of their creation, in its order.
    tasks: Vec<(i64, TaskRow)>,
    /// With the number of their creation, in its order.
    events: Vec<(i64, EventRow)>,
    /// With the number of their creation, in its order.
    outbox: Vec<(i64, OutboxRow)>,
    /// With the number of their creation, in its order.
    pushes: Vec<(i64, PushRow)>,
    /// By namespace and name.
    secrets: BTreeMap<(String, String), SecretRow>,
    memories: BTreeMap<(MemoryScope, String), MemoryRow>,
    entities: BTreeMap<(MemoryScope, String), EntityRow>,
    /// By where they begin, their type, and where they lead.
    relations: BTreeMap<(MemoryScope, (String, String, String)), RelationRow>,
    /// By kind, key and day.
    budgets: BTreeMap<(&'static str, String, i64), BudgetRow>,
    reservations: Vec<ReservationRow>,
}

#[derive(Debug)]
struct Session {
    created: i64,
    row: SessionRow,
    messages: Vec<Line>,
    spilled: Vec<SpilledOutput>,
}

/// A message: an entry of a request's journal.
#[derive(Debug, Clone)]
struct Line {
    request_id: RequestId,
    seq: u64,
    tool: Option<String>,
}

#[derive(Debug)]
struct Request {
    created: i64,
    row: RequestRow,
    journal: Vec<Entry>,
    calls: BTreeMap<String, Call>,
    command: (CommandId, u64),
}

#[derive(Debug, Clone)]
struct Call {
    name: String,
    intent: Option<u64>,
    result: Option<u64>,
}

#[derive(Debug)]
struct Schedule {
    row: ScheduleRow,
    /// By planned time and whether somebody asked for them, with the number of their
    /// recording.
    fires: BTreeMap<(Timestamp, bool), (i64, ScheduleFireRow)>,
}

impl Schedule {
    /// Keeps the newest fires and the pending ones.
    fn forget_oldest(&mut self) {
        let mut numbers: Vec<i64> = self.fires.values().map(|(at, _)| *at).collect();
        numbers.sort_unstable_by(|a, b| b.cmp(a));
        if let Some(oldest) = numbers.get(MAX_SCHEDULE_FIRES as usize) {
            self.fires
                .retain(|_, (at, fire)| *at > *oldest || fire.state == FireState::Pending);
        }
    }

    fn row(&self) -> ScheduleRow {
        let last = self.fires.values().max_by_key(|(recorded, _)| *recorded);
        ScheduleRow {
            last_fire: last.map(|(_, fire)| fire.clone()),
            ..self.row.clone()
        }
    }
}

impl FakeStore {
    /// An empty store.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether a filter's field, where it is set, is this value.
fn is<T: PartialEq>(filter: Option<&T>, value: &T) -> bool {
    filter.is_none_or(|wanted| wanted == value)
}

/// [`PageRequest`] positions are creation numbers, negated for newest first.
fn newest_first<T>(rows: impl IntoIterator<Item = T>) -> impl Iterator<Item = (i64, T)> {
    rows.into_iter().enumerate().map(|(at, row)| {
        let at = i64::try_from(at).unwrap_or(i64::MAX);
        (-at, row)
    })
}

#[async_trait]
impl CommandLog for FakeStore {
    async fn submit(&self, command: Command) -> Result<Reply, StoreError> {
        let reply = self.state().apply(&command);
        // As with a store that writes elsewhere, it is done before it is answered.
        tokio::task::yield_now().await;
        Ok(reply?)
    }
}

fn wanted(filter: &RequestFilter, row: &RequestRow) -> bool {
    is(filter.namespace.as_ref(), &row.namespace)
        && is(filter.agent.as_ref(), &row.agent)
        && is(filter.session_id.as_ref(), &row.session_id)
        && is(filter.deployment_id.as_ref(), &row.deployment_id)
        && is(filter.caller.as_ref(), &row.caller)
        && filter.changed_since.is_none_or(|at| row.updated_at >= at)
        && filter
            .root_id
            .is_none_or(|root| row.parent.as_ref().is_some_and(|p| p.root_id == root))
        && (filter.statuses.is_empty() || filter.statuses.contains(&row.status))
        && filter
            .cancel_requested
            .is_none_or(|asked| asked == row.cancel_requested)
}

#[async_trait]
impl RequestReader for FakeStore {
    async fn request(&self, id: RequestId) -> Result<Option<RequestRow>, StoreError> {
        Ok(self
            .state()
            .requests
            .get(&id)
            .map(|request| request.row.clone()))
    }

    async fn requests(
        &self,
        filter: &RequestFilter,
        request: &PageRequest,
    ) -> Result<Page<RequestRow>, StoreError> {
        let state = self.state();
        let rows = state.requests.values();
        let rows = rows.filter(|request| wanted(filter, &request.row));
        match filter.order {
            RequestOrder::Newest => {
                let rows = rows.map(|request| (-request.created, request.row.clone()));
                page("requests", request, rows)
            }
            RequestOrder::Changed => {
                let key = |row: &RequestRow| -row.updated_at.as_millis();
                let rows = rows
                    .map(|request| ((key(&request.row), -request.created), request.row.clone()));
                page("requests_changed", request, rows)
            }
        }
    }

    async fn request_count(&self, filter: &RequestFilter) -> Result<u64, StoreError> {
        let state = self.state();
        let rows = state.requests.values();
        Ok(rows.filter(|request| wanted(filter, &request.row)).count() as u64)
    }

    async fn journal(
        &self,
        id: RequestId,
        after: u64,
        limit: u32,
    ) -> Result<Vec<Entry>, StoreError> {
        let limit = limit.min(PageRequest::MAX_LIMIT);
        let state = self.state();
        let journal = state.requests.get(&id).map_or(&[][..], |r| &r.journal);
        let entries = journal.iter().filter(|entry| entry.seq > after);
        let fits = page::fitting(entries.clone().take(limit as usize));
        Ok(entries.take(fits).cloned().collect())
    }

    async fn tool_invocations(&self, id: RequestId) -> Result<Vec<ToolInvocationRow>, StoreError> {
        let state = self.state();
        let Some(request) = state.requests.get(&id) else {
            return Ok(Vec::new());
        };
        let mut calls: Vec<_> = request.calls.iter().collect();
        calls.retain(|(_, call)| call.intent.or(call.result).is_some());
        calls.sort_by_key(|(_, call)| call.intent.or(call.result));
        Ok(calls
            .into_iter()
            .map(|(id, call)| invocation(request, id, call))
            .collect())
    }
}

fn invocation(request: &Request, call_id: &str, call: &Call) -> ToolInvocationRow {
    let entry = |seq: Option<u64>| request.journal.iter().find(|entry| Some(entry.seq) == seq);
    let (intent, result) = (entry(call.intent), entry(call.result));
    let started = intent
        .or(result)
        .map_or_else(Timestamp::default, |entry| entry.at);
    let mut row = ToolInvocationRow {
        request_id: request.row.id,
        call_id: call_id.to_owned(),
        tool: call.name.clone(),
        input: None,
        state: ToolInvocationState::Intended,
        failure: None,
        attempts: 0,
        duration_ms: None,
        started_at: started,
        finished_at: result.map(|entry| entry.at),
    };
    if let Some(EntryBody::ToolIntent(intent)) = intent.map(|entry| &entry.body) {
        row.tool.clone_from(&intent.tool);
        row.input = Some(intent.input.clone());
    }
    if let Some(EntryBody::ToolResult(outcome)) = result.map(|entry| &entry.body) {
        row.tool.clone_from(&outcome.tool);
        row.state = match outcome.failure {
            Some(_) => ToolInvocationState::Failed,
            None => ToolInvocationState::Succeeded,
        };
        row.failure.clone_from(&outcome.failure);
        row.attempts = outcome.attempts;
        row.duration_ms = Some(outcome.duration_ms);
    }
    row
}

impl State {
    fn session_row(&self, session: &Session) -> SessionRow {
        let of = |request: &&Request| request.row.session_id == session.row.id;
        let newest = self
            .requests
            .values()
            .filter(of)
            .max_by_key(|request| request.created);
        let mut row = session.row.clone();
        row.messages = session.messages.len() as u64;
        row.requests = self.requests.values().filter(of).count() as u64;
        row.updated_at = newest.map_or(row.created_at, |r| r.row.updated_at.max(row.created_at));
        row
    }

    fn messages(&self, id: &SessionId) -> Vec<MessageRow> {
        let lines = self
            .sessions
            .get(id)
            .map_or(&[][..], |session| &session.messages);
        let rows = lines.iter().filter_map(|line| {
            let request = self.requests.get(&line.request_id)?;
            let entry = request.journal.iter().find(|entry| entry.seq == line.seq)?;
            Some(MessageRow {
                session_id: id.clone(),
                request_id: line.request_id,
                seq: line.seq,
                created_at: entry.at,
                message: entry.body.clone().into_message(line.tool.clone())?,
                measure: entry.body.measure(),
                compaction: entry.body.compaction().cloned().map(Box::new),
            })
        });
        rows.collect()
    }
}

#[async_trait]
impl SessionReader for FakeStore {
    async fn session(&self, id: &SessionId) -> Result<Option<SessionRow>, StoreError> {
        let state = self.state();
        Ok(state
            .sessions
            .get(id)
            .map(|session| state.session_row(session)))
    }

    async fn sessions(
        &self,
        filter: &SessionFilter,
        request: &PageRequest,
    ) -> Result<Page<SessionRow>, StoreError> {
        let state = self.state();
        let rows = state.sessions.values().filter(|session| {
            is(filter.namespace.as_ref(), &session.row.namespace)
                && is(filter.agent.as_ref(), &session.row.agent)
        });
        let rows = rows.map(|session| (-session.created, state.session_row(session)));
        page("sessions", request, rows)
    }

    async fn messages(
        &self,
        id: &SessionId,
        request: &PageRequest,
    ) -> Result<Page<MessageRow>, StoreError> {
        page(
            "messages",
            request,
            self.state().messages(id).into_iter().enumerate(),
        )
    }

    async fn recent_messages(
        &self,
        id: &SessionId,
        request: &PageRequest,
        until: Option<Timestamp>,
    ) -> Result<Page<MessageRow>, StoreError> {
        let state = self.state();
        let numbered = state.messages(id).into_iter().zip(0_i64..);
        let ended = numbered.filter(|(row, _)| {
            let request = state.requests.get(&row.request_id);
            request.is_some_and(|Request { row, .. }| {
                row.status.is_terminal() && until.is_none_or(|until| row.updated_at <= until)
            })
        });
        let newest_first = ended.map(|(row, number)| (-number, row));
        page("recent_messages", request, newest_first)
    }

    async fn spilled_output(
        &self,
        id: &SessionId,
        handle: &str,
    ) -> Result<Option<SpilledOutput>, StoreError> {
        let state = self.state();
        let session = state.sessions.get(id);
        let mut spilled = session.into_iter().flat_map(|session| &session.spilled);
        Ok(spilled.find(|output| output.handle == handle).cloned())
    }
}

#[async_trait]
impl DeploymentReader for FakeStore {
    async fn deployment(&self, id: DeploymentId) -> Result<Option<DeploymentRow>, StoreError> {
        Ok(self
            .state()
            .deployments
            .values()
            .find(|row| row.id == id)
            .cloned())
    }

    async fn deployments(
        &self,
        filter: &DeploymentFilter,
        request: &PageRequest,
    ) -> Result<Page<DeploymentRow>, StoreError> {
        let state = self.state();
        let rows = state.deployments.iter().filter(|(_, row)| {
            is(filter.namespace.as_ref(), &row.namespace)
                && is(filter.agent.as_ref(), &row.agent)
                && is(filter.alias.as_ref(), &row.alias)
                && filter
                    .project
                    .as_ref()
                    .is_none_or(|name| row.project.as_ref().is_some_and(|own| own.name == *name))
        });
        page(
            "deployments",
            request,
            rows.map(|(key, row)| (key.clone(), row.clone())),
        )
    }

    async fn replica(&self, id: ReplicaId) -> Result<Option<ReplicaRow>, StoreError> {
        let state = self.state();
        Ok(state
            .replicas
            .iter()
            .find(|(_, row)| row.id == id)
            .map(|(_, row)| row.clone()))
    }

    async fn replicas(
        &self,
        filter: &ReplicaFilter,
        request: &PageRequest,
    ) -> Result<Page<ReplicaRow>, StoreError> {
        let state = self.state();
        let wanted = |row: &ReplicaRow| is(filter.deployment_id.as_ref(), &row.deployment_id);
        let rows = state
            .replicas
            .iter()
            .filter(|(_, row)| wanted(row))
            .cloned();
        page("replicas", request, rows)
    }
}

#[async_trait]
impl RegistryReader for FakeStore {
    async fn version(&self, id: VersionId) -> Result<Option<VersionRow>, StoreError> {
        Ok(self
            .state()
            .versions
            .iter()
            .find(|row| row.id == id)
            .cloned())
    }

    async fn versions(
        &self,
        filter: &VersionFilter,
        request: &PageRequest,
    ) -> Result<Page<VersionRow>, StoreError> {
        let state = self.state();
        let rows = newest_first(state.versions.iter().cloned()).filter(|(_, row)| {
            is(filter.agent.as_ref(), &row.agent) && is(filter.digest.as_ref(), &row.digest)
        });
        page("versions", request, rows)
    }
}

#[async_trait]
impl CacheReader for FakeStore {
    async fn cached(&self, key: &str, now: Timestamp) -> Result<Option<CacheRow>, StoreError> {
        let state = self.state();
        let row = state.cache.get(key).map(|(_, row)| row);
        Ok(row.filter(|row| row.expires_at > now).cloned())
    }
}

#[async_trait]
impl ScheduleReader for FakeStore {
    async fn schedule(&self, id: ScheduleId) -> Result<Option<ScheduleRow>, StoreError> {
        Ok(self.state().schedules.get(&id).map(Schedule::row))
    }

    async fn schedules(
        &self,
        filter: &ScheduleFilter,
        request: &PageRequest,
    ) -> Result<Page<ScheduleRow>, StoreError> {
        let state = self.state();
        let rows = state.schedules.values().map(Schedule::row).filter(|row| {
            let due = |by| !row.paused && row.next_fire_at.is_some_and(|next| next <= by);
            is(filter.namespace.as_ref(), &row.spec.namespace)
                && is(filter.name.as_ref(), &row.spec.name)
                && is(filter.agent.as_ref(), &row.spec.agent)
                && filter.due_by.is_none_or(due)
                && filter
                    .created_by
                    .as_ref()
                    .is_none_or(|by| row.spec.created_by.as_ref() == Some(by))
                && (!filter.on_event || row.spec.kind.topic().is_some())
        });
        let rows = rows.map(|row| ((row.spec.namespace.clone(), row.spec.name.clone()), row));
        page("schedules", request, rows)
    }

    async fn schedule_fires(
        &self,
        filter: &FireFilter,
        request: &PageRequest,
    ) -> Result<Page<ScheduleFireRow>, StoreError> {
        let state = self.state();
        let fires = state
            .schedules
            .values()
            .flat_map(|schedule| schedule.fires.values())
            .filter(|(_, fire)| {
                is(filter.schedule_id.as_ref(), &fire.schedule_id)
                    && is(filter.state.as_ref(), &fire.state)
            });
        let rows = fires.map(|(recorded, fire)| {
            let planned_at = -i128::from(fire.planned_at.as_millis());
            ((planned_at, -recorded), fire.clone())
        });
        page("schedule_fires", request, rows)
    }
}

#[async_trait]
impl AuditReader for FakeStore {
    async fn audit(
        &self,
        filter: &AuditFilter,
        request: &PageRequest,
    ) -> Result<Page<AuditRow>, StoreError> {
        let state = self.state();
        let rows = newest_first(state.audit.iter().cloned()).filter(|(_, row)| {
            is(filter.kind.as_ref(), &row.kind)
                && is(filter.verdict.as_ref(), &row.verdict)
                && filter
                    .request_id
                    .is_none_or(|id| row.request_id == Some(id))
        });
        page("audit", request, rows)
    }
}

fn usage_group(row: &UsageRow, by: UsageGroup) -> UsageTotal {
    let (mut group, row) = (UsageTotal::default(), row.clone());
    if matches!(by, UsageGroup::AgentModel | UsageGroup::Agent) {
        (group.namespace, group.agent) = (Some(row.namespace), Some(row.agent));
    }
    if matches!(by, UsageGroup::AgentModel | UsageGroup::Model) {
        (group.provider, group.model) = (Some(row.provider), Some(row.model));
    }
    match by {
        UsageGroup::Day => {
            let text = row.at.to_string();
            group.day = text.split_once('T').map(|(day, _)| day.to_owned());
        }
        UsageGroup::Caller => group.caller = Some(row.caller),
        UsageGroup::AgentModel | UsageGroup::Agent | UsageGroup::Model => {}
    }
    group
}

#[async_trait]
impl UsageReader for FakeStore {
    async fn usage(
        &self,
        filter: &UsageFilter,
        request: &PageRequest,
    ) -> Result<Page<UsageRow>, StoreError> {
        let state = self.state();
        let rows = newest_first(state.usage.iter().cloned()).filter(|(_, row)| {
            is(filter.request_id.as_ref(), &row.request_id)
                && is(filter.namespace.as_ref(), &row.namespace)
                && is(filter.agent.as_ref(), &row.agent)
                && filter.since.is_none_or(|since| row.at >= since)
        });
        page("usage", request, rows)
    }

    async fn usage_totals(
        &self,
        filter: &UsageFilter,
        by: UsageGroup,
    ) -> Result<Vec<UsageTotal>, StoreError> {
        let all = PageRequest {
            limit: u32::MAX,
            cursor: None,
        };
        let mut totals: Vec<UsageTotal> = Vec::new();
        let mut page = self.usage(filter, &all).await?;
        loop {
            for row in page.items {
                let group = usage_group(&row, by);
                let known = totals.iter().position(|total| {
                    let UsageTotal {
                        namespace,
                        agent,
                        provider,
                        model,
                        day,
                        caller,
                        ..
                    } = total.clone();
                    let named = UsageTotal {
                        namespace,
                        agent,
                        provider,
                        model,
                        day,
                        caller,
                        ..UsageTotal::default()
                    };
                    named == group
                });
                let at = known.unwrap_or_else(|| {
                    totals.push(group);
                    totals.len() - 1
                });
                let total = &mut totals[at];
                total.calls += 1;
                total.usage.add(&row.usage);
                total.cost.add(row.cost_micro_usd);
            }
            let Some(cursor) = page.next else { break };
            let next = PageRequest {
                cursor: Some(cursor),
                ..all.clone()
            };
            page = self.usage(filter, &next).await?;
        }
        let key = |t: &UsageTotal| {
            (
                t.namespace.clone(),
                t.agent.clone(),
                t.provider.clone(),
                t.model.clone(),
                t.day.clone(),
                t.caller.clone(),
            )
        };
        totals.sort_by_key(key);
        Ok(totals)
    }
}

#[async_trait]
impl MemoryReader for FakeStore {
    async fn memory(
        &self,
        scope: &MemoryScope,
        key: &str,
    ) -> Result<Option<MemoryRow>, StoreError> {
        let key = (scope.clone(), key.to_owned());
        Ok(self.state().memories.get(&key).cloned())
    }

    async fn memories(
        &self,
        scope: &MemoryScope,
        query: &MemoryQuery,
        request: &PageRequest,
    ) -> Result<Page<MemoryRow>, StoreError> {
        let state = self.state();
        let rows = state
            .memories
            .iter()
            .filter(|((s, _), row)| s == scope && query.matches(row));
        page(
            "memories",
            request,
            rows.map(|((_, key), row)| (key.clone(), row.clone())),
        )
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::FakeStore;
    use crate::store::TestStore;

    fn fake() -> TestStore {
        TestStore::new(Arc::new(FakeStore::new()), ())
    }

    crate::store_suite!(fake);
}
