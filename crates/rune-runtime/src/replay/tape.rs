//! The tape: the journal that is replayed, how far the replay is, and the answers that models and tools get from it.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use rune_store_runtime::{
    ApprovalDecision, AuditVerdict, Entry, EntryBody, ErrorCode, Failure, GrantRow, MessageRow,
    PolicyVerdict, ReplicaId, RequestId, Timestamp, ToolIntent, ToolModelCall,
};
use serde_json::Value;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::Divergence;
use super::canonical::{canonical, first_difference};
use crate::planner::INTERRUPTED;
use crate::policy::PolicyCallee;
use crate::spill::{self, ShownOutput};

/// How a tape is played.
#[derive(Debug, Clone, Default)]
pub(crate) struct TapeOptions {
    /// Instead of what the tools of these calls, by the calls' ids, had answered.
    pub(crate) outputs: BTreeMap<String, Value>,
    /// Tools run for real.
    pub(crate) live_tools: bool,
    /// The run goes on behind the first difference; what it asks for from there on is answered by the ids of the
    /// calls, not by their order.
    pub(crate) goes_on: bool,
    /// What depends on the machine is not compared: why policy decided, since the reasons name lines of files that may
    /// have moved, and how large prompts are estimated to be, since instructions have variables.
    pub(crate) ignores_machine: bool,
    /// What the model is shown of the conversation so far, where that is not in the store.
    pub(crate) history: Option<Vec<MessageRow>>,
}

/// A journal that answers.
pub(crate) struct Tape {
    journal: Vec<Entry>,
    options: TapeOptions,
    /// What tools did, in its order: the models that they had do something, and their results.
    did: Vec<EntryBody>,
    /// How much of it was handed out; more than there is where the order does not count any more.
    ended: watch::Sender<usize>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// What the replay has written.
    written: Vec<Entry>,
    /// Model replies and failures that were handed out.
    asked: usize,
    /// Verdicts that asked a person which were handed out.
    granted: usize,
    /// What of the session is history: what had ended by then.
    history_until: Timestamp,
    /// Whether the run has got to where the recorded one was interrupted: nothing it writes counts.
    interrupted: bool,
    /// Fires when the present run is to end.
    stop: CancellationToken,
    divergence: Option<Divergence>,
}

impl Tape {
    pub(super) fn new(journal: Vec<Entry>, options: TapeOptions) -> Self {
        // What the caller sent is given, and what a fork took over.
        let given = match journal.first().map(|entry| &entry.body) {
            Some(EntryBody::Accepted {
                forked_from: Some(origin),
                ..
            }) => usize::try_from(origin.seq).unwrap_or(usize::MAX),
            _ => 1,
        };
        let written: Vec<Entry> = journal.iter().take(given).cloned().collect();
        let did = did(&journal).map(|body| {
            let mut body = body.clone();
            if let EntryBody::ToolResult(outcome) = &mut body
                && let Some(output) = options.outputs.get(&outcome.call_id)
            {
                outcome.failure = None;
                outcome.spilled = None;
                outcome.images.clear();
                outcome.content = spill::text(output);
                outcome.output = Some(output.clone());
            }
            body
        });
        Self {
            did: did.collect(),
            journal,
            options,
            ended: watch::Sender::new(0),
            state: Mutex::new(State {
                written,
                ..State::default()
            }),
        }
    }

    /// Fires when the present run has to end: it has left the journal, or the recorded one was interrupted here.
    pub(super) fn stop(&self) -> CancellationToken {
        self.lock().stop.clone()
    }

    /// The replica of the next run; nothing where the journal has no further one.
    pub(super) fn begin_run(&self) -> Option<ReplicaId> {
        let mut state = self.lock();
        if state.divergence.is_some() {
            return Some(ReplicaId::from_bytes([0; 16]));
        }
        self.copy_given(&mut state);
        let rest = self.journal.get(state.written.len()..)?;
        let (at, id) = rest.iter().find_map(|entry| match entry.body {
            EntryBody::Started { replica_id, .. } => Some((entry.at, replica_id)),
            _ => None,
        })?;
        state.history_until = at;
        state.interrupted = false;
        state.stop = CancellationToken::new();
        // A run that was interrupted may have been handed more than it wrote.
        let written = || state.written.iter().map(|entry| &entry.body);
        let asked = written().filter(|body| is_reply(body)).count();
        let granted = asking(&state.written).count();
        self.ended.send_replace(did(&state.written).count());
        state.asked = asked;
        state.granted = granted;
        Some(id)
    }

    /// The request that is replayed.
    pub(super) fn request_id(&self) -> RequestId {
        self.journal[0].request_id
    }

    pub(super) fn next_seq(&self) -> u64 {
        self.lock().written.len() as u64 + 1
    }

    pub(super) fn has_diverged(&self) -> bool {
        self.lock().divergence.is_some()
    }

    /// Whether the run goes on behind the first difference.
    pub(super) const fn goes_on(&self) -> bool {
        self.options.goes_on
    }

    /// Whether the present run is one that the recorded interruption cut off.
    pub(super) fn was_interrupted(&self) -> bool {
        self.lock().interrupted
    }

    pub(super) fn history_until(&self) -> Timestamp {
        self.lock().history_until
    }

    pub(super) fn history(&self) -> Option<&[MessageRow]> {
        self.options.history.as_deref()
    }

    /// Whether tools run for real.
    pub(crate) const fn has_live_tools(&self) -> bool {
        self.options.live_tools
    }

    pub(super) fn journal(&self) -> &[Entry] {
        &self.journal
    }

    /// Whether the recorded run meant to run this call.
    pub(crate) fn intended(&self, step: u32, call_id: &str) -> bool {
        self.journal.iter().any(|entry| {
            matches!(&entry.body, EntryBody::ToolIntent(intent)
                if intent.step == step && intent.call_id == call_id)
        })
    }

    /// What was written, and where it left the journal.
    pub(super) fn finish(&self) -> (Vec<Entry>, Option<Divergence>) {
        let mut state = self.lock();
        self.copy_given(&mut state);
        if let (None, Some(entry)) = (
            &state.divergence,
            self.journal.get(state.written.len()).cloned(),
        ) {
            state.divergence = Some(Divergence {
                seq: entry.seq,
                kind: entry.body.kind(),
                field: String::new(),
                journal: canonical(&entry.body).unwrap_or_default(),
                replay: Value::Null,
            });
        }
        (state.written.clone(), state.divergence.clone())
    }

    /// What was written after entry `after`.
    pub(super) fn written(&self, after: u64, limit: u32) -> Vec<Entry> {
        let state = self.lock();
        let after = usize::try_from(after).unwrap_or(usize::MAX);
        let entries = state.written.iter().skip(after).take(limit as usize);
        entries.cloned().collect()
    }

    /// Adds what the replay writes, and compares it. Answers the first and the last number.
    pub(super) fn write(&self, at: Timestamp, bodies: Vec<EntryBody>) -> (u64, u64) {
        let mut state = self.lock();
        let mut first = None;
        for body in bodies {
            self.copy_given(&mut state);
            let seq = state.written.len() as u64 + 1;
            first.get_or_insert(seq);
            if state.interrupted {
                continue;
            }
            if state.divergence.is_none() {
                if self.is_interrupted_at(seq) && !matches!(body, EntryBody::Started { .. }) {
                    state.interrupted = true;
                    state.stop.cancel();
                    continue;
                }
                state.divergence = self.compare(seq, &body);
                if state.divergence.is_some() {
                    self.leave(&state);
                }
            }
            let request_id = self.request_id();
            state.written.push(Entry {
                request_id,
                seq,
                at,
                body,
            });
        }
        let last = state.written.len() as u64;
        (first.unwrap_or(last + 1), last)
    }

    /// The replay has left the journal.
    fn leave(&self, state: &State) {
        if self.options.goes_on {
            self.ended.send_replace(usize::MAX);
        } else {
            state.stop.cancel();
        }
    }

    /// Whether the recorded run ended before this entry, and another one took the request up.
    fn is_interrupted_at(&self, seq: u64) -> bool {
        let index = usize::try_from(seq - 1).unwrap_or(usize::MAX);
        let next = self.journal.get(index).map(|entry| &entry.body);
        matches!(next, Some(EntryBody::Started { .. }))
    }

    fn compare(&self, seq: u64, body: &EntryBody) -> Option<Divergence> {
        let index = usize::try_from(seq).ok()?.checked_sub(1)?;
        let recorded = self.journal.get(index).map(|entry| &entry.body);
        let compared = |body: &EntryBody| {
            let mut value = canonical(body).unwrap_or_default();
            if self.options.ignores_machine
                && let Some(fields) = value.as_object_mut()
            {
                let of_machine = of_machine(body);
                fields.retain(|name, _| !of_machine.contains(&name.as_str()));
            }
            value
        };
        let journal = recorded.map(compared).unwrap_or_default();
        let replay = compared(body);
        let kind = recorded.unwrap_or(body).kind();
        (journal != replay).then(|| Divergence {
            seq,
            kind,
            field: if kind == body.kind() {
                first_difference(&journal, &replay)
            } else {
                String::new()
            },
            journal,
            replay,
        })
    }

    /// Takes over what somebody else wrote, at the place where it was: answers of people, that the daemon ended,
    /// and notices that are not compared.
    fn copy_given(&self, state: &mut State) {
        while let Some(entry) = self.journal.get(state.written.len()) {
            let given = match &entry.body {
                EntryBody::ApprovalGiven(_) => true,
                EntryBody::Notice { code, .. } if code == INTERRUPTED => true,
                body => canonical(body).is_none(),
            };
            if state.divergence.is_some() || !given {
                return;
            }
            state.written.push(entry.clone());
        }
    }

    /// Where the replay has left the journal and waits for a person: answers what one had decided about these calls.
    /// False where nobody was asked about one of them.
    pub(super) fn answer_waiting(&self) -> bool {
        let mut state = self.lock();
        let answered = |state: &State, id: &str| {
            let bodies = state.written.iter().map(|entry| &entry.body);
            bodies.clone().any(
                |body| matches!(body, EntryBody::ApprovalGiven(answer) if answer.call_id == id),
            )
        };
        let asked = state.written.iter().filter_map(|entry| match &entry.body {
            EntryBody::ApprovalAsked(question) => Some(question.call_id.clone()),
            _ => None,
        });
        let waiting: Vec<String> = asked.collect();
        for call_id in waiting
            .iter()
            .filter(|id| !answered(&state, id))
            .collect::<Vec<_>>()
        {
            let given = self.journal.iter().find(|entry| {
                matches!(&entry.body, EntryBody::ApprovalGiven(answer) if &answer.call_id == call_id)
            });
            let Some(given) = given else { return false };
            let seq = state.written.len() as u64 + 1;
            state.written.push(Entry {
                seq,
                ..given.clone()
            });
        }
        true
    }

    /// The remembered decision that counted when policy asked, if one did.
    pub(super) fn grant(&self, tool: &str, policies: &[String]) -> Option<GrantRow> {
        let nth = {
            let mut state = self.lock();
            state.granted += 1;
            state.granted - 1
        };
        let (at, verdict) = asking(&self.journal).nth(nth)?;
        let decision = match verdict.verdict {
            AuditVerdict::Asked => return None,
            AuditVerdict::Allowed => ApprovalDecision::Approve,
            AuditVerdict::Denied => ApprovalDecision::Deny,
        };
        let by = verdict.reason.strip_prefix('`')?.rsplit_once('`')?.0;
        Some(GrantRow {
            namespace: String::new(),
            agent: String::new(),
            session_id: None,
            tool: tool.to_owned(),
            policies: policies.to_vec(),
            decision,
            by: by.to_owned(),
            at,
        })
    }

    /// The result of a call, once it is its turn. `live` is what the tool answers now, where tools run for real.
    pub(crate) async fn tool(
        &self,
        intent: &ToolIntent,
        live: Option<Result<ShownOutput, Failure>>,
        stop: &CancellationToken,
        attempts: &mut u32,
    ) -> Result<ShownOutput, Failure> {
        let found = self
            .did
            .iter()
            .zip(0..)
            .find_map(|(body, turn)| match body {
                EntryBody::ToolResult(result) if is_of(intent, result.step, &result.call_id) => {
                    Some((turn, result))
                }
                _ => None,
            });
        let turn = found.map_or_else(|| self.done_in_this_run(), |(turn, _)| turn);
        if !self.comes(turn, stop).await {
            let message = "the replay has left the journal";
            return Err(Failure::new(ErrorCode::Cancelled, message));
        }
        let Some((_, outcome)) = found else {
            let message = "the journal has no result of this call";
            return live.unwrap_or_else(|| Err(Failure::new(ErrorCode::Unavailable, message)));
        };
        self.goes_on_from(turn);
        if let Some(live) = live {
            return live;
        }
        let outcome = outcome.clone();
        *attempts = outcome.attempts;
        match outcome.failure {
            Some(failure) => Err(failure),
            None => Ok(ShownOutput {
                output: outcome.output,
                content: outcome.content,
                spilled: outcome.spilled,
                images: outcome.images,
            }),
        }
    }

    /// The models that a call had do something in the present run, each with its turn.
    pub(crate) fn model_calls(&self, intent: &ToolIntent) -> Vec<(usize, Box<ToolModelCall>)> {
        let begun = *self.ended.borrow();
        let until = self.done_in_this_run();
        let calls = self
            .did
            .iter()
            .zip(0..)
            .filter_map(|(body, turn)| match body {
                EntryBody::ModelCalled(call)
                    if is_of(intent, call.step, &call.call_id)
                        && (begun == usize::MAX || (begun..until).contains(&turn)) =>
                {
                    Some((turn, call.clone()))
                }
                _ => None,
            });
        calls.collect()
    }

    /// Waits until it is the turn of something that a tool did; false where the run ends before.
    pub(crate) async fn comes(&self, turn: usize, stop: &CancellationToken) -> bool {
        let mut ended = self.ended.subscribe();
        tokio::select! {
            biased;
            _ = ended.wait_for(|ended| *ended == turn || *ended == usize::MAX) => true,
            () = stop.cancelled() => false,
        }
    }

    /// Lets come what a tool did after this.
    pub(crate) fn goes_on_from(&self, turn: usize) {
        self.ended.send_if_modified(|ended| {
            let is_its_turn = *ended == turn;
            *ended += usize::from(is_its_turn);
            is_its_turn
        });
    }

    /// How much tools did up to the end of the present run: a call that was interrupted comes behind it.
    fn done_in_this_run(&self) -> usize {
        let written = self.lock().written.len();
        let rest = self.journal.get(written..).unwrap_or_default();
        let started = |entry: &Entry| matches!(entry.body, EntryBody::Started { .. });
        let end = rest
            .iter()
            .position(started)
            .map_or(self.journal.len(), |at| written + at);
        did(self.journal.get(..end).unwrap_or_default()).count()
    }

    /// The agent that a call leads to, as policy saw it.
    pub(crate) fn callee(&self, step: u32, call_id: &str) -> Option<PolicyCallee> {
        self.journal.iter().find_map(|entry| match &entry.body {
            EntryBody::PolicyVerdict(verdict)
                if verdict.action == "agent_call"
                    && verdict.step == step
                    && verdict.call_id.as_deref() == Some(call_id) =>
            {
                serde_json::from_value(verdict.attributes.clone()).ok()
            }
            _ => None,
        })
    }

    /// The hosts that a call connected to, as far as policy was asked about them.
    pub(crate) fn connections(&self, intent: &ToolIntent) -> Vec<(String, u16)> {
        let hosts = self.verdicts_of(intent, "egress").filter_map(|verdict| {
            let name = verdict.attributes["name"].as_str()?;
            let port = verdict.attributes["port"].as_u64()?;
            Some((name.to_owned(), u16::try_from(port).ok()?))
        });
        hosts.collect()
    }

    /// The models that a call asked, as far as policy was asked about them.
    pub(crate) fn asked_models(&self, intent: &ToolIntent) -> Vec<(String, String)> {
        let models = self.verdicts_of(intent, "model").filter_map(|verdict| {
            let field = |name: &str| verdict.attributes[name].as_str().map(str::to_owned);
            Some((field("provider")?, field("name")?))
        });
        models.collect()
    }

    /// What policy said of something while a call ran.
    fn verdicts_of<'a>(
        &'a self,
        intent: &'a ToolIntent,
        action: &'a str,
    ) -> impl Iterator<Item = &'a PolicyVerdict> {
        let bodies = self.journal.iter().map(|entry| &entry.body);
        let verdicts = bodies.filter_map(move |body| match body {
            EntryBody::PolicyVerdict(verdict) if verdict.action == action => Some(verdict),
            _ => None,
        });
        verdicts.filter(|verdict| {
            verdict.step == intent.step && verdict.call_id.as_ref() == Some(&intent.call_id)
        })
    }

    /// The next thing a model said.
    pub(super) fn next_reply(&self) -> Option<&EntryBody> {
        let nth = {
            let mut state = self.lock();
            state.asked += 1;
            state.asked - 1
        };
        let bodies = self.journal.iter().map(|entry| &entry.body);
        bodies.filter(|body| is_reply(body)).nth(nth)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Every state of it is a valid one.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What tools did that ran.
fn did(journal: &[Entry]) -> impl Iterator<Item = &EntryBody> {
    let bodies = journal.iter().map(|entry| &entry.body);
    bodies.filter(|body| match body {
        EntryBody::ModelCalled(_) => true,
        EntryBody::ToolResult(outcome) => outcome.attempts > 0,
        _ => false,
    })
}

fn is_of(intent: &ToolIntent, step: u32, call_id: &str) -> bool {
    (intent.step, intent.call_id.as_str()) == (step, call_id)
}

/// Whether the planner has asked a model for it.
pub(crate) fn is_reply(body: &EntryBody) -> bool {
    match body {
        EntryBody::ModelCalled(_) => false,
        EntryBody::ModelFailed { .. } => true,
        body => body.billed().is_some(),
    }
}

/// The fields of an entry that depend on the machine.
const fn of_machine(body: &EntryBody) -> &'static [&'static str] {
    match body {
        EntryBody::PolicyVerdict(_) | EntryBody::ApprovalAsked(_) => &["reason", "policies"],
        EntryBody::ModelReply(_) => &["prompt"],
        EntryBody::Compacted(_) => &["tokens_before", "tokens_after"],
        _ => &[],
    }
}

/// The verdicts where the policies asked a person, with their times: a call asks once, about a tool and about the agent
/// behind it. About a model or a host nobody is asked.
fn asking(journal: &[Entry]) -> impl Iterator<Item = (Timestamp, &PolicyVerdict)> {
    let mut call = None;
    journal.iter().filter_map(move |entry| {
        let EntryBody::PolicyVerdict(verdict) = &entry.body else {
            return None;
        };
        let this = Some((verdict.step, &verdict.call_id));
        let by_policy = verdict.by_policy.unwrap_or(verdict.verdict);
        let asks = by_policy == AuditVerdict::Asked
            && matches!(verdict.action.as_str(), "tool" | "agent_call")
            && call != this;
        asks.then(|| {
            call = this;
            (entry.at, verdict)
        })
    })
}
