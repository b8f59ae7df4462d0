//! What a request has done so far, folded from its journal. A request that runs and
//! one that is taken up again after a crash hold the same state, because both get
//! it from the same entries.

use rune_store_runtime::{Block, EntryBody, Message, Role, StopReason, ToolIntent, Usage};
use serde_json::Value;

/// A call of the last reply that has no result yet.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct OpenCall {
    /// The model turn that made it.
    pub(crate) step: u32,
    /// The call.
    pub(crate) block: Block,
    /// The committed intent; the tool may have run.
    pub(crate) intent: Option<ToolIntent>,
}

impl OpenCall {
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
    /// Calls of the last reply without a result.
    pub(crate) open: Vec<OpenCall>,
    /// The answer, where the last reply is one.
    pub(crate) answer: Option<String>,
    /// How often a replica took the request.
    pub(crate) attempts: u32,
    /// Whether somebody asked for the request to be cancelled.
    pub(crate) cancel_requested: bool,
}

impl RunState {
    /// Adds an entry.
    pub(crate) fn apply(&mut self, body: &EntryBody) {
        match body {
            EntryBody::Accepted { input } => self.messages.push(Message::user(input_text(input))),
            EntryBody::Started { attempt, .. } => self.attempts = *attempt,
            EntryBody::ModelReply(reply) => {
                self.steps = reply.step;
                self.usage.add(&reply.usage);
                let calls = reply
                    .blocks
                    .iter()
                    .filter(|b| matches!(b, Block::ToolCall { .. }));
                self.open = calls
                    .map(|block| OpenCall {
                        step: reply.step,
                        block: block.clone(),
                        intent: None,
                    })
                    .collect();
                self.tool_calls += self.open.len() as u64;
                let message = Message {
                    role: Role::Assistant,
                    blocks: reply.blocks.clone(),
                };
                let ends = self.open.is_empty() && reply.stop != StopReason::Pause;
                self.answer = ends.then(|| message.text());
                self.messages.push(message);
            }
            EntryBody::ToolIntent(intent) => {
                let call = self
                    .open
                    .iter_mut()
                    .find(|call| call.id() == intent.call_id);
                if let Some(call) = call {
                    call.intent = Some(intent.clone());
                }
            }
            EntryBody::ToolResult(outcome) => {
                let index = self
                    .open
                    .iter()
                    .position(|call| call.id() == outcome.call_id);
                let Some(index) = index else { return };
                let call = self.open.remove(index);
                let result = Block::ToolResult {
                    call_id: outcome.call_id.clone(),
                    name: call.visible_name().to_owned(),
                    content: outcome.content.clone(),
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
            EntryBody::ModelFailed { .. }
            | EntryBody::Notice { .. }
            | EntryBody::Finished { .. } => {}
        }
    }
}

/// An input as the model is shown it.
fn input_text(input: &Value) -> String {
    match input {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}
