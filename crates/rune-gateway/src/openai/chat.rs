//! Chat completions out of the events of a request.

use bytes::BytesMut;
use rune_http::{ApiError, OpenAiErrorBody};
use rune_runtime::{RequestEvent, SequencedEvent};
use rune_store_runtime::{Failure, RequestId, Usage};
use serde_json::{Value, json};

use super::chat_usage;
use crate::conversation::{approval_notice, output_text};
use crate::event_body::{Encode, interrupted, write_data};
use crate::narration::{Cut, Narration, digits};

/// What is the same in every chunk, and in the whole answer.
#[derive(Debug, Clone)]
pub(crate) struct Completion {
    pub(crate) request_id: RequestId,
    /// Seconds since the epoch.
    pub(crate) created: i64,
    /// The model as the client named it.
    pub(crate) model: String,
    pub(crate) show_tools: bool,
}

impl Completion {
    fn id(&self) -> String {
        format!("chatcmpl-{}", digits(self.request_id))
    }

    /// The whole answer.
    pub(crate) fn whole(
        &self,
        content: &str,
        tools: Option<&str>,
        usage: &Usage,
        cut: Option<Cut>,
    ) -> Value {
        let mut message = json!({"role": "assistant", "content": content, "refusal": null});
        if let (Some(tools), Some(fields)) = (tools, message.as_object_mut()) {
            fields.insert("reasoning_content".to_owned(), json!(tools));
        }
        json!({
            "id": self.id(),
            "object": "chat.completion",
            "created": self.created,
            "model": self.model,
            "choices": [{
                "index": 0, "message": message, "logprobs": null, "finish_reason": finish_reason(cut),
            }],
            "usage": chat_usage(usage),
        })
    }

    /// What the answer has that waits for a person.
    pub(crate) fn notice(&self, tool: &str, reason: &str, approval: &str) -> String {
        approval_notice(tool, reason, approval, self.request_id)
    }
}

/// Why an answer ends, in the words of the API.
const fn finish_reason(cut: Option<Cut>) -> &'static str {
    match cut {
        None => "stop",
        Some(Cut::Length) => "length",
        Some(Cut::Refused) => "content_filter",
    }
}

/// What is shown of a tool in place of reasoning; nothing of other events.
pub(crate) fn tool_line(event: &RequestEvent) -> Option<String> {
    match event {
        RequestEvent::ToolStart { name, input, .. } => Some(format!("{name} {input}\n")),
        RequestEvent::ToolDone {
            name,
            output,
            error,
            ..
        } => {
            let said = match error {
                Some(failure) => format!("failed: {}", failure.message),
                None => output.as_ref().map(output_text).unwrap_or_default(),
            };
            Some(format!("{name} answered: {said}\n"))
        }
        _ => None,
    }
}

/// Chunks of a completion.
pub(crate) struct ChatStream {
    pub(crate) completion: Completion,
    pub(crate) include_usage: bool,
    narration: Narration,
    has_content: bool,
}

impl ChatStream {
    pub(crate) fn new(completion: Completion, include_usage: bool) -> Self {
        Self {
            completion,
            include_usage,
            narration: Narration::default(),
            has_content: false,
        }
    }

    fn chunk(&self, out: &mut BytesMut, choices: &Value, usage: Option<&Usage>) {
        let mut chunk = json!({
            "id": self.completion.id(),
            "object": "chat.completion.chunk",
            "created": self.completion.created,
            "model": self.completion.model,
            "choices": choices,
        });
        if let (true, Some(fields)) = (self.include_usage, chunk.as_object_mut()) {
            fields.insert("usage".to_owned(), usage.map_or(Value::Null, chat_usage));
        }
        write_data(out, &chunk);
    }

    fn delta(&self, out: &mut BytesMut, delta: &Value) {
        let choices = json!([{"index": 0, "delta": delta, "finish_reason": null}]);
        self.chunk(out, &choices, None);
    }

    /// A message of its own, apart from the one before it.
    fn begin(&mut self, out: &mut BytesMut) {
        if self.has_content {
            self.delta(out, &json!({"content": "\n\n"}));
        }
        self.has_content = true;
    }

    fn error(out: &mut BytesMut, error: &ApiError) {
        write_data(out, &OpenAiErrorBody::from(error));
    }
}

impl Encode for ChatStream {
    /// A person who looks at a chat sees what is asked, and the answer once it is decided.
    const ENDS_PARKED: bool = false;

    fn event(&mut self, event: &SequencedEvent, out: &mut BytesMut) {
        self.narration.hear(event);
        match &event.event {
            RequestEvent::Accepted { .. } => {
                self.delta(out, &json!({"role": "assistant", "content": ""}));
            }
            RequestEvent::Token { text } => {
                if self.narration.say(text) {
                    self.begin(out);
                }
                self.delta(out, &json!({"content": text}));
            }
            RequestEvent::ApprovalRequired {
                approval_id,
                tool,
                reason,
                ..
            } => {
                self.begin(out);
                let approval = approval_id.to_string();
                let notice = self.completion.notice(tool, reason, &approval);
                self.delta(out, &json!({"content": notice}));
            }
            RequestEvent::Done { output, usage, .. } => {
                if let Some(text) = self.narration.unsaid(output) {
                    self.begin(out);
                    self.delta(out, &json!({"content": text}));
                }
                let finish = finish_reason(self.narration.cut());
                let last = json!([{"index": 0, "delta": {}, "finish_reason": finish}]);
                self.chunk(out, &last, None);
                if self.include_usage {
                    self.chunk(out, &json!([]), Some(usage));
                }
                out.extend_from_slice(b"data: [DONE]\n\n");
            }
            RequestEvent::Error { code, message, .. } => {
                let failure = Failure::new(*code, message.as_str());
                Self::error(out, &failure.into());
            }
            event if self.completion.show_tools => {
                if let Some(line) = tool_line(event) {
                    self.delta(out, &json!({"reasoning_content": line}));
                }
            }
            _ => {}
        }
    }

    fn cut_off(&mut self, out: &mut BytesMut) {
        Self::error(out, &interrupted(self.completion.request_id));
    }
}

#[cfg(test)]
mod tests {
    use rune_store_runtime::{Cost, RequestStatus, SessionId};

    use super::*;

    fn stream(include_usage: bool) -> ChatStream {
        let completion = Completion {
            request_id: RequestId::from_bytes([1; 16]),
            created: 7,
            model: "hello".to_owned(),
            show_tools: false,
        };
        ChatStream::new(completion, include_usage)
    }

    fn written(stream: &mut ChatStream, events: Vec<RequestEvent>) -> Vec<String> {
        let mut out = BytesMut::new();
        for event in events {
            let event = SequencedEvent {
                seq: None,
                at: None,
                event,
            };
            stream.event(&event, &mut out);
        }
        let text = String::from_utf8(out.to_vec()).unwrap();
        let blocks = text.split_terminator("\n\n");
        let data = blocks.map(|block| block.strip_prefix("data: ").unwrap().to_owned());
        data.collect()
    }

    fn token(text: &str) -> RequestEvent {
        RequestEvent::Token {
            text: text.to_owned(),
        }
    }

    fn failed_model() -> RequestEvent {
        RequestEvent::ModelFailed {
            provider: "one".to_owned(),
            error: Failure::new(rune_store_runtime::ErrorCode::ModelUnavailable, "gone"),
            next_provider: None,
        }
    }

    fn done(output: Value) -> RequestEvent {
        RequestEvent::Done {
            request_id: RequestId::from_bytes([1; 16]),
            session_id: SessionId::generate(),
            output,
            status: RequestStatus::Completed,
            usage: Usage {
                input_tokens: 5,
                output_tokens: 2,
                ..Usage::default()
            },
            cost: Cost::default(),
        }
    }

    fn content(chunks: &[String]) -> String {
        let chunks = chunks.iter().filter_map(|chunk| {
            let chunk: Value = serde_json::from_str(chunk).ok()?;
            let text = chunk["choices"][0]["delta"]["content"].as_str()?;
            Some(text.to_owned())
        });
        chunks.collect()
    }

    #[test]
    fn the_last_chunks_are_the_finish_the_usage_and_the_end() {
        let events = vec![token("Hel"), token("lo"), done(json!("Hello"))];
        let chunks = written(&mut stream(true), events);
        assert_eq!(content(&chunks), "Hello");
        let [.., finish, usage, end] = chunks.as_slice() else {
            panic!("{chunks:?}");
        };
        assert!(finish.contains(r#""finish_reason":"stop""#), "{finish}");
        let usage: Value = serde_json::from_str(usage).unwrap();
        assert_eq!(usage["choices"], json!([]));
        assert_eq!(usage["usage"]["total_tokens"], 7);
        assert_eq!(end, "[DONE]");
        let finish: Value = serde_json::from_str(finish).unwrap();
        assert_eq!(finish["usage"], Value::Null);
    }

    #[test]
    fn without_being_asked_nothing_is_said_of_usage() {
        let chunks = written(&mut stream(false), vec![done(json!("Hello"))]);
        assert!(chunks.iter().all(|chunk| !chunk.contains("usage")));
        assert_eq!(content(&chunks), "Hello");
    }

    #[test]
    fn what_a_failed_model_said_stands_apart() {
        let events = vec![
            token("Hel"),
            failed_model(),
            token("Hello"),
            done(json!("Hello")),
        ];
        assert_eq!(
            content(&written(&mut stream(false), events)),
            "Hel\n\nHello"
        );
    }
}
