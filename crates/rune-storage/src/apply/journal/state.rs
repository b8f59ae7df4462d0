//! The part of a request's row that its journal moves.

use rune_store_runtime::limits::MAX_ENTRIES;
use rune_store_runtime::{
    Appended, CommandId, Cost, Reject, ReplicaId, RequestId, RequestStatus, Usage,
};
use rusqlite::{Connection, OptionalExtension, params};

use crate::ApplyError;
use crate::apply::Context;
use crate::row::{self, get};

/// A request while a command is applied to it.
pub(in crate::apply) struct RequestState {
    pub(super) id: RequestId,
    pub(in crate::apply) row: i64,
    pub(in crate::apply) session: i64,
    pub(in crate::apply) status: RequestStatus,
    pub(in crate::apply) last_seq: u64,
    pub(in crate::apply) cancel_requested: bool,
    pub(super) attempts: u32,
    pub(super) model_calls: u32,
    pub(super) tool_calls: u32,
    pub(super) usage: Usage,
    pub(super) cost: Cost,
    pub(super) replica_id: Option<ReplicaId>,
    pub(super) namespace: String,
    pub(super) agent: String,
    pub(super) caller: String,
    /// Whether its model calls are counted against shared budgets.
    pub(super) has_budgets: bool,
    command_id: CommandId,
    command_seq: u64,
}

impl RequestState {
    /// The request as it is, rejected where it does not exist.
    pub(in crate::apply) fn load(db: &Connection, id: RequestId) -> Result<Self, ApplyError> {
        let state = db
            .prepare_cached(
                "SELECT id, session, status, last_seq, cancel_requested, attempts, model_calls,
                     tool_calls, input_tokens, output_tokens, cached_tokens, cache_write_tokens,
                     reasoning_tokens, replica_id, namespace, agent, command_id, command_seq,
                     cost_micro_usd, unpriced_calls, caller, budgets IS NOT NULL
                 FROM requests WHERE request_id = ?1",
            )?
            .query_row([id.as_bytes()], |found| {
                Ok(Self {
                    id,
                    row: get(found, 0)?,
                    session: get(found, 1)?,
                    status: row::word(found, 2, RequestStatus::parse)?,
                    last_seq: get(found, 3)?,
                    cancel_requested: get(found, 4)?,
                    attempts: get(found, 5)?,
                    model_calls: get(found, 6)?,
                    tool_calls: get(found, 7)?,
                    usage: Usage {
                        input_tokens: get(found, 8)?,
                        output_tokens: get(found, 9)?,
                        cached_tokens: get(found, 10)?,
                        cache_write_tokens: get(found, 11)?,
                        reasoning_tokens: get(found, 12)?,
                    },
                    replica_id: row::maybe_id(found, 13, ReplicaId::from_bytes)?,
                    namespace: get(found, 14)?,
                    agent: get(found, 15)?,
                    command_id: row::id(found, 16, CommandId::from_bytes)?,
                    command_seq: get(found, 17)?,
                    cost: Cost {
                        micro_usd: get(found, 18)?,
                        unpriced_calls: get(found, 19)?,
                    },
                    caller: get(found, 20)?,
                    has_budgets: get(found, 21)?,
                })
            })
            .optional()?;
        state.ok_or_else(|| Reject::not_found("request", &id).into())
    }

    /// The first entry that this command wrote, where it is the last that wrote.
    pub(super) fn receipt(&self, command: CommandId) -> Option<u64> {
        (self.command_id == command).then_some(self.command_seq)
    }

    /// Rejected where the journal cannot hold `count` more entries.
    pub(in crate::apply) fn room_for(&self, count: usize) -> Result<(), Reject> {
        let after = self.last_seq.saturating_add(count as u64);
        if after > MAX_ENTRIES {
            return Err(Reject::invalid(format!(
                "a journal may have {MAX_ENTRIES} entries"
            )));
        }
        Ok(())
    }

    /// The reply of a command that wrote from `first_seq` on.
    pub(in crate::apply) const fn appended(&self, first_seq: u64) -> Appended {
        Appended {
            first_seq,
            last_seq: self.last_seq,
            status: self.status,
            cancel_requested: self.cancel_requested,
        }
    }

    /// Writes back what a command moves that is not the request's own.
    pub(in crate::apply) fn touch(
        &self,
        db: &Connection,
        context: Context,
    ) -> rusqlite::Result<()> {
        db.prepare_cached(
            "UPDATE requests SET status = ?2, last_seq = ?3, cancel_requested = ?4, updated_at = ?5
             WHERE id = ?1",
        )?
        .execute(params![
            self.row,
            self.status.as_str(),
            self.last_seq,
            self.cancel_requested,
            context.at.as_millis()
        ])?;
        Ok(())
    }

    /// Writes the row back.
    pub(super) fn update(
        &self,
        db: &Connection,
        context: Context,
        first_seq: u64,
    ) -> rusqlite::Result<()> {
        db.prepare_cached(
            "UPDATE requests SET status = ?2, last_seq = ?3, attempts = ?4, model_calls = ?5,
                 tool_calls = ?6, input_tokens = ?7, output_tokens = ?8, cached_tokens = ?9,
                 cache_write_tokens = ?10, reasoning_tokens = ?11, replica_id = ?12,
                 command_id = ?13, command_seq = ?14, updated_at = ?15, cost_micro_usd = ?16,
                 unpriced_calls = ?17
             WHERE id = ?1",
        )?
        .execute(params![
            self.row,
            self.status.as_str(),
            self.last_seq,
            self.attempts,
            self.model_calls,
            self.tool_calls,
            self.usage.input_tokens,
            self.usage.output_tokens,
            self.usage.cached_tokens,
            self.usage.cache_write_tokens,
            self.usage.reasoning_tokens,
            self.replica_id.as_ref().map(ReplicaId::as_bytes),
            context.id.as_bytes(),
            first_seq,
            context.at.as_millis(),
            self.cost.micro_usd,
            self.cost.unpriced_calls,
        ])?;
        Ok(())
    }
}
