//! Approvals and what was remembered of them.

use async_trait::async_trait;
use rune_store_runtime::limits::MAX_ENTRY_BYTES;
use rune_store_runtime::{
    ApprovalAnswer, ApprovalFilter, ApprovalId, ApprovalQuestion, ApprovalReader, ApprovalRow,
    ApprovalState, Command, DecideApproval, EntryBody, GrantQuery, GrantRow, Page, PageRequest,
    Reject, Remember, RequestId, RequestRow, RequestStatus, SessionId, StoreError,
};

use super::apply::check_json;
use super::journal::room_for;
use super::page::page;
use super::{FakeStore, State, is};

impl State {
    pub(super) fn ask(&mut self, command: &Command, row: &RequestRow, question: ApprovalQuestion) {
        self.approvals.push(ApprovalRow {
            request_id: row.id,
            session_id: row.session_id.clone(),
            namespace: row.namespace.clone(),
            agent: row.agent.clone(),
            state: ApprovalState::Waiting,
            question,
            asked_at: command.at,
            decided_at: None,
            answer: None,
        });
    }

    pub(super) fn is_asked(&self, id: ApprovalId) -> bool {
        self.approvals
            .iter()
            .any(|row| row.question.approval_id == id)
    }

    pub(super) fn withdraw(&mut self, command: &Command, id: RequestId) {
        let waiting =
            |row: &&mut ApprovalRow| row.request_id == id && row.state == ApprovalState::Waiting;
        for row in self.approvals.iter_mut().filter(waiting) {
            row.state = ApprovalState::Withdrawn;
            row.decided_at = Some(command.at);
        }
    }

    pub(super) fn decide(
        &mut self,
        command: &Command,
        op: &DecideApproval,
    ) -> Result<ApprovalRow, Reject> {
        let mut approvals = self.approvals.iter();
        let at = approvals
            .position(|row| row.question.approval_id == op.approval_id)
            .ok_or_else(|| Reject::not_found("approval", &op.approval_id))?;
        let mut row = self.approvals[at].clone();
        if row.state != ApprovalState::Waiting {
            return Err(Reject::conflict("the approval was decided already"));
        }
        let answer = ApprovalAnswer {
            approval_id: op.approval_id,
            call_id: row.question.call_id.clone(),
            decision: op.decision,
            by: op.by.clone(),
            remember: op.remember,
            note: op.note.clone(),
        };
        let body = EntryBody::ApprovalGiven(answer.clone());
        check_json(&body, MAX_ENTRY_BYTES)?;
        let id = row.request_id;
        if let Some(request) = self.requests.get(&id) {
            room_for(&request.row, 1)?;
        }
        row.state = ApprovalState::from(op.decision);
        row.decided_at = Some(command.at);
        row.answer = Some(answer);
        self.approvals[at] = row.clone();
        let waits = self
            .approvals
            .iter()
            .any(|row| row.request_id == id && row.state == ApprovalState::Waiting);
        if let Some(request) = self.requests.get_mut(&id) {
            request.row.last_seq += 1;
            request.row.updated_at = command.at;
            if !waits {
                request.row.status = RequestStatus::Accepted;
            }
        }
        self.write(command, id, &[body], &[]);
        if let Some(scope) = op.remember {
            self.grants.push(GrantRow {
                namespace: row.namespace.clone(),
                agent: row.agent.clone(),
                session_id: (scope == Remember::Session).then(|| row.session_id.clone()),
                tool: row.question.tool.clone(),
                policies: row.question.policies.clone(),
                decision: op.decision,
                by: op.by.clone(),
                at: command.at,
            });
        }
        Ok(row)
    }
}

#[async_trait]
impl ApprovalReader for FakeStore {
    async fn approval(&self, id: ApprovalId) -> Result<Option<ApprovalRow>, StoreError> {
        let state = self.state();
        let mut rows = state.approvals.iter();
        Ok(rows.find(|row| row.question.approval_id == id).cloned())
    }

    async fn approvals(
        &self,
        filter: &ApprovalFilter,
        request: &PageRequest,
    ) -> Result<Page<ApprovalRow>, StoreError> {
        let state = self.state();
        let rows = state.approvals.iter().cloned().enumerate();
        let rows = rows.filter(|(_, row)| {
            let due = |by| row.question.deadline.is_some_and(|at| at <= by);
            is(filter.namespace.as_ref(), &row.namespace)
                && is(filter.agent.as_ref(), &row.agent)
                && is(filter.request_id.as_ref(), &row.request_id)
                && is(filter.state.as_ref(), &row.state)
                && filter.due_by.is_none_or(due)
        });
        page("approvals", request, rows)
    }

    async fn grant(&self, query: &GrantQuery) -> Result<Option<GrantRow>, StoreError> {
        let state = self.state();
        let newest = |wanted: Option<&SessionId>| {
            let mut rows = state.grants.iter().rev();
            rows.find(|row| {
                (&row.namespace, &row.agent) == (&query.namespace, &query.agent)
                    && row.session_id.as_ref() == wanted
                    && row.tool == query.tool
                    && row.policies == query.policies
            })
        };
        let found = newest(Some(&query.session_id)).or_else(|| newest(None));
        Ok(found.cloned())
    }
}
