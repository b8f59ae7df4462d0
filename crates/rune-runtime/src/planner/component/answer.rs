//! How a component ends: its answer, or why there is none.

use rune_store_runtime::{ErrorCode, Failure};
use rune_wasm::{AgentAnswer, AgentFailure, AgentRunError};
use serde::Serialize;
use serde_json::Value;

use super::MAX_FAULT_BYTES;
use crate::journal::unstorable;
use crate::planner::{Planner, output};

impl Planner {
    /// The output of the request, and the text by which the conversation remembers it.
    pub(super) fn answer(&self, answer: AgentAnswer) -> Result<(Value, String), Failure> {
        let wrong = |message: String| {
            Failure::new(ErrorCode::Internal, format!("the component's {message}"))
        };
        let (AgentAnswer::Text(text) | AgentAnswer::Json(text)) = &answer;
        keepable(text)?;
        let (value, text) = match answer {
            AgentAnswer::Text(text) => {
                let read = output::read(&self.agent, text.clone());
                let value = read.map_err(|problem| {
                    wrong(format!("answer does not match `output_schema`: {problem}"))
                })?;
                keepable(&value)?;
                return Ok((value, text));
            }
            AgentAnswer::Json(text) => {
                let value = serde_json::from_str::<Value>(&text);
                let value = value
                    .map_err(|error| wrong(format!("answer is not one JSON value: {error}")))?;
                keepable(&value)?;
                (value, text)
            }
        };
        let mismatches = self.agent.output_mismatches(&value);
        if let Some(mismatch) = mismatches.first() {
            return Err(wrong(format!(
                "answer does not match `output_schema`: {mismatch}"
            )));
        }
        Ok((value, text))
    }
}

/// The failure of a request whose component did not come to an answer.
pub(super) fn gone(error: &AgentRunError) -> Failure {
    let code = match error {
        AgentRunError::Memory { .. } | AgentRunError::Cpu { .. } | AgentRunError::Output => {
            ErrorCode::LimitExceeded
        }
        AgentRunError::Call => ErrorCode::TooLarge,
        AgentRunError::Busy(_) => ErrorCode::Unavailable,
        AgentRunError::Ended(_) | AgentRunError::Failed { .. } => ErrorCode::Internal,
    };
    Failure::new(code, error.to_string())
}

/// The failure that a component answers. A code that is none is a fault of the component.
pub(super) fn own_failure(own: &AgentFailure) -> Failure {
    let code = serde_json::from_value(Value::String(own.code.clone()));
    let end = own.message.floor_char_boundary(MAX_FAULT_BYTES);
    Failure::new(code.unwrap_or(ErrorCode::Internal), &own.message[..end])
}

/// Checks that the journal can hold an answer. One that it cannot hold would be refused with all that is committed with
/// it.
///
/// # Errors
/// The failure of a component that answers too much.
fn keepable(answer: &impl Serialize) -> Result<(), Failure> {
    match unstorable(answer) {
        None => Ok(()),
        Some(problem) => {
            let message = format!("the component's answer {problem}");
            Err(Failure::new(ErrorCode::TooLarge, message))
        }
    }
}
