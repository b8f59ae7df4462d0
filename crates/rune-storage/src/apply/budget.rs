//! Shared budgets and the reservations of model calls.

use rune_store_runtime::{
    BudgetBalance, BudgetClaim, BudgetScope, HeldBudget, Reject, RequestId, RequestStatus,
    ReserveBudget, SettleBudget, Settlement,
};
use rusqlite::{Connection, OptionalExtension, params};

use super::{Context, encode};
use crate::ApplyError;
use crate::row::{self, get};

/// Reserves what a call can use with each budget, and answers the output it may have.
pub(super) fn reserve(
    db: &Connection,
    context: Context,
    op: &ReserveBudget,
) -> Result<u64, ApplyError> {
    op.check()?;
    if op.stored {
        goes_on(db, op.request_id)?;
    }
    if reservation(db, op.request_id)?.is_some() {
        return Err(Reject::conflict(format!(
            "request `{}` has a reservation that is not settled",
            op.request_id
        ))
        .into());
    }
    let mut balances = Vec::with_capacity(op.claims.len());
    for claim in &op.claims {
        balances.push(balance(db, context, &claim.cap.scope)?);
    }
    let output = op.grant(&balances, context.at)?;
    let mut held = Vec::with_capacity(op.claims.len());
    for claim in &op.claims {
        let (tokens, micro_usd) = op.amount(claim, output);
        hold(db, context, claim, tokens, micro_usd)?;
        held.push(HeldBudget {
            scope: claim.cap.scope.clone(),
            day: claim.cap.scope.day(context.at),
            tokens,
            micro_usd,
        });
    }
    db.prepare_cached("INSERT INTO reservations (request_id, at, held) VALUES (?1, ?2, ?3)")?
        .execute(params![
            op.request_id.as_bytes(),
            context.at.as_millis(),
            encode(&held)?
        ])?;
    Ok(output)
}

/// Settles a reservation; says whether there was one.
pub(super) fn settle(
    db: &Connection,
    context: Context,
    op: &SettleBudget,
) -> Result<bool, ApplyError> {
    Ok(if op.ends {
        end(db, context, op.request_id, op.used)?
    } else {
        close(db, context, op.request_id, op.used)?
    })
}

/// Settles the reservation of a request, where there is one, and says whether.
pub(super) fn close(
    db: &Connection,
    context: Context,
    id: RequestId,
    used: Settlement,
) -> rusqlite::Result<bool> {
    let Some(held) = reservation(db, id)? else {
        return Ok(false);
    };
    for held in &held {
        let (tokens, micro_usd) = used.spent(held);
        // A budget that is gone, with its session, has nothing to move.
        db.prepare_cached(
            "UPDATE budgets SET spent_tokens = spent_tokens + ?4,
                 spent_micro_usd = spent_micro_usd + ?5, reserved_tokens = reserved_tokens - ?6,
                 reserved_micro_usd = reserved_micro_usd - ?7, updated_at = ?8
             WHERE kind = ?1 AND key = ?2 AND day = ?3",
        )?
        .execute(params![
            held.scope.kind().as_str(),
            held.scope.key(),
            held.day,
            tokens,
            micro_usd,
            held.tokens,
            held.micro_usd,
            context.at.as_millis()
        ])?;
    }
    db.prepare_cached("DELETE FROM reservations WHERE request_id = ?1")?
        .execute([id.as_bytes()])?;
    Ok(true)
}

/// [`close`] for a request that ends: its own budget is not needed any more.
pub(super) fn end(
    db: &Connection,
    context: Context,
    id: RequestId,
    used: Settlement,
) -> rusqlite::Result<bool> {
    let closed = close(db, context, id, used)?;
    forget(db, &BudgetScope::Request(id))?;
    Ok(closed)
}

/// Removes the budget of a request or a session that is gone, and says whether nothing is
/// left of it: what calls under way have reserved stays.
pub(super) fn forget(db: &Connection, scope: &BudgetScope) -> rusqlite::Result<bool> {
    let key = params![scope.kind().as_str(), scope.key()];
    db.prepare_cached(
        "DELETE FROM budgets WHERE kind = ?1 AND key = ?2 AND day = 0
             AND reserved_tokens = 0 AND reserved_micro_usd = 0",
    )?
    .execute(key)?;
    let left: bool = db
        .prepare_cached(
            "SELECT EXISTS (SELECT 1 FROM budgets WHERE kind = ?1 AND key = ?2 AND day = 0)",
        )?
        .query_row(key, |found| get(found, 0))?;
    Ok(!left)
}

fn goes_on(db: &Connection, id: RequestId) -> Result<(), ApplyError> {
    let status = db
        .prepare_cached("SELECT status FROM requests WHERE request_id = ?1")?
        .query_row([id.as_bytes()], |found| {
            row::word(found, 0, RequestStatus::parse)
        })
        .optional()?;
    match status {
        None => Err(Reject::not_found("request", &id).into()),
        Some(status) if status.is_terminal() => {
            Err(Reject::RequestEnded { id: id.to_string() }.into())
        }
        Some(_) => Ok(()),
    }
}

fn reservation(db: &Connection, id: RequestId) -> rusqlite::Result<Option<Vec<HeldBudget>>> {
    db.prepare_cached("SELECT held FROM reservations WHERE request_id = ?1")?
        .query_row([id.as_bytes()], |found| row::json(found, 0))
        .optional()
}

fn balance(
    db: &Connection,
    context: Context,
    scope: &BudgetScope,
) -> rusqlite::Result<BudgetBalance> {
    let found = db
        .prepare_cached(
            "SELECT spent_tokens, spent_micro_usd, reserved_tokens, reserved_micro_usd
             FROM budgets WHERE kind = ?1 AND key = ?2 AND day = ?3",
        )?
        .query_row(
            params![scope.kind().as_str(), scope.key(), scope.day(context.at)],
            |found| {
                Ok(BudgetBalance {
                    spent_tokens: get(found, 0)?,
                    spent_micro_usd: get(found, 1)?,
                    reserved_tokens: get(found, 2)?,
                    reserved_micro_usd: get(found, 3)?,
                })
            },
        )
        .optional()?;
    Ok(found.unwrap_or_default())
}

/// Adds to what is reserved. The first call of a day removes the days before that have
/// nothing reserved any more.
fn hold(
    db: &Connection,
    context: Context,
    claim: &BudgetClaim,
    tokens: u64,
    micro_usd: u64,
) -> rusqlite::Result<()> {
    let scope = &claim.cap.scope;
    let (kind, key, day) = (scope.kind().as_str(), scope.key(), scope.day(context.at));
    let moved = db
        .prepare_cached(
            "UPDATE budgets SET cap_tokens = ?4, cap_micro_usd = ?5,
                 reserved_tokens = reserved_tokens + ?6,
                 reserved_micro_usd = reserved_micro_usd + ?7, updated_at = ?8
             WHERE kind = ?1 AND key = ?2 AND day = ?3",
        )?
        .execute(params![
            kind,
            key,
            day,
            claim.cap.tokens,
            claim.cap.micro_usd,
            tokens,
            micro_usd,
            context.at.as_millis()
        ])?;
    if moved > 0 {
        return Ok(());
    }
    db.prepare_cached(
        "DELETE FROM budgets WHERE kind = ?1 AND key = ?2 AND day < ?3
             AND reserved_tokens = 0 AND reserved_micro_usd = 0",
    )?
    .execute(params![kind, key, day])?;
    db.prepare_cached(
        "INSERT INTO budgets (kind, key, day, cap_tokens, cap_micro_usd, spent_tokens,
             spent_micro_usd, reserved_tokens, reserved_micro_usd, updated_at)
         VALUES (?1, ?2, ?3, ?4, ?5, 0, 0, ?6, ?7, ?8)",
    )?
    .execute(params![
        kind,
        key,
        day,
        claim.cap.tokens,
        claim.cap.micro_usd,
        tokens,
        micro_usd,
        context.at.as_millis()
    ])?;
    Ok(())
}
