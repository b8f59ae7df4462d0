//! Approvals as what a task waits for: what a client is asked, and what its answer means.

use rune_a2a::{A2aError, Content, Message, Part};
use rune_store_runtime::{ApprovalId, Timestamp};
use serde_json::{Value, json};

/// Longest reason of a refusal in bytes; the rest is left out.
const MAX_REASON_BYTES: usize = 4096;

/// Something that a person has to decide.
#[derive(Debug, Clone)]
pub(crate) struct Question {
    pub(crate) tool: String,
    pub(crate) input: Value,
    pub(crate) reason: String,
    pub(crate) deadline: Option<Timestamp>,
}

impl Question {
    /// For programs.
    pub(crate) fn data(&self, id: ApprovalId) -> Value {
        let mut data = json!({
            "approvalId": id, "tool": self.tool, "input": self.input, "reason": self.reason,
        });
        if let Some(deadline) = self.deadline {
            data["deadline"] = json!(deadline);
        }
        data
    }
}

/// What a client is asked.
pub(crate) fn ask<'a>(questions: impl Iterator<Item = (ApprovalId, &'a Question)>) -> Vec<Part> {
    let (mut lines, mut approvals) = (Vec::new(), Vec::new());
    for (id, question) in questions {
        lines.push(format!(
            "May `{}` be called? {}",
            question.tool, question.reason
        ));
        approvals.push(question.data(id));
    }
    lines.push("Answer yes or no; anything else is a no for that reason.".to_owned());
    vec![
        Part::text(lines.join("\n")),
        Part::data(json!({"approvals": approvals})),
    ]
}

/// What a client decides: one approval, or all that wait.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) approval: Option<ApprovalId>,
    pub(crate) approve: bool,
    /// What was said of it. Of a no the model is told it as the reason.
    pub(crate) note: Option<String>,
}

/// What a message to a task that waits means. Data decides as it says; a text is a yes where it
/// says nothing else, and a no otherwise.
///
/// # Errors
/// The data decides nothing.
pub(crate) fn answers(message: &Message) -> Result<Vec<Answer>, A2aError> {
    let mut answers = Vec::new();
    let said = message.text();
    let said = Some(said.trim()).filter(|said| !said.is_empty());
    for (n, part) in message.parts.iter().enumerate() {
        let Content::Data(data) = &part.content else {
            continue;
        };
        let wrong = |why: &str| A2aError::invalid(format!("message.parts[{n}].data"), why);
        let approved = match (&data["approved"], data["decision"].as_str()) {
            (Value::Bool(approved), None) => *approved,
            (Value::Null, Some("approve")) => true,
            (Value::Null, Some("deny")) => false,
            _ => {
                return Err(wrong(
                    "decides with `approved` (true or false) or `decision` (approve or deny)",
                ));
            }
        };
        let approval = match &data["approvalId"] {
            Value::Null => None,
            Value::String(id) => Some(id.parse().map_err(|_| wrong("`approvalId` is none"))?),
            _ => return Err(wrong("`approvalId` is a text")),
        };
        answers.push(Answer {
            approval,
            approve: approved,
            note: data["note"].as_str().or(said).map(shortened),
        });
    }
    if answers.is_empty() {
        answers.push(Answer {
            approval: None,
            approve: said.is_some_and(is_yes),
            note: said.map(shortened),
        });
    }
    Ok(answers)
}

fn is_yes(text: &str) -> bool {
    let word = text.trim_end_matches(['.', '!']).to_ascii_lowercase();
    matches!(
        word.as_str(),
        "yes" | "y" | "ok" | "okay" | "approve" | "approved" | "allow"
    )
}

fn shortened(text: &str) -> String {
    let end = text.floor_char_boundary(MAX_REASON_BYTES.min(text.len()));
    text[..end].to_owned()
}

#[cfg(test)]
mod tests {
    use rune_a2a::Role;

    use super::*;

    fn said(parts: Vec<Part>) -> Result<Vec<Answer>, A2aError> {
        answers(&Message::new("m", Role::User, parts))
    }

    fn answer(approve: bool, note: Option<&str>) -> Answer {
        Answer {
            approval: None,
            approve,
            note: note.map(str::to_owned),
        }
    }

    #[test]
    fn only_a_clear_yes_is_one() {
        for yes in ["yes", " Yes! ", "OK.", "approve"] {
            let note = Some(yes.trim());
            assert_eq!(said(vec![Part::text(yes)]).unwrap(), [answer(true, note)]);
        }
        for no in ["no", "yes, but not now", "Use the other file.", "approve?"] {
            assert_eq!(
                said(vec![Part::text(no)]).unwrap(),
                [answer(false, Some(no))],
                "{no}"
            );
        }
    }

    #[test]
    fn data_decides_as_it_says() {
        let one = ApprovalId::generate();
        let parts = vec![
            Part::text("Only that."),
            Part::data(json!({"approvalId": one, "decision": "deny", "note": "why"})),
            Part::data(json!({"approved": true})),
        ];
        let expected = [
            Answer {
                approval: Some(one),
                ..answer(false, Some("why"))
            },
            answer(true, Some("Only that.")),
        ];
        assert_eq!(said(parts).unwrap(), expected);
        for wrong in [
            json!({}),
            json!([1]),
            json!({"approved": "yes"}),
            json!({"approved": true, "decision": "deny"}),
            json!({"approved": true, "approvalId": "x"}),
        ] {
            assert!(said(vec![Part::data(wrong.clone())]).is_err(), "{wrong}");
        }
    }
}
