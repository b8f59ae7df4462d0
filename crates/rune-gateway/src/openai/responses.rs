//! Responses out of the events of a request.

use std::collections::BTreeMap;

use bytes::{BufMut as _, BytesMut};
use rune_runtime::{RequestEvent, SequencedEvent};
use rune_store_runtime::{ApprovalId, ErrorCode, RequestId, RequestStatus, Usage};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::{Metadata, response_usage};
use crate::conversation::output_text;
use crate::event_body::{Encode, write_data};
use crate::narration::{Narration, digits};

/// What ids of responses start with.
pub(crate) const PREFIX: &str = "resp_";
/// What the agent's tools are the tools of, where they are shown.
const SERVER_LABEL: &str = "rune";
/// Why a response is not complete that waits for a person.
const APPROVAL_REQUIRED: &str = "approval_required";

/// What was asked, as it is kept with the request and answered with the response.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Asked {
    /// The model as the client named it.
    pub(crate) model: String,
    pub(crate) instructions: Option<String>,
    pub(crate) previous_response_id: Option<String>,
    pub(crate) user: Option<String>,
    pub(crate) background: bool,
    /// Whether `GET /v1/responses/{id}` knows it.
    pub(crate) store: bool,
    pub(crate) show_tools: bool,
    pub(crate) metadata: Metadata,
}

/// The id of the response of a request.
pub(crate) fn response_id(request: RequestId) -> String {
    format!("{PREFIX}{}", digits(request))
}

/// A response as far as it is.
pub(crate) struct ResponseStream {
    asked: Asked,
    request_id: RequestId,
    /// Seconds since the epoch.
    created: i64,
    /// Entries up to this one were told before: the response has what came of them, and no event
    /// tells it again.
    told: u64,
    at: u64,
    sequence: u64,
    narration: Narration,
    /// The items so far; that of an open message is its last.
    output: Vec<Value>,
    open: Option<usize>,
    /// Where the calls are in the output that have not ended.
    calls: BTreeMap<String, usize>,
    has_begun: bool,
    status: &'static str,
    error: Value,
    usage: Option<Usage>,
}

/// An event with its name.
type Named = (&'static str, Map<String, Value>);

impl ResponseStream {
    /// A response whose events behind the entry `told` are of interest.
    pub(crate) fn new(asked: Asked, request_id: RequestId, created: i64, told: u64) -> Self {
        Self {
            asked,
            request_id,
            created,
            told,
            at: 0,
            sequence: 0,
            narration: Narration::default(),
            output: Vec::new(),
            open: None,
            calls: BTreeMap::new(),
            has_begun: false,
            status: "in_progress",
            error: Value::Null,
            usage: None,
        }
    }

    /// The response as it is, where nobody follows it.
    pub(crate) fn with_status(mut self, status: RequestStatus) -> Self {
        self.status = match status {
            RequestStatus::Accepted => "queued",
            RequestStatus::Running => "in_progress",
            RequestStatus::InputRequired => "incomplete",
            RequestStatus::Completed => "completed",
            RequestStatus::Failed => "failed",
            RequestStatus::Cancelled => "cancelled",
        };
        self
    }

    /// The response object.
    pub(crate) fn response(&self) -> Value {
        let incomplete =
            (self.status == "incomplete").then(|| json!({"reason": APPROVAL_REQUIRED}));
        json!({
            "id": response_id(self.request_id),
            "object": "response",
            "created_at": self.created,
            "status": self.status,
            "background": self.asked.background,
            "error": self.error,
            "incomplete_details": incomplete,
            "instructions": self.asked.instructions,
            "max_output_tokens": null,
            "metadata": self.asked.metadata,
            "model": self.asked.model,
            "output": self.output,
            "parallel_tool_calls": true,
            "previous_response_id": self.asked.previous_response_id,
            "reasoning": {"effort": null, "summary": null},
            "store": self.asked.store,
            "temperature": null,
            "text": {"format": {"type": "text"}},
            "tool_choice": "auto",
            "tools": [],
            "top_p": null,
            "truncation": "disabled",
            "usage": self.usage.as_ref().map(response_usage),
            "user": self.asked.user,
        })
    }

    /// What the event is to a client of the API, in order.
    pub(crate) fn apply(&mut self, event: &SequencedEvent) -> Vec<Named> {
        self.at = event.seq.unwrap_or(self.at);
        // Text has no number; it stands before the entry that it becomes a part of.
        if event
            .seq
            .map_or(self.at < self.told, |seq| seq <= self.told)
        {
            self.tell(event);
            return Vec::new();
        }
        let mut events = self.begin();
        events.extend(self.tell(event));
        events
    }

    fn tell(&mut self, event: &SequencedEvent) -> Vec<Named> {
        match &event.event {
            RequestEvent::Token { text } => self.say(text),
            RequestEvent::Usage { .. } => self.end_message("completed"),
            RequestEvent::ModelFailed { .. } => self.end_message("incomplete"),
            RequestEvent::ToolStart { id, name, input } if self.asked.show_tools => {
                self.call(id, name, input)
            }
            RequestEvent::ToolDone {
                id,
                name,
                output,
                error,
                ..
            } if self.asked.show_tools => {
                let mut events = Vec::new();
                if !self.calls.contains_key(id) {
                    events = self.call(id, name, &json!({}));
                }
                let failure = error.as_ref().map(|failure| failure.message.as_str());
                events.extend(self.called(id, output.as_ref(), failure));
                events
            }
            RequestEvent::ApprovalRequired {
                approval_id,
                tool,
                input,
                ..
            } => {
                let item = question(*approval_id, tool, input);
                let index = self.output.len();
                self.output.push(item.clone());
                vec![added(index, &item), done(index, &item)]
            }
            RequestEvent::Done { output, usage, .. } => {
                let mut events = self.end_message("completed");
                if let Some(text) = self.narration.unsaid(output) {
                    events.extend(self.say(&text));
                    events.extend(self.end_message("completed"));
                }
                self.status = "completed";
                self.usage = Some(*usage);
                events.push(self.whole_response("response.completed"));
                events
            }
            RequestEvent::Error {
                code,
                message,
                status,
                usage,
                ..
            } => {
                let mut events = self.end_message("incomplete");
                self.status = match status {
                    RequestStatus::Cancelled => "cancelled",
                    _ => "failed",
                };
                if *status != RequestStatus::Cancelled {
                    self.error = json!({"code": error_code(*code), "message": message});
                }
                self.usage = Some(*usage);
                events.push(self.whole_response("response.failed"));
                events
            }
            _ => Vec::new(),
        }
    }

    /// The request waits for a person: what it asks is the end of this answer.
    pub(crate) fn wait(&mut self) -> Vec<Named> {
        let mut events = self.begin();
        self.status = "incomplete";
        events.push(self.whole_response("response.incomplete"));
        events
    }

    /// What stands before everything else, once.
    fn begin(&mut self) -> Vec<Named> {
        if std::mem::replace(&mut self.has_begun, true) {
            return Vec::new();
        }
        vec![
            self.whole_response("response.created"),
            self.whole_response("response.in_progress"),
        ]
    }

    fn whole_response(&self, name: &'static str) -> Named {
        named(name, json!({"response": self.response()}))
    }

    /// The place of the next item.
    fn item_id(&self, kind: &str) -> String {
        format!("{kind}_{}_{}", digits(self.request_id), self.output.len())
    }

    fn say(&mut self, text: &str) -> Vec<Named> {
        let mut events = Vec::new();
        if self.narration.say(text) {
            let (index, id) = (self.output.len(), self.item_id("msg"));
            let item = message(&id, "in_progress", &[]);
            let part = output_part("");
            events.push(added(index, &item));
            self.output.push(item);
            self.open = Some(index);
            events.push(named(
                "response.content_part.added",
                json!({"item_id": id, "output_index": index, "content_index": 0, "part": part}),
            ));
        }
        if let Some((index, id)) = self.opened() {
            events.push(named(
                "response.output_text.delta",
                json!({
                    "item_id": id, "output_index": index, "content_index": 0, "delta": text,
                    "logprobs": [],
                }),
            ));
        }
        events
    }

    /// The place and the id of the message that is being said.
    fn opened(&self) -> Option<(usize, String)> {
        let index = self.open?;
        let id = self.output.get(index)?["id"].as_str()?;
        Some((index, id.to_owned()))
    }

    fn end_message(&mut self, status: &'static str) -> Vec<Named> {
        let (Some(text), Some((index, id))) = (self.narration.end(), self.opened()) else {
            return Vec::new();
        };
        self.open = None;
        let part = output_part(&text);
        let item = message(&id, status, std::slice::from_ref(&part));
        if let Some(place) = self.output.get_mut(index) {
            *place = item.clone();
        }
        let at = |more: Value| {
            let mut fields = json!({"item_id": id, "output_index": index, "content_index": 0});
            if let (Some(fields), Value::Object(more)) = (fields.as_object_mut(), more) {
                fields.extend(more);
            }
            fields
        };
        vec![
            named(
                "response.output_text.done",
                at(json!({"text": text, "logprobs": []})),
            ),
            named("response.content_part.done", at(json!({"part": part}))),
            done(index, &item),
        ]
    }

    fn call(&mut self, call: &str, name: &str, input: &Value) -> Vec<Named> {
        let (index, id) = (self.output.len(), self.item_id("mcp"));
        let mut item = json!({
            "id": id, "type": "mcp_call", "server_label": SERVER_LABEL, "name": name,
            "arguments": "", "status": "in_progress",
        });
        let mut events = vec![added(index, &item)];
        let at = json!({"item_id": id, "output_index": index});
        events.push(named("response.mcp_call.in_progress", at));
        let arguments = input.to_string();
        let delta = json!({"item_id": id, "output_index": index, "delta": arguments});
        events.push(named("response.mcp_call_arguments.delta", delta));
        let whole = json!({"item_id": id, "output_index": index, "arguments": arguments});
        events.push(named("response.mcp_call_arguments.done", whole));
        item["arguments"] = json!(arguments);
        self.output.push(item);
        self.calls.insert(call.to_owned(), index);
        events
    }

    fn called(&mut self, call: &str, output: Option<&Value>, failure: Option<&str>) -> Vec<Named> {
        let Some(index) = self.calls.remove(call) else {
            return Vec::new();
        };
        let Some(item) = self.output.get_mut(index) else {
            return Vec::new();
        };
        let (name, status) = match failure {
            Some(message) => {
                let content = json!([{"type": "text", "text": message}]);
                item["error"] = json!({"type": "mcp_tool_execution_error", "content": content});
                ("response.mcp_call.failed", "failed")
            }
            None => {
                item["output"] = json!(output.map(output_text).unwrap_or_default());
                ("response.mcp_call.completed", "completed")
            }
        };
        item["status"] = json!(status);
        let item = item.clone();
        let at = json!({"item_id": item["id"], "output_index": index});
        vec![named(name, at), done(index, &item)]
    }

    fn write(&mut self, out: &mut BytesMut, events: Vec<Named>) {
        for (name, mut fields) in events {
            fields.insert("type".to_owned(), json!(name));
            fields.insert("sequence_number".to_owned(), json!(self.sequence));
            self.sequence += 1;
            out.put_slice(b"event: ");
            out.put_slice(name.as_bytes());
            out.put_u8(b'\n');
            write_data(out, &fields);
        }
    }
}

impl Encode for ResponseStream {
    /// A response that asks is over; the next one answers.
    const ENDS_PARKED: bool = true;

    fn event(&mut self, event: &SequencedEvent, out: &mut BytesMut) {
        let events = self.apply(event);
        self.write(out, events);
    }

    fn parked(&mut self, out: &mut BytesMut) {
        let events = self.wait();
        self.write(out, events);
    }

    fn cut_off(&mut self, out: &mut BytesMut) {
        let message = format!(
            "the daemon ends before the response does; the next start takes it up again, see \
             `GET /v1/responses/{}`",
            response_id(self.request_id)
        );
        let fields = json!({
            "code": ErrorCode::Unavailable.as_str(), "message": message, "param": null,
        });
        let event = named("error", fields);
        self.write(out, vec![event]);
    }
}

fn named(name: &'static str, fields: Value) -> Named {
    match fields {
        Value::Object(fields) => (name, fields),
        _ => (name, Map::new()),
    }
}

fn added(index: usize, item: &Value) -> Named {
    named(
        "response.output_item.added",
        json!({"output_index": index, "item": item}),
    )
}

fn done(index: usize, item: &Value) -> Named {
    named(
        "response.output_item.done",
        json!({"output_index": index, "item": item}),
    )
}

fn message(id: &str, status: &str, content: &[Value]) -> Value {
    json!({"id": id, "type": "message", "role": "assistant", "status": status, "content": content})
}

fn output_part(text: &str) -> Value {
    json!({"type": "output_text", "text": text, "annotations": [], "logprobs": []})
}

fn question(id: ApprovalId, tool: &str, input: &Value) -> Value {
    json!({
        "id": id, "type": "mcp_approval_request", "server_label": SERVER_LABEL, "name": tool,
        "arguments": input.to_string(),
    })
}

/// The code of a failure, of those that the API has.
const fn error_code(code: ErrorCode) -> &'static str {
    match code {
        ErrorCode::LimitExceeded => "rate_limit_exceeded",
        ErrorCode::InvalidInput => "invalid_prompt",
        _ => "server_error",
    }
}
