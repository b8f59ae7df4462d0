//! Checking entries against a journal and collecting what they change.

use std::collections::BTreeMap;

use rune_store_runtime::limits::{MAX_CALL_COST_MICRO_USD, MAX_CALL_TOKENS};
use rune_store_runtime::{
    ApprovalQuestion, Billed, Block, EntryBody, OUTPUT_REPAIR, PolicyVerdict, Reject,
    RequestStatus, SpilledOutput, Usage,
};
use rusqlite::{Connection, OptionalExtension, params};

use super::RequestState;
use crate::ApplyError;
use crate::apply::{approval, audit};
use crate::row::get;

/// What a command appends, checked.
pub(super) struct Append<'a> {
    /// The request after the entries.
    pub(super) state: RequestState,
    /// Entries that are messages, with the model's name of the tool for results.
    pub(super) messages: Vec<(u64, Option<String>)>,
    /// Model calls, for the usage ledger.
    pub(super) usage: Vec<(u64, Billed<'a>)>,
    /// Tool calls that are new or changed.
    pub(super) calls: BTreeMap<&'a str, Call>,
    /// Decisions, for the audit trail.
    pub(super) verdicts: Vec<&'a PolicyVerdict>,
    /// Questions to a person.
    pub(super) questions: Vec<(u64, &'a ApprovalQuestion)>,
    /// Outputs that are in the object store.
    pub(super) spilled: Vec<SpilledOutput>,
    /// Whether the request ends while it waits for a person.
    pub(super) withdraws: bool,
}

/// A tool call of the model, or of the component.
pub(super) struct Call {
    /// Absent where it is new.
    pub(super) row: Option<i64>,
    /// The name the model used.
    pub(super) name: String,
    /// The entry of its intent.
    pub(super) intent: Option<u64>,
    /// The entry of its result.
    pub(super) result: Option<u64>,
}

impl<'a> Append<'a> {
    /// Checks the entries.
    pub(super) fn plan(
        db: &Connection,
        state: RequestState,
        entries: &'a [EntryBody],
        json: &[Result<String, Reject>],
    ) -> Result<Self, ApplyError> {
        if entries.is_empty() {
            return Err(Reject::invalid("there is no entry to append").into());
        }
        state.room_for(entries.len())?;
        let mut plan = Self {
            state,
            messages: Vec::new(),
            usage: Vec::new(),
            calls: BTreeMap::new(),
            verdicts: Vec::new(),
            questions: Vec::new(),
            spilled: Vec::new(),
            withdraws: false,
        };
        for (entry, json) in entries.iter().zip(json) {
            plan.add(db, entry, json)?;
        }
        Ok(plan)
    }

    fn add(
        &mut self,
        db: &Connection,
        entry: &'a EntryBody,
        json: &Result<String, Reject>,
    ) -> Result<(), ApplyError> {
        if self.state.status.is_terminal() {
            return Err(Reject::RequestEnded {
                id: self.state.id.to_string(),
            }
            .into());
        }
        if let Err(reject) = json {
            return Err(reject.clone().into());
        }
        self.state.last_seq += 1;
        let seq = self.state.last_seq;
        match entry {
            EntryBody::Accepted { .. }
            | EntryBody::CancelRequested { .. }
            | EntryBody::ApprovalGiven(_) => {
                return Err(Reject::invalid(format!(
                    "a {} entry cannot be appended",
                    entry.kind()
                ))
                .into());
            }
            EntryBody::Started { replica_id, .. } => {
                if self.state.status == RequestStatus::InputRequired {
                    return Err(Reject::invalid("the request waits for an approval").into());
                }
                self.state.status = RequestStatus::Running;
                self.state.attempts = self.state.attempts.saturating_add(1);
                self.state.replica_id = Some(*replica_id);
            }
            EntryBody::ModelReply(reply) => {
                self.bill(seq, entry)?;
                self.said(db, seq, &reply.blocks)?;
            }
            EntryBody::ModelAsked(_) | EntryBody::ModelCalled(_) => self.bill(seq, entry)?,
            EntryBody::ComponentTurn(turn) => self.said(db, seq, &turn.blocks)?,
            EntryBody::Compacted(_) => {
                self.bill(seq, entry)?;
                self.messages.push((seq, None));
            }
            EntryBody::ToolIntent(intent) => {
                let call = self.call(db, &intent.call_id)?;
                if call.intent.is_some() || call.result.is_some() {
                    return Err(twice("intent or result", &intent.call_id).into());
                }
                call.intent = Some(seq);
                self.state.tool_calls = self.state.tool_calls.saturating_add(1);
            }
            EntryBody::ToolResult(outcome) => {
                let call = self.call(db, &outcome.call_id)?;
                if call.result.is_some() {
                    return Err(twice("result", &outcome.call_id).into());
                }
                call.result = Some(seq);
                let refused = call.intent.is_none();
                let name = call.name.clone();
                self.messages.push((seq, Some(name)));
                self.spilled.extend(outcome.kept());
                self.state.tool_calls = self.state.tool_calls.saturating_add(refused.into());
            }
            EntryBody::PolicyVerdict(verdict) => {
                let known = self.verdicts.iter().any(|v| v.audit_id == verdict.audit_id);
                if known || audit::is_recorded(db, verdict.audit_id)? {
                    return Err(audit::twice(verdict.audit_id).into());
                }
                self.verdicts.push(verdict);
            }
            EntryBody::ApprovalAsked(question) => {
                let call = self.call(db, &question.call_id)?;
                if call.intent.is_some() || call.result.is_some() {
                    return Err(twice("intent or result", &question.call_id).into());
                }
                let id = question.approval_id;
                let known = self.questions.iter().any(|(_, q)| q.approval_id == id);
                if known || approval::is_asked(db, question)? {
                    return Err(Reject::conflict(format!(
                        "approval `{}` exists already",
                        question.approval_id
                    ))
                    .into());
                }
                self.questions.push((seq, question));
                self.state.status = RequestStatus::InputRequired;
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
            EntryBody::Finished { status, .. } => {
                if !status.is_terminal() {
                    return Err(Reject::invalid(format!(
                        "a request cannot finish as `{}`",
                        status.as_str()
                    ))
                    .into());
                }
                self.withdraws = self.state.status == RequestStatus::InputRequired;
                self.state.status = *status;
            }
        }
        Ok(())
    }

    /// A message of the assistant, with the calls in it.
    fn said(&mut self, db: &Connection, seq: u64, blocks: &'a [Block]) -> Result<(), ApplyError> {
        for block in blocks {
            let Block::ToolCall { id, name, .. } = block else {
                continue;
            };
            if self.calls.contains_key(id.as_str()) || find(db, self.state.row, id)?.is_some() {
                return Err(twice("call", id).into());
            }
            let call = Call {
                row: None,
                name: name.clone(),
                intent: None,
                result: None,
            };
            self.calls.insert(id, call);
        }
        self.messages.push((seq, None));
        Ok(())
    }

    /// Counts the model call of an entry, where it has one.
    fn bill(&mut self, seq: u64, entry: &'a EntryBody) -> Result<(), Reject> {
        let Some(call) = entry.billed() else {
            return Ok(());
        };
        check_usage(call.usage)?;
        if call.cost_micro_usd > Some(MAX_CALL_COST_MICRO_USD) {
            return Err(Reject::invalid(format!(
                "a model call may cost {MAX_CALL_COST_MICRO_USD} millionths of a US dollar"
            )));
        }
        self.usage.push((seq, call));
        self.state.model_calls = self.state.model_calls.saturating_add(1);
        self.state.usage.add(call.usage);
        self.state.cost.add(call.cost_micro_usd);
        Ok(())
    }

    /// The call with this id, in these entries or earlier ones.
    fn call(&mut self, db: &Connection, id: &'a str) -> Result<&mut Call, ApplyError> {
        use std::collections::btree_map::Entry;

        match self.calls.entry(id) {
            Entry::Occupied(known) => Ok(known.into_mut()),
            Entry::Vacant(free) => match find(db, self.state.row, id)? {
                Some(call) => Ok(free.insert(call)),
                None => {
                    Err(Reject::invalid(format!("no model reply has a tool call `{id}`")).into())
                }
            },
        }
    }
}

fn find(db: &Connection, request: i64, call_id: &str) -> rusqlite::Result<Option<Call>> {
    db.prepare_cached(
        "SELECT id, name, intent, result FROM tool_calls WHERE request = ?1 AND call_id = ?2",
    )?
    .query_row(params![request, call_id], |row| {
        Ok(Call {
            row: get(row, 0)?,
            name: get(row, 1)?,
            intent: get(row, 2)?,
            result: get(row, 3)?,
        })
    })
    .optional()
}

fn check_usage(usage: &Usage) -> Result<(), Reject> {
    let counts = [
        usage.input_tokens,
        usage.output_tokens,
        usage.cached_tokens,
        usage.cache_write_tokens,
        usage.reasoning_tokens,
    ];
    if counts.into_iter().any(|count| count > MAX_CALL_TOKENS) {
        return Err(Reject::invalid(format!(
            "a model call may report {MAX_CALL_TOKENS} tokens"
        )));
    }
    Ok(())
}

fn twice(what: &str, call_id: &str) -> Reject {
    Reject::invalid(format!("tool call `{call_id}` has its {what} already"))
}
