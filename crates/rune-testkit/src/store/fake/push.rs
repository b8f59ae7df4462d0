//! Webhooks of requests.

use async_trait::async_trait;
use rune_store_runtime::limits::{MAX_PUSH_ID_BYTES, MAX_PUSHES, MAX_SEALED_SECRET_BYTES};
use rune_store_runtime::{
    Command, Page, PageRequest, PushReader, PushRow, PutPush, Reject, RemovePush, RequestId,
    SettlePush, StoreError, Timestamp,
};

use super::page::page;
use super::{FakeStore, State};

impl State {
    pub(super) fn put_push(&mut self, command: &Command, op: &PutPush) -> Result<(), Reject> {
        let within = |text: &str| !text.is_empty() && text.len() <= MAX_PUSH_ID_BYTES;
        let sealed = op.sealed.bytes.len();
        if !within(&op.push_id)
            || !within(&op.sealed.key_id)
            || !(1..=MAX_SEALED_SECRET_BYTES).contains(&sealed)
        {
            return Err(Reject::invalid("a part of the webhook has no right length"));
        }
        if !self.requests.contains_key(&op.request_id) {
            return Err(Reject::not_found("request", &op.request_id));
        }
        let is_it = |row: &PushRow| row.push_id == op.push_id;
        let of_request = self
            .pushes
            .iter()
            .filter(|(_, row)| row.request_id == op.request_id);
        if of_request.filter(|(_, row)| !is_it(row)).count() >= MAX_PUSHES as usize {
            return Err(Reject::conflict("the request has too many webhooks"));
        }
        let new = PushRow {
            request_id: op.request_id,
            push_id: op.push_id.clone(),
            sealed: op.sealed.clone(),
            told: 0,
            attempts: 0,
            next_at: command.at,
            created_at: command.at,
        };
        let known = self.pushes.iter_mut();
        let mut known = known.filter(|(_, row)| row.request_id == op.request_id && is_it(row));
        match known.next() {
            Some((_, row)) => *row = new,
            None => {
                self.created += 1;
                self.pushes.push((self.created, new));
            }
        }
        Ok(())
    }

    pub(super) fn remove_push(&mut self, op: &RemovePush) {
        self.pushes
            .retain(|(_, row)| row.request_id != op.request_id || row.push_id != op.push_id);
    }

    pub(super) fn settle_push(&mut self, op: &SettlePush) {
        let known = self.pushes.iter_mut().find(|(_, row)| {
            row.request_id == op.request_id
                && row.push_id == op.push_id
                && row.created_at == op.created_at
        });
        let Some((_, row)) = known else { return };
        match op.again_at {
            Some(again) => (row.attempts, row.next_at) = (row.attempts + 1, again),
            None => (row.attempts, row.told) = (0, op.seq),
        }
    }

    /// Those that there is, or will be, something to tell.
    fn has_open_pushes(&self) -> bool {
        self.pushes.iter().any(|(_, row)| {
            self.requests.get(&row.request_id).is_some_and(|request| {
                let ended = request.row.status.is_terminal();
                !ended || request.row.last_seq > row.told
            })
        })
    }

    fn open_pushes(&self) -> impl Iterator<Item = &PushRow> {
        self.pushes.iter().map(|(_, row)| row).filter(|row| {
            let request = self.requests.get(&row.request_id);
            request.is_some_and(|request| request.row.last_seq > row.told)
        })
    }
}

#[async_trait]
impl PushReader for FakeStore {
    async fn push(&self, id: RequestId, push_id: &str) -> Result<Option<PushRow>, StoreError> {
        let state = self.state();
        let found = state.pushes.iter().map(|(_, row)| row);
        let mut found = found.filter(|row| row.request_id == id && row.push_id == push_id);
        Ok(found.next().cloned())
    }

    async fn pushes(
        &self,
        id: RequestId,
        request: &PageRequest,
    ) -> Result<Page<PushRow>, StoreError> {
        let state = self.state();
        let rows = state.pushes.iter().filter(|(_, row)| row.request_id == id);
        page("pushes", request, rows.map(|(at, row)| (*at, row.clone())))
    }

    async fn due_pushes(&self, now: Timestamp, limit: u32) -> Result<Vec<PushRow>, StoreError> {
        let state = self.state();
        let due = state.open_pushes().filter(|row| row.next_at <= now);
        let mut due: Vec<PushRow> = due.cloned().collect();
        due.sort_by_key(|row| row.next_at);
        due.truncate(limit as usize);
        Ok(due)
    }

    async fn next_push(&self, now: Timestamp) -> Result<Option<Timestamp>, StoreError> {
        let state = self.state();
        let times = state.open_pushes().map(|row| row.next_at);
        Ok(times.filter(|at| *at > now).min())
    }

    async fn has_open_pushes(&self) -> Result<bool, StoreError> {
        Ok(self.state().has_open_pushes())
    }
}
