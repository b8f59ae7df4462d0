//! Events out of what a feed or a journal yields.

use std::sync::Arc;

use rune_store_runtime::limits::MAX_ENTRY_BYTES;
use rune_store_runtime::{
    Block, Entry, EntryBody, ErrorCode, Failure, ModelReply, RequestStatus, SessionId,
};
use serde_json::Value;

use super::{ForkPoint, RequestEvent, SequencedEvent};
use crate::feed::FeedItem;

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
    use rune_store_runtime::{ComponentTurn, PromptParts, RequestId, StopReason, Timestamp, Usage};

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
