//! Tool invocations: the audit trail of tools, projected from intents and results.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{Failure, RequestId, Timestamp};

/// Where a tool invocation is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ToolInvocationState {
    /// The intent is committed and there is no result. After a crash: unknown outcome.
    Intended,
    /// It succeeded.
    Succeeded,
    /// It failed or was not run.
    Failed,
}

impl ToolInvocationState {
    /// All states.
    pub const ALL: [Self; 3] = [Self::Intended, Self::Succeeded, Self::Failed];

    /// The stored word.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Intended => "intended",
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
        }
    }

    /// The state with this stored word.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.as_str() == text)
    }
}

/// A tool invocation as stored.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ToolInvocationRow {
    /// The request.
    pub request_id: RequestId,
    /// The id of the call in the model's reply.
    pub call_id: String,
    /// The tool's name in the package.
    pub tool: String,
    /// The input; absent where the call was refused before an intent was written.
    pub input: Option<Value>,
    /// Where it is.
    pub state: ToolInvocationState,
    /// Why it failed.
    pub failure: Option<Failure>,
    /// How often it was run.
    pub attempts: u32,
    /// How long it ran, in milliseconds.
    pub duration_ms: Option<u64>,
    /// When the intent was committed.
    pub started_at: Timestamp,
    /// When the result was committed.
    pub finished_at: Option<Timestamp>,
}
