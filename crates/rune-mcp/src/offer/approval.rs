//! Questions that an agent has for a person, as the protocol asks them.

use rmcp::model::{
    ClientCapabilities, ElicitRequestParams, ElicitResult, ElicitationAction, ElicitationSchema,
};
use rune_store_runtime::ApprovalDecision;
use serde_json::{Value, json};

use super::source::Question;
use crate::listing::clean;

/// Characters of a tool's input that a question shows.
const INPUT_CHARS: usize = 2000;
/// Characters of the reason.
const REASON_CHARS: usize = 500;
/// Characters of a note that are kept.
const NOTE_CHARS: usize = 1000;

/// Whether a client can show a person a form.
pub(crate) fn asks_people(client: Option<&ClientCapabilities>) -> bool {
    let elicitation = client.and_then(|client| client.elicitation.as_ref());
    // The first revision with it had nothing but forms, and no word for them.
    elicitation.is_some_and(|can| can.form.is_some() || can.url.is_none())
}

/// What a person is asked.
pub(crate) fn message(agent: &str, question: &Question) -> String {
    let input = clean(&question.input.to_string(), INPUT_CHARS);
    let tool = &question.tool;
    let mut message = format!("The agent `{agent}` wants to use `{tool}` with {input}.");
    if !question.reason.is_empty() {
        message = format!("{message} {}", clean(&question.reason, REASON_CHARS));
    }
    message
}

/// The form of a question.
pub(crate) fn form(
    agent: &str,
    question: &Question,
) -> Result<ElicitRequestParams, serde_json::Error> {
    let schema = json!({
        "type": "object",
        "properties": {
            "decision": {
                "type": "string", "title": "Decision", "enum": ["approve", "deny"],
                "description": "Whether the tool may be used this time.",
            },
            "note": {
                "type": "string", "title": "Note",
                "description": "For the record; the agent is told why it may not.",
            },
        },
        "required": ["decision"],
    });
    let requested_schema: ElicitationSchema = serde_json::from_value(schema)?;
    Ok(ElicitRequestParams::FormElicitationParams {
        meta: None,
        message: message(agent, question),
        requested_schema,
    })
}

/// What a person has said; nothing where the form was closed, or what was filled in is no answer.
pub(crate) fn decision(answer: &ElicitResult) -> Option<(ApprovalDecision, Option<String>)> {
    match answer.action {
        ElicitationAction::Accept => {
            let content = answer.content.as_ref()?;
            let decision = content["decision"]
                .as_str()
                .and_then(ApprovalDecision::parse)?;
            let note = content["note"].as_str().map(|note| clean(note, NOTE_CHARS));
            Some((decision, note.filter(|note| !note.is_empty())))
        }
        ElicitationAction::Decline => Some((ApprovalDecision::Deny, None)),
        _ => None,
    }
}

/// [`decision`] of what a client sends with its next try.
pub(crate) fn decision_of(answer: &Value) -> Option<(ApprovalDecision, Option<String>)> {
    let answer: ElicitResult = serde_json::from_value(answer.clone()).ok()?;
    decision(&answer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_clear_answer_decides() {
        let approve = (ApprovalDecision::Approve, None);
        let deny = (ApprovalDecision::Deny, None);
        for (answer, expected) in [
            (
                json!({"action": "accept", "content": {"decision": "approve"}}),
                Some(approve.clone()),
            ),
            (
                json!({"action": "accept", "content": {"decision": "approve", "note": " "}}),
                Some(approve),
            ),
            (
                json!({"action": "accept", "content": {"decision": "deny", "note": "no"}}),
                Some((ApprovalDecision::Deny, Some("no".to_owned()))),
            ),
            (json!({"action": "decline"}), Some(deny)),
            (json!({"action": "cancel"}), None),
            (json!({"action": "accept"}), None),
            (
                json!({"action": "accept", "content": {"decision": "yes"}}),
                None,
            ),
            (json!({"action": "accept", "content": "approve"}), None),
            (json!("approve"), None),
            (json!({}), None),
        ] {
            assert_eq!(decision_of(&answer), expected, "{answer}");
        }
    }

    #[test]
    fn clients_that_know_forms_are_known() {
        let client = |elicitation: Value| -> ClientCapabilities {
            serde_json::from_value(json!({ "elicitation": elicitation })).unwrap()
        };
        assert!(asks_people(Some(&client(json!({})))));
        assert!(asks_people(Some(&client(json!({"form": {}, "url": {}})))));
        assert!(!asks_people(Some(&client(json!({"url": {}})))));
        assert!(!asks_people(Some(&ClientCapabilities::default())));
        assert!(!asks_people(None));
    }
}
