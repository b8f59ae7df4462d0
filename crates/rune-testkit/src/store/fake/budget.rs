//! Shared budgets and the reservations of model calls.

use async_trait::async_trait;
use rune_store_runtime::{
    BudgetBalance, BudgetFilter, BudgetReader, BudgetRow, BudgetScope, Command, HeldBudget, Page,
    PageRequest, Reject, RequestId, ReservationRow, ReserveBudget, SettleBudget, Settlement,
    StoreError,
};

use super::page::page;
use super::{FakeStore, State};

impl State {
    pub(super) fn reserve(&mut self, command: &Command, op: &ReserveBudget) -> Result<u64, Reject> {
        op.check()?;
        let id = op.request_id;
        if op.stored {
            let request = self.requests.get(&id);
            let request = request.ok_or_else(|| Reject::not_found("request", &id))?;
            if request.row.status.is_terminal() {
                return Err(Reject::RequestEnded { id: id.to_string() });
            }
        }
        if self.reservations.iter().any(|row| row.request_id == id) {
            return Err(Reject::conflict("the request has a reservation"));
        }
        let balances: Vec<BudgetBalance> = op
            .claims
            .iter()
            .map(|claim| self.balance(&claim.cap.scope, command))
            .collect();
        let output = op.grant(&balances, command.at)?;
        let mut held = Vec::new();
        for claim in &op.claims {
            let scope = &claim.cap.scope;
            let (tokens, micro_usd) = op.amount(claim, output);
            let day = scope.day(command.at);
            let key = (scope.kind().as_str(), scope.key(), day);
            if !self.budgets.contains_key(&key) {
                self.budgets.retain(|(kind, name, other), row| {
                    let earlier = *kind == key.0 && *name == key.1 && *other < day;
                    !earlier || row.reserved_tokens > 0 || row.reserved_micro_usd > 0
                });
            }
            let row = self.budgets.entry(key).or_insert_with(|| BudgetRow {
                scope: scope.clone(),
                day,
                cap_tokens: None,
                cap_micro_usd: None,
                spent_tokens: 0,
                spent_micro_usd: 0,
                reserved_tokens: 0,
                reserved_micro_usd: 0,
                updated_at: command.at,
            });
            row.cap_tokens = claim.cap.tokens;
            row.cap_micro_usd = claim.cap.micro_usd;
            row.reserved_tokens += tokens;
            row.reserved_micro_usd += micro_usd;
            row.updated_at = command.at;
            held.push(HeldBudget {
                scope: scope.clone(),
                day,
                tokens,
                micro_usd,
            });
        }
        self.reservations.push(ReservationRow {
            request_id: id,
            at: command.at,
            held,
        });
        Ok(output)
    }

    pub(super) fn settle_budget(&mut self, command: &Command, op: &SettleBudget) -> bool {
        let closed = self.close_reservation(command, op.request_id, op.used);
        if op.ends {
            self.forget_budget(&BudgetScope::Request(op.request_id));
        }
        closed
    }

    pub(super) fn close_reservation(
        &mut self,
        command: &Command,
        id: RequestId,
        used: Settlement,
    ) -> bool {
        let found = self.reservations.iter().position(|r| r.request_id == id);
        let Some(found) = found else {
            return false;
        };
        for held in self.reservations.remove(found).held {
            let key = (held.scope.kind().as_str(), held.scope.key(), held.day);
            if let Some(row) = self.budgets.get_mut(&key) {
                let (tokens, micro_usd) = used.spent(&held);
                row.spent_tokens += tokens;
                row.spent_micro_usd += micro_usd;
                row.reserved_tokens -= held.tokens;
                row.reserved_micro_usd -= held.micro_usd;
                row.updated_at = command.at;
            }
        }
        true
    }

    /// Whether nothing is left of it.
    pub(super) fn forget_budget(&mut self, scope: &BudgetScope) -> bool {
        let key = (scope.kind().as_str(), scope.key(), 0);
        let Some(row) = self.budgets.get(&key) else {
            return true;
        };
        let free = row.reserved_tokens == 0 && row.reserved_micro_usd == 0;
        if free {
            self.budgets.remove(&key);
        }
        free
    }

    fn balance(&self, scope: &BudgetScope, command: &Command) -> BudgetBalance {
        let key = (scope.kind().as_str(), scope.key(), scope.day(command.at));
        let row = self.budgets.get(&key);
        row.map_or_else(BudgetBalance::default, |row| BudgetBalance {
            spent_tokens: row.spent_tokens,
            spent_micro_usd: row.spent_micro_usd,
            reserved_tokens: row.reserved_tokens,
            reserved_micro_usd: row.reserved_micro_usd,
        })
    }
}

#[async_trait]
impl BudgetReader for FakeStore {
    async fn budgets(
        &self,
        filter: &BudgetFilter,
        request: &PageRequest,
    ) -> Result<Page<BudgetRow>, StoreError> {
        let state = self.state();
        let rows = state.budgets.values().filter(|row| {
            let current = |at| row.day == row.scope.day(at);
            filter.kind.is_none_or(|kind| row.scope.kind() == kind)
                && filter.current_at.is_none_or(current)
        });
        let rows = rows.map(|row| {
            let kind = row.scope.kind().as_str().to_owned();
            ((kind, row.scope.key(), row.day), row.clone())
        });
        page("budgets", request, rows)
    }

    async fn reservation(&self, id: RequestId) -> Result<Option<ReservationRow>, StoreError> {
        let state = self.state();
        let found = state.reservations.iter().find(|row| row.request_id == id);
        Ok(found.cloned())
    }

    async fn reservations(
        &self,
        request: &PageRequest,
    ) -> Result<Page<ReservationRow>, StoreError> {
        let rows = self.state().reservations.clone();
        page("reservations", request, rows.into_iter().enumerate())
    }
}
