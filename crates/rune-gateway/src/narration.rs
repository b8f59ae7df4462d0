//! What an agent says, message by message, out of the events of its request.

use rune_store_runtime::RequestId;
use serde_json::Value;

use crate::conversation::output_text;

/// The messages so far. One model reply with text in it is one message.
#[derive(Debug, Default)]
pub(crate) struct Narration {
    open: Option<String>,
    last: String,
}

impl Narration {
    /// More of the answer. Answers whether a message begins with it.
    pub(crate) fn say(&mut self, text: &str) -> bool {
        let begins = self.open.is_none();
        self.open.get_or_insert_default().push_str(text);
        begins
    }

    /// The reply is whole, or did not count. Answers the message that ends, where one does.
    pub(crate) fn end(&mut self) -> Option<String> {
        let text = self.open.take()?;
        self.last.clone_from(&text);
        Some(text)
    }

    /// The answer as text, where it is not what was said last.
    pub(crate) fn unsaid(&self, output: &Value) -> Option<String> {
        let text = output_text(output);
        let is_said = match output {
            Value::String(text) => self.last.trim() == text.trim(),
            output => serde_json::from_str::<Value>(&self.last).is_ok_and(|said| said == *output),
        };
        (!is_said && !text.is_empty()).then_some(text)
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
    use serde_json::json;

    use super::*;

    #[test]
    fn an_answer_is_said_once() {
        let mut narration = Narration::default();
        assert!(narration.say("let "));
        assert!(!narration.say("me see"));
        assert_eq!(narration.end().as_deref(), Some("let me see"));
        assert_eq!(narration.end(), None);
        narration.say("5");
        narration.end();
        assert_eq!(narration.unsaid(&json!("5")), None);
        assert_eq!(narration.unsaid(&json!(5)), None);
        assert_eq!(narration.unsaid(&json!("6")).as_deref(), Some("6"));
        assert_eq!(narration.unsaid(&Value::Null), None);
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
