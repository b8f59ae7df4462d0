//! Request events: what a client of a request sees, over SSE or in process.

use std::sync::Arc;

use rune_store_runtime::limits::MAX_ENTRY_BYTES;
use rune_store_runtime::{
    ApprovalDecision, ApprovalId, AuditVerdict, Block, Cost, Entry, EntryBody, ErrorCode, Failure,
    ModelCall, ModelReply, Replaced, RequestId, RequestStatus, SessionId, SpilledOutput,
    StepStatus, StoredImage, Timestamp, Usage,
};
use serde::Serialize;
use serde_json::Value;

use crate::feed::FeedItem;

/// An entry of a request that was forked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct ForkPoint {
    /// The request.
    pub request_id: RequestId,
    /// The last entry that was taken over.
    pub seq: u64,
}

/// An event. The variant names and fields are those of the SSE events of the public
/// API; [`RequestEvent::name`] is the event name.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(untagged)]
pub enum RequestEvent {
    /// The request is committed.
    Accepted {
        /// The request.
        request_id: RequestId,
        /// Its session.
        session_id: SessionId,
        /// The request that it is a fork of.
        #[serde(skip_serializing_if = "Option::is_none")]
        forked_from: Option<ForkPoint>,
    },
    /// A replica took the request.
    Started {
        /// 1 for the first time, more after a crash.
        attempt: u32,
    },
    /// More of the answer.
    Token {
        /// The text.
        text: String,
    },
    /// More of the reasoning.
    Reasoning {
        /// The text.
        text: String,
    },
    /// A tool is about to run.
    ToolStart {
        /// The id of the call.
        id: String,
        /// The tool's name in the package.
        name: String,
        /// Its input.
        input: Value,
    },
    /// How far a tool call is, as the tool says; live only.
    ToolProgress {
        /// The id of the call.
        id: String,
        /// The tool's name in the package.
        name: String,
        /// Rises with every report.
        progress: f64,
        /// What it rises to.
        #[serde(skip_serializing_if = "Option::is_none")]
        total: Option<f64>,
        /// For a person.
        #[serde(skip_serializing_if = "Option::is_none")]
        message: Option<String>,
    },
    /// A tool call has ended.
    ToolDone {
        /// The id of the call.
        id: String,
        /// The tool's name in the package.
        name: String,
        /// The output, where it succeeded; of one that was spilled what the model is shown.
        #[serde(skip_serializing_if = "Option::is_none")]
        output: Option<Value>,
        /// Where the whole output is, where it was too large to be shown.
        #[serde(skip_serializing_if = "Option::is_none")]
        spilled: Option<Box<SpilledOutput>>,
        /// Images that the model is shown beside the output; they are in the object store.
        #[serde(skip_serializing_if = "Vec::is_empty")]
        images: Vec<StoredImage>,
        /// Why not, where it did not.
        #[serde(skip_serializing_if = "Option::is_none")]
        error: Option<Failure>,
        /// How long it ran, in milliseconds.
        duration_ms: u64,
    },
    /// A model has answered a tool.
    ModelCalled {
        /// The id of the tool's call.
        id: String,
        /// The model's call.
        call: Box<ModelCall>,
        /// Whether the provider has counted what it used.
        counted: bool,
    },
    /// A model call has ended.
    Usage {
        /// The model turn, from 1.
        step: u32,
        /// The provider that answered.
        provider: String,
        /// The model id.
        model: String,
        /// Tokens of the call.
        #[serde(flatten)]
        usage: Usage,
        /// What they cost in millionths of a US dollar; `null` where the model has no
        /// known price.
        cost_micro_usd: Option<u64>,
    },
    /// A component has called tools, or has answered.
    ComponentTurn {
        /// The turn of the component, from 1.
        turn: u32,
    },
    /// A component was told of its tools.
    ToolsListed {
        /// Their names.
        tools: Vec<String>,
    },
    /// No model answered a component.
    ModelUnanswered {
        /// The model turn, from 1.
        step: u32,
        /// What the component was told.
        error: Failure,
    },
    /// The older part of the conversation was replaced by a summary in what the model is
    /// shown.
    Compacted {
        /// What it stands for.
        replaces: Replaced,
        /// What the model is shown in its place.
        summary: String,
        /// Tokens of the prompt without it, estimated.
        tokens_before: u64,
        /// Tokens of the prompt with it, estimated.
        tokens_after: u64,
        /// The model call that wrote it.
        #[serde(skip_serializing_if = "Option::is_none")]
        call: Option<Box<ModelCall>>,
    },
    /// A model call failed.
    ModelFailed {
        /// The provider that failed.
        provider: String,
        /// Why.
        error: Failure,
        /// The provider that is asked next.
        #[serde(skip_serializing_if = "Option::is_none")]
        next_provider: Option<String>,
    },
    /// Policy decided.
    PolicyVerdict {
        /// What was to be done.
        action: String,
        /// To what.
        resource: String,
        /// What was decided.
        verdict: AuditVerdict,
        /// Why.
        reason: String,
    },
    /// A person is asked.
    ApprovalRequired {
        /// The approval.
        approval_id: ApprovalId,
        /// The id of the call.
        id: String,
        /// The tool's name in the package.
        tool: String,
        /// Its input.
        input: Value,
        /// Why a person is asked.
        reason: String,
        /// When the default counts.
        #[serde(skip_serializing_if = "Option::is_none")]
        deadline: Option<Timestamp>,
    },
    /// A person, or the deadline, has decided.
    ApprovalGiven {
        /// The approval.
        approval_id: ApprovalId,
        /// What was decided.
        decision: ApprovalDecision,
        /// Who decided.
        by: String,
        /// What was said of it.
        #[serde(skip_serializing_if = "Option::is_none")]
        note: Option<String>,
    },
    /// A tool call invoked another agent.
    AgentCall {
        /// The id of the call.
        id: String,
        /// The callee.
        agent: String,
        /// The callee's request.
        #[serde(skip_serializing_if = "Option::is_none")]
        request_id: Option<RequestId>,
        /// How many agents stand between it and the outermost caller.
        depth: u32,
    },
    /// An agent of another installation has taken up what it was told.
    RemoteTask {
        /// The id of the call, or the step.
        id: String,
        /// The callee.
        agent: String,
        /// What the callee calls it.
        task_id: String,
        /// The conversation, as the callee calls it.
        #[serde(skip_serializing_if = "String::is_empty")]
        context_id: String,
    },
    /// A step of a workflow calls its agent.
    StepStarted {
        /// The step.
        step: String,
        /// 1 for the first.
        attempt: u32,
        /// The callee's request.
        request_id: RequestId,
    },
    /// A step of a workflow ended, or is not run.
    StepFinished {
        /// The step.
        step: String,
        /// Whether it ran and how that ended.
        status: StepStatus,
        /// What its agent answered.
        #[serde(skip_serializing_if = "Option::is_none")]
        output: Option<Value>,
        /// Why it failed.
        #[serde(skip_serializing_if = "Option::is_none")]
        error: Option<Failure>,
        /// How long it ran, in milliseconds.
        duration_ms: u64,
    },
    /// Something worth knowing.
    Notice {
        /// For programs.
        code: String,
        /// For a person.
        message: String,
    },
    /// Somebody asked for the request to be cancelled.
    CancelRequested {
        /// Who or why.
        reason: String,
    },
    /// The request completed. The last event.
    Done {
        /// The request.
        request_id: RequestId,
        /// Its session.
        session_id: SessionId,
        /// The answer.
        output: Value,
        /// `completed`.
        status: RequestStatus,
        /// Tokens of the whole request.
        usage: Usage,
        /// What they cost.
        cost: Cost,
    },
    /// The request did not complete. The last event.
    Error {
        /// The request.
        request_id: RequestId,
        /// Its session.
        session_id: SessionId,
        /// For programs.
        code: ErrorCode,
        /// For a person.
        message: String,
        /// `failed` or `cancelled`.
        status: RequestStatus,
        /// Tokens of the whole request.
        usage: Usage,
        /// What they cost.
        cost: Cost,
    },
}

impl RequestEvent {
    /// The name of the SSE event.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Accepted { .. } => "accepted",
            Self::Started { .. } => "started",
            Self::Token { .. } => "token",
            Self::Reasoning { .. } => "reasoning",
            Self::ToolStart { .. } => "tool_start",
            Self::ToolProgress { .. } => "tool_progress",
            Self::ToolDone { .. } => "tool_done",
            Self::ModelCalled { .. } => "model_called",
            Self::Usage { .. } => "usage",
            Self::ComponentTurn { .. } => "component_turn",
            Self::ToolsListed { .. } => "tools_listed",
            Self::ModelUnanswered { .. } => "model_unanswered",
            Self::Compacted { .. } => "compacted",
            Self::ModelFailed { .. } => "model_failed",
            Self::PolicyVerdict { .. } => "policy_verdict",
            Self::ApprovalRequired { .. } => "approval_required",
            Self::ApprovalGiven { .. } => "approval_given",
            Self::AgentCall { .. } => "agent_call",
            Self::RemoteTask { .. } => "remote_task",
            Self::StepStarted { .. } => "step_started",
            Self::StepFinished { .. } => "step_finished",
            Self::Notice { .. } => "notice",
            Self::CancelRequested { .. } => "cancel_requested",
            Self::Done { .. } => "done",
            Self::Error { .. } => "error",
        }
    }

    /// Whether no event follows.
    #[must_use]
    pub const fn is_last(&self) -> bool {
        matches!(self, Self::Done { .. } | Self::Error { .. })
    }
}

/// An event with the journal sequence number it stands for; live deltas have none.
#[derive(Debug, Clone, PartialEq)]
pub struct SequencedEvent {
    /// The id of the SSE event.
    pub seq: Option<u64>,
    /// When that entry was committed.
    pub at: Option<Timestamp>,
    /// The event.
    pub event: RequestEvent,
}

/// Turns what a feed or a journal yields into events. Every entry becomes exactly
/// one event with its sequence number. The text of a reply that the reader did not
/// see live precedes it, without a number of its own.
#[derive(Debug)]
pub(crate) struct EventMapper {
    session_id: SessionId,
    /// What the reader saw live of what is being said: the end of it.
    seen: String,
    saw_reasoning: bool,
}

impl EventMapper {
    /// A mapper for one reader of one request.
    #[must_use]
    pub(crate) const fn new(session_id: SessionId) -> Self {
        Self {
            session_id,
            seen: String::new(),
            saw_reasoning: false,
        }
    }

    /// The events of an item, in order.
    pub(crate) fn map(&mut self, item: &FeedItem) -> Vec<SequencedEvent> {
        match item {
            FeedItem::Text(text) => {
                self.see(text);
                vec![live(RequestEvent::Token {
                    text: text.to_string(),
                })]
            }
            FeedItem::Reasoning(text) => {
                self.saw_reasoning = true;
                vec![live(RequestEvent::Reasoning {
                    text: text.to_string(),
                })]
            }
            FeedItem::Progress(progress) => vec![live(RequestEvent::ToolProgress {
                id: progress.call_id.clone(),
                name: progress.tool.clone(),
                progress: progress.progress,
                total: progress.total,
                message: progress.message.clone(),
            })],
            FeedItem::Entry(entry) => self.map_entry(entry),
            FeedItem::Placed(_) => Vec::new(),
        }
    }

    fn map_entry(&mut self, entry: &Arc<Entry>) -> Vec<SequencedEvent> {
        let mut events = Vec::with_capacity(1);
        match &entry.body {
            EntryBody::ModelReply(reply) => {
                self.missed(&reply.blocks, !self.seen.is_empty(), &mut events);
            }
            EntryBody::ComponentTurn(turn) => {
                // A component shows what it likes before it answers; a turn in which it calls tools says nothing.
                if let [Block::Text { text, .. }] = turn.blocks.as_slice() {
                    let is_seen = self.seen.ends_with(text);
                    self.missed(&turn.blocks, is_seen, &mut events);
                }
            }
            // What was said so far belongs to a reply that did not count.
            EntryBody::ModelFailed { .. } => self.forget(),
            _ => {}
        }
        events.push(SequencedEvent {
            seq: Some(entry.seq),
            at: Some(entry.at),
            event: self.event(entry),
        });
        events
    }

    fn see(&mut self, text: &str) {
        self.seen.push_str(text);
        if self.seen.len() > 2 * MAX_ENTRY_BYTES {
            let end = self.seen.len() - MAX_ENTRY_BYTES;
            self.seen.drain(..self.seen.floor_char_boundary(end));
        }
    }

    fn forget(&mut self) {
        self.seen.clear();
        self.saw_reasoning = false;
    }

    /// What the reader did not see live of what was said.
    fn missed(&mut self, blocks: &[Block], is_seen: bool, events: &mut Vec<SequencedEvent>) {
        for block in blocks {
            match block {
                Block::Text { text, .. } if !is_seen && !text.is_empty() => {
                    events.push(live(RequestEvent::Token { text: text.clone() }));
                }
                Block::Reasoning { text, .. } if !self.saw_reasoning && !text.is_empty() => {
                    events.push(live(RequestEvent::Reasoning { text: text.clone() }));
                }
                _ => {}
            }
        }
        self.forget();
    }

    fn event(&self, entry: &Entry) -> RequestEvent {
        let session_id = self.session_id.clone();
        let request_id = entry.request_id;
        match entry.body.clone() {
            EntryBody::Accepted { forked_from, .. } => RequestEvent::Accepted {
                request_id,
                session_id,
                forked_from: forked_from.map(|origin| ForkPoint {
                    request_id: origin.request_id,
                    seq: origin.seq,
                }),
            },
            EntryBody::Started { attempt, .. } => RequestEvent::Started { attempt },
            EntryBody::ModelReply(reply) => usage(reply),
            EntryBody::ModelAsked(ask) => match ask.reply {
                Some(reply) => usage(reply),
                None => RequestEvent::ModelUnanswered {
                    step: ask.step,
                    error: ask.failure.unwrap_or_else(unexplained),
                },
            },
            EntryBody::ComponentTurn(turn) => RequestEvent::ComponentTurn { turn: turn.turn },
            EntryBody::ToolsListed { tools } => RequestEvent::ToolsListed {
                tools: tools.into_iter().map(|tool| tool.name).collect(),
            },
            EntryBody::Compacted(compaction) => RequestEvent::Compacted {
                replaces: compaction.replaces,
                summary: compaction.text(),
                tokens_before: compaction.tokens_before,
                tokens_after: compaction.tokens_after,
                call: compaction.call.map(Box::new),
            },
            EntryBody::ModelFailed {
                provider,
                failure,
                next_provider,
                ..
            } => RequestEvent::ModelFailed {
                provider,
                error: failure,
                next_provider,
            },
            EntryBody::ToolIntent(intent) => RequestEvent::ToolStart {
                id: intent.call_id,
                name: intent.tool,
                input: intent.input,
            },
            EntryBody::ToolResult(outcome) => RequestEvent::ToolDone {
                id: outcome.call_id,
                name: outcome.tool,
                output: match &outcome.spilled {
                    Some(_) => Some(Value::String(outcome.content)),
                    None => outcome.output,
                },
                spilled: outcome.spilled.map(Box::new),
                images: outcome.images,
                error: outcome.failure,
                duration_ms: outcome.duration_ms,
            },
            EntryBody::ModelCalled(called) => RequestEvent::ModelCalled {
                id: called.call_id,
                call: Box::new(called.call),
                counted: called.counted,
            },
            EntryBody::PolicyVerdict(verdict) => RequestEvent::PolicyVerdict {
                action: verdict.action,
                resource: verdict.resource,
                verdict: verdict.verdict,
                reason: verdict.reason,
            },
            EntryBody::ApprovalAsked(question) => RequestEvent::ApprovalRequired {
                approval_id: question.approval_id,
                id: question.call_id,
                tool: question.tool,
                input: question.input,
                reason: question.reason,
                deadline: question.deadline,
            },
            EntryBody::ApprovalGiven(answer) => RequestEvent::ApprovalGiven {
                approval_id: answer.approval_id,
                decision: answer.decision,
                by: answer.by,
                note: answer.note,
            },
            EntryBody::AgentCalled {
                call_id,
                agent,
                request_id,
                depth,
            } => RequestEvent::AgentCall {
                id: call_id,
                agent,
                request_id,
                depth,
            },
            EntryBody::RemoteTask {
                call_id,
                agent,
                task_id,
                context_id,
            } => RequestEvent::RemoteTask {
                id: call_id,
                agent,
                task_id,
                context_id,
            },
            EntryBody::StepStarted {
                step,
                attempt,
                request_id,
            } => RequestEvent::StepStarted {
                step,
                attempt,
                request_id,
            },
            EntryBody::StepFinished(outcome) => RequestEvent::StepFinished {
                step: outcome.step,
                status: outcome.status,
                output: outcome.output,
                error: outcome.failure,
                duration_ms: outcome.duration_ms,
            },
            EntryBody::Notice { code, message } => RequestEvent::Notice { code, message },
            EntryBody::CancelRequested { reason } => RequestEvent::CancelRequested { reason },
            EntryBody::Finished {
                status: RequestStatus::Completed,
                output,
                usage,
                cost,
                ..
            } => RequestEvent::Done {
                request_id,
                session_id,
                output: output.unwrap_or_default(),
                status: RequestStatus::Completed,
                usage,
                cost,
            },
            EntryBody::Finished {
                status,
                failure,
                usage,
                cost,
                ..
            } => {
                let failure = failure.unwrap_or_else(unexplained);
                RequestEvent::Error {
                    request_id,
                    session_id,
                    code: failure.code,
                    message: failure.message,
                    status,
                    usage,
                    cost,
                }
            }
        }
    }
}

fn usage(reply: ModelReply) -> RequestEvent {
    RequestEvent::Usage {
        step: reply.step,
        provider: reply.provider,
        model: reply.model,
        usage: reply.usage,
        cost_micro_usd: reply.cost_micro_usd,
    }
}

fn unexplained() -> Failure {
    Failure::new(ErrorCode::Internal, "it ended without a reason")
}

const fn live(event: RequestEvent) -> SequencedEvent {
    SequencedEvent {
        seq: None,
        at: None,
        event,
    }
}

#[cfg(test)]
mod tests {
    use rune_store_runtime::{ComponentTurn, PromptParts, StopReason, Timestamp};

    use super::*;

    fn reply(seq: u64) -> FeedItem {
        FeedItem::Entry(Arc::new(Entry {
            request_id: RequestId::from_bytes([1; 16]),
            seq,
            at: Timestamp::from_millis(0),
            body: EntryBody::ModelReply(ModelReply {
                step: 1,
                provider: "offline".to_owned(),
                model: "offline".to_owned(),
                blocks: vec![Block::text("hello")],
                stop: StopReason::EndTurn,
                usage: Usage::default(),
                prompt: PromptParts::default(),
                cost_micro_usd: None,
                duration_ms: 1,
            }),
        }))
    }

    fn names(items: &[FeedItem]) -> Vec<(&'static str, Option<u64>)> {
        let mut mapper = EventMapper::new(SessionId::generate());
        let events = items
            .iter()
            .flat_map(|item| mapper.map(item))
            .collect::<Vec<_>>();
        events
            .iter()
            .map(|event| (event.event.name(), event.seq))
            .collect()
    }

    #[test]
    fn a_reader_of_the_journal_gets_the_text_of_a_finished_reply() {
        assert_eq!(names(&[reply(2)]), [("token", None), ("usage", Some(2))]);
    }

    fn turn(seq: u64, block: Block) -> FeedItem {
        FeedItem::Entry(Arc::new(Entry {
            request_id: RequestId::from_bytes([1; 16]),
            seq,
            at: Timestamp::from_millis(0),
            body: EntryBody::ComponentTurn(ComponentTurn {
                turn: 1,
                blocks: vec![block],
            }),
        }))
    }

    #[test]
    fn a_reader_gets_the_answer_of_a_component_where_it_was_not_shown() {
        let call = Block::ToolCall {
            id: "c1-1".to_owned(),
            name: "t".to_owned(),
            input: Value::Null,
            native: None,
        };
        for (shown, tokens) in [("hello", 1), ("wait: hello", 1), ("a draft", 2), ("", 1)] {
            let mut items = vec![turn(2, call.clone()), turn(3, Block::text("hello"))];
            if !shown.is_empty() {
                items.insert(0, FeedItem::Text(shown.into()));
            }
            let names = names(&items);
            let told = names.iter().filter(|(name, _)| *name == "token");
            assert_eq!(told.count(), tokens, "{shown}: {names:?}");
        }
    }

    #[test]
    fn a_live_reader_gets_the_text_once() {
        let live = [
            FeedItem::Text("hel".into()),
            FeedItem::Text("lo".into()),
            reply(2),
        ];
        assert_eq!(
            names(&live),
            [("token", None), ("token", None), ("usage", Some(2))]
        );
    }
}
