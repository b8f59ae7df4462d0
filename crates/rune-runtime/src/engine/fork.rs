//! Forking a request: a new one begins with the journal of another up to an entry and goes on from there.
//!
//! Invariants:
//! * the origin and its session are read and never written;
//! * the whole fork is one command: a crash right behind it finds a request like any other;
//! * what was taken over is not done again: its tools do not run, its model calls are not charged, its
//!   decisions are not audited;
//! * it is counted against the budgets of whoever asked for it, and against those of its own session;
//! * a call that is open at the entry is treated as after a crash: with an intent its outcome is unknown,
//!   without one the policy decides about it anew.

use std::collections::{BTreeMap, BTreeSet};

use rune_store_runtime::{
    AcceptRequest, AuditId, AuditVerdict, Block, Cost, Entry, EntryBody, Fork, ForkChanges,
    ForkOrigin, IdempotencyKey, Identity, OUTPUT_REPAIR, PolicyVerdict, RecordAudit, RequestId,
    RequestRow, SessionId, Timestamp, Usage,
};
use serde_json::Value;

use super::remote::REMOTE_COST;
use super::{Engine, EngineError, Invoked, QUEUE_DEADLINE};
use crate::budget::Payer;
use crate::history;
use crate::planner::{LOOP_DETECTED, MODEL_DENIED};
use crate::policy::NETWORK;
use crate::router::RouteError;

/// Positions that an error names at the most.
const NAMED_POSITIONS: usize = 50;
/// Codes of notices that are committed with the reply behind them.
const BEFORE_REPLY: [&str; 2] = [EntryBody::OUTPUT_TRUNCATED, EntryBody::REFUSED];

/// What a caller asks to be forked.
#[derive(Debug, Clone)]
pub struct Forking {
    /// The request that is forked.
    pub origin: RequestId,
    /// The last entry that is taken over.
    pub at: u64,
    /// What is different from there on.
    pub changes: ForkChanges,
    /// The caller's own notes.
    pub metadata: BTreeMap<String, Value>,
    /// Who asks.
    pub caller: String,
    /// Makes the fork idempotent.
    pub idempotency: Option<IdempotencyKey>,
}

impl Engine {
    /// Accepts a request that begins with the journal of another one, and starts it. It has a session of
    /// its own, whose history is what the model of the other one was shown.
    ///
    /// # Errors
    /// [`EngineError::NotForkable`] and [`EngineError::ForkPosition`] say why it cannot be forked, or not
    /// there; nothing was accepted then.
    pub async fn fork(&self, forking: Forking) -> Result<Invoked, EngineError> {
        let id = forking.origin;
        let refused = |reason: &str| EngineError::NotForkable {
            id,
            reason: reason.to_owned(),
        };
        if self.inner.active.unstored_row(id).is_some() {
            return Err(refused(
                "its agent has `checkpoint_policy: never`, so nothing of it is stored",
            ));
        }
        let row = self.request(id).await?;
        let mut journal = self.journal(id).await?;
        check_position(id, &journal, forking.at)?;
        let until = shown_until(&journal, forking.at).unwrap_or_else(|| self.inner.store.now());
        journal.retain(|entry| entry.seq <= forking.at);
        let Some(Entry {
            body: EntryBody::Accepted { input, .. },
            ..
        }) = journal.first()
        else {
            return Err(refused("its journal is not stored"));
        };
        let input = input.clone();

        let router = &self.inner.router;
        let (request_id, session_id) = (RequestId::generate(), SessionId::generate());
        // On the version that it begins with a part of, as long as that runs.
        let pinned = Some(row.version_id);
        let ready = router
            .ready_for(row.deployment_id, &session_id, pinned, QUEUE_DEADLINE)
            .await?;
        let deployment = router.deployment(row.deployment_id);
        let deployment = deployment.ok_or(RouteError::Removed)?;
        let agent = ready.agent();
        if agent.package().workflow.is_some() && !forking.changes.is_empty() {
            return Err(refused(
                "it runs a workflow, which has no model, instructions or policy of its own to change",
            ));
        }
        if !forking.changes.is_empty() {
            agent
                .changed(&forking.changes)
                .map_err(EngineError::Changes)?;
        }
        let origin = origin(&row, &journal, forking.changes);
        let audit = Some(audit(&origin, &row, &forking.caller));
        let budgets = self.inner.budgets.caps(&Payer {
            request_id,
            session_id: &session_id,
            namespace: &row.namespace,
            agent,
            alias: &deployment.alias,
            caller: &forking.caller,
            inherited: &[],
        });
        let accept = AcceptRequest {
            request_id,
            session_id,
            namespace: row.namespace,
            agent: row.agent,
            deployment_id: row.deployment_id,
            version_id: ready.version_id(),
            input,
            metadata: forking.metadata,
            caller: forking.caller,
            checkpoint: row.checkpoint,
            idempotency: forking.idempotency,
            follows: None,
            parent: None,
            budgets,
            fork: Some(Box::new(Fork {
                origin,
                shown: history::most(agent.spec().memory_profile),
                shown_until: until,
            })),
        };
        journal.remove(0);
        self.accept(accept, journal, audit, &ready, false).await
    }
}

/// When the run of a request that made the entry `at` began: what its model was shown had ended by then.
fn shown_until(journal: &[Entry], at: u64) -> Option<Timestamp> {
    let started = |entry: &&Entry| matches!(entry.body, EntryBody::Started { .. });
    let before = journal
        .iter()
        .filter(|entry| entry.seq <= at)
        .rfind(started);
    let found = before.or_else(|| journal.iter().find(started))?;
    Some(found.at)
}

fn origin(row: &RequestRow, taken: &[Entry], changes: ForkChanges) -> ForkOrigin {
    let (mut usage, mut cost) = (Usage::default(), Cost::default());
    let (mut model_calls, mut tool_calls) = (0, 0);
    for entry in taken {
        if let Some(call) = entry.body.billed() {
            usage.add(call.usage);
            cost.add(call.cost_micro_usd);
            model_calls += 1;
        }
        let blocks = entry.body.said().unwrap_or_default();
        let call = |block: &&Block| matches!(block, Block::ToolCall { .. });
        tool_calls += u32::try_from(blocks.iter().filter(call).count()).unwrap_or(u32::MAX);
    }
    ForkOrigin {
        request_id: row.id,
        seq: taken.len() as u64,
        identity: identity(row, taken),
        usage,
        cost,
        model_calls,
        tool_calls,
        changes,
    }
}

/// The request that a journal began with.
fn identity(row: &RequestRow, journal: &[Entry]) -> Identity {
    match journal.first().map(|entry| &entry.body) {
        Some(EntryBody::Accepted {
            forked_from: Some(origin),
            ..
        }) => origin.identity.clone(),
        _ => Identity {
            request_id: row.id,
            session_id: row.session_id.clone(),
        },
    }
}

/// The row of the audit trail: who forked what, and whether by another policy.
fn audit(origin: &ForkOrigin, row: &RequestRow, caller: &str) -> RecordAudit {
    let changes = &origin.changes;
    let named = [
        ("model", changes.model.is_some()),
        ("instructions", changes.instructions.is_some()),
        ("policy", changes.policy.is_some()),
    ];
    let named: Vec<&str> = named
        .iter()
        .filter(|(_, is)| *is)
        .map(|(name, _)| *name)
        .collect();
    let reason = if named.is_empty() {
        "forked as it is".to_owned()
    } else {
        format!("forked with another {}", named.join(", "))
    };
    RecordAudit {
        audit_id: AuditId::generate(),
        kind: "fork".to_owned(),
        resource: format!(
            "{}/{} {}@{}",
            row.namespace, row.agent, origin.request_id, origin.seq
        ),
        verdict: AuditVerdict::Allowed,
        reason,
        caller: caller.to_owned(),
        request_id: None,
    }
}

fn check_position(id: RequestId, journal: &[Entry], at: u64) -> Result<(), EngineError> {
    let obstacles = obstacles(journal);
    let index = usize::try_from(at).ok().and_then(|at| at.checked_sub(1));
    let reason = match index.map(|index| obstacles.get(index)) {
        Some(Some(None)) => return Ok(()),
        Some(Some(Some(reason))) => (*reason).to_owned(),
        _ => format!("its journal has the entries 1 to {}", journal.len()),
    };
    let valid = (1_u64..).zip(&obstacles);
    let valid = valid.filter_map(|(seq, obstacle)| obstacle.is_none().then_some(seq));
    let mut valid: Vec<String> = valid.map(|seq| seq.to_string()).collect();
    if valid.len() > NAMED_POSITIONS {
        valid.truncate(NAMED_POSITIONS);
        valid.push("…".to_owned());
    }
    let valid = valid.join(", ");
    Err(EngineError::ForkPosition {
        id,
        at,
        reason,
        valid,
    })
}

/// For each entry, why a request cannot be forked behind it; nothing where it can.
fn obstacles(journal: &[Entry]) -> Vec<Option<&'static str>> {
    let mut intended: BTreeSet<&str> = BTreeSet::new();
    let mut children: BTreeSet<&str> = BTreeSet::new();
    let mut cancelled = false;
    let mut obstacles = Vec::with_capacity(journal.len());
    for (index, entry) in journal.iter().enumerate() {
        match &entry.body {
            EntryBody::ToolIntent(intent) => {
                intended.insert(&intent.call_id);
            }
            EntryBody::AgentCalled { call_id, .. } => {
                children.insert(call_id);
            }
            EntryBody::ToolResult(outcome) => {
                children.remove(outcome.call_id.as_str());
            }
            EntryBody::StepStarted { step, .. } => {
                children.insert(step);
            }
            EntryBody::StepFinished(outcome) => {
                children.remove(outcome.step.as_str());
            }
            EntryBody::CancelRequested { .. } => cancelled = true,
            _ => {}
        }
        let next = journal.get(index + 1);
        obstacles.push(if entry.body.is_last() {
            Some("the request has ended there")
        } else if cancelled {
            Some("somebody has asked for the request to be cancelled there")
        } else if next.is_some_and(|next| goes_on(&entry.body, &next.body, &intended)) {
            Some("it is in the middle of what was committed at once")
        } else if children.is_empty() {
            None
        } else {
            Some("a call of another agent is open there")
        });
    }
    obstacles
}

/// Whether an entry was committed with the one before it.
fn goes_on(entry: &EntryBody, next: &EntryBody, intended: &BTreeSet<&str>) -> bool {
    // What is decided about the calls of a reply.
    let planned = |body: &EntryBody| match body {
        EntryBody::PolicyVerdict(verdict) => is_about_call(verdict),
        EntryBody::ToolIntent(_) | EntryBody::AgentCalled { .. } | EntryBody::ApprovalAsked(_) => {
            true
        }
        EntryBody::ToolResult(outcome) => !intended.contains(outcome.call_id.as_str()),
        EntryBody::Notice { code, .. } => code == LOOP_DETECTED || code == REMOTE_COST,
        _ => false,
    };
    match (entry, next) {
        // A verdict about a model, a host or a step is committed with what comes of it.
        (EntryBody::PolicyVerdict(verdict), _) if !is_about_call(verdict) => true,
        (EntryBody::Notice { code, .. }, _) if code == MODEL_DENIED => true,
        (
            EntryBody::PolicyVerdict(_),
            EntryBody::StepStarted { .. } | EntryBody::StepFinished(_),
        ) => true,
        (EntryBody::ModelReply(_) | EntryBody::ComponentTurn(_), EntryBody::Finished { .. }) => {
            true
        }
        (EntryBody::ModelReply(_), EntryBody::Notice { code, .. }) if code == OUTPUT_REPAIR => true,
        (EntryBody::Notice { code, .. }, EntryBody::ModelReply(_)) => {
            BEFORE_REPLY.contains(&code.as_str())
        }
        (EntryBody::ToolResult(outcome), EntryBody::Finished { .. }) => outcome.attempts == 0,
        (EntryBody::ModelReply(_) | EntryBody::ComponentTurn(_), next) => planned(next),
        (entry, next) => planned(entry) && planned(next),
    }
}

/// Whether a verdict is one about a call of a reply.
fn is_about_call(verdict: &PolicyVerdict) -> bool {
    matches!(verdict.action.as_str(), "tool" | "agent_call" | NETWORK)
}
