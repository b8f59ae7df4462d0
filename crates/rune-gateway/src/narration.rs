//! What an agent says, message by message, out of the events of its request.

use rune_runtime::{RequestEvent, SequencedEvent};
use rune_store_runtime::{EntryBody, RequestId};
use serde_json::Value;

use crate::conversation::output_text;

/// The messages so far. What is said between two events that end a message is one.
#[derive(Debug, Default)]
pub(crate) struct Narration {
    open: Option<String>,
    last: String,
    /// All that was said.
    said: String,
    /// What was noted about the reply that comes next.
    noted: Option<Cut>,
    cut: Option<Cut>,
    place: u64,
}

/// Why the text of an answer is not what it could be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cut {
    /// The model reached its output limit.
    Length,
    /// The model, or its provider, declined to answer.
    Refused,
}

/// A message that has ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Message {
    pub(crate) text: String,
    /// Whether it counts, to its end.
    pub(crate) is_whole: bool,
}

impl Narration {
    /// More of the answer. Answers whether a message begins with it.
    pub(crate) fn say(&mut self, text: &str) -> bool {
        let begins = self.open.is_none();
        self.open.get_or_insert_default().push_str(text);
        begins
    }

    /// Takes note of an event, before anything else is done with it. Answers the message that ends
    /// with it: a reply that is whole or does not count, what a component showed before its turn.
    pub(crate) fn hear(&mut self, event: &SequencedEvent) -> Option<Message> {
        if let Some(seq) = event.seq
            && !is_aside(&event.event)
        {
            self.place = seq;
        }
        match &event.event {
            RequestEvent::Notice { code, .. } => {
                match code.as_str() {
                    EntryBody::OUTPUT_TRUNCATED => self.noted = Some(Cut::Length),
                    EntryBody::REFUSED => self.noted = Some(Cut::Refused),
                    _ => {}
                }
                None
            }
            RequestEvent::Usage { .. } => {
                self.cut = self.noted.take();
                self.end(self.cut != Some(Cut::Length))
            }
            RequestEvent::ComponentTurn { .. } => {
                // It answers itself, whatever a model did not.
                self.cut = None;
                self.end(true)
            }
            RequestEvent::Done { .. } => self.end(true),
            RequestEvent::ModelFailed { .. }
            | RequestEvent::ModelUnanswered { .. }
            | RequestEvent::Error { .. } => self.end(false),
            _ => None,
        }
    }

    fn end(&mut self, is_whole: bool) -> Option<Message> {
        let text = self.open.take()?;
        self.last.clone_from(&text);
        self.said.push_str(&text);
        Some(Message { text, is_whole })
    }

    /// The entry that what begins now begins with, or stands behind: it is the same for everybody who
    /// follows the request, and for nothing else of it.
    pub(crate) const fn place(&self) -> u64 {
        self.place
    }

    /// Why the answer is not what it could be, once it is there.
    pub(crate) const fn cut(&self) -> Option<Cut> {
        self.cut
    }

    /// The answer as text, where what was said does not end with it.
    pub(crate) fn unsaid(&self, output: &Value) -> Option<String> {
        let text = output_text(output);
        let is_said = match output {
            Value::String(text) => self.said.trim_end().ends_with(text.trim_end()),
            output => serde_json::from_str::<Value>(&self.last).is_ok_and(|said| said == *output),
        };
        (!is_said && !text.is_empty()).then_some(text)
    }
}

/// Whether the entry may come in the middle of a message, as that is said and not in the journal.
const fn is_aside(event: &RequestEvent) -> bool {
    matches!(
        event,
        RequestEvent::Accepted { .. }
            | RequestEvent::Started { .. }
            | RequestEvent::Notice { .. }
            | RequestEvent::PolicyVerdict { .. }
            | RequestEvent::ToolsListed { .. }
            | RequestEvent::CancelRequested { .. }
    )
}

/// What a client was told of a request before, by its journal.
#[derive(Debug)]
pub(crate) struct Told {
    /// The last entry that it knows of.
    until: u64,
    at: u64,
}

impl Told {
    /// Of the entries up to this one.
    pub(crate) const fn until(entry: u64) -> Self {
        Self {
            until: entry,
            at: 0,
        }
    }

    /// Takes note of the next event, and answers whether the client knows of it.
    pub(crate) fn knows(&mut self, event: &SequencedEvent) -> bool {
        self.at = event.seq.unwrap_or(self.at);
        // Text has no number; it stands before the entry that it becomes a part of.
        event
            .seq
            .map_or(self.at < self.until, |seq| seq <= self.until)
    }
}

/// The digits of a request's id, behind which other APIs put prefixes of their own.
pub(crate) fn digits(id: RequestId) -> String {
    let text = id.to_string();
    let digits = text.strip_prefix(RequestId::PREFIX);
    digits.map_or(text.clone(), str::to_owned)
}

/// The request that a prefix of another API stands before.
pub(crate) fn request_id(prefix: &str, text: &str) -> Option<RequestId> {
    let digits = text.strip_prefix(prefix)?;
    format!("{}{digits}", RequestId::PREFIX).parse().ok()
}

#[cfg(test)]
mod tests {
    use rune_store_runtime::{ErrorCode, Failure, Usage};
    use serde_json::json;

    use super::*;

    fn entry(seq: u64, event: RequestEvent) -> SequencedEvent {
        SequencedEvent {
            seq: Some(seq),
            at: None,
            event,
        }
    }

    fn usage(seq: u64) -> SequencedEvent {
        let event = RequestEvent::Usage {
            step: 1,
            provider: "p".to_owned(),
            model: "m".to_owned(),
            usage: Usage::default(),
            cost_micro_usd: None,
        };
        entry(seq, event)
    }

    fn notice(seq: u64, code: &str) -> SequencedEvent {
        let event = RequestEvent::Notice {
            code: code.to_owned(),
            message: String::new(),
        };
        entry(seq, event)
    }

    fn message(text: &str, is_whole: bool) -> Option<Message> {
        Some(Message {
            text: text.to_owned(),
            is_whole,
        })
    }

    #[test]
    fn an_answer_is_said_once() {
        let mut narration = Narration::default();
        assert!(narration.say("let "));
        assert!(!narration.say("me see"));
        assert_eq!(narration.hear(&usage(3)), message("let me see", true));
        assert_eq!(narration.hear(&usage(4)), None);
        narration.say("5");
        narration.hear(&usage(5));
        assert_eq!(narration.unsaid(&json!("5")), None);
        assert_eq!(narration.unsaid(&json!(5)), None);
        assert_eq!(narration.unsaid(&json!("6")).as_deref(), Some("6"));
        assert_eq!(narration.unsaid(&Value::Null), None);
    }

    #[test]
    fn what_a_component_shows_ends_with_its_turn() {
        let mut narration = Narration::default();
        narration.say("Looking. ");
        let turn = |seq| entry(seq, RequestEvent::ComponentTurn { turn: 1 });
        assert_eq!(narration.hear(&turn(3)), message("Looking. ", true));
        assert!(narration.say("It is "));
        narration.hear(&usage(4));
        assert!(narration.say("42"));
        assert_eq!(narration.hear(&turn(5)), message("42", true));
        for said in ["42", "It is 42"] {
            assert_eq!(narration.unsaid(&json!(said)), None, "{said}");
        }
        narration.say("a draft");
        let unanswered = RequestEvent::ModelUnanswered {
            step: 2,
            error: Failure::new(ErrorCode::Timeout, "too slow"),
        };
        let unanswered = entry(6, unanswered);
        assert_eq!(narration.hear(&unanswered), message("a draft", false));
    }

    #[test]
    fn what_was_noted_is_about_the_reply_behind_it() {
        let mut narration = Narration::default();
        narration.say("Once upon");
        narration.hear(&notice(3, EntryBody::OUTPUT_TRUNCATED));
        assert_eq!(narration.cut(), None);
        assert_eq!(narration.hear(&usage(4)), message("Once upon", false));
        assert_eq!(narration.cut(), Some(Cut::Length));
        narration.hear(&notice(5, EntryBody::REFUSED));
        narration.hear(&usage(6));
        assert_eq!(narration.cut(), Some(Cut::Refused));
        narration.hear(&usage(7));
        assert_eq!(narration.cut(), None);
    }

    #[test]
    fn a_message_has_its_place_whatever_is_noted_meanwhile() {
        let mut narration = Narration::default();
        narration.hear(&entry(2, RequestEvent::Started { attempt: 1 }));
        assert_eq!(narration.place(), 0);
        narration.hear(&usage(3));
        narration.hear(&notice(4, "provider_wait"));
        assert_eq!(narration.place(), 3);
    }

    #[test]
    fn text_is_told_with_the_entry_that_it_becomes_a_part_of() {
        let mut told = Told::until(3);
        let text = SequencedEvent {
            seq: None,
            at: None,
            event: RequestEvent::Token {
                text: "a".to_owned(),
            },
        };
        assert!(told.knows(&usage(2)));
        assert!(told.knows(&text));
        assert!(told.knows(&usage(3)));
        assert!(!told.knows(&text));
        assert!(!told.knows(&usage(4)));
    }

    #[test]
    fn ids_of_other_apis_lead_back() {
        let id = RequestId::generate();
        let text = format!("resp_{}", digits(id));
        assert_eq!(request_id("resp_", &text), Some(id));
        assert_eq!(request_id("chatcmpl-", &text), None);
        assert_eq!(request_id("resp_", "resp_x"), None);
    }
}
