//! Responses out of the events of a request.

mod items;

use std::collections::BTreeMap;

use bytes::{BufMut as _, BytesMut};
use rune_runtime::{RequestEvent, SequencedEvent};
use rune_store_runtime::{ApprovalDecision, ApprovalId, RequestId, RequestStatus, Usage};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use items::{
    Named, added, call_error, cut_reason, done, error_code, message, named, output_part, question,
};

use super::{Metadata, response_usage};
use crate::conversation::output_text;
use crate::event_body::{Encode, interrupted, write_data};
use crate::narration::{Message, Narration, Told, digits};

/// What ids of responses start with.
pub(crate) const PREFIX: &str = "resp_";
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
    /// The caller's notes, which the request has anyway.
    #[serde(skip)]
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
    /// What was told before: the response has what came of it, and no event tells it again.
    told: Told,
    sequence: u64,
    narration: Narration,
    /// The items so far; that of an open message is its last.
    output: Vec<Value>,
    open: Option<usize>,
    /// Where the calls are in the output that have not ended.
    calls: BTreeMap<String, usize>,
    /// Where the questions are that nobody has answered, and the calls that they are about.
    questions: BTreeMap<ApprovalId, (usize, String)>,
    has_begun: bool,
    status: &'static str,
    /// Why it is incomplete, where it is.
    incomplete: Option<&'static str>,
    error: Value,
    usage: Option<Usage>,
}

impl ResponseStream {
    /// A response whose events behind the entry `told` are of interest.
    pub(crate) fn new(asked: Asked, request_id: RequestId, created: i64, told: u64) -> Self {
        Self {
            asked,
            request_id,
            created,
            told: Told::until(told),
            sequence: 0,
            narration: Narration::default(),
            output: Vec::new(),
            open: None,
            calls: BTreeMap::new(),
            questions: BTreeMap::new(),
            has_begun: false,
            status: "in_progress",
            incomplete: None,
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
        let incomplete = self.incomplete.map(|reason| json!({"reason": reason}));
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
        if self.told.knows(event) {
            self.tell(event);
            return Vec::new();
        }
        // Who has decided is shown the response as it is since then, from the first event on.
        let is_decision = matches!(event.event, RequestEvent::ApprovalGiven { .. });
        let mut events = match is_decision {
            true => Vec::new(),
            false => self.begin(),
        };
        events.extend(self.tell(event));
        events
    }

    fn tell(&mut self, event: &SequencedEvent) -> Vec<Named> {
        let ended = self.narration.hear(event);
        let mut events = ended
            .map(|message| self.end_message(&message))
            .unwrap_or_default();
        events.extend(self.tell_rest(event));
        events
    }

    fn tell_rest(&mut self, event: &SequencedEvent) -> Vec<Named> {
        match &event.event {
            RequestEvent::Token { text } => self.say(text),
            RequestEvent::ToolStart { id, name, input }
                if self.asked.show_tools && !self.calls.contains_key(id) =>
            {
                self.call(id, name, input)
            }
            RequestEvent::ToolDone {
                id,
                name,
                output,
                error,
                ..
            } if self.asked.show_tools || self.calls.contains_key(id) => {
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
                id,
                tool,
                input,
                ..
            } => {
                let item = question(*approval_id, tool, input);
                let index = self.output.len();
                self.output.push(item.clone());
                self.questions.insert(*approval_id, (index, id.clone()));
                vec![added(index, &item), done(index, &item)]
            }
            RequestEvent::ApprovalGiven {
                approval_id,
                decision,
                ..
            } => {
                self.decided(*approval_id, *decision);
                Vec::new()
            }
            RequestEvent::Done { output, usage, .. } => {
                let mut events = Vec::new();
                if let Some(text) = self.narration.unsaid(output) {
                    events.extend(self.say(&text));
                    if let Some(ended) = self.narration.hear(event) {
                        events.extend(self.end_message(&ended));
                    }
                }
                self.usage = Some(*usage);
                self.incomplete = self.narration.cut().map(cut_reason);
                let (status, name) = match self.incomplete {
                    Some(_) => ("incomplete", "response.incomplete"),
                    None => ("completed", "response.completed"),
                };
                self.status = status;
                events.push(self.whole_response(name));
                events
            }
            RequestEvent::Error {
                code,
                message,
                status,
                usage,
                ..
            } => {
                self.status = match status {
                    RequestStatus::Cancelled => "cancelled",
                    _ => "failed",
                };
                if *status != RequestStatus::Cancelled {
                    self.error = json!({"code": error_code(*code), "message": message});
                }
                self.usage = Some(*usage);
                vec![self.whole_response("response.failed")]
            }
            _ => Vec::new(),
        }
    }

    /// The request waits for a person: what it asks is the end of this answer.
    pub(crate) fn wait(&mut self) -> Vec<Named> {
        let mut events = self.begin();
        self.status = "incomplete";
        self.incomplete = Some(APPROVAL_REQUIRED);
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

    /// The id of an item that begins now.
    fn item_id(&self, kind: &str) -> String {
        let place = self.narration.place();
        format!("{kind}_{}_{place}", digits(self.request_id))
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

    fn end_message(&mut self, ended: &Message) -> Vec<Named> {
        let Some((index, id)) = self.opened() else {
            return Vec::new();
        };
        self.open = None;
        let Message { text, is_whole } = ended;
        let status = match is_whole {
            true => "completed",
            false => "incomplete",
        };
        let part = output_part(text);
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
        let mut item = items::call(&id, name);
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

    /// What was a question is the call that it was about.
    fn decided(&mut self, approval: ApprovalId, decision: ApprovalDecision) {
        let Some((index, call)) = self.questions.remove(&approval) else {
            return;
        };
        let id = self.item_id("mcp");
        let Some(item) = self.output.get_mut(index) else {
            return;
        };
        *item = items::decided(&id, item, approval, decision);
        self.calls.insert(call, index);
    }

    fn called(&mut self, call: &str, output: Option<&Value>, failure: Option<&str>) -> Vec<Named> {
        let Some(index) = self.calls.remove(call) else {
            return Vec::new();
        };
        let Some(item) = self.output.get_mut(index) else {
            return Vec::new();
        };
        let (name, status) = match failure {
            Some(_) => ("response.mcp_call.failed", "failed"),
            None => ("response.mcp_call.completed", "completed"),
        };
        item["status"] = json!(status);
        // A call that was asked about is shown; what came of it only to who wants to see that.
        match failure {
            _ if !self.asked.show_tools => {}
            Some(message) => item["error"] = call_error(message),
            None => item["output"] = json!(output.map(output_text).unwrap_or_default()),
        }
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

    fn parked(&mut self, out: &mut BytesMut) -> bool {
        let events = self.wait();
        self.write(out, events);
        true
    }

    fn cut_off(&mut self, out: &mut BytesMut) {
        let error = interrupted(self.request_id);
        let fields = json!({
            "code": error.code().as_str(), "message": error.message(), "param": null,
        });
        let event = named("error", fields);
        self.write(out, vec![event]);
    }
}
