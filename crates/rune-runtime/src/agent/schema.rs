//! Values and the JSON Schemas that they are held to.

use jsonschema::{ValidationError, Validator};
use serde_json::Value;

use super::AgentError;

/// Longest part of a mismatch message that is shown.
const MISMATCH_MESSAGE_CHARS: usize = 300;
/// A value that breaks its schema.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message} (at `{path}`)")]
pub struct SchemaMismatch {
    /// JSON Pointer of the offending part.
    pub path: String,
    /// What is wrong with it.
    pub message: String,
}

pub(super) fn check(validator: &Validator, value: &Value) -> Result<(), SchemaMismatch> {
    validator.validate(value).map_err(mismatch)
}

#[expect(
    clippy::needless_pass_by_value,
    reason = "it is the last that is done with it"
)]
pub(super) fn mismatch(error: ValidationError<'_>) -> SchemaMismatch {
    let path = error.instance_path().to_string();
    let message = error.to_string();
    SchemaMismatch {
        path: if path.is_empty() {
            "/".to_owned()
        } else {
            path
        },
        message: message.chars().take(MISMATCH_MESSAGE_CHARS).collect(),
    }
}

pub(super) fn compile(schema: &Value, place: &str) -> Result<Validator, AgentError> {
    jsonschema::validator_for(schema).map_err(|error| AgentError::Schema {
        place: place.to_owned(),
        reason: error.to_string(),
    })
}
