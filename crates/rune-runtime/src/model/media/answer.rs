//! What a model answers, whoever's it is.

use rune_store_runtime::Usage;
use rune_tools::MediaSegment;
use serde_json::Value;

use crate::model::wire::{Fault, error_fault};
use crate::model::{ModelError, ModelErrorKind};

/// What came of a call that was answered.
pub(crate) struct MediaDone {
    /// Tokens, where the provider has counted some.
    pub(crate) usage: Option<Usage>,
    /// Whether the model came to its end by itself. Where it did not, there is less than was asked for.
    pub(crate) complete: bool,
    /// What it has made, or that it declined.
    pub(crate) output: Result<MediaOutput, ModelError>,
}

/// Why there is no answer.
pub(crate) struct MediaFailed {
    /// What the provider says, or what broke.
    pub(crate) error: ModelError,
    /// Whether it may have been done, and be charged, all the same.
    pub(crate) is_unknown: bool,
}

impl From<ModelError> for MediaFailed {
    fn from(error: ModelError) -> Self {
        Self {
            is_unknown: error.outcome_is_unknown(),
            error,
        }
    }
}

/// What a model has made.
#[derive(Debug, PartialEq)]
pub(crate) enum MediaOutput {
    /// A text.
    Text(String),
    /// A transcript.
    Transcript {
        text: String,
        language: Option<String>,
        segments: Vec<MediaSegment>,
    },
    /// A file and what was said of it.
    File {
        bytes: Vec<u8>,
        text: Option<String>,
    },
}

/// What the bytes of an answer say.
pub(super) struct Decoded {
    /// As in [`MediaDone`].
    pub(super) usage: Option<Usage>,
    /// As in [`MediaDone`].
    pub(super) complete: bool,
    /// What was made, or why not although the call was answered.
    pub(super) output: Result<MediaOutput, Fault>,
}

/// The provider does not want to do it.
pub(super) fn declined(message: impl Into<String>) -> Fault {
    Fault::new(ModelErrorKind::InvalidRequest, message)
}

/// The failure that a body with status 200 reports.
pub(super) fn refused(body: &Value) -> Result<(), Fault> {
    match body.get("error").filter(|error| !error.is_null()) {
        None => Ok(()),
        Some(error) => Err(error_fault(error)),
    }
}
