//! What a request has done so far, folded from its journal. A request that runs and
//! one that is taken up again after a crash hold the same state, because both get
//! it from the same entries.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use rune_store_runtime::{
    ApprovalAnswer, AuditVerdict, Block, Compaction, Cost, Entry, EntryBody, ErrorCode, Failure,
    ForkOrigin, Message, OUTPUT_REPAIR, RequestId, Role, SpilledOutput, StepOutcome, StepStatus,
    StopReason, Store, StoreError, Timestamp, ToolIntent, Usage,
};
use serde_json::Value;
use sha2::{Digest as _, Sha256};

use super::component::{COMPONENT_LOG, ComponentLog, Did};
use super::found::Found;
use crate::dispatch::refusal;
use crate::engine::Before;
use crate::history::without_steps;
use crate::tokens::TokenScale;

/// Entries read from the store at a time.
const JOURNAL_PAGE: u32 = 256;

/// What the model is told about a call that may have run before a crash.
pub(crate) const UNKNOWN_OUTCOME: &str = "The outcome of this call is unknown: the runtime was interrupted \
     while the tool ran. It was not repeated. Check whether it had its effect before you call it \
     again.";

/// Code of the notice that the daemon ended in good order while the request ran.
pub(crate) const INTERRUPTED: &str = "interrupted";

/// Code of the notice that the request is not taken up at once, because it crashed again and
/// again.
pub(crate) const BACKED_OFF: &str = "backed_off";

/// Code of the notice that a model without a known price is asked.
pub(super) const UNPRICED: &str = "unpriced_model";

/// The call that is the same one, tool and input, for the this-many-th time in a request is
/// not run any more.
pub(super) const IDENTICAL_CALLS: u32 = 5;

/// Code of the notice that a request makes the same call again and again.
pub(crate) const LOOP_DETECTED: &str = "loop_detected";

/// Whether a call was made before, tool and input the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Repetition {
    /// Fewer than [`IDENTICAL_CALLS`] times.
    Tolerable,
    /// So often that it is not run, and the model is told.
    TooOften,
    /// Again, after the model was told.
    AfterWarning,
}

/// How often a call was made.
#[derive(Debug, Default)]
struct Repeated {
    times: u32,
    /// The model turn in which it was too often for the first time.
    warned: Option<u32>,
}

impl Repeated {
    fn count(&mut self, step: u32) -> Repetition {
        self.times = self.times.saturating_add(1);
        if self.times < IDENTICAL_CALLS {
            return Repetition::Tolerable;
        }
        // Calls of one reply were made before any of them was answered.
        if *self.warned.get_or_insert(step) < step {
            Repetition::AfterWarning
        } else {
            Repetition::TooOften
        }
    }
}

/// A call of the last reply that has no result yet.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct OpenCall {
    /// The model turn that made it.
    pub(crate) step: u32,
    /// The call.
    pub(crate) block: Block,
    /// The committed intent; the tool may have run.
    pub(crate) intent: Option<ToolIntent>,
    /// What a person was asked about it.
    pub(crate) approval: Option<Approval>,
    /// The request of the agent it calls, where it calls one.
    pub(crate) child: Option<RequestId>,
    /// The agent of another installation that it calls, where it calls one.
    pub(crate) remote: Option<RemoteCallee>,
    /// Whether it was under way when the runtime was interrupted.
    pub(crate) interrupted: bool,
    /// Whether it was made before.
    pub(crate) repetition: Repetition,
}

/// A question about a call.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Approval {
    /// The tool that it is about, by its name in the package. The same name for the model may later be that of another one.
    tool: String,
    /// What somebody has decided, if anybody has.
    answer: Option<ApprovalAnswer>,
}

impl Approval {
    /// What was decided, and about which tool.
    pub(crate) fn given(&self) -> Option<(&ApprovalAnswer, &str)> {
        Some((self.answer.as_ref()?, &self.tool))
    }
}

/// An agent of another installation that is called.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RemoteCallee {
    url: String,
    /// What it calls what it was told, as soon as that is known.
    task: Option<String>,
}

impl OpenCall {
    /// What is known of the call of an agent of another installation.
    pub(crate) fn before(&self) -> Before {
        let task = self.remote.as_ref().and_then(|remote| remote.task.clone());
        match (task, self.interrupted) {
            (Some(task), _) => Before::Task(task),
            (None, true) => Before::Interrupted,
            (None, false) => Before::Nothing,
        }
    }

    pub(crate) fn id(&self) -> &str {
        match &self.block {
            Block::ToolCall { id, .. } => id,
            _ => "",
        }
    }

    pub(crate) fn visible_name(&self) -> &str {
        match &self.block {
            Block::ToolCall { name, .. } => name,
            _ => "",
        }
    }

    /// Whether a person has to decide before anything happens to it.
    pub(crate) fn waits(&self) -> bool {
        let approval = self.approval.as_ref();
        approval.is_some_and(|approval| approval.answer.is_none())
    }

    /// The result of a call whose tool may or may not have run.
    pub(crate) fn unknown_outcome(&self, intent: &ToolIntent) -> EntryBody {
        let failure = Failure::new(ErrorCode::Unavailable, UNKNOWN_OUTCOME);
        EntryBody::ToolResult(refusal(self.step, self.id(), &intent.tool, failure))
    }
}

/// The same for the same tool and input, in whatever order the model wrote the fields.
fn fingerprint(tool: &str, input: &Value) -> [u8; 32] {
    let mut input = input.clone();
    input.sort_all_objects();
    Sha256::digest(format!("{tool}\0{input}")).into()
}

/// The fold of a request's journal.
#[derive(Debug, Default)]
pub(crate) struct RunState {
    /// The request's own messages: its input, the replies, the results.
    pub(crate) messages: Vec<Message>,
    /// Model turns so far.
    pub(crate) steps: u32,
    /// Tool calls so far, refused ones included.
    pub(crate) tool_calls: u64,
    /// Tokens so far.
    pub(crate) usage: Usage,
    /// What they cost.
    pub(crate) cost: Cost,
    /// By the last prompt of it that a provider has counted.
    pub(crate) scale: Option<TokenScale>,
    /// Whether the journal says that a model has no known price.
    pub(crate) warned_unpriced: bool,
    /// The newest compaction it made.
    pub(crate) compaction: Option<Box<Compaction>>,
    /// Outputs of its tools that were too large to be shown.
    pub(crate) spilled: Vec<SpilledOutput>,
    /// Names of tools that it called or found, in the order in which it did.
    pub(super) found: Found,
    /// Calls of the last reply without a result.
    pub(crate) open: Vec<OpenCall>,
    /// The answer, where the last reply is one.
    pub(crate) answer: Option<String>,
    /// How often the model was told that its answer does not match the schema.
    pub(crate) repairs: u32,
    /// How often a replica took the request.
    pub(crate) attempts: u32,
    /// How many of the attempts so far no orderly end of the daemon interrupted.
    pub(crate) crashes: u32,
    /// Whether somebody asked for the request to be cancelled.
    pub(crate) cancel_requested: bool,
    /// How much of its time limit it has used, where it was taken up again.
    pub(crate) spent: Duration,
    last_at: Option<Timestamp>,
    /// By SHA-256 of tool and canonical input.
    repeated: HashMap<[u8; 32], Repeated>,
    /// What it was asked.
    pub(crate) input: Value,
    /// What policy said of the models it wants to ask: why not, where it denies one.
    pub(super) models: BTreeMap<String, Option<String>>,
    /// The steps of its workflow that have begun.
    pub(crate) workflow: BTreeMap<String, StepProgress>,
    /// The request that it is a fork of.
    pub(crate) origin: Option<Box<ForkOrigin>>,
    /// What its component has done.
    pub(crate) component: ComponentLog,
    /// Why the last model that was asked did not answer, and no other was asked after it.
    pub(super) unanswered: Option<Failure>,
    /// When it was begun, where that is stored.
    pub(super) began: Option<Timestamp>,
    /// The entry that is being added, where the journal says which.
    seq: u64,
}

/// How far a step of a workflow is.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum StepProgress {
    /// Its agent was called and has not answered.
    Running {
        /// 1 for the first.
        attempt: u32,
        /// The agent's request.
        request_id: RequestId,
        /// The agent, where another installation serves it.
        remote: Option<RemoteCallee>,
    },
    /// It has ended, or is not run.
    Ended(StepOutcome),
}

impl StepProgress {
    /// What is known of the call of an agent of another installation, where the runtime was interrupted meanwhile.
    pub(crate) fn before(&self) -> Before {
        match self {
            Self::Running {
                remote:
                    Some(RemoteCallee {
                        task: Some(task), ..
                    }),
                ..
            } => Before::Task(task.clone()),
            Self::Running { .. } | Self::Ended(_) => Before::Interrupted,
        }
    }
}

impl RunState {
    /// The fold of these entries.
    pub(crate) fn of(entries: &[Entry]) -> Self {
        let mut state = Self::default();
        for entry in entries {
            state.add(entry);
        }
        state
    }

    /// The fold of a stored journal.
    pub(crate) async fn load(store: &Store, id: RequestId) -> Result<Self, StoreError> {
        let mut state = Self::default();
        let mut after = 0;
        loop {
            let entries = store.journal(id, after, JOURNAL_PAGE).await?;
            let Some(last) = entries.last() else {
                return Ok(state);
            };
            after = last.seq;
            for entry in &entries {
                state.add(entry);
            }
        }
    }

    /// Adds a stored entry.
    pub(crate) fn add(&mut self, entry: &Entry) {
        self.seq = entry.seq;
        if matches!(entry.body, EntryBody::Started { .. }) {
            self.began.get_or_insert(entry.at);
        }
        self.apply(&entry.body);
        self.count_time(entry);
        if self
            .origin
            .as_ref()
            .is_some_and(|origin| origin.seq == entry.seq)
        {
            self.begin_fork();
        }
    }

    /// Takes what was folded so far as what a fork begins with: another request has spent it, and what was open
    /// is decided anew, as are the models: the policy and the caller may be others.
    fn begin_fork(&mut self) {
        self.usage = Usage::default();
        self.cost = Cost::default();
        self.warned_unpriced = false;
        self.models.clear();
        self.attempts = 0;
        self.crashes = 0;
        self.spent = Duration::ZERO;
        self.last_at = None;
        for call in &mut self.open {
            if call.intent.is_none() {
                call.approval = None;
            }
        }
    }

    /// Adds the time since the entry before. Time in which nothing was at work on the
    /// request, parked or between two processes, does not count.
    fn count_time(&mut self, entry: &Entry) {
        let idle = match &entry.body {
            EntryBody::Started { .. } | EntryBody::ApprovalGiven(_) => true,
            EntryBody::Notice { code, .. } => code == BACKED_OFF,
            _ => false,
        };
        let since = self.last_at.replace(entry.at).unwrap_or(entry.at);
        if !idle {
            self.spent += entry.at.since(since);
        }
    }

    /// A result for every open call of a request that ends: the outcome is unknown where
    /// the tool may have run, else it was not run, for `reason`; and an end for every step
    /// of its workflow that has begun. `tool` gives the name in the package of a
    /// model-visible name.
    pub(crate) fn close_calls<'a>(
        &'a self,
        reason: &str,
        tool: impl Fn(&'a str) -> &'a str,
    ) -> Vec<EntryBody> {
        let results = self.open.iter().map(|call| match &call.intent {
            Some(intent) => call.unknown_outcome(intent),
            None => {
                let failure = Failure::new(ErrorCode::Cancelled, format!("not run: {reason}"));
                let name = tool(call.visible_name());
                EntryBody::ToolResult(refusal(call.step, call.id(), name, failure))
            }
        });
        let running = self
            .workflow
            .iter()
            .filter(|(_, progress)| matches!(progress, StepProgress::Running { .. }));
        let steps = running.map(|(step, _)| {
            let message = format!("it had not ended: {reason}");
            EntryBody::StepFinished(StepOutcome {
                step: step.clone(),
                status: StepStatus::Failed,
                output: None,
                failure: Some(Failure::new(ErrorCode::Cancelled, message)),
                duration_ms: 0,
            })
        });
        results.chain(steps).collect()
    }

    /// Whether the request can go on only once a person has decided.
    pub(crate) fn waits_for_approval(&self) -> bool {
        self.open.iter().any(OpenCall::waits)
    }

    fn open_call(&mut self, id: &str) -> Option<&mut OpenCall> {
        self.open.iter_mut().find(|call| call.id() == id)
    }

    /// The requests it made and has not heard from.
    pub(crate) fn children(&self) -> impl Iterator<Item = RequestId> + Send + '_ {
        let called = self.open.iter().filter_map(|call| call.child);
        let steps = self.workflow.values().filter_map(|step| match step {
            StepProgress::Running {
                request_id,
                remote: None,
                ..
            } => Some(*request_id),
            StepProgress::Running { .. } | StepProgress::Ended(_) => None,
        });
        called.chain(steps)
    }

    /// Whether it waits for other agents, here or of other installations.
    pub(crate) fn waits_for_others(&self) -> bool {
        self.children().next().is_some() || self.waits_for_remotes()
    }

    /// Whether it waits for agents of other installations.
    pub(crate) fn waits_for_remotes(&self) -> bool {
        self.remotes().next().is_some()
    }

    /// The tasks of agents of other installations that it has begun and not heard from, with the agents' URLs.
    pub(crate) fn remote_tasks(&self) -> impl Iterator<Item = (&str, &str)> + Send {
        self.remotes()
            .filter_map(|remote| Some((remote.url.as_str(), remote.task.as_deref()?)))
    }

    fn remotes(&self) -> impl Iterator<Item = &RemoteCallee> + Send {
        let called = self.open.iter().filter_map(|call| call.remote.as_ref());
        let steps = self.workflow.values().filter_map(|step| match step {
            StepProgress::Running { remote, .. } => remote.as_ref(),
            StepProgress::Ended(_) => None,
        });
        called.chain(steps)
    }

    /// The callee of a call, or of a step, where another installation serves it.
    fn remote_of(&mut self, id: &str) -> Option<&mut Option<RemoteCallee>> {
        if let Some(call) = self.open.iter_mut().find(|call| call.id() == id) {
            return Some(&mut call.remote);
        }
        match self.workflow.get_mut(id)? {
            StepProgress::Running { remote, .. } => Some(remote),
            StepProgress::Ended(_) => None,
        }
    }

    /// Adds an entry.
    pub(crate) fn apply(&mut self, body: &EntryBody) {
        match body {
            EntryBody::Accepted { input, forked_from } => {
                self.messages.push(Message::from_input(input));
                self.input = input.clone();
                self.origin.clone_from(forked_from);
            }
            EntryBody::Started { attempt, .. } => {
                self.attempts = *attempt;
                self.crashes += 1;
            }
            EntryBody::Notice { code, .. } if code == INTERRUPTED => {
                self.crashes = self.crashes.saturating_sub(1);
            }
            EntryBody::Notice { code, .. } if code == UNPRICED => self.warned_unpriced = true,
            EntryBody::Notice { code, message } if code == COMPONENT_LOG => {
                self.component.add(self.seq, Did::Logged(message.clone()));
            }
            EntryBody::ToolsListed { tools } => {
                self.component.add(self.seq, Did::Listed(tools.clone()));
            }
            EntryBody::ModelAsked(ask) => {
                self.steps = ask.step;
                if let Some(reply) = &ask.reply {
                    self.usage.add(&reply.usage);
                    self.scale = TokenScale::of(reply.measure()).or(self.scale);
                    self.cost.add(reply.cost_micro_usd);
                }
                self.component.add(self.seq, Did::Asked(ask.clone()));
            }
            EntryBody::ComponentTurn(turn) => {
                self.open.clear();
                for block in &turn.blocks {
                    if matches!(block, Block::ToolCall { .. }) {
                        self.open.push(OpenCall {
                            step: turn.turn,
                            block: block.clone(),
                            intent: None,
                            approval: None,
                            child: None,
                            remote: None,
                            interrupted: false,
                            // A program may have its reasons; its caps hold.
                            repetition: Repetition::Tolerable,
                        });
                    }
                }
                self.tool_calls += self.open.len() as u64;
                self.component.add(self.seq, Did::Turn(turn.clone()));
            }
            EntryBody::Notice { code, message } if code == OUTPUT_REPAIR => {
                self.answer = None;
                self.repairs += 1;
                self.messages.push(Message::user(message));
            }
            EntryBody::ModelReply(reply) => {
                self.steps = reply.step;
                self.usage.add(&reply.usage);
                self.scale = TokenScale::of(reply.measure()).or(self.scale);
                self.cost.add(reply.cost_micro_usd);
                self.open.clear();
                for block in &reply.blocks {
                    let Block::ToolCall { name, input, .. } = block else {
                        continue;
                    };
                    self.found.called(name);
                    let repeated = self.repeated.entry(fingerprint(name, input)).or_default();
                    self.open.push(OpenCall {
                        step: reply.step,
                        block: block.clone(),
                        intent: None,
                        approval: None,
                        child: None,
                        remote: None,
                        interrupted: false,
                        repetition: repeated.count(reply.step),
                    });
                }
                self.tool_calls += self.open.len() as u64;
                let message = Message {
                    role: Role::Assistant,
                    blocks: reply.blocks.clone(),
                };
                let ends = self.open.is_empty() && reply.stop != StopReason::Pause;
                self.answer = ends.then(|| message.text());
                self.messages.push(message);
            }
            EntryBody::Compacted(compaction) => {
                if let Some(call) = body.billed() {
                    self.usage.add(call.usage);
                    self.cost.add(call.cost_micro_usd);
                }
                let earlier = self.compaction.as_ref().map_or(0, |it| it.replaces.steps);
                let steps = compaction.replaces.steps.saturating_sub(earlier);
                self.messages = without_steps(std::mem::take(&mut self.messages), steps);
                self.compaction = Some(compaction.clone());
            }
            EntryBody::ToolIntent(intent) => {
                if let Some(call) = self.open_call(&intent.call_id) {
                    call.intent = Some(intent.clone());
                }
            }
            EntryBody::ApprovalAsked(question) => {
                if let Some(call) = self.open_call(&question.call_id) {
                    call.approval = Some(Approval {
                        tool: question.tool.clone(),
                        answer: None,
                    });
                }
            }
            EntryBody::ApprovalGiven(answer) => {
                // The attempts before ended by parking, not by ending the daemon.
                self.crashes = 0;
                let call = self.open_call(&answer.call_id);
                if let Some(approval) = call.and_then(|call| call.approval.as_mut()) {
                    approval.answer = Some(answer.clone());
                }
            }
            EntryBody::ModelCalled(called) => {
                self.usage.add(&called.call.usage);
                self.cost.add(called.call.cost_micro_usd);
            }
            EntryBody::ToolResult(outcome) => {
                self.spilled.extend(outcome.kept());
                let of_component = self.component.answered(outcome);
                let index = self
                    .open
                    .iter()
                    .position(|call| call.id() == outcome.call_id);
                let Some(index) = index else { return };
                let call = self.open.remove(index);
                if of_component {
                    // It puts its prompts together by itself.
                    return;
                }
                if let Some(output) = &outcome.output {
                    self.found.answered(call.visible_name(), output);
                }
                let result = Block::ToolResult {
                    call_id: outcome.call_id.clone(),
                    name: call.visible_name().to_owned(),
                    content: outcome.content.clone(),
                    images: outcome.images.iter().cloned().map(Into::into).collect(),
                    is_error: outcome.failure.is_some(),
                };
                match self.messages.last_mut() {
                    Some(last) if last.role == Role::Tool => last.blocks.push(result),
                    _ => self.messages.push(Message {
                        role: Role::Tool,
                        blocks: vec![result],
                    }),
                }
            }
            EntryBody::CancelRequested { .. } => self.cancel_requested = true,
            EntryBody::StepStarted {
                step,
                attempt,
                request_id,
            } => {
                let progress = StepProgress::Running {
                    attempt: *attempt,
                    request_id: *request_id,
                    remote: None,
                };
                self.workflow.insert(step.clone(), progress);
            }
            EntryBody::StepFinished(outcome) => {
                let progress = StepProgress::Ended(outcome.clone());
                self.workflow.insert(outcome.step.clone(), progress);
            }
            EntryBody::AgentCalled {
                call_id,
                agent,
                request_id: None,
                ..
            } => {
                if let Some(remote) = self.remote_of(call_id) {
                    *remote = Some(RemoteCallee {
                        url: agent.clone(),
                        task: None,
                    });
                }
            }
            EntryBody::RemoteTask {
                call_id, task_id, ..
            } => {
                if let Some(Some(remote)) = self.remote_of(call_id) {
                    remote.task = Some(task_id.clone());
                }
            }
            EntryBody::AgentCalled {
                call_id,
                request_id,
                ..
            } => {
                if let Some(call) = self.open.iter_mut().find(|call| call.id() == call_id) {
                    call.child = *request_id;
                }
            }
            // One about a model that a tool asks is of that call.
            EntryBody::PolicyVerdict(verdict)
                if verdict.action == "model" && verdict.call_id.is_none() =>
            {
                let denied = verdict.verdict == AuditVerdict::Denied;
                let reason = denied.then(|| verdict.reason.clone());
                self.models.insert(verdict.resource.clone(), reason);
            }
            EntryBody::ModelFailed {
                failure,
                next_provider: None,
                ..
            } => self.unanswered = Some(failure.clone()),
            EntryBody::PolicyVerdict(_)
            | EntryBody::ModelFailed { .. }
            | EntryBody::Notice { .. }
            | EntryBody::Finished { .. } => {}
        }
    }
}
