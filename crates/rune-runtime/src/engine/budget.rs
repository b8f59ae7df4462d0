//! Reservations of calls whose outcome nobody knows.

use rune_store_runtime::{
    BudgetFilter, BudgetKind, BudgetScope, EntryBody, PageRequest, RequestId, RequestRow,
    SettleBudget, Settlement, StoreError,
};

use super::Engine;
use crate::budget::usage_unknown;

impl Engine {
    /// What the journal of a request says that ends without having run again, where a model
    /// call of it was under way; the end settles it.
    pub(super) async fn unknown_usage(
        &self,
        row: &RequestRow,
    ) -> Result<Option<EntryBody>, StoreError> {
        if row.budgets.is_empty() {
            return Ok(None);
        }
        let open = self.inner.store.reservation(row.id).await?;
        Ok(open.map(|_| interrupted()))
    }

    /// Settles the call that was under way when a request was interrupted, and answers what
    /// its journal says of it.
    pub(super) async fn settle_interrupted(
        &self,
        id: RequestId,
    ) -> Result<Option<EntryBody>, StoreError> {
        let settle = SettleBudget {
            request_id: id,
            used: Settlement::Unknown,
            ends: false,
        };
        let open = self.inner.store.write(settle).await?;
        self.inner.budgets.tell_settled();
        Ok(open.then(interrupted))
    }

    /// Settles what was reserved by requests that no store knows as unfinished: those that
    /// are never stored ended with the process that ran them.
    pub(super) async fn settle_lost(&self) -> Result<(), StoreError> {
        let store = &self.inner.store;
        let mut lost = Vec::new();
        let mut page = PageRequest::first(PageRequest::MAX_LIMIT);
        loop {
            let found = store.reservations(&page).await?;
            for row in found.items {
                if self.is_over(row.request_id).await? {
                    lost.push((row.request_id, true));
                }
            }
            page.cursor = found.next;
            if page.cursor.is_none() {
                break;
            }
        }
        let requests = BudgetFilter {
            kind: Some(BudgetKind::Request),
            ..BudgetFilter::default()
        };
        loop {
            let found = store.budgets(&requests, &page).await?;
            for row in found.items {
                let BudgetScope::Request(id) = row.scope else {
                    continue;
                };
                if self.is_over(id).await? {
                    lost.push((id, false));
                }
            }
            page.cursor = found.next;
            if page.cursor.is_none() {
                break;
            }
        }
        for (request_id, reserved) in lost {
            let settle = SettleBudget {
                request_id,
                used: Settlement::Unknown,
                ends: true,
            };
            store.write(settle).await?;
            if reserved {
                tracing::warn!(
                    request = %request_id,
                    "a request that was not stored was lost during a model call; all that it had reserved is counted \
                     against the budgets"
                );
            }
        }
        self.inner.budgets.tell_settled();
        Ok(())
    }

    /// Whether nothing runs or takes up a request any more.
    async fn is_over(&self, id: RequestId) -> Result<bool, StoreError> {
        if self.inner.active.get(id).is_some() {
            return Ok(false);
        }
        let row = self.inner.store.request(id).await?;
        Ok(row.is_none_or(|row| row.status.is_terminal()))
    }
}

fn interrupted() -> EntryBody {
    usage_unknown("a model call was interrupted")
}
