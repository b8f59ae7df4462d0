//! Applying a command: the only code that writes.
//!
//! * Deterministic: it reads the command and the database, nothing else. The
//!   writing connection refuses to prepare a statement that calls a function of
//!   chance or clock.
//! * Total: what the present state forbids is a [`Reject`], decided before the
//!   first row is written, so that a rejected command needs no rollback and a
//!   batch needs no savepoint. Whatever else fails, fails the transaction.
//! * Applied once: a retry of a command is recognised by its receipt. For the two
//!   commands of a plain request the receipt is two columns of the request's row
//!   (see [`request`] and [`journal`]); for the others a row of its own, and for
//!   every command of a replicated log ([`apply_ordered`]).

mod approval;
mod audit;
mod budget;
mod cache;
mod deployment;
mod encoded;
mod event;
mod journal;
mod knowledge;
mod memory;
mod outbox;
mod push;
mod receipt;
mod registry;
mod replica;
mod request;
mod schedule;
mod secret;
mod session;
mod task;

use rune_store_runtime::limits::{MAX_COMMAND_MILLIS, MAX_JSON_DEPTH, json_depth};
use rune_store_runtime::{Command, CommandId, Leadership, Op, Quota, Reject, Reply, Timestamp};
use rusqlite::{Connection, Transaction};
use serde::Serialize;

use crate::ApplyError;

pub(crate) use encoded::Encoded;
use encoded::EncodedAccept;

/// What every change knows of the command that carries it.
#[derive(Clone, Copy)]
struct Context {
    id: CommandId,
    at: Timestamp,
    /// The time by which things expire. In a replicated log it never goes back, whichever clock a
    /// command was stamped by.
    clock: Timestamp,
    /// What a change of a deployment must keep within.
    quota: Option<Quota>,
}

/// A command of a replicated log.
#[derive(Debug, Clone)]
pub struct Ordered {
    /// The command.
    pub command: Command,
    /// Who led when it came into the log.
    pub led: Leadership,
}

/// Applies a command within a transaction on a connection of this crate.
///
/// # Errors
/// [`ApplyError::Reject`] is the command's reply and nothing was written; after any
/// other error the transaction must be rolled back and no further command applied.
pub fn apply(transaction: &Transaction<'_>, command: &Command) -> Result<Reply, ApplyError> {
    apply_encoded(transaction, command, &Encoded::of(&command.op)?)
}

/// [`apply`] of a command whose JSON was made before.
pub(crate) fn apply_encoded(
    transaction: &Transaction<'_>,
    command: &Command,
    encoded: &Encoded,
) -> Result<Reply, ApplyError> {
    apply_at(transaction, command, encoded, command.at, None)
}

fn apply_at(
    transaction: &Transaction<'_>,
    command: &Command,
    encoded: &Encoded,
    clock: Timestamp,
    led: Option<Leadership>,
) -> Result<Reply, ApplyError> {
    if !command.is_known() {
        return Err(ApplyError::UnknownVersion {
            found: command.v,
            supported: Command::VERSION,
        });
    }
    command.check_fence(led)?;
    if !is_time(command.at) {
        return Err(Reject::invalid("the command's time is not between 1970 and 9999").into());
    }
    let context = Context {
        id: command.id,
        at: command.at,
        clock,
        quota: command.quota,
    };
    let reply = match (&command.op, encoded) {
        (Op::AcceptRequest(op), Encoded::Accept(json)) => {
            request::accept(transaction, context, op, json).map(Reply::Accepted)
        }
        (Op::AppendEntries(op), Encoded::Entries(json)) => {
            journal::append(transaction, context, op, json).map(Reply::Appended)
        }
        (op, _) => receipt::once(transaction, context, || change(transaction, context, op)),
    }?;
    audit::attach(transaction, context, &command.audit)?;
    Ok(reply)
}

/// [`apply`] of a command of a replicated log, which may hold the same command
/// twice, with others between: the second one gets the answer of the first, be it a
/// rejection, and changes nothing. `clock` is the time of the state, see [`clock`].
pub(crate) fn apply_ordered(
    transaction: &Transaction<'_>,
    ordered: &Ordered,
    clock: Timestamp,
) -> Result<Result<Reply, Reject>, ApplyError> {
    let Ordered { command, led } = ordered;
    let context = Context {
        id: command.id,
        at: command.at,
        clock,
        quota: command.quota,
    };
    if let Some(answer) = receipt::answered(transaction, context)? {
        return Ok(answer);
    }
    let applied = match Encoded::of(&command.op) {
        Ok(encoded) => apply_at(transaction, command, &encoded, clock, Some(*led)),
        Err(reject) => Err(reject.into()),
    };
    let answer = match applied {
        Ok(reply) => Ok(reply),
        Err(ApplyError::Reject(reject)) => Err(reject),
        Err(error) => return Err(error),
    };
    let has_row = !matches!(command.op, Op::AcceptRequest(_) | Op::AppendEntries(_));
    if !(answer.is_ok() && has_row) {
        receipt::keep(transaction, context, answer.as_ref())?;
    }
    Ok(answer)
}

/// The time of a replicated state once a command has come: that of the latest command so far.
/// The nodes that stamp commands have clocks of their own, and one that is slow must not find
/// that what it just wrote has expired.
pub(crate) fn clock(before: Timestamp, command: &Command) -> Timestamp {
    if is_time(command.at) {
        before.max(command.at)
    } else {
        before
    }
}

fn is_time(at: Timestamp) -> bool {
    (0..=MAX_COMMAND_MILLIS).contains(&at.as_millis())
}

/// The changes whose receipt is a row.
fn change(db: &Connection, context: Context, op: &Op) -> Result<Reply, ApplyError> {
    let unit = |()| Reply::Unit(());
    match op {
        Op::AcceptRequest(op) => {
            request::accept(db, context, op, &EncodedAccept::of(op)?).map(Reply::Accepted)
        }
        Op::AppendEntries(op) => {
            journal::append(db, context, op, &encoded::entries(op)).map(Reply::Appended)
        }
        Op::RequestCancel(op) => request::cancel(db, context, op).map(Reply::Appended),
        Op::DecideApproval(op) => approval::decide(db, context, op).map(Reply::Approval),
        Op::CreateSession(op) => session::create(db, context, op).map(unit),
        Op::DeleteSession(op) => session::delete(db, op).map(unit),
        Op::PublishVersion(op) => registry::publish(db, context, op).map(Reply::Version),
        Op::ApplyDeployment(op) => deployment::put(db, context, op).map(Reply::Deployment),
        Op::ScaleDeployment(op) => deployment::scale(db, context, op).map(Reply::Deployment),
        Op::AutoscaleDeployment(op) => {
            deployment::autoscale(db, context, op).map(Reply::Deployment)
        }
        Op::StartRollout(op) => deployment::start_rollout(db, context, op).map(Reply::Deployment),
        Op::PromoteRollout(op) => deployment::promote(db, context, op).map(Reply::Deployment),
        Op::CompleteRollout(op) => {
            deployment::complete_rollout(db, context, op).map(Reply::Deployment)
        }
        Op::RollBack(op) => deployment::roll_back(db, context, op).map(Reply::Deployment),
        Op::SetDeploymentState(op) => deployment::set_state(db, context, op).map(unit),
        Op::DeleteDeployment(op) => deployment::delete(db, context, op).map(unit),
        Op::PutReplica(op) => replica::put(db, context, op).map(unit),
        Op::RemoveReplica(op) => replica::remove(db, op).map(unit),
        Op::CachePut(op) => cache::put(db, op).map(unit),
        Op::CacheRemove(op) => cache::remove(db, op).map(unit),
        Op::CacheSweep(op) => cache::sweep(db, context, op).map(Reply::Count),
        Op::PutSchedule(op) => schedule::put(db, context, op).map(unit),
        Op::PauseSchedule(op) => schedule::pause(db, context, op).map(unit),
        Op::FireSchedule(op) => schedule::fire(db, context, op).map(Reply::First),
        Op::SettleFire(op) => schedule::settle(db, op).map(Reply::First),
        Op::DeleteSchedule(op) => schedule::delete(db, op).map(unit),
        Op::RecordAudit(op) => audit::record(db, context, op).map(unit),
        Op::MemoryPut(op) => memory::put(db, context, op).map(unit),
        Op::MemoryForget(op) => memory::forget(db, op).map(unit),
        Op::PutEntity(op) => knowledge::put_entity(db, context, op).map(Reply::First),
        Op::PutRelation(op) => knowledge::put_relation(db, context, op).map(Reply::First),
        Op::PostTask(op) => task::post(db, context, op).map(unit),
        Op::ClaimTask(op) => task::claim(db, context, op).map(Reply::Task),
        Op::CompleteTask(op) => task::complete(db, context, op).map(unit),
        Op::PublishEvent(op) => event::publish(db, context, op).map(Reply::Count),
        Op::QueueMessage(op) => outbox::queue(db, context, op).map(unit),
        Op::ReserveBudget(op) => budget::reserve(db, context, op).map(Reply::Count),
        Op::SettleBudget(op) => budget::settle(db, context, op).map(Reply::First),
        Op::PutSecret(op) => secret::put(db, context, op).map(unit),
        Op::RemoveSecret(op) => secret::remove(db, op).map(unit),
        Op::PutPush(op) => push::put(db, context, op).map(unit),
        Op::RemovePush(op) => push::remove(db, op).map(unit),
        Op::SettlePush(op) => push::settle(db, op).map(unit),
    }
}

/// A value as the JSON text that is stored, rejected where it could not be read
/// back.
fn encode<T: Serialize>(value: &T) -> Result<String, Reject> {
    let text = serde_json::to_string(value)
        .map_err(|error| Reject::invalid(format!("cannot be written as JSON: {error}")))?;
    if json_depth(&text) > MAX_JSON_DEPTH {
        return Err(Reject::invalid(format!(
            "JSON may nest {MAX_JSON_DEPTH} levels deep"
        )));
    }
    Ok(text)
}

/// [`encode`] with a limit on the length.
fn encode_within<T: Serialize>(value: &T, what: &str, limit: usize) -> Result<String, Reject> {
    let text = encode(value)?;
    if text.len() > limit {
        return Err(Reject::invalid(format!(
            "{what} has {} bytes of JSON, the limit is {limit}",
            text.len()
        )));
    }
    Ok(text)
}
