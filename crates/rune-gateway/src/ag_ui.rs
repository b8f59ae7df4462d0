//! The events of the Agent User Interaction Protocol out of the events of a request.

use std::collections::BTreeMap;

use bytes::BytesMut;
use rune_http::ApiError;
use rune_runtime::{RequestEvent, SequencedEvent};
use rune_store_runtime::{ApprovalId, RequestId, RequestStatus, Usage};
use serde_json::{Map, Value, json};

use crate::conversation::output_text;
use crate::event_body::{Encode, interrupted, write_data};
use crate::narration::{Narration, Told, digits};

/// The version of the protocol that is spoken.
const PROTOCOL_VERSION: &str = "1.0";

/// The events of one run.
pub(crate) struct Run {
    thread_id: String,
    run_id: String,
    request_id: RequestId,
    /// What an earlier run has told.
    told: Told,
    narration: Narration,
    /// The message that is being said.
    open: Option<String>,
    /// The calls that the client knows of.
    calls: Vec<String>,
    /// The steps that have not ended.
    steps: Vec<String>,
    /// What waits for the client.
    interrupts: BTreeMap<ApprovalId, Value>,
    /// Tokens by provider and model.
    usage: BTreeMap<(String, String), Usage>,
}

impl Run {
    /// A run that tells what comes behind the entry `told` of a request.
    pub(crate) fn new(thread_id: String, run_id: String, request_id: RequestId, told: u64) -> Self {
        Self {
            thread_id,
            run_id,
            request_id,
            told: Told::until(told),
            narration: Narration::default(),
            open: None,
            calls: Vec::new(),
            steps: Vec::new(),
            interrupts: BTreeMap::new(),
            usage: BTreeMap::new(),
        }
    }

    fn apply(&mut self, event: &SequencedEvent) -> Vec<Value> {
        let is_told = self.told.knows(event);
        let ended = self.narration.hear(event);
        let mut events = ended.map(|_| self.end_message()).unwrap_or_default();
        events.extend(self.tell(event, is_told));
        match event.event {
            RequestEvent::Accepted { .. } => events,
            _ if is_told => Vec::new(),
            _ => events,
        }
    }

    fn tell(&mut self, event: &SequencedEvent, is_told: bool) -> Vec<Value> {
        match &event.event {
            RequestEvent::Accepted { .. } => {
                vec![self.of_run("RUN_STARTED", json!({"protocolVersion": PROTOCOL_VERSION}))]
            }
            RequestEvent::Token { text } => self.say(text),
            RequestEvent::Usage {
                provider,
                model,
                usage,
                ..
            } => {
                if !is_told {
                    let key = (provider.clone(), model.clone());
                    self.usage.entry(key).or_default().add(usage);
                }
                Vec::new()
            }
            RequestEvent::ToolStart { id, name, input } => self.call(id, name, input),
            RequestEvent::ToolDone {
                id,
                name,
                output,
                error,
                ..
            } => {
                let mut events = self.call(id, name, &json!({}));
                let content = match error {
                    Some(failure) => failure.message.clone(),
                    None => output.as_ref().map(output_text).unwrap_or_default(),
                };
                let mut result = json!({
                    "type": "TOOL_CALL_RESULT", "messageId": self.message_id("tool"),
                    "toolCallId": self.call_id(id), "role": "tool", "content": content,
                });
                if let Some(failure) = error {
                    result["error"] = json!(failure.message);
                }
                events.push(result);
                events
            }
            RequestEvent::ApprovalRequired {
                approval_id,
                id,
                tool,
                input,
                reason,
                deadline,
            } => {
                let mut interrupt = json!({
                    "id": approval_id, "reason": "approval_required",
                    "message": format!("{tool}: {reason}"),
                    "toolCallId": self.call_id(id),
                    "responseSchema": {
                        "type": "object",
                        "properties": {
                            "approved": {"type": "boolean"}, "note": {"type": "string"},
                        },
                        "required": ["approved"],
                    },
                });
                if let Some(deadline) = deadline {
                    interrupt["expiresAt"] = json!(deadline);
                }
                self.interrupts.insert(*approval_id, interrupt);
                self.call(id, tool, input)
            }
            RequestEvent::ApprovalGiven { approval_id, .. } => {
                self.interrupts.remove(approval_id);
                Vec::new()
            }
            RequestEvent::StepStarted { step, .. } => {
                if is_told || self.steps.contains(step) {
                    return Vec::new();
                }
                self.steps.push(step.clone());
                vec![json!({"type": "STEP_STARTED", "stepName": step})]
            }
            RequestEvent::StepFinished { step, .. } => {
                let Some(place) = self.steps.iter().position(|open| open == step) else {
                    return Vec::new();
                };
                self.steps.remove(place);
                vec![json!({"type": "STEP_FINISHED", "stepName": step})]
            }
            RequestEvent::Done { output, .. } => {
                let mut events = Vec::new();
                if let Some(text) = self.narration.unsaid(output) {
                    events.extend(self.say(&text));
                    events.extend(self.end_message());
                }
                let outcome = json!({"result": output, "outcome": {"type": "success"}});
                events.push(self.finished(outcome));
                events
            }
            RequestEvent::Error {
                status: RequestStatus::Cancelled,
                ..
            } => {
                let mut events = self.end_steps();
                events.push(self.finished(json!({"outcome": {"type": "cancelled"}})));
                events
            }
            RequestEvent::Error { code, message, .. } => {
                vec![failed(&ApiError::new(*code, message.clone()))]
            }
            _ => Vec::new(),
        }
    }

    fn of_run(&self, kind: &str, more: Value) -> Value {
        let mut event = Map::new();
        event.insert("type".to_owned(), json!(kind));
        event.insert("threadId".to_owned(), json!(self.thread_id));
        event.insert("runId".to_owned(), json!(self.run_id));
        if let Value::Object(more) = more {
            event.extend(more);
        }
        Value::Object(event)
    }

    fn finished(&self, outcome: Value) -> Value {
        let mut event = self.of_run("RUN_FINISHED", outcome);
        let usage = self.usage.iter().map(|((provider, model), usage)| {
            json!({
                "provider": provider, "model": model,
                "inputTokens": usage.input_tokens, "outputTokens": usage.output_tokens,
                "totalTokens": usage.total(), "reasoningTokens": usage.reasoning_tokens,
                "cachedInputTokens": usage.cached_tokens,
                "cacheWriteInputTokens": usage.cache_write_tokens,
            })
        });
        event["usage"] = Value::Array(usage.collect());
        event
    }

    /// The id of a message that begins now.
    fn message_id(&self, kind: &str) -> String {
        let place = self.narration.place();
        format!("{kind}_{}_{place}", digits(self.request_id))
    }

    /// The id of a call is unique within the request only.
    fn call_id(&self, id: &str) -> String {
        format!("{}_{id}", digits(self.request_id))
    }

    fn say(&mut self, text: &str) -> Vec<Value> {
        let mut events = Vec::new();
        if self.narration.say(text) {
            let id = self.message_id("msg");
            let start = json!({"type": "TEXT_MESSAGE_START", "messageId": id, "role": "assistant"});
            events.push(start);
            self.open = Some(id);
        }
        // The protocol has no empty pieces.
        if !text.is_empty() {
            events.push(json!({
                "type": "TEXT_MESSAGE_CONTENT", "messageId": self.open, "delta": text,
            }));
        }
        events
    }

    fn end_message(&mut self) -> Vec<Value> {
        let ended = self.open.take();
        let ended = ended.map(|id| json!({"type": "TEXT_MESSAGE_END", "messageId": id}));
        ended.into_iter().collect()
    }

    /// Nothing that has begun is open when the run has ended.
    fn end_steps(&mut self) -> Vec<Value> {
        let steps = std::mem::take(&mut self.steps).into_iter();
        let events = steps.map(|step| json!({"type": "STEP_FINISHED", "stepName": step}));
        events.collect()
    }

    /// Tells of a call, once.
    fn call(&mut self, id: &str, name: &str, input: &Value) -> Vec<Value> {
        if self.calls.iter().any(|known| known == id) {
            return Vec::new();
        }
        self.calls.push(id.to_owned());
        let id = self.call_id(id);
        vec![
            json!({"type": "TOOL_CALL_START", "toolCallId": id, "toolCallName": name}),
            json!({"type": "TOOL_CALL_ARGS", "toolCallId": id, "delta": input.to_string()}),
            json!({"type": "TOOL_CALL_END", "toolCallId": id}),
        ]
    }
}

impl Encode for Run {
    /// An interrupt ends the run; the next one resumes.
    const ENDS_PARKED: bool = true;

    fn event(&mut self, event: &SequencedEvent, out: &mut BytesMut) {
        for event in self.apply(event) {
            write_data(out, &event);
        }
    }

    fn parked(&mut self, out: &mut BytesMut) -> bool {
        for event in self.end_steps() {
            write_data(out, &event);
        }
        let interrupts: Vec<&Value> = self.interrupts.values().collect();
        let outcome = json!({"outcome": {"type": "interrupt", "interrupts": interrupts}});
        write_data(out, &self.finished(outcome));
        true
    }

    fn cut_off(&mut self, out: &mut BytesMut) {
        write_data(out, &failed(&interrupted(self.request_id)));
    }
}

fn failed(error: &ApiError) -> Value {
    json!({"type": "RUN_ERROR", "message": error.message(), "code": error.code().as_str()})
}
