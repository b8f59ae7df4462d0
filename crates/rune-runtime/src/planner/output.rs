//! The last word of a request: the answer, held to the agent's `output_schema`.

use rune_store_runtime::{EntryBody, ErrorCode, Failure, OUTPUT_REPAIR, StopReason};
use serde_json::Value;

use super::{Ended, Planner};
use crate::agent::Agent;

/// How often the model is told what is wrong with its answer and asked again.
pub(super) const MAX_OUTPUT_REPAIRS: u32 = 2;

const FENCE: &str = "```";

impl Planner {
    /// Tells the model what is wrong with its answer, or ends the request where that was
    /// no use or would be none. `last` holds the reply where it is not committed yet.
    pub(super) async fn repair_output(
        &mut self,
        problem: &str,
        last: &mut Vec<EntryBody>,
    ) -> Result<(), Ended> {
        let declined = matches!(last.last(), Some(EntryBody::ModelReply(reply)) if reply.stop == StopReason::Refusal);
        if declined || self.state.repairs >= MAX_OUTPUT_REPAIRS {
            let asked = self.state.repairs + 1;
            let message = format!(
                "the model's answer does not match `output_schema` (asked {asked} times): {problem}"
            );
            return Err(Failure::new(ErrorCode::ModelUnavailable, message).into());
        }
        let notice = EntryBody::Notice {
            code: OUTPUT_REPAIR.to_owned(),
            message: format!(
                "Your answer does not match the JSON Schema of the output: {problem}. Answer \
                 again with a single JSON value that is valid against the schema, and with no \
                 other text."
            ),
        };
        self.state.apply(&notice);
        let mut entries = std::mem::take(last);
        entries.push(notice);
        self.journal.commit(entries).await?;
        Ok(())
    }
}

/// The output that an answer stands for: the text itself, or the JSON in it where the
/// agent has an `output_schema`.
///
/// # Errors
/// What is wrong with it, for the model.
pub(super) fn read(agent: &Agent, answer: String) -> Result<Value, String> {
    if agent.output_schema().is_none() {
        return Ok(Value::String(answer));
    }
    let problem = match parse(&answer) {
        Some(value) => match problem(agent, &value) {
            None => return Ok(value),
            Some(problem) => problem,
        },
        None => "it is not JSON".to_owned(),
    };
    // A schema may ask for a text.
    let text = Value::String(answer);
    if agent.output_mismatches(&text).is_empty() {
        return Ok(text);
    }
    Err(problem)
}

fn problem(agent: &Agent, value: &Value) -> Option<String> {
    let mismatches = agent.output_mismatches(value);
    let lines: Vec<String> = mismatches.iter().map(ToString::to_string).collect();
    (!lines.is_empty()).then(|| lines.join("; "))
}

/// The JSON of an answer: all of it, or its first fenced block.
fn parse(answer: &str) -> Option<Value> {
    if let Ok(value) = serde_json::from_str(answer.trim()) {
        return Some(value);
    }
    let (_, fenced) = answer.split_once(FENCE)?;
    let (_, fenced) = fenced.split_once('\n')?;
    let (block, _) = fenced.split_once(FENCE)?;
    serde_json::from_str(block.trim()).ok()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn finds_the_json_of_an_answer() {
        for answer in [
            " {\"a\":1}\n",
            "```json\n{\"a\":1}\n```",
            "Here it is:\n```\n{\"a\":1}\n```\nBye.",
        ] {
            assert_eq!(parse(answer), Some(json!({"a": 1})), "{answer}");
        }
        for answer in [
            "",
            "yes",
            "{\"a\":",
            "```json\n{\"a\":\n```",
            "``` {\"a\":1}",
        ] {
            assert_eq!(parse(answer), None, "{answer}");
        }
    }
}
